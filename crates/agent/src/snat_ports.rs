//! Selects the node's port range for SNAT: no ephemeral ports of the kernel and
//! no NodePorts.

use std::ops::RangeInclusive;

/// The range of ephemeral ports, per network namespace (Linux, ip-sysctl).
pub(crate) const LOCAL_PORTS: &str = "net.ipv4.ip_local_port_range";
/// Used if no range is free.
const FALLBACK: RangeInclusive<u16> = 61_000..=65_535;
/// Minimum size of the range: with fewer ports, busy destinations run out of
/// SNAT mappings.
const PORTS_MIN: usize = 1_024;

/// A port range and its problem, if any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NatPorts {
    pub(crate) ports: RangeInclusive<u16>,
    pub(crate) problem: Option<String>,
}

/// The configured range, or the last free range beside the ephemeral ports
/// (`local`, the content of the sysctl) and the NodePorts.
pub(crate) fn choose(
    configured: Option<RangeInclusive<u16>>,
    local: Option<&str>,
    node_ports: &RangeInclusive<u16>,
) -> NatPorts {
    let local = local.and_then(parse);
    let taken: Vec<&RangeInclusive<u16>> = local.iter().chain([node_ports]).collect();
    if let Some(ports) = configured {
        let clash = taken.iter().find(|other| overlap(&ports, other));
        let problem = clash.map(|other| {
            format!(
                "bpf.natPortRange={} overlaps ports {} of {}: connections of the node itself can collide with SNAT \
                 mappings; choose another range, or reserve it in net.ipv4.ip_local_reserved_ports",
                text(&ports),
                text(other),
                if *other == node_ports { "nodePort.range" } else { LOCAL_PORTS },
            )
        });
        return NatPorts { ports, problem };
    }
    match last_gap(&taken) {
        Some(ports) => NatPorts { ports, problem: None },
        None => NatPorts {
            problem: Some(format!(
                "{LOCAL_PORTS} and nodePort.range leave no range of {PORTS_MIN} ports for SNAT, using {}: \
                 connections of the node itself can collide with SNAT mappings; narrow {LOCAL_PORTS}, or \
                 reserve these ports in net.ipv4.ip_local_reserved_ports",
                text(&FALLBACK)
            )),
            ports: FALLBACK,
        },
    }
}

/// The last gap of at least [`PORTS_MIN`] unprivileged ports: well-known
/// services use lower ports.
fn last_gap(taken: &[&RangeInclusive<u16>]) -> Option<RangeInclusive<u16>> {
    let mut sorted = taken.to_vec();
    sorted.sort_by_key(|range| *range.start());
    let mut from: u32 = 1_024;
    let mut gaps = Vec::new();
    for range in sorted {
        gaps.push(from..u32::from(*range.start()));
        from = from.max(u32::from(*range.end()) + 1);
    }
    gaps.push(from..65_536);
    let last = gaps.into_iter().rfind(|gap| gap.len() >= PORTS_MIN)?;
    Some(last.start as u16..=(last.end - 1) as u16)
}

fn overlap(a: &RangeInclusive<u16>, b: &RangeInclusive<u16>) -> bool {
    a.start() <= b.end() && b.start() <= a.end()
}

fn text(range: &RangeInclusive<u16>) -> String {
    format!("{}-{}", range.start(), range.end())
}

fn parse(sysctl: &str) -> Option<RangeInclusive<u16>> {
    let mut words = sysctl.split_whitespace().map(str::parse);
    let (first, last) = (words.next()?.ok()?, words.next()?.ok()?);
    (first <= last).then_some(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE_PORTS: RangeInclusive<u16> = 30_000..=32_767;

    #[test]
    fn unit_snat_ports_do_not_overlap_the_nodes_own_ports() {
        let ports = |local: &str| {
            let chosen = choose(None, Some(local), &NODE_PORTS);
            assert_eq!(chosen.problem, None, "{local}");
            chosen.ports
        };
        assert_eq!(ports("32768\t60999"), 61_000..=65_535, "as Linux has it");
        assert_eq!(ports("32768\t65000"), 1_024..=29_999, "too few above");
        assert_eq!(ports("1024\t29999"), 32_768..=65_535);
        assert_eq!(ports("20000\t25000"), 32_768..=65_535);
        assert_eq!(ports("1024\t60000"), 60_001..=65_535, "around the NodePorts");
        assert_eq!(choose(None, None, &NODE_PORTS).ports, 32_768..=65_535, "unknown: only NodePorts");
    }

    #[test]
    fn unit_overlapping_ports_are_reported() {
        let chosen = choose(None, Some("1024 65535"), &NODE_PORTS);
        assert_eq!(chosen.ports, FALLBACK);
        assert!(chosen.problem.unwrap().contains("ip_local_reserved_ports"));
        let configured = choose(Some(40_000..=41_000), Some("32768 60999"), &NODE_PORTS);
        assert_eq!(configured.ports, 40_000..=41_000, "a configured range is used as it is");
        assert!(configured.problem.unwrap().contains("40000-41000 overlaps ports 32768-60999 of net.ipv4"));
        let configured = choose(Some(32_000..=32_767), Some("32768 60999"), &NODE_PORTS);
        assert!(configured.problem.unwrap().contains("nodePort.range"));
        assert_eq!(choose(Some(61_000..=62_000), Some("32768 60999"), &NODE_PORTS).problem, None);
    }
}
