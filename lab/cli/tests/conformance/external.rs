//! External clients: load balancers, external IPs, NodePorts, health checks,
//! updates under traffic. The client has routes to the addresses, as a network
//! to which they are announced would have.

use std::time::{Duration, Instant};

use beeline_lab::harness::ExecTarget;
use serde_json::{Value, json};

use super::fixture::{Answer, Datagrams, Fixture, ask, datagram_answered, pod, responders, set, who};

const MANIFEST: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: lb-1, labels: {app: lb}}
spec:
  nodeName: node-1
  terminationGracePeriodSeconds: 0
  containers: [{name: echo, image: beeline/echo, ports: [{containerPort: 8080}, {containerPort: 7000, protocol: UDP}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: lb-2, labels: {app: lb}}
spec:
  nodeName: node-2
  terminationGracePeriodSeconds: 0
  containers: [{name: echo, image: beeline/echo, ports: [{containerPort: 8080}, {containerPort: 7000, protocol: UDP}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: asker}
spec:
  nodeName: node-1
  containers: [{name: sleep, image: any, command: [sleep, infinity]}]
---
apiVersion: v1
kind: Service
metadata: {name: lb}
spec:
  selector: {app: lb}
  ports: [{name: http, port: 80, targetPort: 8080}, {name: dgram, port: 80, targetPort: 7000, protocol: UDP}]
---
apiVersion: v1
kind: Service
metadata: {name: local}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  selector: {app: lb}
  ports: [{name: http, port: 80, targetPort: 8080}]
"#;

const CLIENT: &str = "172.30.0.200";
const EXTERNAL: &str = "203.0.113.250";

pub fn run(fixture: &Fixture) {
    fixture.apply(MANIFEST);
    types_and_ports_change(fixture);
    load_balancer_source_ranges_are_enforced(fixture);
    session_affinity_at_load_balancers(fixture);
    node_ports_can_be_disabled(fixture);
    external_ips_need_no_node_address(fixture);
    a_node_without_endpoints_drops_and_says_so(fixture);
    udp_continues_when_servers_are_replaced(fixture);
    rolling_updates_lose_no_request(fixture);
}

/// The address of a Service of type LoadBalancer, which the client then routes
/// via this node.
fn balanced(fixture: &Fixture, name: &str, node: u8) -> String {
    let ip = |fixture: &Fixture| {
        let service = fixture.service(name);
        service["status"]["loadBalancer"]["ingress"][0]["ip"].as_str().map(str::to_owned)
    };
    fixture.eventually("the Service has an address", || ip(fixture).is_some());
    let address = ip(fixture).unwrap();
    route(fixture, &address, node);
    address
}

fn route(fixture: &Fixture, address: &str, node: u8) {
    let line = format!("ip route replace {address}/32 via 172.30.0.{}", 10 + node);
    fixture.lab.client().shell(&line).succeeds();
}

/// Type changes ClusterIP, NodePort, LoadBalancer and back, port changes; TCP
/// and UDP on the same port.
fn types_and_ports_change(fixture: &Fixture) {
    let (client, asker) = (fixture.lab.client(), fixture.lab.pod("asker"));
    let datagrams = Datagrams::from(&client, 0);
    let cluster_ip = fixture.cluster_ip("lb");
    fixture.eventually_answers(&asker, &cluster_ip, 80, &["lb-1", "lb-2"]);

    fixture.patch_service("lb", json!({"type": "NodePort"}));
    let ports = |fixture: &Fixture| {
        let service = fixture.service("lb");
        [0, 1].map(|at| service["spec"]["ports"][at]["nodePort"].as_u64().unwrap() as u16)
    };
    let [tcp, udp] = ports(fixture);
    fixture.eventually_answers(&client, "172.30.0.13", tcp, &["lb-1", "lb-2"]);
    fixture.eventually("UDP as well", || datagrams.answered("172.30.0.13", udp));

    fixture.patch_service("lb", json!({"type": "LoadBalancer"}));
    let address = balanced(fixture, "lb", 3);
    fixture.eventually_answers(&client, &address, 80, &["lb-1", "lb-2"]);
    fixture.eventually("UDP as well", || datagrams.answered(&address, 80));
    // Also from pods; NodePort and ClusterIP are unchanged.
    fixture.eventually_answers(&asker, &address, 80, &["lb-1", "lb-2"]);
    assert!(datagram_answered(&asker, &address, 80) && datagram_answered(&asker, &cluster_ip, 80));
    assert_eq!(responders(&client, "172.30.0.13", tcp), set(&["lb-1", "lb-2"]));
    // Through any node.
    for node in [1, 2] {
        route(fixture, &address, node);
        assert_eq!(responders(&client, &address, 80), set(&["lb-1", "lb-2"]), "through node-{node}");
    }

    // Another nodePort, then another port.
    let changed = |port: u16, tcp: u16, udp: u16| {
        json!({"ports": [
            {"name": "http", "port": port, "targetPort": 8080, "nodePort": tcp},
            {"name": "dgram", "port": port, "targetPort": 7000, "protocol": "UDP", "nodePort": udp}]})
    };
    fixture.patch_service("lb", changed(80, 30501, 30501));
    fixture.eventually_answers(&client, "172.30.0.13", 30501, &["lb-1", "lb-2"]);
    fixture.eventually("UDP on the same number", || datagrams.answered("172.30.0.13", 30501));
    fixture.eventually_answer(&client, "172.30.0.13", tcp, &Answer::Refused);
    fixture.patch_service("lb", changed(81, 30501, 30501));
    fixture.eventually_answers(&client, &address, 81, &["lb-1", "lb-2"]);
    fixture.eventually("UDP moves, too", || datagrams.answered(&address, 81));
    fixture
        .eventually("the old port does not answer", || !matches!(ask(&client, &address, 80), Answer::Pod(_)));
    fixture.patch_service("lb", changed(80, 30501, 30501));

    fixture.patch_service(
        "lb",
        json!({"type": "ClusterIP", "ports": [
        {"name": "http", "port": 80, "targetPort": 8080, "nodePort": null},
        {"name": "dgram", "port": 80, "targetPort": 7000, "protocol": "UDP", "nodePort": null}]}),
    );
    fixture.eventually_answer(&client, "172.30.0.13", 30501, &Answer::Refused);
    fixture.eventually("the load balancer is gone", || !matches!(ask(&client, &address, 80), Answer::Pod(_)));
    fixture.patch_service("lb", json!({"type": "LoadBalancer"}));
    let address = balanced(fixture, "lb", 3);
    fixture.eventually_answers(&client, &address, 80, &["lb-1", "lb-2"]);
}

fn load_balancer_source_ranges_are_enforced(fixture: &Fixture) {
    let (client, asker) = (fixture.lab.client(), fixture.lab.pod("asker"));
    let address = balanced(fixture, "lb", 3);
    let own = fixture.lab.pods("asker")[0].ips[0].clone();
    let cases = [
        ("192.0.2.0/24".to_owned(), false, false),
        (format!("{CLIENT}/32"), true, false),
        (format!("{own}/32"), false, true),
    ];
    for (range, outside, inside) in cases {
        fixture.patch_service("lb", json!({"loadBalancerSourceRanges": [range]}));
        let served = |target: &ExecTarget<'_>| matches!(ask(target, &address, 80), Answer::Pod(_));
        fixture.eventually(&format!("{range} holds outside"), || served(&client) == outside);
        fixture.eventually(&format!("{range} holds inside"), || served(&asker) == inside);
    }
    fixture.patch_service("lb", json!({"loadBalancerSourceRanges": null}));
    fixture.eventually_answers(&client, &address, 80, &["lb-1", "lb-2"]);
}

/// With both traffic policies, enabled and disabled.
fn session_affinity_at_load_balancers(fixture: &Fixture) {
    let client = fixture.lab.client();
    let third = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "lb-3", "labels": {"app": "lb"}},
        "spec": {"nodeName": "node-1", "terminationGracePeriodSeconds": 0, "containers": [{"name": "echo",
            "image": "beeline/echo", "ports": [{"containerPort": 8080}, {"containerPort": 7000, "protocol": "UDP"}]}]}});
    fixture.apply(&third.to_string());
    for (name, everybody) in [("lb", &["lb-1", "lb-2", "lb-3"][..]), ("local", &["lb-1", "lb-3"])] {
        let address = balanced(fixture, name, 1);
        fixture.eventually_answers(&client, &address, 80, everybody);
        for _ in 0..2 {
            fixture.patch_service(name, json!({"sessionAffinity": "ClientIP"}));
            fixture.eventually(&format!("{name} is sticky"), || responders(&client, &address, 80).len() == 1);
            assert_eq!(responders(&client, &address, 80), responders(&client, &address, 80), "{name}");
            fixture.patch_service(name, json!({"sessionAffinity": "None", "sessionAffinityConfig": null}));
            fixture.eventually_answers(&client, &address, 80, everybody);
        }
    }
    fixture.delete_pod("lb-3");
}

fn node_ports_can_be_disabled(fixture: &Fixture) {
    let client = fixture.lab.client();
    let bare = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "bare"}, "spec": {
        "type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "selector": {"app": "lb"},
        "ports": [{"port": 80, "targetPort": 8080}]}});
    fixture.apply(&bare.to_string());
    let address = balanced(fixture, "bare", 3);
    assert_eq!(fixture.service("bare")["spec"]["ports"][0]["nodePort"], Value::Null);
    fixture.eventually_answers(&client, &address, 80, &["lb-1", "lb-2"]);
    fixture.patch_service("bare", json!({"allocateLoadBalancerNodePorts": true}));
    let port = fixture.service("bare")["spec"]["ports"][0]["nodePort"].as_u64().unwrap() as u16;
    fixture.eventually_answers(&client, "172.30.0.13", port, &["lb-1", "lb-2"]);
    assert_eq!(responders(&client, &address, 80), set(&["lb-1", "lb-2"]));
    fixture.delete("/api/v1/namespaces/default/services/bare");
}

/// An external IP that is not a node address, from a pod and from outside.
fn external_ips_need_no_node_address(fixture: &Fixture) {
    let (client, asker) = (fixture.lab.client(), fixture.lab.pod("asker"));
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "external"}, "spec": {
        "externalIPs": [EXTERNAL], "selector": {"app": "lb"}, "ports": [{"port": 80, "targetPort": 8080}]}});
    fixture.apply(&service.to_string());
    route(fixture, EXTERNAL, 2);
    fixture.eventually_answers(&asker, EXTERNAL, 80, &["lb-1", "lb-2"]);
    fixture.eventually_answers(&client, EXTERNAL, 80, &["lb-1", "lb-2"]);
    fixture.delete("/api/v1/namespaces/default/services/external");
}

/// `externalTrafficPolicy: Local`: the client's address is preserved, a node
/// without endpoints drops packets, and its health check fails.
fn a_node_without_endpoints_drops_and_says_so(fixture: &Fixture) {
    let client = fixture.lab.client();
    let address = balanced(fixture, "local", 1);
    let service = fixture.service("local");
    let check = service["spec"]["healthCheckNodePort"].as_u64().unwrap() as u16;
    let node_port = service["spec"]["ports"][0]["nodePort"].as_u64().unwrap() as u16;
    let health = |node: u8| {
        let url = format!("http://172.30.0.{}:{check}/", 10 + node);
        client.run(["curl", "-s", "--max-time", "2", "-o", "/dev/null", "-w", "%{http_code}", &url]).stdout
    };
    for node in [1, 2] {
        route(fixture, &address, node);
        let expected = (format!("lb-{node}"), CLIENT.parse().unwrap());
        assert_eq!(who(&client, &address, 80), expected);
        assert_eq!(who(&client, &format!("172.30.0.{}", 10 + node), node_port), expected);
        assert_eq!(health(node), "200");
    }
    route(fixture, &address, 3);
    assert_eq!(ask(&client, &address, 80), Answer::Silence);
    assert_eq!(health(3), "503");
    // Pods and nodes reach it on any node.
    for target in [fixture.lab.node("node-3"), fixture.lab.pod("asker")] {
        fixture.eventually_answers(&target, &address, 80, &["lb-1", "lb-2"]);
    }

    // Policy Cluster: all nodes serve, and there is no health check.
    fixture.patch_service("local", json!({"externalTrafficPolicy": "Cluster"}));
    fixture.eventually_answers(&client, &address, 80, &["lb-1", "lb-2"]);
    fixture.eventually_answers(&client, "172.30.0.13", node_port, &["lb-1", "lb-2"]);
    assert_eq!(fixture.service("local")["spec"]["healthCheckNodePort"].as_u64().unwrap_or_default(), 0);
    fixture.eventually("the health check is closed", || health(1) == "000");
    fixture.patch_service("local", json!({"externalTrafficPolicy": "Local"}));
    let check = fixture.service("local")["spec"]["healthCheckNodePort"].as_u64().unwrap() as u16;
    let health = |node: u8| {
        let url = format!("http://172.30.0.{}:{check}/", 10 + node);
        client.run(["curl", "-s", "--max-time", "2", "-o", "/dev/null", "-w", "%{http_code}", &url]).stdout
    };
    fixture.eventually("the health check is back", || health(1) == "200" && health(3) == "503");
    fixture.eventually_answer(&client, &address, 80, &Answer::Silence);

    // The only endpoint of the node is terminating: it still serves, and the
    // health check fails.
    let ends = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "lb-ends", "labels": {"app": "lb"}},
        "spec": {"nodeName": "node-3", "terminationGracePeriodSeconds": 30, "containers": [{"name": "echo",
            "image": "beeline/echo", "ports": [{"containerPort": 8080}, {"containerPort": 7000, "protocol": "UDP"}],
            "lifecycle": {"preStop": {"exec": {"command": ["sleep", "25"]}}}}]}});
    fixture.apply(&ends.to_string());
    fixture.eventually("node-3 has an endpoint", || health(3) == "200");
    fixture.delete("/api/v1/namespaces/default/pods/lb-ends");
    fixture.eventually("it terminates", || health(3) == "503");
    assert_eq!(ask(&client, &address, 80), pod("lb-ends"));
    fixture.api("DELETE", "/api/v1/namespaces/default/pods/lb-ends", &json!({"gracePeriodSeconds": 0}));
    fixture.eventually("it is gone", || fixture.lab.pods("lb-ends").is_empty());
}

/// A client with a fixed port sends to a load balancer address continuously;
/// backends on the same node and on others.
fn udp_continues_when_servers_are_replaced(fixture: &Fixture) {
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "cycle"}, "spec": {
        "type": "LoadBalancer", "selector": {"app": "cycle"},
        "ports": [{"port": 53, "targetPort": 7000, "protocol": "UDP"}]}});
    fixture.apply(&service.to_string());
    let address = balanced(fixture, "cycle", 1);
    let datagrams = Datagrams::from(&fixture.lab.client(), 0);
    for (number, node) in [(1, 1), (2, 1), (3, 2), (4, 3)] {
        let server = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("cycle-{number}"), "labels": {"app": "cycle"}},
            "spec": {"nodeName": format!("node-{node}"), "terminationGracePeriodSeconds": 0, "containers": [{
                "name": "echo", "image": "beeline/echo", "ports": [{"containerPort": 7000, "protocol": "UDP"}]}]}});
        fixture.apply(&server.to_string());
        if number > 1 {
            fixture.delete_pod(&format!("cycle-{}", number - 1));
        }
        fixture.eventually(&format!("server {number} answers"), || datagrams.answered(&address, 53));
    }
}

/// No connection fails during a rolling update: old pods serve until no new
/// connections are sent to them.
fn rolling_updates_lose_no_request(fixture: &Fixture) {
    let deployment = |round: u32| {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "rolls"}, "spec": {
            "replicas": 2, "selector": {"matchLabels": {"app": "rolls"}},
            "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {"metadata": {"labels": {"app": "rolls"}, "annotations": {"round": round.to_string()}},
                "spec": {"nodeSelector": {"kubernetes.io/hostname": "node-2"}, "terminationGracePeriodSeconds": 5,
                    "containers": [{"name": "echo", "image": "beeline/echo", "ports": [{"containerPort": 8080}],
                        "lifecycle": {"preStop": {"exec": {"command": ["sleep", "2"]}}}}]}}}})
    };
    fixture.apply(&deployment(0).to_string());
    for policy in ["Cluster", "Local"] {
        let name = format!("rolls-{}", policy.to_lowercase());
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {
            "type": "LoadBalancer", "externalTrafficPolicy": policy, "selector": {"app": "rolls"},
            "ports": [{"port": 80, "targetPort": 8080}]}});
        fixture.apply(&service.to_string());
        let address = balanced(fixture, &name, if policy == "Local" { 2 } else { 3 });
        let client = fixture.lab.client();
        fixture.eventually("it serves", || matches!(ask(&client, &address, 80), Answer::Pod(_)));
        let line = format!(
            "trap 'echo asked $asked failed $failed; exit' TERM; asked=0; failed=0; while :; do \
             curl -s --max-time 2 -o /dev/null http://{address}/ || failed=$((failed + 1)); \
             asked=$((asked + 1)); done"
        );
        let load = client.start(["bash", "-c", &line]);
        let begun = Instant::now();
        fixture.apply(&deployment(if policy == "Local" { 2 } else { 1 }).to_string());
        fixture.eventually("the old pods are gone", || fixture.lab.pods("rolls-").len() == 2);
        let output = load.stop(nix::sys::signal::Signal::SIGTERM).stdout;
        let numbers: Vec<u64> = output.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        assert!(numbers.len() == 2 && numbers[0] > 20, "{policy}, {:?}: {output}", begun.elapsed());
        assert_eq!(numbers[1], 0, "{policy}: {output}");
        assert!(begun.elapsed() > Duration::from_secs(2), "the old pods served on for a while");
    }
}
