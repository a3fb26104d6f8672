//! Pod traffic bypasses the host's netfilter: no hook sees it, and it is not
//! tracked, even if rules enable tracking.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

mod traffic;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use beeline_lab_net::address::{CLUSTER_CIDR_IPV4, CLUSTER_CIDR_IPV6};
use ipnet::IpNet;
use traffic::cluster::{Cluster, Endpoint, FAMILIES, UDP_PORT};
use traffic::errors::{Fragmenting, udp_socket};
use traffic::matrix::{host_ways, pod_ways, probes, run};

/// Number of probes between pods, Services and external hosts.
const POD_PROBES: usize = 518;
/// Number of probes between pods and nodes.
const HOST_PROBES: usize = 184;

const SERVICE_CIDR_IPV4: &str = "10.96.0.0/12";
const SERVICE_CIDR_IPV6: &str = "fd00:10:96::/112";
const HOOKS: [&str; 5] = ["prerouting", "input", "forward", "output", "postrouting"];
const NODES: [&str; 2] = ["node-1", "node-2"];

#[test]
fn lab_pod_traffic_bypasses_netfilter_and_its_conntrack() {
    let cluster = Cluster::up("netfilter");
    let nodes = NODES.map(|name| cluster.endpoint(name));
    nodes.iter().for_each(|node| watch(node));

    run(&probes(pod_ways(&cluster))).must_be_whole(&cluster, POD_PROBES);
    for node in nodes {
        let seen = Seen::by(node);
        assert!(seen.packets.values().all(|packets| *packets == 0), "{}: {seen:#?}", node.name);
        assert!(seen.connections.is_empty(), "{}: {seen:#?}", node.name);
    }

    // Packets for the node itself, and those that it must fragment, pass
    // through its stack: this shows that the rules count.
    run(&probes(host_ways(&cluster))).must_be_whole(&cluster, HOST_PROBES);
    let seen = Seen::by(nodes[0]);
    for hook in ["prerouting", "input", "output", "postrouting"] {
        assert!(seen.packets[hook] > 0, "{hook}: {seen:#?}");
    }
    assert!(!seen.connections.is_empty(), "{seen:#?}");
    have_the_node_fragment(&cluster);
    let seen = Seen::by(nodes[0]);
    assert!(seen.packets["forward"] > 0, "{seen:#?}");
    cluster.down();
}

/// Counts packets of pods and Services at every hook of both families.
fn watch(node: &Endpoint) {
    let mut rules = String::from("table inet watch {\n");
    for hook in HOOKS {
        rules.push_str(&format!("counter {hook} {{}}\n"));
    }
    for hook in HOOKS {
        rules
            .push_str(&format!("chain {hook} {{\ntype filter hook {hook} priority filter; policy accept;\n"));
        // A ct expression makes the kernel track all connections.
        rules.push_str("ct state new,established,related,invalid,untracked counter\n");
        for side in ["saddr", "daddr"] {
            let ipv4 = format!("{{ {CLUSTER_CIDR_IPV4}, {SERVICE_CIDR_IPV4} }}");
            let ipv6 = format!("{{ {CLUSTER_CIDR_IPV6}, {SERVICE_CIDR_IPV6} }}");
            rules.push_str(&format!("ip {side} {ipv4} counter name {hook} accept\n"));
            rules.push_str(&format!("ip6 {side} {ipv6} counter name {hook} accept\n"));
        }
        rules.push_str("}\n");
    }
    rules.push_str("}\n");
    node.shell(&format!("nft -f - <<'END'\n{rules}END\n"));
}

/// Packets and connections of pods and Services seen by a node's netfilter.
#[derive(Debug)]
struct Seen {
    /// Packets by hook.
    packets: BTreeMap<String, u64>,
    connections: Vec<String>,
}

impl Seen {
    fn by(node: &Endpoint) -> Seen {
        let listed = node.shell("nft -j list counters table inet watch");
        let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
        let counters = listed["nftables"].as_array().unwrap().iter().filter_map(|entry| entry.get("counter"));
        let packets: BTreeMap<String, u64> = counters
            .map(|counter| {
                (counter["name"].as_str().unwrap().to_owned(), counter["packets"].as_u64().unwrap())
            })
            .collect();
        assert_eq!(packets.len(), HOOKS.len(), "{listed}");
        let tracked = node.shell("cat /proc/net/nf_conntrack");
        let connections = tracked.lines().filter(|line| is_of_pods(line)).map(str::to_owned).collect();
        Seen { packets, connections }
    }
}

/// Whether one end of a connection in /proc/net/nf_conntrack is a pod or a
/// Service.
fn is_of_pods(line: &str) -> bool {
    let ranges = [CLUSTER_CIDR_IPV4, CLUSTER_CIDR_IPV6, SERVICE_CIDR_IPV4, SERVICE_CIDR_IPV6];
    let ranges = ranges.map(|range| range.parse::<IpNet>().unwrap());
    let ends = line.split(' ').filter_map(|word| word.strip_prefix("src=").or(word.strip_prefix("dst=")));
    let mut ends = ends.map(|end| end.parse::<IpAddr>().unwrap());
    ends.any(|end| ranges.iter().any(|range| range.contains(&end)))
}

/// A datagram without the DF bit, larger than the MTU of the node's uplink.
fn have_the_node_fragment(cluster: &Cluster) {
    let node = cluster.endpoint("node-1");
    node.shell("ip link set eth0 mtu 1400");
    let alpha = cluster.endpoint("alpha");
    let to = SocketAddr::new(FAMILIES[0].of(cluster.endpoint("gamma").addresses), UDP_PORT);
    let send = || udp_socket(to, Fragmenting::Allowed).send(&[7; 1450]).unwrap();
    alpha.netns.enter(send).unwrap();
    node.shell("ip link set eth0 mtu 1500");
}

#[test]
fn unit_pod_connections_are_distinguished_from_others() {
    let line = |src: &str, dst: &str| {
        format!(
            "ipv4     2 tcp      6 431999 ESTABLISHED src={src} dst={dst} sport=1 dport=2 src={dst} dst={src} sport=2 dport=1 [ASSURED] mark=0 zone=0 use=2"
        )
    };
    assert!(is_of_pods(&line("172.30.0.11", "10.244.1.2")));
    assert!(is_of_pods(&line(
        "fd00:0010:0244:0001:0000:0000:0000:0002",
        "fd00:0172:0030:0000:0000:0000:0000:0011"
    )));
    assert!(!is_of_pods(&line("172.30.0.11", "127.0.0.1")));
}
