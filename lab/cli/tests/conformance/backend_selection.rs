//! Backend selection: session affinity, traffic policies, topology hints,
//! address families.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use beeline_lab::harness::ExecTarget;
use serde_json::{Value, json};

use super::fixture::{Answer, Datagrams, Fixture, MANY, ask, pod, responders, set, who};

const MANIFEST: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: host-1, labels: {app: host}}
spec:
  nodeName: node-1
  hostNetwork: true
  terminationGracePeriodSeconds: 0
  containers: [{name: echo, image: beeline/echo, ports: [{containerPort: 9300}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: host-asker}
spec:
  nodeName: node-1
  hostNetwork: true
  containers: [{name: sleep, image: any, command: [sleep, infinity]}]
---
apiVersion: v1
kind: Pod
metadata: {name: asker-3}
spec:
  nodeName: node-3
  containers: [{name: sleep, image: any, command: [sleep, infinity]}]
---
apiVersion: v1
kind: Pod
metadata: {name: zoned-1, labels: {app: zoned}}
spec:
  nodeName: node-1
  terminationGracePeriodSeconds: 0
  containers: [{name: echo, image: beeline/echo, ports: [{containerPort: 8080}, {containerPort: 7000, protocol: UDP}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: zoned-2, labels: {app: zoned}}
spec:
  nodeName: node-2
  terminationGracePeriodSeconds: 0
  containers: [{name: echo, image: beeline/echo, ports: [{containerPort: 8080}, {containerPort: 7000, protocol: UDP}]}]
---
apiVersion: v1
kind: Service
metadata: {name: sticky}
spec:
  type: NodePort
  sessionAffinity: ClientIP
  ipFamilyPolicy: RequireDualStack
  selector: {app: zoned}
  ports:
    - {name: http, port: 80, targetPort: 8080, nodePort: 30301}
    - {name: datagrams, port: 53, targetPort: 7000, protocol: UDP}
---
apiVersion: v1
kind: Service
metadata: {name: near}
spec:
  internalTrafficPolicy: Local
  selector: {app: zoned}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: near-host}
spec:
  internalTrafficPolicy: Local
  selector: {app: host}
  ports: [{port: 80, targetPort: 9300}]
---
apiVersion: v1
kind: Service
metadata: {name: hinted}
spec: {ports: [{port: 80}]}
"#;

pub fn run(fixture: &Fixture) {
    fixture.apply(MANIFEST);
    session_affinity_holds(fixture);
    session_affinity_holds_over_udp(fixture);
    session_affinity_times_out(fixture);
    session_affinity_is_switched(fixture);
    internal_traffic_policy_local(fixture);
    topology_hints_select_zones_and_nodes(fixture);
    traffic_distribution_is_honoured(fixture);
    ip_families_and_policies(fixture);
}

/// By ClusterIP from a pod, by NodePort from outside; both address families.
fn session_affinity_holds(fixture: &Fixture) {
    let (asker, client) = (fixture.lab.pod("asker"), fixture.lab.client());
    for address in fixture.lab.service("sticky").cluster_ips {
        assert_eq!(responders(&asker, &address, 80).len(), 1, "by {address}");
    }
    for address in ["172.30.0.13", "fd00:172:30::13"] {
        assert_eq!(responders(&client, address, 30301).len(), 1, "by {address}");
    }
}

/// Datagrams from many ports of one pod, translated packet by packet. The
/// conntrack table shows the backends.
fn session_affinity_holds_over_udp(fixture: &Fixture) {
    for (family, address) in fixture.lab.service("sticky").cluster_ips.iter().enumerate() {
        let asker = fixture.lab.pod("asker");
        let clients: Vec<Datagrams> = (0..MANY).map(|_| Datagrams::from(&asker, family)).collect();
        fixture.eventually("every client has its answer", || {
            clients.iter().all(|one| one.answered(address, 53))
        });
        let words = ["conntrack", "list", "--service", "default/sticky", "--protocol", "udp"];
        let rows: Vec<Value> = fixture.lab.cli_json(&words);
        let is_of_family = |row: &&Value| row["origin"].as_str().unwrap().starts_with('[') == (family == 1);
        let is_of_wire = |row: &&Value| row["entry"] == "flow";
        let rows: Vec<&Value> = rows.iter().filter(is_of_family).filter(is_of_wire).collect();
        let destinations: BTreeSet<&str> =
            rows.iter().map(|row| row["destination"].as_str().unwrap()).collect();
        assert!(rows.len() >= MANY && destinations.len() == 1, "by {address}: {destinations:?} of {rows:?}");
    }
}

fn session_affinity_times_out(fixture: &Fixture) {
    let (asker, client, address) =
        (fixture.lab.pod("asker"), fixture.lab.client(), fixture.cluster_ip("sticky"));
    fixture.patch_service("sticky", json!({"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 1}}}));
    // Timeouts have a resolution of about a second and are rounded up. Half of
    // the attempts after the timeout select the other endpoint.
    let moves = |target: &ExecTarget<'_>, address: &str, port: u16| {
        let first = ask(target, address, port);
        (0..16).any(|_| {
            std::thread::sleep(Duration::from_millis(2300));
            ask(target, address, port) != first
        })
    };
    assert!(moves(&asker, &address, 80), "by ClusterIP");
    assert!(moves(&client, "172.30.0.13", 30301), "by NodePort");
}

fn session_affinity_is_switched(fixture: &Fixture) {
    let (asker, client, address) =
        (fixture.lab.pod("asker"), fixture.lab.client(), fixture.cluster_ip("sticky"));
    fixture.patch_service("sticky", json!({"sessionAffinity": "None", "sessionAffinityConfig": null}));
    fixture.eventually_answers(&asker, &address, 80, &["zoned-1", "zoned-2"]);
    fixture.eventually_answers(&client, "172.30.0.13", 30301, &["zoned-1", "zoned-2"]);
    fixture.patch_service("sticky", json!({"sessionAffinity": "ClientIP"}));
    fixture.eventually("the ClusterIP is sticky again", || responders(&asker, &address, 80).len() == 1);
    fixture.eventually("and the NodePort", || responders(&client, "172.30.0.13", 30301).len() == 1);
    assert_eq!(responders(&asker, &address, 80), responders(&asker, &address, 80), "and the same");
}

/// `internalTrafficPolicy: Local`, for clients in pods and on nodes, with
/// backends in pod and host networks.
fn internal_traffic_policy_local(fixture: &Fixture) {
    let (asker, host, far) =
        (fixture.lab.pod("asker"), fixture.lab.pod("host-asker"), fixture.lab.pod("asker-3"));
    let address = fixture.cluster_ip("near");
    for target in [&asker, &host, &fixture.lab.node("node-1")] {
        assert_eq!(responders(target, &address, 80), set(&["zoned-1"]));
    }
    assert_eq!(ask(&fixture.lab.node("node-2"), &address, 80), pod("zoned-2"));
    let address = fixture.cluster_ip("near-host");
    for target in [&asker, &host, &fixture.lab.node("node-1")] {
        assert_eq!(ask(target, &address, 80), pod("host-1"));
    }
    for address in [fixture.cluster_ip("near"), fixture.cluster_ip("near-host")] {
        let there = ask(&far, &address, 80);
        assert!(!matches!(there, Answer::Pod(_)), "no endpoint on node-3: {there:?}");
    }
}

/// EndpointSlice hints, which a controller sets for `trafficDistribution` and
/// topology.
fn topology_hints_select_zones_and_nodes(fixture: &Fixture) {
    for (node, zone) in [("node-1", "a"), ("node-2", "b"), ("node-3", "b")] {
        let label = json!({"metadata": {"labels": {"topology.kubernetes.io/zone": zone}}});
        fixture.patch(&format!("/api/v1/nodes/{node}"), label);
    }
    let ips = ["zoned-1", "zoned-2"].map(|name| fixture.lab.pods(name)[0].ips[0].clone());
    let zones = ["a", "b"];
    let slice = |endpoints: &[(usize, bool, Value)]| {
        let endpoints: Vec<Value> = endpoints
            .iter()
            .map(|(at, ready, hints)| {
                json!({"addresses": [ips[*at]], "nodeName": format!("node-{}", at + 1),
                    "zone": zones[*at], "conditions": {"ready": ready}, "hints": hints})
            })
            .collect();
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "hinted-1", "labels": {"kubernetes.io/service-name": "hinted"}},
            "ports": [{"name": "", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints})
    };
    let zone = |name: &str| json!({"forZones": [{"name": name}]});
    let both = |zone: &str, node: &str| json!({"forZones": [{"name": zone}], "forNodes": [{"name": node}]});
    let (one, two, three) =
        (fixture.lab.pod("asker"), fixture.lab.node("node-2"), fixture.lab.pod("asker-3"));
    let address = fixture.cluster_ip("hinted");

    // PreferClose and PreferSameZone: clients use endpoints of their zone.
    fixture.apply(&slice(&[(0, true, zone("a")), (1, true, zone("b"))]).to_string());
    fixture.eventually_answers(&one, &address, 80, &["zoned-1"]);
    fixture.eventually_answers(&two, &address, 80, &["zoned-2"]);
    fixture.eventually_answers(&three, &address, 80, &["zoned-2"]);
    // A zone without an endpoint uses all endpoints.
    fixture.apply(&slice(&[(0, true, zone("a")), (1, true, zone("a"))]).to_string());
    fixture.eventually_answers(&three, &address, 80, &["zoned-1", "zoned-2"]);

    // PreferSameNode: clients use endpoints of their node, without one those
    // of the zone.
    fixture.apply(&slice(&[(0, true, both("b", "node-1")), (1, true, both("b", "node-2"))]).to_string());
    fixture.eventually_answers(&one, &address, 80, &["zoned-1"]);
    fixture.eventually_answers(&two, &address, 80, &["zoned-2"]);
    fixture.eventually_answers(&three, &address, 80, &["zoned-1", "zoned-2"]);
    // The node's endpoint is no longer ready: the others are used.
    fixture.apply(&slice(&[(0, true, both("a", "node-1")), (1, false, both("b", "node-2"))]).to_string());
    fixture.eventually_answers(&two, &address, 80, &["zoned-1"]);
}

/// The same with `trafficDistribution` in the Service; the controller writes
/// the hints.
fn traffic_distribution_is_honoured(fixture: &Fixture) {
    let (one, two, three) =
        (fixture.lab.pod("asker"), fixture.lab.node("node-2"), fixture.lab.pod("asker-3"));
    let service = |distribution: Value| {
        let spec = json!({"selector": {"app": "zoned"}, "ports": [{"port": 80, "targetPort": 8080}],
            "trafficDistribution": distribution});
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "near-by"}, "spec": spec})
    };
    for distribution in ["PreferClose", "PreferSameZone", "PreferSameNode"] {
        fixture.apply(&service(Value::Null).to_string());
        let address = fixture.cluster_ip("near-by");
        fixture.eventually_answers(&one, &address, 80, &["zoned-1", "zoned-2"]);
        fixture.apply(&service(json!(distribution)).to_string());
        fixture.eventually_answers(&one, &address, 80, &["zoned-1"]);
        fixture.eventually_answers(&two, &address, 80, &["zoned-2"]);
        // Its node has no endpoint: the other one of its zone is used.
        fixture.eventually_answers(&three, &address, 80, &["zoned-2"]);
    }
}

/// Cluster IPs of the requested families in the requested order, all of them
/// served.
fn ip_families_and_policies(fixture: &Fixture) {
    let cases: [(&str, Value, &[bool]); 5] = [
        ("default", json!({}), &[false]),
        ("ipv4", json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"]}), &[false]),
        ("ipv6", json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv6"]}), &[true]),
        (
            "both",
            json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv4", "IPv6"]}),
            &[false, true],
        ),
        (
            "swapped",
            json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6", "IPv4"]}),
            &[true, false],
        ),
    ];
    for (name, families, expected) in cases {
        let mut service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("of-{name}")},
            "spec": {"selector": {"app": "zoned"}, "ports": [{"port": 80, "targetPort": 8080}]}});
        let spec = service["spec"].as_object_mut().unwrap();
        spec.extend(families.as_object().unwrap().clone());
        fixture.apply(&service.to_string());
        let addresses = fixture.lab.service(&format!("of-{name}")).cluster_ips;
        let found: Vec<bool> =
            addresses.iter().map(|address| address.parse::<IpAddr>().unwrap().is_ipv6()).collect();
        assert_eq!(found, expected, "{name}: {addresses:?}");
        for address in addresses {
            fixture.eventually_answers(&fixture.lab.pod("asker"), &address, 80, &["zoned-1", "zoned-2"]);
            let (_, seen) = who(&fixture.lab.pod("asker"), &address, 80);
            assert_eq!(seen.is_ipv6(), address.contains(':'), "{name}");
        }
    }
}
