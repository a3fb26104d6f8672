//! Failures: invalid objects, exhausted pools and full tables, stopped agents,
//! unreachable API servers, malformed traffic. The cause is reported, and
//! everything else works.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

mod failures;
mod load;

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use beeline_abi::conntrack::{ConntrackKey, ConntrackValue};
use beeline_abi::counter::{drop_index, hook};
use beeline_abi::endpoint::EndpointValue;
use beeline_abi::{DropReason, Ip, maps};
use beeline_api::{Attachment, Call, ClientError, ErrorKind, Response};
use beeline_kernel::datapath::{Datapath, PinnedDatapath};
use beeline_kernel::netlink::Netlink;
use beeline_lab::harness::{TestLab, program};
use beeline_lab::protocol::AgentAction;
use beeline_lab_net::cgroup::processes;
use beeline_lab_net::record::{LabRecord, pod_records};
use beeline_sync::{Table, Tables};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use failures::malformed::MalformedFrames;
use failures::{Api, PORT, TIMEOUT, TestLabExt, connect, pod, reach, service, service_addresses};
use load::Traffic;

/// Time before a released address is reused.
const COOLDOWN: Duration = Duration::from_secs(60);

fn apply(lab: &TestLab, objects: &[Value]) {
    let manifests: Vec<String> = objects.iter().map(Value::to_string).collect();
    lab.apply(&manifests.join("\n---\n"));
}

#[test]
fn lab_invalid_objects_are_reported_and_the_others_served() {
    let lab = TestLab::up_with("broken", &[&["--nodes", "2"], &failures::events::SETTINGS[..]].concat());
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    write("a.yaml", &pod("near", "node-1").to_string());
    write("b.yaml", "kind: Service\nmetadata:\n  name: torn\n spec: {}\n");
    write("c.yaml", &pod("far", "node-2").to_string());
    let outcome = lab.verb(&["apply", "-f", directory.path().to_str().unwrap()]).fails();
    assert!(outcome.stderr.contains("b.yaml, line 4: invalid YAML"), "{outcome}");
    let [near, far] = ["near", "far"].map(|name| lab.wait_for_pod_ready(name));

    // A Service whose EndpointSlices are written by the test, with errors.
    let mut shop = service("shop");
    shop["spec"]["selector"] = Value::Null;
    apply(&lab, &[shop]);
    let api = Api::open(&lab);
    failures::events::create_invalid_objects(&lab, &api);
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "shop-broken", "labels": {"kubernetes.io/service-name": "shop"}},
        "addressType": "IPv4",
        "endpoints": [
            {"addresses": ["10.244.1.300"]},
            {"addresses": [near[0]]},
            {"addresses": ["not an address"]},
            {"addresses": [far[0]]},
        ],
        "ports": [{"port": PORT, "protocol": "TCP"}],
    });
    api.create(slices, &slice);
    let (from, to) = (lab.pod("near").netns(), service_addresses(&lab, "shop")[0]);
    lab.wait_until("the good endpoints serve", TIMEOUT, || connect(&from, to).is_ok());
    for _ in 0..20 {
        reach(&from, to);
    }
    let status = lab.beeline(&["status"]);
    for words in ["EndpointSlice default/shop-broken", "10.244.1.300", "not an address"] {
        assert!(status.contains(words), "status does not print {words:?}\n{status}");
    }
    failures::events::check(&lab, &api);
    api.delete(&format!("{slices}/shop-broken"));
    lab.wait_until("the problem is gone", TIMEOUT, || !lab.beeline(&["status"]).contains("shop-broken"));
    assert!(connect(&from, to).is_err(), "without endpoints it is refused");
    lab.down();
}

fn filler(number: usize) -> Attachment {
    Attachment { container_id: format!("filler-{number}"), interface: "eth0".to_owned() }
}

fn allocate(lab: &TestLab, number: usize) -> Result<Response, ClientError> {
    lab.agent_client("node-1").call(Call::Allocate {
        attachment: filler(number),
        pod_namespace: String::new(),
        pod_name: String::new(),
        pod_uid: String::new(),
        netns: String::new(),
    })
}

/// The error message of a failed allocation.
fn refusal(answer: Result<Response, ClientError>) -> String {
    match answer {
        Err(ClientError::CallFailed(error)) if error.kind == ErrorKind::Exhausted => error.message,
        other => panic!("the pool should be exhausted: {other:?}"),
    }
}

#[test]
fn lab_an_exhausted_pool_is_reported_and_recovers() {
    let lab = TestLab::up_with("pool", &["--nodes", "2"]);
    apply(&lab, &[pod("first", "node-1"), pod("other", "node-2"), service("other")]);
    let taken = (0..).find(|number| allocate(&lab, *number).is_err()).unwrap();
    assert_eq!(taken, 252, "a /24 without network, first and broadcast address and the first pod's");
    assert!(refusal(allocate(&lab, taken)).contains("10.244.1.0/24"));

    let api = Api::open(&lab);
    api.create_pod("late", "node-1");
    lab.wait_for_pod_reason("late", &["10.244.1.0/24", "no"]);
    // Other nodes are not affected.
    reach(&lab.pod("first").netns(), service_addresses(&lab, "other")[0]);
    apply(&lab, &[pod("elsewhere", "node-2")]);
    assert_eq!(lab.agent_status("node-1").endpoints.len(), taken + 1, "a failed ADD leaves nothing behind");

    // Released addresses are not reused at once.
    for number in 0..taken {
        lab.agent_client("node-1").call(Call::Release { attachment: filler(number) }).unwrap();
    }
    assert!(refusal(allocate(&lab, 0)).contains("60 s"));
    // The record is back-dated instead of waiting.
    lab.agent("node-1", AgentAction::Stop);
    let path = lab.paths().node("node-1").state().join("endpoints.json");
    let mut state: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let resting = state["addresses"]["released"].as_array_mut().unwrap();
    // IPv6 addresses are not scarce, but are not reused at once, either.
    assert_eq!(resting.len(), 2 * taken);
    for address in resting {
        address["at_ms"] = (address["at_ms"].as_u64().unwrap() - COOLDOWN.as_millis() as u64).into();
    }
    fs::write(&path, state.to_string()).unwrap();
    lab.agent("node-1", AgentAction::Start);
    let late = lab.wait_for_pod_ready("late");
    reach(&lab.pod("first").netns(), SocketAddr::new(late[0], PORT));
    lab.down();
}

#[test]
fn lab_pods_are_deleted_and_created_while_the_agent_is_stopped() {
    let lab = TestLab::up_with("away", &["--nodes", "1"]);
    apply(&lab, &[pod("first", "node-1")]);
    let (api, first) = (Api::open(&lab), lab.pod("first").netns());
    let pinned = || PinnedDatapath::open(&lab.paths().node("node-1").bpffs()).unwrap();

    lab.agent("node-1", AgentAction::Stop);
    api.create_pod("late", "node-1");
    lab.wait_for_pod_reason("late", &["cannot connect to the agent", "agent.sock"]);
    lab.agent("node-1", AgentAction::Start);
    let late = lab.wait_for_pod_ready("late");
    late.iter().for_each(|ip| reach(&first, SocketAddr::new(*ip, PORT)));

    lab.agent("node-1", AgentAction::Stop);
    api.delete("/api/v1/namespaces/default/pods/late");
    lab.wait_for_pod_deleted("late");
    let deletion_queue = lab.paths().node("node-1").root().join("deleted");
    lab.wait_until("DEL has queued the release for the agent", TIMEOUT, || {
        fs::read_dir(&deletion_queue).is_ok_and(|files| files.count() == 1)
    });
    let is_there =
        |pinned: &PinnedDatapath| pinned.tables().endpoint.get(&Ip::from(late[0])).unwrap().is_some();
    assert!(is_there(&pinned()), "it is still in the tables");
    lab.agent("node-1", AgentAction::Start);
    lab.wait_until("the agent has processed the queued release", TIMEOUT, || {
        !is_there(&pinned()) && fs::read_dir(&deletion_queue).unwrap().count() == 0
    });
    assert_eq!(lab.agent_status("node-1").endpoints.len(), 1);
    api.create_pod("next", "node-1");
    assert_ne!(lab.wait_for_pod_ready("next"), late, "an address is not reused at once");
    lab.down();
}

/// Blocks a node's connection to the API server, which it reaches through its
/// loopback: the rule must precede the one of the local table.
fn cut_off(lab: &TestLab, node: &str, port: u16) {
    for rule in [
        "add pref 2 lookup local".to_owned(),
        "del pref 0".to_owned(),
        // By number: protocol names need a separate package.
        format!("add pref 1 to 127.0.0.1 ipproto 6 dport {port} prohibit"),
    ] {
        lab.node(node).shell(&format!("ip rule {rule}")).succeeds();
    }
}

#[test]
fn lab_a_node_starts_from_its_saved_state_without_the_api_server() {
    let lab = TestLab::up_with("alone", &["--nodes", "2"]);
    apply(&lab, &[pod("first", "node-1"), pod("web", "node-2"), service("web")]);
    let (api, first) = (Api::open(&lab), lab.pod("first").netns());
    let port = LabRecord::read(&lab.paths()).unwrap().unwrap().api_port;
    // The state is saved at least once a second.
    std::thread::sleep(Duration::from_millis(1500));

    cut_off(&lab, "node-1", port);
    lab.agent("node-1", AgentAction::Kill);
    let client = lab.agent_client("node-1");
    lab.wait_until("the agent is ready without its API server", TIMEOUT, || client.call(Call::Ready).is_ok());
    let log = fs::read_to_string(lab.paths().node("node-1").agent_log()).unwrap();
    assert!(log.contains("starting from the last known cluster state"), "{log}");
    assert!(lab.beeline(&["status", "--node", "node-1"]).contains("API server unreachable"));
    for to in service_addresses(&lab, "web") {
        (0..20).for_each(|_| reach(&first, to));
    }
    // New pods are connected: addresses and tables are local to the node.
    api.create_pod("late", "node-1");
    let late = lab.wait_for_pod_ready("late");
    late.iter().for_each(|ip| reach(&first, SocketAddr::new(*ip, PORT)));

    // Changes made in the meantime are applied.
    api.create("/api/v1/namespaces/default/services", &service("late"));
    let late = service_addresses(&lab, "late");
    lab.node("node-1").run(["ip", "rule", "del", "pref", "1"]).succeeds();
    lab.wait_until("the API server is there again", TIMEOUT, || lab.agent_status("node-1").api_connected);
    for to in late {
        lab.wait_until("the new Service serves", TIMEOUT, || connect(&first, to).is_ok());
    }
    lab.down();
}

/// Packets dropped by the program of a pod's device, by reason.
fn dropped(pinned: &PinnedDatapath, reason: DropReason) -> u64 {
    pinned.counters().unwrap()[drop_index(hook::FROM_POD, reason as u8) as usize].packets
}

/// Sends random bytes, incomplete lines and nothing to the agent's socket.
fn flood_agent_socket(lab: &TestLab, node: &str, ends: Instant) -> u32 {
    let path = lab.paths().node(node).socket();
    let mut kept = Vec::new();
    let mut count = 0u32;
    while Instant::now() < ends {
        let Ok(mut stream) = UnixStream::connect(&path) else { panic!("the agent is gone") };
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        let seed = count.wrapping_mul(0x9e37_79b9);
        let garbage: Vec<u8> = (0..seed % 5000).map(|at| (at.wrapping_mul(seed) >> 13) as u8).collect();
        // The agent may close the connection before it has read everything.
        let _ = stream.write_all(&garbage);
        match count % 3 {
            0 => drop(stream),
            1 if kept.len() < 40 => kept.push(stream),
            _ => {
                let _ = stream.write_all(b"\n");
                let _ = stream.shutdown(Shutdown::Write);
                let mut answer = String::new();
                let _ = stream.read_to_string(&mut answer);
                assert!(answer.is_empty() || answer.contains("\"error\""), "{answer}");
            }
        }
        count += 1;
        std::thread::sleep(Duration::from_millis(5));
    }
    count
}

#[test]
fn lab_malformed_traffic_affects_only_its_sender() {
    let lab = TestLab::up("garbage");
    apply(&lab, &[pod("sender", "node-1"), pod("bystander", "node-2")]);
    let traffic = Traffic::start(&lab);
    let ips = lab.wait_for_pod_ready("sender");
    let others = lab.wait_for_pod_ready("near");
    let sender = lab.pod("sender").netns();
    let pinned = PinnedDatapath::open(&lab.paths().node("node-1").bpffs()).unwrap();
    let before: Vec<u64> = DropReason::ALL.iter().map(|reason| dropped(&pinned, *reason)).collect();
    let agent = lab.status().nodes[0].agent_pid;

    let link = Netlink::open_in(&sender).unwrap().link("eth0").unwrap();
    let mac = link.mac.unwrap().0;
    let mut malformed =
        sender.enter(|| MalformedFrames::open(link.index, mac, ips, others)).unwrap().unwrap();
    let ends = Instant::now() + Duration::from_secs(5);
    let (sent, connections) = std::thread::scope(|scope| {
        let flood = scope.spawn(|| flood_agent_socket(&lab, "node-1", ends));
        let mut sent = 0;
        for number in 0.. {
            if Instant::now() > ends {
                break;
            }
            sent += u64::from(malformed.send(number));
            // Pauses, so that the test does not compete for the CPU.
            if number % 8 == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        (sent, flood.join().unwrap())
    });
    let report = traffic.stop();
    println!("{sent} frames, {connections} callers\n{report}");
    report.check();
    let after: Vec<u64> = DropReason::ALL.iter().map(|reason| dropped(&pinned, *reason)).collect();
    let drops: Vec<(&str, u64)> = DropReason::ALL
        .iter()
        .zip(before.iter().zip(&after))
        .map(|(reason, (before, after))| (reason.name(), after - before))
        .collect();
    println!("dropped: {drops:?}");
    for reason in ["malformed", "unsupported_protocol", "spoofed_mac", "spoofed_address", "spoofed_neighbour"]
    {
        let count = drops.iter().find(|(name, _)| *name == reason).map_or(0, |(_, count)| *count);
        assert!(count > sent / 100, "{reason}: {count} of {sent} frames: {drops:?}");
    }
    assert_eq!(lab.status().nodes[0].agent_pid, agent, "the agent is the same");
    assert!(lab.status().nodes.iter().all(|node| node.ready && node.agent_ready));
    // Valid packets of the same sender pass.
    for ip in lab.wait_for_pod_ready("bystander") {
        reach(&sender, SocketAddr::new(ip, PORT));
    }
    lab.down();
}

/// Opens the node's datapath like its agent does; nothing changes.
fn datapath(lab: &TestLab, node: &str) -> Datapath {
    let open = || Datapath::open(&lab.paths().node(node).bpffs());
    lab.node(node).netns().enter(open).unwrap().unwrap()
}

#[test]
fn lab_a_full_pod_table_affects_only_new_pods_and_is_reported() {
    let lab = TestLab::up_with("full", &["--nodes", "2"]);
    apply(&lab, &[pod("first", "node-1"), pod("web", "node-2"), service("web")]);
    let mut datapath = datapath(&lab, "node-1");
    // Addresses reserved for documentation (RFC 5737) and following ones.
    let stranger = |number: u32| Ip::from_v4_word((0xc000_0200 + number).to_be());
    let fill = |datapath: &mut Datapath| {
        let numbers = 0..maps::ENDPOINT.max_entries;
        numbers
            .take_while(|number| {
                datapath.endpoint().update(&stranger(*number), &EndpointValue::default()).is_ok()
            })
            .count()
    };
    let added = fill(&mut datapath);
    assert_eq!(added as u32, maps::ENDPOINT.max_entries - 2, "all but the two addresses of the first pod");

    let api = Api::open(&lab);
    api.create_pod("late", "node-1");
    lab.wait_for_pod_reason("late", &["ENDPOINT", "the table is full"]);
    let first = lab.pod("first").netns();
    for to in service_addresses(&lab, "web") {
        reach(&first, to);
    }
    apply(&lab, &[pod("elsewhere", "node-2")]);
    for number in 0..added as u32 {
        datapath.endpoint().delete(&stranger(number)).unwrap();
    }
    let late = lab.wait_for_pod_ready("late");
    late.iter().for_each(|ip| reach(&first, SocketAddr::new(*ip, PORT)));
    lab.down();
}

/// The key of an unused connection, derived from a number.
fn connection(number: u32) -> ConntrackKey {
    ConntrackKey {
        ip_a: Ip::from_v4_word(0xc000_0201u32.to_be()),
        ip_b: Ip::from_v4_word((0xc633_6400 + number).to_be()),
        proto: 6,
        ..ConntrackKey::default()
    }
}

#[test]
fn lab_a_full_conntrack_table_keeps_established_connections_and_reports_drops() {
    let lab = TestLab::up_with("crowd", &["--nodes", "2"]);
    apply(&lab, &[pod("first", "node-1"), pod("web", "node-2"), service("web")]);
    let (first, web) = (lab.pod("first").netns(), lab.wait_for_pod_ready("web"));
    let to = service_addresses(&lab, "web");
    let open = || to.iter().map(TcpStream::connect).collect::<Result<Vec<_>, _>>();
    let kept = first.enter(open).unwrap().unwrap();
    let mut datapath = datapath(&lab, "node-1");
    let pinned = PinnedDatapath::open(&lab.paths().node("node-1").bpffs()).unwrap();
    let before = dropped(&pinned, DropReason::ConntrackFull);
    // Entries of open connections expire last.
    let expires = datapath.conntrack().unwrap().iter().map(|(_, value)| value.expires).max().unwrap();
    let alive = ConntrackValue { expires, ..ConntrackValue::default() };
    let numbers = 0..maps::CONNTRACK_TABLE.max_entries;
    let full =
        numbers.clone().find(|number| datapath.connections().update(&connection(*number), &alive).is_err());
    let full = full.expect("the table has connections already");

    // Existing connections continue; new ones without translation need no
    // entry.
    for mut stream in &kept {
        let mut back = [0; 5];
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.write_all(b"still").unwrap();
        stream.read_exact(&mut back).unwrap();
    }
    web.iter().for_each(|ip| reach(&first, SocketAddr::new(*ip, PORT)));
    let refused = connect(&first, to[0]).expect_err("a translated connection needs an entry");
    assert!(dropped(&pinned, DropReason::ConntrackFull) > before, "{refused}");
    let output = lab.beeline(&["drops"]);
    assert!(output.contains("conntrack_full"), "{output}");

    numbers.take_while(|number| *number < full).for_each(|number| {
        datapath.connections().delete(&connection(number)).unwrap();
    });
    to.iter().for_each(|to| reach(&first, *to));
    lab.down();
}

/// All processes of a lab are killed, stopped or interrupted; `down` removes
/// the lab nevertheless, even if it was killed several times before.
#[test]
fn lab_down_works_whatever_was_killed() {
    let lab = TestLab::up_with("ruins", &["--nodes", "3"]);
    apply(&lab, &[pod("first", "node-1"), pod("second", "node-2"), pod("third", "node-3")]);
    let record = LabRecord::read(&lab.paths()).unwrap().unwrap();
    let pids: Vec<Pid> =
        lab.status().nodes.iter().map(|node| Pid::from_raw(node.agent_pid.unwrap() as i32)).collect();
    // One agent is stopped (SIGSTOP), one is killed, one keeps running.
    kill(pids[0], Signal::SIGSTOP).unwrap();
    kill(pids[1], Signal::SIGKILL).unwrap();
    assert!(record.daemon.signal(Signal::SIGKILL));
    // A command in a pod, and a pod whose process is stopped (SIGSTOP).
    let sleeper = lab.pod("first").start(["sleep", "1000"]);
    let container = processes(&pod_records(&lab.paths())[1].cgroup)[0];
    kill(Pid::from_raw(container as i32), Signal::SIGSTOP).unwrap();
    for after_ms in [0, 5, 20, 50] {
        let mut down = Command::new(program("beeline-lab"));
        down.args(["down", "--name", lab.name().as_str()]).stdout(Stdio::null()).stderr(Stdio::null());
        let mut down = down.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(after_ms));
        down.kill().unwrap();
        down.wait().unwrap();
    }
    // Two `down` at the same time.
    let (one, two) = std::thread::scope(|scope| {
        let other = scope.spawn(|| lab.verb(&["down"]));
        (lab.verb(&["down"]), other.join().unwrap())
    });
    assert!(one.is_success() && two.is_success(), "{one}{two}");
    drop(sleeper);
    lab.down();
}
