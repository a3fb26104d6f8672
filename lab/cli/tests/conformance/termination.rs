//! Endpoints that are not ready, terminating, deleted or replaced.

use serde_json::{Value, json};

use super::fixture::{Answer, Datagrams, Fixture, ask, datagram_answered, pod};

const MANIFEST: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: cycle}
spec:
  type: NodePort
  ipFamilyPolicy: RequireDualStack
  selector: {app: cycle}
  ports: [{port: 53, targetPort: 7000, protocol: UDP, nodePort: 30401}]
---
apiVersion: v1
kind: Service
metadata: {name: cycle-near}
spec:
  internalTrafficPolicy: Local
  selector: {app: cycle}
  ports: [{port: 53, targetPort: 7000, protocol: UDP}]
---
apiVersion: v1
kind: Service
metadata: {name: ending}
spec:
  type: NodePort
  selector: {app: ending}
  ports: [{port: 80, targetPort: 8080, nodePort: 30402}]
---
apiVersion: v1
kind: Service
metadata: {name: ending-near}
spec:
  type: NodePort
  internalTrafficPolicy: Local
  externalTrafficPolicy: Local
  selector: {app: ending}
  ports: [{port: 80, targetPort: 8080, nodePort: 30403}]
---
apiVersion: v1
kind: Service
metadata: {name: unready}
spec:
  publishNotReadyAddresses: true
  selector: {app: unready}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: failed}
spec:
  selector: {app: failed}
  ports: [{port: 80, targetPort: 8080}]
"#;

pub fn run(fixture: &Fixture) {
    fixture.apply(MANIFEST);
    unready_endpoints_become_ready(fixture);
    udp_continues_when_servers_are_replaced(fixture);
    udp_continues_when_the_target_port_changes(fixture);
    terminating_endpoints_are_the_fallback(fixture);
    unready_addresses_are_published(fixture);
    finished_pods_are_not_endpoints(fixture);
}

fn echo(name: &str, app: &str, node: &str, more: Value) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": app}},
        "spec": {"nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [{
            "name": "echo", "image": "beeline/echo", "ports": [
                {"containerPort": 8080}, {"containerPort": 7000, "protocol": "UDP"},
                {"containerPort": 7001, "protocol": "UDP"}]}]}});
    let container = pod["spec"]["containers"][0].as_object_mut().unwrap();
    container.extend(more.as_object().unwrap().clone());
    pod
}

fn create(fixture: &Fixture, pod: &Value) {
    let answer = fixture.api("POST", "/api/v1/namespaces/default/pods", pod);
    assert_eq!(answer["kind"], "Pod", "{answer}");
}

/// A client that sends continuously from one port before any endpoint is ready
/// is served once one is.
fn unready_endpoints_become_ready(fixture: &Fixture) {
    let probe = json!({"readinessProbe": {"exec": {"command": ["test", "-e", "/tmp/conformance-never"]}, "periodSeconds": 1}});
    let mut server = echo("cycle-0", "cycle", "node-1", probe);
    server["spec"]["volumes"] = json!([{"name": "v", "emptyDir": {}}]);
    server["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/state"}]);
    server["spec"]["containers"][0]["readinessProbe"]["exec"]["command"] =
        json!(["test", "-e", "/state/ready"]);
    create(fixture, &server);
    fixture.eventually("the server runs", || {
        fixture.lab.pods("cycle-0").iter().any(|pod| !pod.ips.is_empty())
            && fixture.lab.pod("cycle-0").run(["true"]).is_success()
    });
    let askers = clients(fixture);
    assert!(askers.iter().all(|one| !one.asks()), "nobody is ready");
    fixture.lab.pod("cycle-0").run(["touch", "/state/ready"]).succeeds();
    for one in &askers {
        fixture.eventually(&format!("the ready server answers {}", one.what), || one.asks());
    }
    fixture.delete_pod("cycle-0");
}

/// A client with a fixed port, and its destination.
struct Client {
    what: &'static str,
    socket: Datagrams,
    address: String,
    port: u16,
}

impl Client {
    fn asks(&self) -> bool {
        self.socket.answered(&self.address, self.port)
    }
}

const LOCAL_CLIENT: &str = "the local policy's client";

/// From a pod by ClusterIP with both policies, and from outside by NodePort;
/// both address families, without socket hooks.
fn clients(fixture: &Fixture) -> Vec<Client> {
    let mut clients = Vec::new();
    let (asker, outside) = (fixture.lab.pod("asker"), fixture.lab.client());
    for (family, address) in fixture.lab.service("cycle").cluster_ips.into_iter().enumerate() {
        let socket = Datagrams::from(&asker, family);
        clients.push(Client { what: "the ClusterIP's client", socket, address, port: 53 });
        let socket = Datagrams::from(&outside, family);
        let address = ["172.30.0.13", "fd00:172:30::13"][family].to_owned();
        clients.push(Client { what: "the NodePort's client", socket, address, port: 30401 });
    }
    let near = fixture.service("cycle-near");
    if let Some(address) = near["spec"]["clusterIP"].as_str() {
        let (socket, address) = (Datagrams::from(&asker, 0), address.to_owned());
        clients.push(Client { what: LOCAL_CLIENT, socket, address, port: 53 });
    }
    clients
}

/// A backend is replaced: the same clients are served from the same ports, so
/// stale conntrack entries must not keep them.
fn udp_continues_when_servers_are_replaced(fixture: &Fixture) {
    let addresses = fixture.lab.service("cycle").cluster_ips;
    let askers = clients(fixture);
    let hooked = [fixture.lab.pod("asker"), fixture.lab.pod("host-asker"), fixture.lab.node("node-1")];
    for number in 1..=3 {
        let name = format!("cycle-{number}");
        fixture.apply(&echo(&name, "cycle", "node-1", json!({})).to_string());
        if number > 1 {
            fixture.delete_pod(&format!("cycle-{}", number - 1));
        }
        for one in &askers {
            fixture.eventually(&format!("server {number} answers {}", one.what), || one.asks());
        }
        for target in &hooked {
            fixture.eventually("it answers a socket that was made for it", || {
                addresses.iter().all(|address| datagram_answered(target, address, 53))
            });
        }
    }
}

/// The targetPort of a NodePort Service changes while a client sends
/// continuously.
fn udp_continues_when_the_target_port_changes(fixture: &Fixture) {
    // Another Service, cycle-near, keeps using the old targetPort.
    let server = fixture.lab.pods("cycle-3")[0].ips.clone();
    let mut askers = clients(fixture);
    askers.retain(|client| client.what != LOCAL_CLIENT);
    assert!(askers.iter().all(Client::asks));
    for (from, target) in [(7000, 7001), (7001, 7000)] {
        let at = |port: u16| [format!("to {}:{port}", server[0]), format!("to [{}]:{port}", server[1])];
        let port = json!({"port": 53, "targetPort": target, "protocol": "UDP", "nodePort": 30401});
        fixture.patch_service("cycle", json!({"ports": [port]}));
        let mut seen = String::new();
        let moved = (0..100).any(|_| {
            let answered = askers.iter().all(Client::asks);
            seen = connections(fixture);
            let there = seen.lines().filter(|line| at(target).iter().any(|at| line.contains(at)));
            answered && there.count() >= askers.len()
        });
        assert!(moved, "clients did not move from {from} to {target}:\n{seen}");
    }
}

/// Conntrack entries of the Service `cycle` on all nodes.
fn connections(fixture: &Fixture) -> String {
    fixture.lab.cli(&["conntrack", "list", "--service", "default/cycle"]).succeeds().stdout
}

/// Ready endpoints are preferred; without any, terminating endpoints that
/// still serve are used.
fn terminating_endpoints_are_the_fallback(fixture: &Fixture) {
    let slow = json!({"lifecycle": {"preStop": {"exec": {"command": ["sleep", "25"]}}}});
    let mut ends = echo("ends", "ending", "node-1", slow);
    ends["spec"]["terminationGracePeriodSeconds"] = json!(30);
    fixture.apply(&ends.to_string());
    fixture.apply(&echo("stays", "ending", "node-2", json!({})).to_string());
    let (asker, client) = (fixture.lab.pod("asker"), fixture.lab.client());
    let (address, near) = (fixture.cluster_ip("ending"), fixture.cluster_ip("ending-near"));
    fixture.eventually_answers(&asker, &address, 80, &["ends", "stays"]);

    fixture.delete("/api/v1/namespaces/default/pods/ends");
    // An endpoint on another node is ready: clients that may leave the node
    // use it.
    fixture.eventually_answers(&asker, &address, 80, &["stays"]);
    fixture.eventually_answers(&client, "172.30.0.11", 30402, &["stays"]);
    // Clients that must stay on the node fall back to the terminating
    // endpoint.
    fixture.eventually_answer(&asker, &near, 80, &pod("ends"));
    fixture.eventually_answer(&client, "172.30.0.11", 30403, &pod("ends"));

    fixture.delete_pod("stays");
    fixture.eventually_answers(&asker, &address, 80, &["ends"]);
    fixture.eventually_answers(&client, "172.30.0.13", 30402, &["ends"]);
    fixture.eventually_answer(&client, "172.30.0.11", 30403, &pod("ends"));
    let elsewhere = ask(&client, "172.30.0.13", 30403);
    assert!(!matches!(elsewhere, Answer::Pod(_)), "{elsewhere:?}");
    let force = json!({"gracePeriodSeconds": 0});
    fixture.api("DELETE", "/api/v1/namespaces/default/pods/ends", &force);
}

/// With `publishNotReadyAddresses` not ready and terminating endpoints are
/// used; without it neither is.
fn unready_addresses_are_published(fixture: &Fixture) {
    let never = json!({
        "readinessProbe": {"exec": {"command": ["false"]}, "periodSeconds": 1},
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", "15"]}}}});
    let mut server = echo("unready-1", "unready", "node-2", never);
    server["spec"]["terminationGracePeriodSeconds"] = json!(20);
    create(fixture, &server);
    let (asker, address) = (fixture.lab.pod("asker"), fixture.cluster_ip("unready"));
    fixture.eventually_answer(&asker, &address, 80, &pod("unready-1"));
    fixture.patch_service("unready", json!({"publishNotReadyAddresses": false}));
    fixture.eventually_answer(&asker, &address, 80, &Answer::Refused);
    fixture.delete("/api/v1/namespaces/default/pods/unready-1");
    assert_eq!(ask(&asker, &address, 80), Answer::Refused, "it terminates and is not ready");
    fixture.patch_service("unready", json!({"publishNotReadyAddresses": true}));
    fixture.eventually_answer(&asker, &address, 80, &pod("unready-1"));
    fixture.api("DELETE", "/api/v1/namespaces/default/pods/unready-1", &json!({"gracePeriodSeconds": 0}));
    fixture.eventually_answer(&asker, &address, 80, &Answer::Refused);
}

/// For example pods that were evicted.
fn finished_pods_are_not_endpoints(fixture: &Fixture) {
    let mut ended =
        echo("failed-1", "failed", "node-2", json!({"image": "any", "command": ["sh", "-c", "exit 3"]}));
    ended["spec"]["restartPolicy"] = json!("Never");
    create(fixture, &ended);
    fixture.eventually("it has failed", || {
        fixture.get("/api/v1/namespaces/default/pods/failed-1")["status"]["phase"] == "Failed"
    });
    assert_eq!(ask(&fixture.lab.pod("asker"), &fixture.cluster_ip("failed"), 80), Answer::Refused);
}
