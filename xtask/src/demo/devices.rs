//! Names of the nodes' network devices.

use std::collections::BTreeMap;

use anyhow::Result;
use regex::{Captures, Regex};
use serde_json::Value;

use super::{Lab, json, list, text};

/// Names by node and interface index.
pub struct Devices {
    names: BTreeMap<(String, u64), String>,
    /// An interface index in a text of `beeline explain`.
    index: Regex,
}

impl Devices {
    /// Reads those of every node.
    pub fn of(lab: &Lab) -> Result<Self> {
        let mut names = BTreeMap::new();
        for node in list(&lab.status()?["nodes"]).map(|node| text(&node["name"])) {
            let links = json(&mut lab.run(&["node", node, "--", "ip", "-json", "link", "show"]))?;
            names
                .extend(list(&links).filter_map(|link| Some(((node.to_owned(), index(link)?), name(link)?))));
        }
        Ok(Self::new(names))
    }

    fn new(names: BTreeMap<(String, u64), String>) -> Self {
        Self { names, index: Regex::new(r"\b(?:link|device|ifindex) (\d+)\b").expect("the pattern is valid") }
    }

    /// The device of a hook; none for a hook of sockets, whose index is 0.
    pub fn name(&self, node: &str, ifindex: u64) -> Option<&str> {
        self.names.get(&(node.to_owned(), ifindex)).map(String::as_str)
    }

    /// The text with names instead of interface indexes.
    pub fn name_all(&self, node: &str, text: &str) -> String {
        let named = |found: &Captures<'_>| {
            let name = found[1].parse().ok().and_then(|ifindex| self.name(node, ifindex));
            name.map_or_else(|| found[0].to_owned(), |name| format!("device {name}"))
        };
        self.index.replace_all(text, named).into_owned()
    }
}

fn index(link: &Value) -> Option<u64> {
    link["ifindex"].as_u64()
}

fn name(link: &Value) -> Option<String> {
    link["ifname"].as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_interface_indexes_are_replaced_by_names() {
        let devices = Devices::new(BTreeMap::from([(("node-1".to_owned(), 2), "eth0".to_owned())]));
        let routed = "by the node's routes: link 2, next hop 172.30.0.12";
        let named = "by the node's routes: device eth0, next hop 172.30.0.12";
        assert_eq!(devices.name_all("node-1", routed), named);
        assert_eq!(devices.name_all("node-2", routed), routed);
        assert_eq!(devices.name_all("node-1", "straight out of link 20"), "straight out of link 20");
    }
}
