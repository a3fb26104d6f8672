//! A network namespace in which traffic starts or ends, and its kernel
//! counters.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use beeline_kernel::netns::NetNs;
use beeline_kernel::sysctl;
use beeline_lab::harness::TestLab;

/// Settings with which TCP retransmits only lost segments. By default it may
/// also retransmit a segment whose acknowledgement is late by a few
/// milliseconds, for example because the peer had no CPU time. Losses are
/// still detected after a second. On kernels without these settings the test
/// may fail on a very busy machine.
const TCP_SYSCTLS: &[(&str, &str)] = &[
    ("net.ipv4.tcp_early_retrans", "0"), // No tail loss probes.
    ("net.ipv4.tcp_rto_min_us", "1000000"),
];

/// Counters from `/proc/net/snmp` and `/proc/net/netstat` that are shown.
const COUNTERS: &[&str] = &[
    "Tcp.RetransSegs",
    "Tcp.AttemptFails",
    "Tcp.EstabResets",
    "Tcp.OutRsts",
    "Tcp.InErrs",
    "Tcp.InCsumErrors",
    "Udp.InErrors",
    "Udp.RcvbufErrors",
    "Udp.SndbufErrors",
    "Udp.NoPorts",
    "Udp.InCsumErrors",
    "Ip.InDiscards",
    "Ip.OutDiscards",
    "Ip.OutNoRoutes",
    "Icmp.InDestUnreachs",
    "Icmp.InTimeExcds",
    "TcpExt.ListenOverflows",
    "TcpExt.ListenDrops",
    "TcpExt.TCPBacklogDrop",
    "TcpExt.TCPTimeouts",
    "TcpExt.TCPLossProbes",
    "TcpExt.TCPFastRetrans",
    "TcpExt.TCPSynRetrans",
    "TcpExt.TCPSpuriousRTOs",
    "TcpExt.TCPDSACKRecv",
    "TcpExt.TCPAbortOnTimeout",
    "TcpExt.TCPChallengeACK",
];

/// A network namespace with its addresses, IPv4 first.
pub struct TestHost {
    pub name: String,
    pub netns: Arc<NetNs>,
    pub ips: [IpAddr; 2],
    before: BTreeMap<String, u64>,
}

impl TestHost {
    pub fn new(name: &str, netns: NetNs, ips: [IpAddr; 2]) -> TestHost {
        let before = counters(&netns);
        TestHost { name: name.to_owned(), netns: Arc::new(netns), ips, before }
    }

    /// A pod of the namespace `default`.
    pub fn of_pod(lab: &TestLab, name: &str) -> TestHost {
        let pod = lab.pods(name).into_iter().find(|pod| pod.name == name).unwrap();
        let ips: Vec<IpAddr> = pod.ips.iter().map(|ip| ip.parse().unwrap()).collect();
        TestHost::new(name, lab.pod(name).netns(), ips.try_into().expect("one address of each family"))
    }

    /// See [`TCP_SYSCTLS`].
    pub fn disable_spurious_retransmits(&self) {
        let set = |(name, value): &(&str, &str)| {
            if sysctl::get(name).is_ok() {
                sysctl::set(name, value).unwrap();
            }
        };
        self.netns.enter(|| TCP_SYSCTLS.iter().for_each(set)).unwrap();
    }

    /// Counters that have changed since this host was opened.
    pub fn changes(&self) -> Vec<(String, u64)> {
        let now = counters(&self.netns);
        let change = |name: &&str| {
            let count = now.get(*name).unwrap_or(&0) - self.before.get(*name).unwrap_or(&0);
            ((*name).to_owned(), count)
        };
        COUNTERS.iter().map(change).filter(|(_, count)| *count > 0).collect()
    }
}

fn counters(netns: &NetNs) -> BTreeMap<String, u64> {
    // `/proc/net` belongs to the process's namespace; this one to the
    // thread's.
    let read = |file: &str| std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap();
    let text = netns.enter(|| read("snmp") + &read("netstat")).unwrap();
    parse(&text)
}

/// Pairs of lines: `Tcp: NAME NAME ...` and `Tcp: 1 2 ...`.
fn parse(text: &str) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    let lines: Vec<&str> = text.lines().collect();
    for pair in lines.chunks_exact(2) {
        let (Some((group, names)), Some((_, values))) = (pair[0].split_once(": "), pair[1].split_once(": "))
        else {
            continue;
        };
        for (name, value) in names.split(' ').zip(values.split(' ')) {
            found.insert(format!("{group}.{name}"), value.parse().unwrap_or(0));
        }
    }
    found
}
