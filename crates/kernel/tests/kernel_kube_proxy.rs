//! Detection of rules of kube-proxy, created with nft and iptables in a
//! namespace of the test.

#![allow(clippy::unwrap_used, reason = "a failing test ends here")]

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;

use beeline_kernel::kube_proxy::{self, Family, Rules};
use support::TestNetNs;

/// Runs a command in the namespace; false if the tool is not installed.
fn run(netns: &TestNetNs, words: &[&str]) -> bool {
    let outcome = netns.enter(|| Command::new(words[0]).args(&words[1..]).output()).unwrap();
    match outcome {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("skipped: {} is not installed", words[0]);
            false
        }
        outcome => {
            let outcome = outcome.unwrap();
            assert!(outcome.status.success(), "{words:?}: {}", String::from_utf8_lossy(&outcome.stderr));
            true
        }
    }
}

fn rules(netns: &TestNetNs) -> Vec<Rules> {
    netns.enter(kube_proxy::rules).unwrap().unwrap()
}

#[test]
fn kernel_kube_proxy_rules_are_found_and_removed_by_the_printed_command() {
    let netns = TestNetNs::new("rules");
    assert_eq!(rules(&netns), [], "no rules yet");
    // Rules of kubelet and of an administrator are not reported.
    if !run(&netns, &["nft", "add", "table", "ip", "nat"]) {
        return;
    }
    run(&netns, &["nft", "add", "chain", "ip", "nat", "KUBE-KUBELET-CANARY"]);
    assert_eq!(rules(&netns), []);

    for family in ["ip", "ip6"] {
        run(&netns, &["nft", "add", "table", family, "kube-proxy"]);
    }
    let own = [Rules::Nftables(Family::Ipv4), Rules::Nftables(Family::Ipv6)];
    assert_eq!(rules(&netns), own);
    run(&netns, &["nft", "add", "chain", "ip", "nat", "KUBE-SERVICES"]);
    assert_eq!(rules(&netns), [own[0], Rules::Iptables(Family::Ipv4), own[1]]);
    run(&netns, &["nft", "delete", "chain", "ip", "nat", "KUBE-SERVICES"]);
    for found in own {
        run(&netns, &found.cleanup_command().split(' ').collect::<Vec<_>>());
    }
    assert_eq!(rules(&netns), []);
}

/// Runs the printed cleanup command.
fn remove(netns: &TestNetNs, found: Rules) {
    netns.enter(|| Command::new("sh").args(["-c", found.cleanup_command()]).output()).unwrap().unwrap();
}

/// Tables of iptables-legacy, and the device of the mode `ipvs`.
#[test]
fn kernel_legacy_iptables_and_ipvs_rules_are_found_and_removed_by_the_printed_command() {
    let netns = TestNetNs::new("older");
    let ways = [("iptables-legacy", Family::Ipv4), ("ip6tables-legacy", Family::Ipv6)];
    for (tool, family) in ways {
        let nat = |words: &[&str]| {
            netns.enter(|| Command::new(tool).args(["-t", "nat"]).args(words).output()).unwrap()
        };
        match nat(&["-N", "KUBE-KUBELET-CANARY"]) {
            Ok(output) if output.status.success() => {}
            tried => {
                println!("skipped: {tool} or its tables in this kernel: {tried:?}");
                continue;
            }
        }
        assert_eq!(rules(&netns), [], "the chain of kubelet is not reported");
        for words in [&["-N", "KUBE-SERVICES"][..], &["-A", "OUTPUT", "-j", "KUBE-SERVICES"]] {
            assert!(nat(words).unwrap().status.success(), "{tool} {words:?}");
        }
        let found = Rules::IptablesLegacy(family);
        assert_eq!(rules(&netns), [found]);
        remove(&netns, found);
        assert_eq!(rules(&netns), []);
    }
    run(&netns, &["ip", "link", "add", "kube-ipvs0", "type", "veth", "peer", "name", "other"]);
    assert_eq!(rules(&netns), [Rules::Ipvs]);
    remove(&netns, Rules::Ipvs);
    assert_eq!(rules(&netns), []);
}

#[test]
fn kernel_connections_that_the_host_translates_are_counted() {
    let netns = TestNetNs::new("translated");
    let count = || netns.enter(kube_proxy::translated_connections).unwrap().unwrap();
    run(&netns, &["ip", "link", "set", "lo", "up"]);
    let ruleset = "add table ip kube-proxy
        add chain ip kube-proxy out { type nat hook output priority -100; }
        add rule ip kube-proxy out ip daddr 127.0.0.77 tcp dport 80 dnat to 127.0.0.1:8080";
    if !run(&netns, &["nft", ruleset]) {
        return;
    }
    assert_eq!(count(), 0);
    let (_server, _client, _plain) = netns
        .enter(|| {
            let listener = TcpListener::bind("127.0.0.1:8080").unwrap();
            let mut client = TcpStream::connect("127.0.0.77:80").unwrap();
            let (mut server, _) = listener.accept().unwrap();
            client.write_all(b"x").unwrap();
            server.read_exact(&mut [0]).unwrap();
            (server, client, TcpStream::connect("127.0.0.1:8080").unwrap())
        })
        .unwrap();
    assert_eq!(count(), 1, "one connection is translated, one is not");
}
