//! `beeline counters`: packets and bytes by hook and outcome.

use std::process::ExitCode;

use anyhow::Result;
use beeline_abi::DropReason;
use beeline_abi::counter::{CounterValue, drop_index, hook, outcome, outcome_index};
use serde::Serialize;

use crate::gather;
use crate::live::Live;
use crate::output::{self, Format, Row, grouped};
use crate::target::Target;

/// One counter that is not zero.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Counter {
    /// The node.
    pub node: String,
    /// The hook.
    pub hook: &'static str,
    /// Outcome, or drop reason.
    pub what: &'static str,
    /// True for drops.
    pub drop: bool,
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Row for Counter {
    const HEADER: &'static [&'static str] = &["NODE", "HOOK", "OUTCOME", "PACKETS", "BYTES"];
    fn cells(&self) -> Vec<String> {
        let what = if self.drop { format!("drop: {}", self.what) } else { self.what.to_owned() };
        vec![self.node.clone(), self.hook.into(), what, grouped(self.packets), grouped(self.bytes)]
    }
}

/// `beeline counters`.
pub fn list(targets: &[Target], format: Format) -> Result<ExitCode> {
    let (rows, code) = gather(targets, |target| Ok(read(&target.label, &Live::open(target)?.counters()?)));
    output::print(&rows, format, "No packets counted yet.")?;
    Ok(code)
}

/// The counters that are not zero, from the sums over all CPUs.
pub fn read(node: &str, sums: &[CounterValue]) -> Vec<Counter> {
    let counter = |hook: u8, what, drop, index: u32| {
        let sum = sums.get(index as usize).copied().unwrap_or_default();
        let row = Counter {
            node: node.to_owned(),
            hook: hook::name(hook),
            what,
            drop,
            packets: sum.packets,
            bytes: sum.bytes,
        };
        (sum.packets > 0).then_some(row)
    };
    let mut rows = Vec::new();
    for hook in 0..hook::COUNT {
        let outcomes = 0..outcome::COUNT;
        rows.extend(outcomes.filter_map(|o| counter(hook, outcome::name(o), false, outcome_index(hook, o))));
        rows.extend(
            DropReason::ALL.iter().filter_map(|r| counter(hook, r.name(), true, drop_index(hook, *r as u8))),
        );
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use beeline_abi::counter::COUNTERS;

    #[test]
    fn unit_zero_counters_are_omitted() {
        let mut sums = vec![CounterValue::default(); COUNTERS as usize];
        sums[outcome_index(hook::FROM_POD, outcome::TO_UPLINK) as usize] =
            CounterValue { packets: 2, bytes: 200 };
        sums[drop_index(hook::FROM_UPLINK, DropReason::NoEndpoint as u8) as usize] =
            CounterValue { packets: 1, bytes: 60 };
        let rows = read("node-1", &sums);
        let shown: Vec<_> = rows.iter().map(|r| (r.hook, r.what, r.drop, r.packets)).collect();
        assert_eq!(shown, [("from_pod", "to_uplink", false, 2), ("from_uplink", "no_endpoint", true, 1)]);
        assert!(read("node-1", &[]).is_empty(), "a short array does not panic");
    }
}
