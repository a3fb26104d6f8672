//! The maps are filled and no agent is running: every verb shows the datapath
//! state, without names and with a warning about that.

#![expect(clippy::unwrap_used, reason = "a test may panic, and says where")]

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use beeline_abi::address::{AddressKey, AddressValue, kind};
use beeline_abi::endpoint::EndpointValue;
use beeline_abi::node::{NodeValue, mode};
use beeline_abi::service::{
    BackendValue, FrontendKey, FrontendValue, SCOPE_INTERNAL, ServiceAddressValue, ServiceValue, SlotKey,
    SlotValue, backend_state,
};
use beeline_abi::{Ip, Port};
use beeline_kernel::bpffs;
use beeline_kernel::datapath::{Datapath, PinnedDatapath, TestPacket};
use beeline_sync::{Table, Tables};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;

/// A bpffs with filled maps and no agent; unmounted when dropped.
struct TestNode {
    bpffs: PathBuf,
}

impl TestNode {
    fn new(name: &str) -> TestNode {
        // The programs are loaded in a namespace of their own; no packet is sent.
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let bpffs = std::env::temp_dir().join(format!("beeline-test-{}-{name}", std::process::id()));
        bpffs::mount(&bpffs).unwrap();
        let node = TestNode { bpffs };
        let mut datapath = Datapath::open(&node.bpffs).unwrap_or_else(|error| panic!("{error}"));
        fill(&mut datapath);
        node
    }

    fn beeline(&self, arguments: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_beeline"));
        command.arg("--bpffs").arg(&self.bpffs).args(["--socket", "/nonexistent/agent.sock"]);
        command.args(["--node", "node-1"]).args(arguments.split_whitespace()).output().unwrap()
    }

    /// The verb's JSON; it must succeed without an agent.
    fn json(&self, arguments: &str) -> Value {
        let output = self.beeline(&format!("{arguments} -o json"));
        assert!(output.status.success(), "{arguments}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn text(&self, arguments: &str) -> String {
        String::from_utf8(self.beeline(arguments).stdout).unwrap()
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        let unmounted = bpffs::unmount(&self.bpffs).map_err(|error| error.to_string());
        let removed = unmounted.and_then(|()| std::fs::remove_dir(&self.bpffs).map_err(|e| e.to_string()));
        if let Err(error) = removed {
            eprintln!("left behind: {}: {error}", self.bpffs.display());
        }
    }
}

fn ip(text: &str) -> Ip {
    Ip::from(text.parse::<IpAddr>().unwrap())
}

fn put<K, V>(table: &mut dyn Table<K, V>, key: K, value: V) {
    table.update(&key, &value).unwrap();
}

/// One local pod, one remote node, one Service with two backends and a slot without one.
fn fill(datapath: &mut Datapath) {
    let pod = EndpointValue { ifindex: 7, mtu: 1500, ..Default::default() };
    put(datapath.endpoint(), ip("10.244.1.5"), pod);
    let peer = NodeValue { mode: mode::NATIVE, ipv4: ip("172.30.0.12"), ..Default::default() };
    put(datapath.node(), 2, peer);
    let range = AddressKey { prefix_bits: 120, ip: ip("10.244.2.0") };
    put(datapath.address(), range, AddressValue { kind: kind::REMOTE_POD, node: 2, ..Default::default() });
    put(datapath.service_address(), ip("10.96.0.7"), ServiceAddressValue { class: 16, flags: 0 });
    let frontend = FrontendKey { class: 16, port: Port::new(80), proto: 6, scope: SCOPE_INTERNAL };
    put(datapath.frontend(), frontend, FrontendValue { service: 3, ..Default::default() });
    put(datapath.service(), 3, ServiceValue { generation: 1, slots: 3, ..Default::default() });
    for (slot, address) in ["10.244.1.5", "10.244.2.5"].iter().enumerate() {
        let (slot, id) = (slot as u32, 40 + slot as u32);
        let backend = BackendValue {
            ip: ip(address),
            port: Port::new(8080),
            proto: 6,
            state: backend_state::ACTIVE,
            weight: 1,
            ..Default::default()
        };
        put(datapath.backend(), id, backend);
        let key = SlotKey { service: 3, generation: 1, slot };
        put(datapath.slot(), key, SlotValue::of(id, &backend));
    }
}

/// Runs a packet that is dropped because the node is not configured.
fn drop_a_packet(bpffs: &Path) {
    let mut frame = vec![0; 64];
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    frame[14..24].copy_from_slice(&[0x45, 0, 0, 50, 0, 0, 0x40, 0, 64, 17]);
    let pinned = PinnedDatapath::open(bpffs).unwrap();
    pinned.test_run("from_pod", &TestPacket::new(&frame)).unwrap();
}

#[test]
fn kernel_every_verb_works_without_an_agent() {
    let node = TestNode::new("verbs");
    let endpoints = node.json("endpoint list");
    assert_eq!(endpoints[0]["address"], "10.244.1.5", "{endpoints}");
    assert_eq!(endpoints[0]["ifindex"], 7, "{endpoints}");

    let nodes = node.json("node list");
    assert_eq!(nodes[0]["pod_cidrs"][0], "10.244.2.0/24", "{nodes}");

    let services = node.json("service list");
    assert_eq!(services[0]["frontends"][0], "TCP 10.96.0.7:80 (ClusterIP)", "{services}");
    let service = &node.json("service describe 10.96.0.7:80")[0];
    assert_eq!(service["backends"][1]["address"], "10.244.2.5:8080", "{service}");
    assert_eq!(service["broken_slots"], serde_json::json!([2]), "{service}");
    let unknown = node.beeline("service describe nobody/knows");
    assert!(!unknown.status.success() && unknown.stdout.is_empty(), "{unknown:?}");

    assert_eq!(node.json("conntrack list"), serde_json::json!([]));
    assert_eq!(node.text("conntrack list"), "No connections found.\n");

    let status = node.beeline("status");
    let text = String::from_utf8_lossy(&status.stdout);
    assert!(!status.status.success(), "a node without agent is not healthy: {status:?}");
    assert!(text.contains("cannot connect to the agent") && text.contains("packets are forwarded"), "{text}");
}

#[test]
fn kernel_a_drop_is_counted_and_explained_without_an_agent() {
    let node = TestNode::new("drops");
    assert_eq!(node.text("drops"), "No packets dropped.\n");
    drop_a_packet(&node.bpffs);
    let counters = node.json("counters");
    assert_eq!(counters.as_array().map(Vec::len), Some(1), "{counters}");
    let drops = node.json("drops");
    let counter = &drops["counters"][0];
    assert_eq!((counter["hook"].as_str(), counter["packets"].as_u64()), (Some("from_pod"), Some(1)));
    assert!(counter["cause"].as_str().is_some_and(|cause| !cause.is_empty()), "{drops}");
    let text = node.text("drops");
    assert!(text.contains("from_pod") && text.contains(counter["cure"].as_str().unwrap()), "{text}");
}
