//! The `/etc/resolv.conf` of a pod, as the kubelet generates it. Pure.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, PodDNSConfigOption};
use kube::ResourceExt;

use crate::names::DOMAIN;

/// Limits of the kubelet and glibc.
const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCH_BYTES_MAX: usize = 2048;

/// Resolver configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Resolver {
    nameservers: Vec<String>,
    searches: Vec<String>,
    options: Vec<(String, Option<String>)>,
}

/// The file content for a pod; `cluster_dns` are the cluster DNS addresses in
/// order.
pub fn resolv_conf(pod: &Pod, cluster_dns: &[IpAddr]) -> String {
    let mut resolver = match policy(pod) {
        Policy::Cluster => cluster(&pod.namespace().unwrap_or_default(), cluster_dns),
        Policy::Node => node(),
        Policy::None => Resolver::default(),
    };
    if let Some(config) = pod.spec.as_ref().and_then(|spec| spec.dns_config.clone()) {
        add(&mut resolver.nameservers, config.nameservers.unwrap_or_default());
        add(&mut resolver.searches, config.searches.unwrap_or_default());
        config.options.unwrap_or_default().into_iter().for_each(|one| set(&mut resolver.options, one));
    }
    resolver.fit();
    resolver.text()
}

/// Applies `dnsPolicy`.
enum Policy {
    Cluster,
    Node,
    None,
}

fn policy(pod: &Pod) -> Policy {
    let spec = pod.spec.as_ref();
    let on_node = spec.and_then(|spec| spec.host_network) == Some(true);
    match spec.and_then(|spec| spec.dns_policy.as_deref()).unwrap_or("ClusterFirst") {
        "None" => Policy::None,
        "Default" => Policy::Node,
        "ClusterFirstWithHostNet" => Policy::Cluster,
        _ if on_node => Policy::Node,
        _ => Policy::Cluster,
    }
}

fn cluster(namespace: &str, cluster_dns: &[IpAddr]) -> Resolver {
    Resolver {
        nameservers: cluster_dns.iter().map(ToString::to_string).collect(),
        searches: vec![format!("{namespace}.svc.{DOMAIN}"), format!("svc.{DOMAIN}"), DOMAIN.to_owned()],
        options: vec![("ndots".to_owned(), Some("5".to_owned()))],
    }
}

/// The nodes of a lab have no resolver. As in a kubelet without one, the
/// loopback addresses are used, where queries fail at once.
fn node() -> Resolver {
    Resolver {
        nameservers: vec!["127.0.0.1".to_owned(), "::1".to_owned()],
        searches: vec![".".to_owned()],
        options: Vec::new(),
    }
}

fn add(list: &mut Vec<String>, more: Vec<String>) {
    for one in more {
        if !list.contains(&one) {
            list.push(one);
        }
    }
}

/// The pod's value of an option takes precedence.
fn set(options: &mut Vec<(String, Option<String>)>, option: PodDNSConfigOption) {
    let Some(name) = option.name.filter(|name| !name.is_empty()) else { return };
    match options.iter_mut().find(|(known, _)| *known == name) {
        Some((_, value)) => *value = option.value,
        None => options.push((name, option.value)),
    }
}

impl Resolver {
    /// Drops entries beyond the limits.
    fn fit(&mut self) {
        self.nameservers.truncate(NAMESERVERS_MAX);
        self.searches.truncate(SEARCHES_MAX);
        while self.searches.join(" ").len() > SEARCH_BYTES_MAX {
            self.searches.pop();
        }
    }

    fn text(&self) -> String {
        let mut lines: Vec<String> = Vec::new();
        if !self.searches.is_empty() {
            lines.push(format!("search {}", self.searches.join(" ")));
        }
        lines.extend(self.nameservers.iter().map(|address| format!("nameserver {address}")));
        let option = |(name, value): &(String, Option<String>)| match value {
            Some(value) => format!("{name}:{value}"),
            None => name.clone(),
        };
        if !self.options.is_empty() {
            let options: Vec<String> = self.options.iter().map(option).collect();
            lines.push(format!("options {}", options.join(" ")));
        }
        lines.iter().map(|line| format!("{line}\n")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn text(spec: Value) -> String {
        let pod = json!({"metadata": {"name": "p", "namespace": "shop"}, "spec": spec});
        let dns = ["10.96.0.10".parse().unwrap(), "fd00:10:96::a".parse().unwrap()];
        resolv_conf(&serde_json::from_value(pod).unwrap(), &dns)
    }

    const CLUSTER: &str = "search shop.svc.cluster.local svc.cluster.local cluster.local\n\
                           nameserver 10.96.0.10\n\
                           nameserver fd00:10:96::a\n\
                           options ndots:5\n";
    const NODE: &str = "search .\nnameserver 127.0.0.1\nnameserver ::1\n";

    #[test]
    fn unit_dns_policy_and_host_network_select_the_nameservers() {
        assert_eq!(text(json!({"containers": []})), CLUSTER);
        assert_eq!(text(json!({"containers": [], "dnsPolicy": "ClusterFirst"})), CLUSTER);
        assert_eq!(text(json!({"containers": [], "dnsPolicy": "ClusterFirst", "hostNetwork": true})), NODE);
        let with_host_net =
            json!({"containers": [], "dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true});
        assert_eq!(text(with_host_net), CLUSTER);
        assert_eq!(text(json!({"containers": [], "dnsPolicy": "Default"})), NODE);
    }

    #[test]
    fn unit_dns_policy_none_uses_only_dns_config() {
        let spec = json!({
            "containers": [], "dnsPolicy": "None",
            "dnsConfig": {
                "nameservers": ["192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"],
                "searches": ["example.com"],
                "options": [{"name": "edns0"}, {"name": "timeout", "value": "1"}],
            },
        });
        let expected = "search example.com\nnameserver 192.0.2.1\nnameserver 192.0.2.2\n\
                        nameserver 192.0.2.3\noptions edns0 timeout:1\n";
        assert_eq!(text(spec), expected);
    }

    #[test]
    fn unit_dns_config_is_merged_after_the_policy() {
        let spec = json!({
            "containers": [],
            "dnsConfig": {
                "nameservers": ["192.0.2.1"],
                "searches": ["example.com", "cluster.local"],
                "options": [{"name": "ndots", "value": "2"}],
            },
        });
        let expected = "search shop.svc.cluster.local svc.cluster.local cluster.local example.com\n\
                        nameserver 10.96.0.10\nnameserver fd00:10:96::a\nnameserver 192.0.2.1\n\
                        options ndots:2\n";
        assert_eq!(text(spec), expected);
    }

    #[test]
    fn unit_entries_beyond_resolver_limits_are_dropped() {
        let searches: Vec<String> = (0..40).map(|number| format!("{number}.example.com")).collect();
        let shown = text(json!({"containers": [], "dnsConfig": {"searches": searches}}));
        let line = shown.lines().next().unwrap();
        assert_eq!(line.split(' ').count() - 1, SEARCHES_MAX, "{line}");
        let long: Vec<String> = (0..20).map(|number| format!("{number}.{}", "a".repeat(200))).collect();
        let shown = text(json!({"containers": [], "dnsConfig": {"searches": long}}));
        assert!(shown.lines().next().unwrap().len() <= SEARCH_BYTES_MAX + "search ".len(), "{shown}");
    }
}
