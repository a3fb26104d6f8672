//! Agents without a reachable API server: API server URLs that never respond,
//! a network that drops all packets to the working one while changes are
//! queued, and a node that boots in the meantime.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

use std::time::{Duration, Instant};

use beeline_api::{Call, Client, Response};
use beeline_kernel::netlink::Netlink;
use beeline_kernel::netns::NetNs;
use beeline_lab::harness::TestLab;

const TIMEOUT: Duration = Duration::from_secs(30);

/// The first address does not exist; nothing listens at the second.
const SERVERS: &str =
    "k8s.apiServerURLs=https://172.30.0.66:6443 https://172.30.0.1:6443 https://172.30.0.2:6443";

fn pod_on(name: &str, node: &str, app: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {app}}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 0
  containers:
    - {{name: echo, image: beeline/echo, ports: [{{containerPort: 8080}}]}}
---"
    )
}

fn service(name: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  selector: {{app: {name}}}
  ports: [{{port: 80, targetPort: 8080}}]
---"
    )
}

/// The response of a pod, requested from a pod or the client.
fn asks(lab: &TestLab, from: &str, ip: &str, port: u16) -> Option<String> {
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    let target = if from == "client" { lab.client() } else { lab.pod(from) };
    let answer = target.run(["curl", "--silent", "--max-time", "1", &format!("http://{host}:{port}/")]);
    let answer: serde_json::Value = serde_json::from_str(&answer.stdout).ok()?;
    Some(answer["pod"].as_str()?.to_owned())
}

fn reaches(lab: &TestLab, from: &str, to: &str) -> bool {
    let ips = lab.pods(to).into_iter().find(|pod| pod.name == to).map(|pod| pod.ips).unwrap_or_default();
    ips.len() == 2 && ips.iter().all(|ip| asks(lab, from, ip, 8080).as_deref() == Some(to))
}

fn api_connected(lab: &TestLab, node: &str) -> bool {
    match Client::new(lab.paths().node(node).socket()).call(Call::Status) {
        Ok(Response::Status(status)) => status.api_connected,
        _ => false,
    }
}

/// Sets the control plane's link up or down. While it is down, packets are
/// dropped and open connections get no response.
fn plug_in_control_plane(lab: &TestLab, up: bool) {
    let mut switch = Netlink::open_in(&NetNs::open(lab.paths().netns("switch")).unwrap()).unwrap();
    let port = switch.index("control-plane").unwrap();
    switch.set_up(port, up).unwrap();
}

#[test]
fn lab_pods_keep_running_while_the_api_server_is_unreachable() {
    let lab = TestLab::up_with("away", &["--nodes", "2", "--set", SERVERS]);
    lab.apply(&(pod_on("p1", "node-1", "web") + &pod_on("p2", "node-2", "asker") + &service("web")));
    let web = lab.service("web").cluster_ips;
    let sockets = lab.node("node-1").run(["ss", "-Htno", "dport", "=", ":6443"]).succeeds();
    let established = sockets.stdout.lines().filter(|line| line.starts_with("ESTAB"));
    assert!(established.clone().count() >= 5, "a watch for each kind:\n{sockets}");
    assert!(established.clone().all(|line| line.contains("172.30.0.2:6443")), "{sockets}");
    assert!(sockets.stdout.contains("timer:(keepalive"), "{sockets}");

    plug_in_control_plane(&lab, false);
    lab.wait_until("the agent notices that the API server is silent", TIMEOUT, || {
        !api_connected(&lab, "node-1") && !api_connected(&lab, "node-2")
    });
    // Existing pods work, and new pods are connected: their node knows its own
    // pod CIDR, and the others have routes to it.
    let changes = pod_on("late", "node-1", "late") + &service("late");
    std::thread::scope(|scope| {
        let (lab, changes) = (&lab, &changes);
        // The agents cannot receive the change; `apply` waits for them.
        let applied = scope.spawn(move || lab.verb_with_stdin(&["apply", "-f", "-"], changes));
        lab.wait_until("the new pod is reached", TIMEOUT, || {
            ["p1", "p2", "client"].iter().all(|from| reaches(lab, from, "late"))
        });
        assert!(web.iter().all(|ip| asks(lab, "p2", ip, 80).as_deref() == Some("p1")), "the Service works");
        let late = lab.service("late").cluster_ips;
        assert!(late.iter().all(|ip| asks(lab, "p2", ip, 80).is_none()), "no node knows the change yet");

        // A node that boots now starts from the state saved on its disk.
        lab.verb(&["node-stop", "node-2"]).succeeds();
        lab.verb(&["node-start", "node-2"]).succeeds();
        lab.wait_until("its pod is back", TIMEOUT, || reaches(lab, "p1", "p2") && reaches(lab, "p2", "p1"));
        assert!(
            web.iter().all(|ip| asks(lab, "p2", ip, 80).as_deref() == Some("p1")),
            "and so are its Services"
        );
        assert!(!api_connected(lab, "node-2"));

        plug_in_control_plane(lab, true);
        let repaired = Instant::now();
        assert!(!applied.is_finished(), "the changes are still waiting");
        applied.join().unwrap().succeeds();
        // Agents retry about every second, and TCP retransmits after a second.
        assert!(repaired.elapsed() < Duration::from_secs(5), "in force after {:?}", repaired.elapsed());
        assert!(late.iter().all(|ip| asks(lab, "p2", ip, 80).as_deref() == Some("late")));
    });
    lab.wait_until("both are connected", TIMEOUT, || {
        api_connected(&lab, "node-1") && api_connected(&lab, "node-2")
    });
    lab.down();
}
