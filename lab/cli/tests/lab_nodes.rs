//! Node operations: links, the network behind the router, power loss, adding
//! and removing nodes.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

use std::time::Duration;

use beeline_lab::harness::TestLab;
use beeline_lab::protocol::{NodeStatus, PodStatus};

const TIMEOUT: Duration = Duration::from_secs(20);

const WEB: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
        - {name: echo, image: beeline/echo, ports: [{containerPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
";

/// A pod on a fixed node.
fn pod_on(name: &str, node: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 0
  containers:
    - {{name: echo, image: beeline/echo, ports: [{{containerPort: 8080}}]}}
---"
    )
}

fn node(lab: &TestLab, name: &str) -> NodeStatus {
    let nodes = lab.status().nodes;
    nodes.into_iter().find(|node| node.name == name).unwrap_or_else(|| panic!("there is no {name}"))
}

fn pod(lab: &TestLab, name: &str) -> PodStatus {
    lab.pods(name).into_iter().next().unwrap_or_else(|| panic!("there is no pod {name}"))
}

/// Over TCP, both address families.
fn reaches(lab: &TestLab, from: &str, to: &str) -> bool {
    let ips = pod(lab, to).ips;
    ips.len() == 2 && ips.iter().all(|ip| asks(lab, from, ip, 8080).is_some())
}

fn asks(lab: &TestLab, from: &str, ip: &str, port: u16) -> Option<String> {
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    let url = format!("http://{host}:{port}/");
    let target = if from == "client" { lab.client() } else { lab.pod(from) };
    let answer = target.run(["curl", "--silent", "--max-time", "1", &url]);
    answer.is_success().then_some(answer.stdout)
}

#[test]
fn lab_link_sets_mtu_carrier_and_loss() {
    let lab = TestLab::up_with("links", &["--nodes", "2"]);
    let ping = |extra: &[&str]| {
        let words = [&["ping", "-q", "-W1"], extra, &["172.30.0.12"]].concat();
        lab.node("node-1").run(words)
    };
    lab.verb(&["link", "node-2", "--mtu", "1400"]).succeeds();
    let shown = lab.node("node-2").shell("cat /sys/class/net/eth0/mtu; ip -o link show eth0").succeeds();
    assert!(shown.stdout.contains("mtu 1400"), "{shown}");
    ping(&["-c1", "-Mdo", "-s1372"]).succeeds();
    assert!(!ping(&["-c1", "-Mdo", "-s1400"]).is_success(), "a packet larger than the link MTU passes");

    lab.verb(&["link", "node-2", "--down"]).succeeds();
    let shown = lab.node("node-2").run(["ip", "-o", "link", "show", "eth0"]).succeeds();
    assert!(shown.stdout.contains("NO-CARRIER"), "{shown}");
    assert!(!ping(&["-c1"]).is_success());
    assert!(lab.verb(&["status"]).stdout.contains("node-2: MTU 1400, down"));
    lab.verb(&["link", "node-2", "--up", "--mtu", "1500"]).succeeds();
    lab.wait_until("the node answers again", TIMEOUT, || ping(&["-c1"]).is_success());

    lab.verb(&["link", "node-2", "--loss", "30"]).succeeds();
    let lossy = ping(&["-i0.002", "-c500"]);
    // In each direction: 51 % of the requests get no response.
    let lost: f64 =
        lossy.stdout.split("% packet loss").next().unwrap().rsplit(' ').next().unwrap().parse().unwrap();
    assert!((38.0..=64.0).contains(&lost), "{lossy}");
    lab.verb(&["link", "node-2", "--loss", "100"]).succeeds();
    assert!(!ping(&["-c2", "-i0.2"]).is_success());
    lab.verb(&["link", "node-2", "--loss", "0"]).succeeds();
    assert!(ping(&["-i0.002", "-c100"]).stdout.contains(" 0% packet loss"));
    assert!(!lab.verb(&["status"]).stdout.contains("Changed links"), "no link is changed");

    lab.verb(&["link", "node-2"]).fails();
    lab.verb(&["link", "node-2", "--loss", "101"]).fails().stderr_contains("from 0 to 100");
    lab.verb(&["link", "node-2", "--mtu", "576"]).fails().stderr_contains("1280");
    lab.verb(&["link", "node-9", "--down"]).fails().stderr_contains("it has node-1, node-2");
    lab.down();
}

#[test]
fn lab_a_node_behind_the_router_is_reached_through_it() {
    let lab = TestLab::up_with("behind", &["--nodes", "3", "--behind-router", "node-3"]);
    lab.apply(&(1..=3).map(|n| pod_on(&format!("p{n}"), &format!("node-{n}"))).collect::<String>());
    lab.apply(WEB);
    assert_eq!(node(&lab, "node-3").addresses[0].to_string(), "172.30.1.13");
    let named = |at: &str, whom: &str| {
        node(&lab, at)
            .problems
            .iter()
            .any(|problem| problem.contains(whom) && problem.contains("no direct route"))
    };
    assert!(named("node-1", "node-3") && named("node-2", "node-3"), "{:?}", node(&lab, "node-1").problems);
    assert!(!named("node-1", "node-2"), "that one is a neighbour");
    let routes = lab.node("node-1").run(["ip", "route"]).succeeds();
    assert!(routes.stdout.contains("10.244.2.0/24 via 172.30.0.12"), "{routes}");
    assert!(!routes.stdout.contains("10.244.3.0/24"), "{routes}");
    everyone_reaches_everyone(&lab);

    // The router forwards the packets.
    lab.router().shell("echo 0 >/proc/sys/net/ipv4/ip_forward").succeeds();
    assert!(asks(&lab, "p1", &pod(&lab, "p3").ips[0], 8080).is_none());
    assert!(asks(&lab, "p1", &pod(&lab, "p2").ips[0], 8080).is_some());
    lab.router().shell("echo 1 >/proc/sys/net/ipv4/ip_forward").succeeds();

    lab.verb(&["link", "node-3", "--direct"]).succeeds();
    lab.wait_until("node-3 is a neighbour", TIMEOUT, || !named("node-1", "node-3"));
    lab.wait_until("the pods reach each other", TIMEOUT, || reaches(&lab, "p1", "p3"));
    let routes = lab.node("node-1").run(["ip", "route"]).succeeds();
    assert!(routes.stdout.contains("10.244.3.0/24 via 172.30.0.13"), "{routes}");
    everyone_reaches_everyone(&lab);

    lab.verb(&["link", "node-2", "--behind-router"]).succeeds();
    lab.wait_until("node-2 is no neighbour", TIMEOUT, || named("node-1", "node-2"));
    assert_eq!(node(&lab, "node-2").addresses[0].to_string(), "172.30.1.12");
    lab.wait_until("the pods reach each other", TIMEOUT, || reaches(&lab, "p1", "p2"));
    everyone_reaches_everyone(&lab);
    lab.down();
}

fn everyone_reaches_everyone(lab: &TestLab) {
    let service = lab.service("web").cluster_ips;
    for from in ["p1", "p2", "p3"] {
        for to in ["p1", "p2", "p3"] {
            lab.wait_until(&format!("{from} reaches {to}"), TIMEOUT, || reaches(lab, from, to));
        }
        for ip in &service {
            lab.wait_until(&format!("{from} reaches {ip}"), TIMEOUT, || asks(lab, from, ip, 80).is_some());
        }
    }
    lab.wait_until("the client reaches the pods", TIMEOUT, || {
        ["p1", "p2", "p3"].iter().all(|to| reaches(lab, "client", to))
    });
}

#[test]
fn lab_a_node_restarts_with_its_pods_after_power_loss() {
    let lab = TestLab::up_with("reboot", &["--nodes", "3"]);
    lab.apply(&(pod_on("stays", "node-1") + &pod_on("falls", "node-2")));
    let before = pod(&lab, "falls");
    let files = lab.paths().node("node-2");
    lab.verb(&["node-stop", "node-2"]).succeeds();
    assert!(!files.netns().exists() && !files.bpffs().exists(), "namespace and pins are gone");
    assert!(files.state().join("endpoints.json").exists(), "the disk is not");
    lab.verb(&["node", "node-2", "--", "true"]).fails().stderr_contains("node-start");
    lab.verb(&["agent", "node-2", "start"]).fails().stderr_contains("powered off");
    lab.verb(&["node-stop", "node-2"]).fails().stderr_contains("already");

    lab.verb(&["node-start", "node-2"]).succeeds();
    let came_back = || {
        let now = pod(&lab, "falls");
        now.ready && now.restarts == before.restarts + 1
    };
    lab.wait_until("the pod is back", TIMEOUT, came_back);
    lab.wait_until("and is reached", TIMEOUT, || {
        reaches(&lab, "stays", "falls") && reaches(&lab, "client", "falls")
    });
    lab.wait_until("the node is Ready", TIMEOUT, || node(&lab, "node-2").ready);
    // Resources of the old sandboxes have been released.
    let held = std::fs::read_to_string(files.state().join("endpoints.json")).unwrap();
    assert_eq!(held.matches("\"falls\"").count(), 1, "{held}");
    lab.down();
}

#[test]
fn lab_a_second_uplink_is_detected_forwards_and_survives_a_reboot() {
    let lab = TestLab::up_with("uplinks", &["--nodes", "2", "--uplinks", "2"]);
    lab.apply(&(pod_on("p1", "node-1") + &pod_on("p2", "node-2")));
    let shown: Vec<String> = node(&lab, "node-1").addresses.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["172.30.0.11", "fd00:172:30::11", "172.30.2.11", "fd00:172:30:2::11"]);
    let uplinks = |name: &str| -> Vec<String> {
        let client = beeline_api::Client::new(lab.paths().node(name).socket());
        match client.call(beeline_api::Call::Status) {
            Ok(beeline_api::Response::Status(status)) => status.uplinks,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(uplinks("node-1"), ["eth0", "eth1"]);
    let ping = |ip: &str| lab.client().run(["ping", "-nqc1", "-W1", ip]).is_success();
    for ip in ["172.30.2.11", "fd00:172:30:2::12", "172.30.2.1"] {
        assert!(ping(ip), "{ip} on the second network");
    }

    // The two networks are independent of each other.
    lab.verb(&["link", "node-1", "--uplink", "eth1", "--down"]).succeeds();
    assert!(!ping("172.30.2.11") && ping("172.30.0.11") && ping("172.30.2.12"));
    assert!(lab.verb(&["status"]).stdout.contains("node-1 eth1: down"));
    assert!(reaches(&lab, "p1", "p2") && reaches(&lab, "p2", "p1") && reaches(&lab, "client", "p1"));
    lab.verb(&["link", "node-1", "--uplink", "eth1", "--up"]).succeeds();
    lab.verb(&["link", "node-1", "--down"]).succeeds();
    lab.wait_until("the second network is there", TIMEOUT, || {
        ping("172.30.2.11") && ping("fd00:172:30:2::11")
    });
    assert!(!ping("172.30.0.11"));
    lab.verb(&["link", "node-1", "--up"]).succeeds();
    lab.wait_until("p1 is reached again", TIMEOUT, || reaches(&lab, "p2", "p1"));
    // Pods are also reached through the second network if there is a route:
    // its device handles packets like the first.
    lab.client().run(["ip", "route", "replace", "10.244.1.0/24", "via", "172.30.2.11"]).succeeds();
    lab.client().run(["ip", "-6", "route", "del", "fd00:10:244:1::/64"]).succeeds();
    lab.client()
        .run(["ip", "-6", "route", "add", "fd00:10:244:1::/64", "via", "fd00:172:30:2::11"])
        .succeeds();
    assert!(reaches(&lab, "client", "p1"));

    lab.verb(&["link", "node-1", "--uplink", "eth2", "--down"]).fails().stderr_contains("it has eth0, eth1");
    lab.verb(&["link", "node-1", "--uplink", "eth1", "--behind-router"]).fails().stderr_contains("only eth0");

    lab.verb(&["link", "node-2", "--uplink", "eth1", "--mtu", "1400"]).succeeds();
    lab.verb(&["node-stop", "node-2"]).succeeds();
    assert!(!ping("172.30.2.12"));
    lab.verb(&["node-start", "node-2"]).succeeds();
    lab.wait_until("the client has learned the new MAC address", TIMEOUT, || {
        ping("172.30.2.12") && ping("fd00:172:30:2::12")
    });
    let link = lab.node("node-2").run(["ip", "link", "show", "eth1"]).succeeds();
    assert!(link.stdout.contains("mtu 1400"), "{link}");
    lab.wait_until("the agent has both", TIMEOUT, || uplinks("node-2") == ["eth0", "eth1"]);
    lab.wait_until("the pod is back", TIMEOUT, || reaches(&lab, "p1", "p2"));
    lab.verb(&["node-add", "node-3"]).succeeds();
    assert!(ping("172.30.2.13"));
    lab.down();
}

#[test]
fn lab_pods_of_a_failed_node_are_replaced_on_other_nodes() {
    let lab = TestLab::up_with("dead", &["--nodes", "3"]);
    lab.apply(WEB);
    lab.apply(&pod_on("asker", "node-1"));
    let on = |name: &str| lab.pods("web").into_iter().filter(|pod| pod.node == name).count();
    assert_eq!(on("node-2"), 1);
    lab.verb(&["node-stop", "node-2"]).succeeds();
    lab.wait_until("the node is NotReady", TIMEOUT, || !node(&lab, "node-2").ready);
    lab.wait_until("its endpoint is gone", TIMEOUT, || lab.service("web").endpoints["IPv4"].len() == 2);
    let ready = || lab.pods("web").into_iter().filter(|pod| pod.ready && pod.node != "node-2").count();
    lab.wait_until("its pod is replaced elsewhere", TIMEOUT, || ready() == 3);
    let ips = lab.service("web").cluster_ips;
    for _ in 0..10 {
        assert!(asks(&lab, "asker", &ips[0], 80).is_some(), "a request went to the dead node");
    }
    lab.verb(&["node-start", "node-2"]).succeeds();
    lab.wait_until("no pod stays Terminating", TIMEOUT, || {
        let pods = lab.pods("web");
        pods.len() == 3 && pods.iter().all(|pod| pod.ready)
    });
    lab.down();
}

#[test]
fn lab_nodes_join_and_leave() {
    let lab = TestLab::up_with("join", &["--nodes", "2"]);
    lab.apply(&pod_on("first", "node-1"));
    let route = |at: &str| lab.node(at).run(["ip", "route"]).succeeds().stdout.contains("10.244.3.0/24");
    assert!(!route("node-1"));
    lab.verb(&["node-add", "node-3"]).succeeds();
    lab.apply(&pod_on("third", "node-3"));
    lab.wait_until("the new node's pods are reached", TIMEOUT, || {
        reaches(&lab, "first", "third") && reaches(&lab, "client", "third")
    });
    assert!(route("node-1") && route("node-2"));
    lab.verb(&["node-add", "node-3"]).fails().stderr_contains("already");
    lab.verb(&["node-add", "web"]).fails().stderr_contains("node-N");

    lab.verb(&["node-remove", "node-3"]).succeeds();
    lab.wait_until("no node has a route to it", TIMEOUT, || !route("node-1") && !route("node-2"));
    let status = lab.status();
    assert!(status.nodes.iter().all(|node| node.name != "node-3"));
    assert!(status.pods.iter().all(|pod| pod.node != "node-3"), "{:?}", status.pods);
    let routes = lab.client().run(["ip", "route"]).succeeds();
    assert!(!routes.stdout.contains("10.244.3.0/24"), "{routes}");
    lab.verb(&["node-remove", "node-2"]).succeeds();
    lab.verb(&["node-remove", "node-1"]).fails().stderr_contains("the only node");
    lab.verb(&["node-stop", "node-2"]).fails().stderr_contains("it has node-1");
    lab.down();
}
