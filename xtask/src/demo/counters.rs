//! The datapath's counters: packets by node, hook and outcome.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::Value;

use super::{Lab, json, list, text};

/// Node, hook, outcome.
pub type Key = (String, String, String);

/// Packets by counter.
pub type Counters = BTreeMap<Key, u64>;

/// Reads the counters of every node.
pub fn read(lab: &Lab) -> Result<Counters> {
    let rows = json(lab.beeline(&["counters"]).args(["-o", "json"]))?;
    let counter = |row: &Value| {
        let [node, hook, outcome] = ["node", "hook", "what"].map(|name| text(&row[name]).to_owned());
        ((node, hook, outcome), row["packets"].as_u64().unwrap_or(0))
    };
    Ok(list(&rows).map(counter).collect())
}

/// The counters that grew, and by how much.
pub fn increase(before: &Counters, after: &Counters) -> Counters {
    let grown = |(key, now): (&Key, &u64)| {
        let increase = now - before.get(key).copied().unwrap_or(0);
        (increase > 0).then(|| (key.clone(), increase))
    };
    after.iter().filter_map(grown).collect()
}

/// One counter with its meaning.
pub fn describe((node, hook, outcome): &Key, increase: u64) -> String {
    let meaning = [meaning_of_hook(hook), meaning_of_outcome(outcome)].map(|text| text.unwrap_or("?"));
    format!("{node} {hook} {outcome} +{increase} ({})", meaning.join(", "))
}

fn meaning_of_hook(hook: &str) -> Option<&'static str> {
    Some(match hook {
        "from_pod" => "packets that a pod of this node sent",
        "to_pod" => "packets from the node's network stack to a pod",
        "from_uplink" => "packets received on an uplink",
        "to_uplink" => "packets that the node's network stack sent on an uplink",
        "socket" => "calls of a socket: connect, sendmsg, recvmsg, getpeername",
        _ => return None,
    })
}

fn meaning_of_outcome(outcome: &str) -> Option<&'static str> {
    Some(match outcome {
        "to_local_pod" => "delivered to a pod of this node",
        "to_uplink" => "sent out of an uplink",
        "to_host" => "passed to the node's network stack",
        "answered" => "refused at once, with an error or a reset",
        "to_host_error" => "passed to the node's network stack for an ICMP error or fragmentation",
        "untracked" => "forwarded without a connection entry, because the table is full",
        "socket_translated" => "address of the Service replaced by that of a backend",
        "port_taken" => "source port replaced, because it is in use",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paths;

    #[test]
    fn unit_every_hook_and_outcome_has_a_meaning() {
        let path = paths::top().join("crates/abi/src/counter.rs");
        let source = std::fs::read_to_string(path).expect("the counters of the ABI are readable");
        let names: Vec<&str> =
            source.split("=> \"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert!(names.len() > 10, "{names:?}");
        for name in names.into_iter().filter(|name| *name != "unknown") {
            assert!(meaning_of_hook(name).or(meaning_of_outcome(name)).is_some(), "{name}");
        }
    }

    #[test]
    fn unit_only_counters_that_grew_are_kept() {
        let key = |node: &str| (node.to_owned(), "from_pod".to_owned(), "to_uplink".to_owned());
        let before = BTreeMap::from([(key("node-1"), 3), (key("node-2"), 4)]);
        let after = BTreeMap::from([(key("node-1"), 3), (key("node-2"), 9), (key("node-3"), 1)]);
        assert_eq!(increase(&before, &after), BTreeMap::from([(key("node-2"), 5), (key("node-3"), 1)]));
        let text =
            "node-2 from_pod to_uplink +5 (packets that a pod of this node sent, sent out of an uplink)";
        assert_eq!(describe(&key("node-2"), 5), text);
    }
}
