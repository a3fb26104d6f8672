//! Services reached from nodes, from an external host, and from pods to
//! external addresses; with local, remote, missing and host-network endpoints;
//! both address families.

use std::net::IpAddr;

use beeline_lab::harness::{ExecTarget, Outcome, TestLab, program};

/// Backends: `near` on node-1, `far` on node-2, `host` in the host network of
/// node-3.
const MANIFEST: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: near, labels: {app: web}}
spec:
  nodeName: node-1
  containers: [{name: echo, image: beeline/echo, ports: [{containerPort: 8080}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: far, labels: {app: web, where: far}}
spec:
  nodeName: node-2
  containers: [{name: echo, image: beeline/echo, ports: [{containerPort: 8080}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: host, labels: {app: host}}
spec:
  nodeName: node-3
  hostNetwork: true
  containers: [{name: echo, image: beeline/echo, ports: [{containerPort: 9090}]}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080, nodePort: 30080}]
---
apiVersion: v1
kind: Service
metadata: {name: far}
spec:
  type: NodePort
  ipFamilyPolicy: RequireDualStack
  selector: {where: far}
  ports: [{port: 80, targetPort: 8080, nodePort: 30081}]
---
apiVersion: v1
kind: Service
metadata: {name: local}
spec:
  type: NodePort
  externalTrafficPolicy: Local
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080, nodePort: 30082}]
---
apiVersion: v1
kind: Service
metadata: {name: none}
spec:
  type: NodePort
  ipFamilyPolicy: RequireDualStack
  selector: {app: nobody}
  ports: [{port: 80, targetPort: 8080, nodePort: 30083}]
---
apiVersion: v1
kind: Service
metadata: {name: host}
spec:
  type: NodePort
  ipFamilyPolicy: RequireDualStack
  selector: {app: host}
  ports: [{port: 80, targetPort: 9090, nodePort: 30084}]
---
apiVersion: v1
kind: Service
metadata: {name: hashed, annotations: {service.beeline.io/lb-algorithm: maglev}}
spec:
  type: NodePort
  ipFamilyPolicy: RequireDualStack
  sessionAffinity: ClientIP
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080, nodePort: 30085}]
"#;

const CLIENT: [&str; 2] = ["172.30.0.200", "fd00:172:30::200"];
/// Exit codes of curl for a refused connection and for a timeout.
const REFUSED: Option<i32> = Some(7);
const NO_ANSWER: Option<i32> = Some(28);

fn node_ip(number: usize, family: usize) -> String {
    [format!("172.30.0.{}", 10 + number), format!("fd00:172:30::{}", 10 + number)][family].clone()
}

fn fetch(from: &ExecTarget<'_>, address: &str, port: u16) -> Outcome {
    let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
    from.run(["curl", "-gs", "--max-time", "2", &format!("http://{host}:{port}/")])
}

/// The pod that responded, and the client address that it saw.
fn ask(from: &ExecTarget<'_>, address: &str, port: u16) -> (String, IpAddr) {
    let outcome = fetch(from, address, port);
    assert!(outcome.is_success(), "{address} port {port} does not answer\n{outcome}");
    let answer: serde_json::Value =
        serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}\n{outcome}"));
    let text = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
    let client = text("client").parse::<IpAddr>().unwrap_or_else(|error| panic!("{error}\n{outcome}"));
    (text("pod"), client.to_canonical())
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn lab_services_are_reached_from_nodes_and_from_outside() {
    let lab = TestLab::up_with("services", &["--nodes", "3", "--set", "bpf.masquerade=true"]);
    lab.apply(MANIFEST);
    nodes_reach_services(&lab);
    node_ports_serve_external_clients(&lab);
    host_network_backends_serve(&lab);
    pods_leave_as_their_node(&lab);
    tables_tell_what_was_translated(&lab);
    every_node_leads_a_client_to_one_endpoint(&lab);
    explanations_begin_with_the_socket(&lab);
    for node in ["node-1", "node-2", "node-3"] {
        lab.verb(&["agent", node, "stop"]).succeeds();
    }
    nodes_reach_services(&lab);
    node_ports_serve_external_clients(&lab);
    lab.down();
}

/// A socket that bypasses the socket hooks (a kernel socket, or one opened
/// before the agent started): its packets are translated on egress or
/// rejected.
#[test]
fn lab_services_are_reached_from_nodes_without_socket_hooks() {
    let lab = TestLab::up_with("past-hooks", &["--nodes", "3", "--set", "socketLB.enabled=false"]);
    lab.apply(MANIFEST);
    for node in [1, 3] {
        let from = lab.node(&format!("node-{node}"));
        for (family, address) in lab.service("web").cluster_ips.iter().enumerate() {
            let mut servers: Vec<String> = (0..24)
                .map(|_| {
                    let (pod, client) = ask(&from, address, 80);
                    assert_eq!(client, ip(&node_ip(node, family)), "the node's own address");
                    pod
                })
                .collect();
            servers.sort();
            servers.dedup();
            assert_eq!(servers, ["far", "near"], "from node-{node} by {address}");
            assert_eq!(fetch(&from, address, 81).code, REFUSED, "{address} has no port 81");
        }
        for (family, address) in lab.service("none").cluster_ips.iter().enumerate() {
            assert_eq!(fetch(&from, address, 80).code, REFUSED, "nobody serves {address}");
            let host = &lab.service("host").cluster_ips[family];
            if node == 1 {
                assert_eq!(ask(&from, host, 80).0, "host", "in another node's network");
            } else {
                assert_eq!(fetch(&from, host, 80).code, NO_ANSWER, "in its own");
            }
        }
    }
    let drops = lab.node("node-3").shell("curl -s http://127.0.0.1:9879/metrics").succeeds();
    assert!(drops.stdout.contains("reason=\"host_backend\""), "{drops}");
    lab.down();
}

/// JSON output of `beeline`.
fn beeline<T: serde::de::DeserializeOwned>(lab: &TestLab, words: &str) -> T {
    lab.cli_json(&words.split(' ').collect::<Vec<_>>())
}

/// `beeline explain`: first the socket, if it is translated, then its packets.
fn explanations_begin_with_the_socket(lab: &TestLab) {
    let explain = |words: &str| -> (Vec<(String, String)>, serde_json::Value) {
        let output: serde_json::Value = beeline(lab, &format!("explain --port 80 {words}"));
        let hops = output["hops"].as_array().unwrap_or_else(|| panic!("{output:#}"));
        let target = |hop: &serde_json::Value| {
            let word = |key: &str| hop[key].as_str().unwrap_or_else(|| panic!("{output:#}")).to_owned();
            (word("node"), word("hook"))
        };
        (hops.iter().map(target).collect(), output)
    };
    let hops = |words: &[(&str, &str)]| -> Vec<(String, String)> {
        words.iter().map(|(node, hook)| ((*node).to_owned(), (*hook).to_owned())).collect()
    };
    let socket = |node| (node, "socket");
    for (family, far) in lab.service("far").cluster_ips.iter().enumerate() {
        let arrives = |(way, output): (Vec<_>, serde_json::Value), expected: &[(&str, &str)]| {
            assert_eq!(way, hops(expected), "{output:#}");
            assert_eq!(output["delivered"], true, "{output:#}");
            assert!(output["end"].as_str().is_some_and(|end| end.contains("default/far")), "{output:#}");
        };
        let pod = explain(&format!("--from default/near --to {far}"));
        assert_eq!(pod.1["hops"][0]["outcome"], "socket_translated", "{:#}", pod.1);
        arrives(pod, &[socket("node-1"), ("node-1", "from_pod"), ("node-2", "from_uplink")]);
        let past = explain(&format!("--no-socket-lb --from default/near --to {far}"));
        arrives(past, &[("node-1", "from_pod"), ("node-2", "from_uplink")]);
        let of_node = explain(&format!("--from {} --to {far}", node_ip(1, family)));
        arrives(of_node, &[socket("node-1"), ("node-1", "to_uplink"), ("node-2", "from_uplink")]);
        let beside = explain(&format!("--from {} --to {far}", node_ip(2, family)));
        arrives(beside, &[socket("node-2"), ("node-2", "to_pod")]);
        let itself = explain(&format!("--from default/far --to {far}"));
        assert!(itself.1["end"].as_str().is_some_and(|end| end.contains("loopback")), "{:#}", itself.1);
        arrives(itself, &[socket("node-2")]);
    }
    for none in lab.service("none").cluster_ips {
        let (way, output) = explain(&format!("--from default/near --to {none}"));
        assert_eq!(way, hops(&[socket("node-1")]), "{output:#}");
        assert_eq!(
            (&output["delivered"], &output["hops"][0]["reason"]),
            (&false.into(), &"no_backend".into())
        );
    }
}

/// `beeline` shows the connections made by the tests above.
fn tables_tell_what_was_translated(lab: &TestLab) {
    let table = |words: &str| -> Vec<serde_json::Value> { beeline(lab, words) };
    let mappings = table("nat list");
    let found = |pod: Option<&str>, service: Option<&str>, node: &str| {
        mappings.iter().any(|row| {
            row["pod"].as_str() == pod && row["service"].as_str() == service && row["node"] == node
        })
    };
    assert!(found(Some("default/near"), None, "node-1"), "near has left as node-1: {mappings:#?}");
    assert!(
        found(None, Some("default/far:80"), "node-1"),
        "the client reached far through node-1: {mappings:#?}"
    );
    let pools = table("nat top");
    assert!(pools.iter().all(|pool| pool["ports"].as_u64() > pool["ports_taken"].as_u64()), "{pools:#?}");
    assert_eq!(pools.is_empty(), mappings.is_empty());
    let far = table("conntrack list --service default/far");
    assert!(!far.is_empty() && far.iter().all(|row| row["service_name"] == "default/far:80"), "{far:#?}");
    let served = table("conntrack top --by server --protocol tcp -n 50");
    let busy = |row: &serde_json::Value| {
        let of_far = row["who"] == "default/far" && row["node"] == "node-2";
        of_far && row["connections"].as_u64() >= Some(2) && row["bytes"].as_u64() > Some(100)
    };
    assert!(served.iter().any(busy), "far has served: {served:#?}");
}

/// With socket hooks: ClusterIPs and NodePorts of any node, also on the
/// loopback.
fn nodes_reach_services(lab: &TestLab) {
    let addresses = lab.service("web").cluster_ips;
    assert_eq!(addresses.len(), 2, "both families: {addresses:?}");
    for node in [1, 3] {
        let from = lab.node(&format!("node-{node}"));
        for (family, address) in addresses.iter().enumerate() {
            let (pod, client) = ask(&from, address, 80);
            assert!(["near", "far"].contains(&pod.as_str()), "{pod}");
            assert_eq!(client, ip(&node_ip(node, family)), "the node's own address");
            let loopback = ["127.0.0.1", "::1"][family];
            assert_eq!(ask(&from, loopback, 30081).0, "far");
            assert_eq!(ask(&from, &node_ip(2, family), 30081).0, "far");
        }
        for address in lab.service("none").cluster_ips {
            assert_eq!(fetch(&from, &address, 80).code, REFUSED, "nobody serves {address}");
        }
    }
}

fn node_ports_serve_external_clients(lab: &TestLab) {
    let client = lab.client();
    for family in [0, 1] {
        let outside = ip(CLIENT[family]);
        for node in [1, 2, 3] {
            let at = node_ip(node, family);
            let (pod, seen) = ask(&client, &at, 30081);
            let expected = if node == 2 { outside } else { ip(&at) };
            assert_eq!((pod.as_str(), seen), ("far", expected), "through node-{node}");
            assert!(["near", "far"].contains(&ask(&client, &at, 30080).0.as_str()));
            assert_eq!(fetch(&client, &at, 30083).code, REFUSED, "nobody serves it, at node-{node}");
        }
        assert_eq!(ask(&client, &node_ip(1, family), 30082), ("near".to_owned(), outside));
        assert_eq!(ask(&client, &node_ip(2, family), 30082), ("far".to_owned(), outside));
        let nobody_here = fetch(&client, &node_ip(3, family), 30082);
        assert_eq!(nobody_here.code, NO_ANSWER, "policy Local, and none here\n{nobody_here}");
    }
}

fn host_network_backends_serve(lab: &TestLab) {
    let client = lab.client();
    for family in [0, 1] {
        let (pod, seen) = ask(&client, &node_ip(3, family), 30084);
        assert_eq!((pod.as_str(), seen), ("host", ip(CLIENT[family])), "on its own node");
        let (pod, seen) = ask(&client, &node_ip(1, family), 30084);
        assert_eq!((pod.as_str(), seen), ("host", ip(&node_ip(1, family))), "through another");
        let address = &lab.service("host").cluster_ips[family];
        assert_eq!(ask(&lab.pod("near"), address, 80).0, "host", "from a pod");
    }
}

/// Maglev consistent hashing: all nodes choose the same backend without shared
/// state.
fn every_node_leads_a_client_to_one_endpoint(lab: &TestLab) {
    let client = lab.client();
    for family in [0, 1] {
        let pods = [1, 2, 3].map(|node| ask(&client, &node_ip(node, family), 30085).0);
        assert!(pods.iter().all(|pod| *pod == pods[0]), "{pods:?}");
    }
    let text = lab.cli(&["service", "describe", "default/hashed"]).succeeds().stdout;
    assert!(
        text.contains("maglev, 251 table entries") || text.contains("maglev, 509 table entries"),
        "{text}"
    );
    assert!(text.contains(" 50.") || text.contains(" 49."), "half of the table entries each: {text}");
}

fn pods_leave_as_their_node(lab: &TestLab) {
    let echo = program("beeline-lab");
    let server =
        lab.client().start([echo.as_os_str(), "echo".as_ref(), "--port".as_ref(), "8080/TCP".as_ref()]);
    let (near, far) = (lab.pod("near"), lab.pod("far"));
    lab.wait_until("the client's echo listens", std::time::Duration::from_secs(10), || {
        fetch(&lab.client(), CLIENT[0], 8080).is_success()
    });
    for family in [0, 1] {
        assert_eq!(ask(&near, CLIENT[family], 8080).1, ip(&node_ip(1, family)), "masqueraded");
        assert_eq!(ask(&far, CLIENT[family], 8080).1, ip(&node_ip(2, family)), "masqueraded");
        near.run(["ping", "-c1", "-W2", CLIENT[family]]).succeeds();
    }
    server.stop(nix::sys::signal::Signal::SIGTERM);
}
