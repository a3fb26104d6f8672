//! Take-over of a node from kube-proxy: reports its rules, and keeps its
//! established connections working until they end. Pure.

use beeline_kernel::kube_proxy::Rules;

/// After kube-proxy's rules are removed, for how many checks (one per minute)
/// connections translated by the host keep the take-over active: one day,
/// kube-proxy's timeout for established connections. The connections may belong
/// to other software.
const CHECKS_MAX: u32 = 24 * 60;

/// The state of kube-proxy on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TakeOver {
    rules: Vec<Rules>,
    connections: usize,
    is_active: bool,
    /// Checks since the rules were removed.
    checks: u32,
}

impl TakeOver {
    /// Resumes the state of the previous agent.
    pub fn resumed(is_active: bool) -> TakeOver {
        TakeOver { is_active, ..TakeOver::default() }
    }

    /// Applies the result of a check. `connections` is called only if the
    /// number is needed.
    pub fn update<E>(
        &mut self,
        rules: Vec<Rules>,
        connections: impl FnOnce() -> Result<usize, E>,
    ) -> Result<(), E> {
        self.is_active |= !rules.is_empty();
        self.rules = rules;
        self.checks = if self.rules.is_empty() { self.checks + 1 } else { 0 };
        self.connections = if self.is_active { connections()? } else { 0 };
        self.is_active = !self.rules.is_empty() || (self.connections > 0 && self.checks <= CHECKS_MAX);
        Ok(())
    }

    /// Whether mid-stream packets of unknown connections are left to the host.
    pub fn is_active(&self) -> bool {
        self.is_active
    }

    /// Leftovers by kind, for `beeline_kube_proxy_leftovers`.
    pub fn leftovers(&self) -> Vec<(String, u64)> {
        let mut counts = std::collections::BTreeMap::new();
        self.rules.iter().for_each(|rules| *counts.entry(rules.kind().to_owned()).or_default() += 1);
        if self.connections > 0 {
            counts.insert("connections".to_owned(), self.connections as u64);
        }
        counts.into_iter().collect()
    }

    /// Messages for the administrator, with the remedy.
    pub fn problems(&self) -> Vec<String> {
        let connections = match self.connections {
            0 => "no connection uses them".to_owned(),
            count => format!("{count} TCP connections translated by the host still use them"),
        };
        let problem = |rules: &Rules| {
            format!(
                "kube-proxy has left {rules} on this node: Beeline handles new connections, and {connections}; \
                 after removing kube-proxy from the cluster, and once no connection uses the rules (removing them may \
                 break these connections), run `kube-proxy --cleanup`, or: {}",
                rules.cleanup_command()
            )
        };
        self.rules.iter().map(problem).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use beeline_kernel::kube_proxy::Family;

    use super::*;

    fn update(takeover: &mut TakeOver, rules: &[Rules], connections: usize) -> bool {
        takeover.update(rules.to_vec(), || Ok::<_, Infallible>(connections)).unwrap();
        takeover.is_active()
    }

    #[test]
    fn unit_a_take_over_ends_with_the_last_connection_of_kube_proxy() {
        let rules = [Rules::Nftables(Family::Ipv4), Rules::Nftables(Family::Ipv6)];
        let mut takeover = TakeOver::default();
        assert!(!update(&mut takeover, &[], 7), "connections alone are somebody else's");
        assert!(update(&mut takeover, &rules, 0), "rules may translate more at any time");
        assert_eq!(takeover.leftovers(), [("nftables".to_owned(), 2)]);
        assert!(takeover.problems()[1].contains("nft delete table ip6 kube-proxy"), "{takeover:?}");

        assert!(update(&mut takeover, &[], 3));
        assert_eq!(takeover.leftovers(), [("connections".to_owned(), 3)]);
        assert!(takeover.problems().is_empty(), "nothing is left to do but to wait");
        let mut resumed = TakeOver::resumed(takeover.is_active());
        assert!(update(&mut resumed, &[], 1), "the next agent goes on");
        assert!(!update(&mut resumed, &[], 0));
        assert!(resumed.leftovers().is_empty());
    }

    #[test]
    fn unit_a_take_over_times_out() {
        let mut takeover = TakeOver::resumed(true);
        let checks = (0..).take_while(|_| update(&mut takeover, &[], 1)).count();
        assert_eq!(checks, CHECKS_MAX as usize);
    }

    #[test]
    fn unit_a_failed_check_ends_nothing() {
        let mut takeover = TakeOver::resumed(true);
        assert_eq!(takeover.update(Vec::new(), || Err("no answer")), Err("no answer"));
        assert!(takeover.is_active());
    }
}
