//! Clients on a node and in a pod keep one UDP socket connected to a Service.
//! When its only backend is removed, their sockets are destroyed, they
//! reconnect and reach the new backend.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

mod failures;

use std::time::{Duration, Instant};

use beeline_lab::harness::{Background, ExecTarget, TestLab};
use failures::Api;
use serde_json::{Value, json};

/// Timeout for clients of a removed backend to reconnect.
const SECOND: Duration = Duration::from_secs(1);

/// Sends ten requests a second over one connected socket and prints the
/// results; exits after 20 s without a response.
const CLIENT: &str = r#"
while :; do
  exec 3<>"/dev/udp/$0/53" || { sleep 0.1; continue; }
  echo "connected $((++times))"
  while echo ask >&3 && timeout 20 dd bs=64 count=1 status=none <&3 >/dev/null; do
    echo "answer $times"
    sleep 0.1
  done
done
"#;

/// The backend keeps responding for some seconds after SIGTERM, so that
/// clients get no ICMP errors.
fn resolver(name: &str, node: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "resolver"}},
        "spec": {"nodeName": node, "terminationGracePeriodSeconds": 5, "containers": [{"name": "echo",
            "image": "beeline/echo", "ports": [{"containerPort": 5353, "protocol": "UDP"}],
            "lifecycle": {"preStop": {"exec": {"command": ["sleep", "4"]}}}}]}})
}

fn client(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"nodeName": "node-1",
        "containers": [{"name": "echo", "image": "beeline/echo", "ports": [{"containerPort": 8080}]}]}})
}

fn apply(lab: &TestLab, objects: &[Value]) {
    let manifests: Vec<String> = objects.iter().map(Value::to_string).collect();
    lab.apply(&manifests.join("\n---\n"));
}

fn start(target: &ExecTarget<'_>, address: &str) -> Background {
    target.start(["bash", "-c", CLIENT, address])
}

#[test]
fn lab_sockets_of_a_removed_backend_are_destroyed() {
    let arguments = ["--nodes", "2", "--set", "socketLB.hostNamespaceOnly=false"];
    let lab = TestLab::up_with("sockets", &arguments);
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "dns"},
        "spec": {"ipFamilyPolicy": "RequireDualStack", "selector": {"app": "resolver"},
            "ports": [{"port": 53, "targetPort": 5353, "protocol": "UDP"}]}});
    apply(&lab, &[service, resolver("first", "node-2"), client("asker")]);
    let addresses = lab.service("dns").cluster_ips;
    let targets = [lab.node("node-1"), lab.pod("asker")];
    let clients: Vec<Background> =
        targets.iter().flat_map(|target| addresses.iter().map(|address| start(target, address))).collect();
    clients.iter().for_each(|client| client.wait_for("answer 1", Duration::from_secs(10)));

    apply(&lab, &[resolver("second", "node-1")]);
    let begun = Instant::now();
    Api::open(&lab).delete("/api/v1/namespaces/default/pods/first");
    clients.iter().for_each(|client| client.wait_for("answer 2", SECOND.saturating_sub(begun.elapsed())));

    let destroyed = format!("beeline_sockets_destroyed_total{{}} {}", clients.len());
    lab.wait_until(&destroyed, Duration::from_secs(5), || {
        let output = lab.node("node-1").shell("curl -s http://127.0.0.1:9879/metrics").succeeds();
        output.stdout.contains(&destroyed)
    });
    for client in clients {
        let outcome = client.stop(nix::sys::signal::Signal::SIGKILL);
        // A blocked receiver gets ECONNABORTED, a sender EDESTADDRREQ.
        let output = ["connection abort", "Destination address required"];
        assert!(output.iter().any(|words| outcome.stderr.contains(words)), "the socket says so\n{outcome}");
        assert!(!outcome.stdout.contains("connected 3"), "it is reported once\n{outcome}");
    }
    lab.down();
}
