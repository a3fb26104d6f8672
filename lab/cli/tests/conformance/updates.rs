//! Service updates: ports, types, endpoints, names.

use serde_json::json;

use super::fixture::{Answer, Fixture, ask, datagram_answered, pod, responders, set, who};

const MANIFEST: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: one, labels: {app: web, role: single}}
spec:
  nodeName: node-1
  terminationGracePeriodSeconds: 0
  initContainers:
    - name: side
      image: beeline/echo
      restartPolicy: Always
      ports: [{name: side, containerPort: 8180}]
  containers:
    - name: echo
      image: beeline/echo
      ports: [{name: http, containerPort: 8080}, {name: more, containerPort: 8081}, {name: dgram, containerPort: 7000, protocol: UDP}]
---
apiVersion: v1
kind: Pod
metadata: {name: two, labels: {app: web}}
spec:
  nodeName: node-2
  terminationGracePeriodSeconds: 0
  containers:
    - name: echo
      image: beeline/echo
      ports: [{name: http, containerPort: 9090}, {name: more, containerPort: 8081}, {name: dgram, containerPort: 7000, protocol: UDP}]
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
metadata: {name: web}
spec:
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}, {name: more, port: 81, targetPort: more}]
---
apiVersion: v1
kind: Service
metadata: {name: itself}
spec:
  selector: {role: single}
  ports:
    - {name: tcp, port: 80, targetPort: http}
    - {name: side, port: 84, targetPort: side}
    - {name: udp, port: 80, targetPort: dgram, protocol: UDP}
"#;

pub fn run(fixture: &Fixture) {
    fixture.apply(MANIFEST);
    several_ports_and_endpoints(fixture);
    ports_come_and_go(fixture);
    a_pod_reaches_itself_through_its_service(fixture);
    a_sidecar_serves(fixture);
    two_protocols_share_a_port(fixture);
    services_are_recreated(fixture);
    types_change(fixture);
    services_of_another_proxy_are_ignored(fixture);
    endpoint_slices_are_merged(fixture);
}

/// Named target ports with different numbers in different pods; two ports.
fn several_ports_and_endpoints(fixture: &Fixture) {
    let (asker, addresses) = (fixture.lab.pod("asker"), fixture.lab.service("web").cluster_ips);
    assert_eq!(addresses.len(), 2, "one of each family");
    let sender = fixture.lab.pods("asker")[0].ips.clone();
    for address in &addresses {
        for port in [80, 81] {
            fixture.eventually_answers(&asker, address, port, &["one", "two"]);
            let (_, seen) = who(&asker, address, port);
            assert!(sender.contains(&seen.to_string()), "the pod's own address: {seen} of {sender:?}");
        }
        assert_eq!(ask(&asker, address, 82), Answer::Refused);
    }
    // An endpoint is removed and added again.
    for (app, names) in [("other", &["one"] as &[&str]), ("web", &["one", "two"])] {
        fixture.patch("/api/v1/namespaces/default/pods/two", json!({"metadata": {"labels": {"app": app}}}));
        addresses.iter().for_each(|address| fixture.eventually_answers(&asker, address, 80, names));
    }
}

fn ports_come_and_go(fixture: &Fixture) {
    let (asker, address) = (fixture.lab.pod("asker"), fixture.cluster_ip("web"));
    let port = |name: &str, port: u16| json!({"name": name, "port": port, "targetPort": "more"});
    fixture.patch_service("web", json!({"ports": [port("more", 81), port("late", 83)]}));
    fixture.eventually_answers(&asker, &address, 83, &["one", "two"]);
    fixture.eventually_answer(&asker, &address, 80, &Answer::Refused);
    assert_ne!(ask(&asker, &address, 81), Answer::Refused);
    fixture.patch_service(
        "web",
        json!({"ports": [{"name": "http", "port": 80, "targetPort": "http"}, port("more", 81)]}),
    );
    fixture.eventually_answers(&asker, &address, 80, &["one", "two"]);
    fixture.eventually_answer(&asker, &address, 83, &Answer::Refused);
}

fn a_pod_reaches_itself_through_its_service(fixture: &Fixture) {
    let address = fixture.cluster_ip("itself");
    assert_eq!(ask(&fixture.lab.pod("one"), &address, 80), pod("one"));
}

/// A sidecar serves a port that the Service selects by name.
fn a_sidecar_serves(fixture: &Fixture) {
    let address = fixture.cluster_ip("itself");
    fixture.eventually_answer(&fixture.lab.pod("asker"), &address, 84, &pod("one"));
}

fn two_protocols_share_a_port(fixture: &Fixture) {
    let (asker, address) = (fixture.lab.pod("asker"), fixture.cluster_ip("itself"));
    assert_eq!(ask(&asker, &address, 80), pod("one"));
    assert!(datagram_answered(&asker, &address, 80), "UDP beside TCP");
}

/// One of several Services is deleted, the others are unaffected; it is
/// recreated with the same address.
fn services_are_recreated(fixture: &Fixture) {
    let (asker, address) = (fixture.lab.pod("asker"), fixture.cluster_ip("itself"));
    let object = fixture.service("itself");
    fixture.delete("/api/v1/namespaces/default/services/itself");
    fixture
        .eventually("the Service does not answer", || !matches!(ask(&asker, &address, 80), Answer::Pod(_)));
    assert_eq!(responders(&asker, &fixture.cluster_ip("web"), 80), set(&["one", "two"]));
    let spec = json!({"clusterIP": address, "selector": object["spec"]["selector"], "ports": object["spec"]["ports"]});
    let again = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "itself"}, "spec": spec});
    fixture.apply(&again.to_string());
    fixture.eventually_answer(&asker, &address, 80, &pod("one"));
    assert!(datagram_answered(&asker, &address, 80), "UDP, too");
}

fn types_change(fixture: &Fixture) {
    let asker = fixture.lab.pod("asker");
    let named = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "turns"},
        "spec": {"type": "ExternalName", "externalName": "example.org"}});
    fixture.apply(&named.to_string());
    let ports = json!([{"name": "http", "port": 80, "targetPort": 8080}]);
    let plain =
        json!({"type": "ClusterIP", "externalName": null, "selector": {"role": "single"}, "ports": ports});
    fixture.patch_service("turns", plain);
    let address = fixture.cluster_ip("turns");
    fixture.eventually_answer(&asker, &address, 80, &pod("one"));

    fixture.patch_service("turns", json!({"type": "NodePort"}));
    let node_port = |fixture: &Fixture| fixture.service("turns")["spec"]["ports"][0]["nodePort"].as_u64();
    let port = node_port(fixture).unwrap() as u16;
    let client = fixture.lab.client();
    fixture.eventually_answer(&client, "172.30.0.13", port, &pod("one"));
    fixture.eventually_answer(&asker, &address, 80, &pod("one"));

    // NodePort to ExternalName, to NodePort, to ClusterIP, to ExternalName.
    let external = json!({"type": "ExternalName", "externalName": "example.org", "clusterIP": "",
        "clusterIPs": null, "ports": [{"name": "http", "port": 80}]});
    fixture.patch_service("turns", external.clone());
    fixture.eventually("neither address answers", || {
        let inside = ask(&asker, &address, 80);
        !matches!(inside, Answer::Pod(_)) && !matches!(ask(&client, "172.30.0.13", port), Answer::Pod(_))
    });
    fixture.patch_service(
        "turns",
        json!({"type": "NodePort", "externalName": null, "selector": {"role": "single"}, "ports": ports}),
    );
    let port = node_port(fixture).unwrap() as u16;
    fixture.eventually_answer(&client, "172.30.0.12", port, &pod("one"));
    fixture.patch_service("turns", json!({"type": "ClusterIP"}));
    let address = fixture.cluster_ip("turns");
    fixture.eventually("the node port is closed", || ask(&client, "172.30.0.12", port) == Answer::Refused);
    assert_eq!(ask(&asker, &address, 80), pod("one"));
    fixture.patch_service("turns", external);
    fixture
        .eventually("the address does not answer", || !matches!(ask(&asker, &address, 80), Answer::Pod(_)));
}

fn services_of_another_proxy_are_ignored(fixture: &Fixture) {
    let (asker, address) = (fixture.lab.pod("asker"), fixture.cluster_ip("web"));
    let path = "/api/v1/namespaces/default/services/web";
    for label in ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"] {
        fixture.patch(path, json!({"metadata": {"labels": {label: "other"}}}));
        fixture.eventually("it is somebody else's", || !matches!(ask(&asker, &address, 80), Answer::Pod(_)));
        fixture.patch(path, json!({"metadata": {"labels": {label: null}}}));
        fixture.eventually_answers(&asker, &address, 80, &["one", "two"]);
    }
}

/// Without a selector; ports and addresses in several EndpointSlices.
fn endpoint_slices_are_merged(fixture: &Fixture) {
    let ips = ["one", "two"].map(|name| fixture.lab.pods(name)[0].ips[0].clone());
    let slice = |name: &str, ports: serde_json::Value, ip: &str| {
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": "by-hand"}},
            "ports": ports, "endpoints": [{"addresses": [ip]}]})
    };
    let http = |port: u16| json!([{"name": "http", "port": port, "protocol": "TCP"}]);
    let more = json!([{"name": "more", "port": 8081, "protocol": "TCP"}]);
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "by-hand"}, "spec": {
        "ports": [{"name": "http", "port": 80}, {"name": "more", "port": 81}]}});
    let items = [
        service,
        slice("by-hand-1", http(8080), &ips[0]),
        slice("by-hand-2", http(9090), &ips[1]),
        slice("by-hand-3", more, &ips[1]),
    ];
    fixture.apply(&json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string());
    let (asker, address) = (fixture.lab.pod("asker"), fixture.cluster_ip("by-hand"));
    fixture.eventually_answers(&asker, &address, 80, &["one", "two"]);
    fixture.eventually_answers(&asker, &address, 81, &["two"]);
}
