//! Lifecycle of a lab: start, use, crash, interruption, removal.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use beeline_lab::harness::{ExecTarget, TestLab, program};
use beeline_lab_net::leaks::leaks;
use beeline_lab_net::record::LabRecord;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const TWO_PODS: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
        - name: echo
          image: beeline/echo
          ports: [{containerPort: 8080}, {containerPort: 7000, protocol: UDP}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
";

#[test]
fn lab_starts_serves_and_leaves_nothing_behind() {
    let lab = TestLab::up("life");
    let status = lab.status();
    let names: Vec<&str> = status.nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["node-1", "node-2", "node-3"]);
    for (node, number) in status.nodes.iter().zip(1..) {
        assert!(node.ready && node.agent_ready && node.agent_pid.is_some(), "{node:?}");
        assert_eq!(node.pod_cidrs, [format!("10.244.{number}.0/24"), format!("fd00:10:244:{number}::/64")]);
    }
    assert_eq!(status.kubeconfig, lab.paths().kubeconfig());

    lab.apply(TWO_PODS);
    let pods = lab.pods("web-");
    assert!(pods.len() == 2 && pods.iter().all(|pod| pod.ready && pod.ips.len() == 2), "{pods:?}");
    assert_ne!(pods[0].node, pods[1].node, "two replicas are scheduled to two nodes");
    let service = lab.service("web");
    assert_eq!(service.cluster_ips.len(), 2);
    assert!(service.endpoints.values().all(|endpoints| endpoints.len() == 2), "{service:?}");

    let client = lab.pod(&pods[0].name);
    let answered_by = |target: &ExecTarget<'_>, host: &str, port: u16| -> String {
        let url =
            format!("http://{}:{port}/", if host.contains(':') { format!("[{host}]") } else { host.into() });
        let answer =
            target.run(["curl", "--silent", "--show-error", "--max-time", "5", &url]).succeeds().stdout;
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        answer["pod"].as_str().unwrap_or_default().to_owned()
    };
    for ip in &pods[1].ips {
        assert_eq!(answered_by(&client, ip, 8080), pods[1].name, "from a pod to a pod of another node");
        assert_eq!(answered_by(&lab.client(), ip, 8080), pods[1].name, "from outside to a pod");
        // bash opens the sockets itself (`/dev/udp`, bash(1)).
        let echoed = |kind: &str, port: u16, line: &str| {
            let ask = format!("exec 3<>/dev/{kind}/{ip}/{port}; echo '{line}' >&3; timeout 3 head -n 1 <&3");
            client.run(["bash", "-c", &ask]).succeeds().stdout
        };
        assert_eq!(echoed("udp", 7000, "once more"), "once more\n", "UDP is echoed");
        assert_eq!(echoed("tcp", 8080, "not HTTP"), "not HTTP\n", "what is not HTTP is echoed");
    }
    for ip in &service.cluster_ips {
        let by = answered_by(&client, ip, 80);
        assert!(pods.iter().any(|pod| pod.name == by), "from a pod to a Service: {by}");
    }

    let again = lab.verb(&["up"]).fails().stderr_contains("already exists");
    assert!(again.stderr.contains(&format!("beeline lab down --name {}", lab.name())), "{again}");
    lab.verb(&["up", "--nodes", "2"]).fails().stderr_contains("it has 3 nodes, 2 requested");

    let removed = lab.verb(&["down"]).succeeds();
    assert!(removed.stdout.contains("3 bpffs with their pins"), "{removed}");
    lab.check_leaks();
    let nothing = lab.verb(&["down"]).succeeds();
    assert!(nothing.stdout.contains("nothing to remove"), "{nothing}");
    lab.verb(&["status"]).fails().stderr_contains("there is no lab named");
    lab.verb(&["client", "--", "true"]).fails().stderr_contains("there is no lab named");
}

#[test]
fn lab_without_its_daemon_runs_commands_and_can_be_removed() {
    let lab = TestLab::up_with("crash", &["--nodes", "2"]);
    lab.apply(TWO_PODS);
    let pod = lab.pods("web-").remove(0).name;
    let record = LabRecord::read(&lab.paths()).unwrap().unwrap();
    assert!(record.daemon.signal(Signal::SIGKILL));
    lab.wait_until("the daemon is dead", Duration::from_secs(5), || !record.daemon.alive());

    lab.pod(&pod).run(["true"]).succeeds();
    lab.node("node-1").run(["true"]).succeeds();
    lab.verb(&["status"]).fails().stderr_contains("beeline lab down --name");
    lab.verb(&["up"]).fails().stderr_contains("is not running");
    lab.down();
}

/// Both `up` and the daemon are killed at various times during `up`.
#[test]
fn lab_partially_created_can_be_removed() {
    let lab = TestLab::named("half");
    let begun = Instant::now();
    lab.verb(&["up"]).succeeds();
    let whole = begun.elapsed();
    lab.verb(&["down"]).succeeds();
    for part in 0..8 {
        let mut command = Command::new(program("beeline-lab"));
        command.args(["up", "--name", lab.name().as_str()]);
        let mut up = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(whole * part / 8);
        up.kill().unwrap();
        if let Ok(Some(record)) = LabRecord::read(&lab.paths()) {
            record.daemon.signal(Signal::SIGKILL);
        }
        up.wait().unwrap();
        lab.verb(&["down"]).succeeds();
        lab.check_leaks();
    }
    lab.down();
}

#[test]
fn lab_interrupted_during_up_is_removed() {
    let lab = TestLab::named("interrupted");
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut command = Command::new(program("beeline-lab"));
        command.args(["up", "--name", lab.name().as_str()]);
        let mut up = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        lab.wait_until("up has begun", Duration::from_secs(5), || lab.paths().record().exists());
        kill(Pid::from_raw(up.id() as i32), signal).unwrap();
        let code = up.wait().unwrap().code();
        assert_eq!(code, Some(128 + signal as i32), "either interrupted or quicker than this test");
        assert_eq!(leaks(lab.name()), Vec::<String>::new());
    }
    lab.down();
}

#[test]
fn lab_that_fails_to_start_reports_why_and_is_removed() {
    // An agent that cannot use its configured device.
    let lab = TestLab::named("hopeless");
    let hopeless = ["up", "--nodes", "1", "--timeout", "5", "--set", "devices={no-such-device}"];
    let outcome = lab.verb(&hopeless).fails().stderr_contains("was removed");
    assert!(
        outcome.stderr.contains("set the value `devices`"),
        "the agent's error message is shown: {outcome}"
    );
    lab.check_leaks();
    lab.verb(&[&hopeless[..], &["--retain"]].concat()).fails().stderr_contains("beeline lab down --name");
    assert!(lab.paths().node("node-1").agent_log().exists());
    lab.down();
}

#[test]
fn lab_networks_of_two_labs_are_separate() {
    let (one, other) =
        (TestLab::up_with("one", &["--nodes", "1"]), TestLab::up_with("other", &["--nodes", "2"]));
    let ports = [&one, &other].map(|lab| LabRecord::read(&lab.paths()).unwrap().unwrap().api_port);
    assert_ne!(ports[0], ports[1], "each API has its own port on the machine");
    one.apply(TWO_PODS);
    assert_eq!(one.pods("web-").len(), 2);
    assert!(other.pods("web-").is_empty(), "objects of one lab are not in the other");
    let identity = |lab: &TestLab| lab.node("node-1").netns().identity().unwrap();
    assert_ne!(identity(&one), identity(&other));
    one.down();
    assert_eq!(other.status().nodes.len(), 2);
    other.client().run(["ping", "-c1", "-W2", "172.30.0.12"]).succeeds();
    other.down();
}

#[test]
fn lab_without_root_reports_that_it_requires_root() {
    let copy = tempfile::tempdir().unwrap();
    let program_copy = copy.path().join("beeline-lab");
    std::fs::copy(program("beeline-lab"), &program_copy).unwrap();
    std::fs::set_permissions(copy.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let output = Command::new(&program_copy).args(["up"]).uid(65534).output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && words.contains("must run as root"), "{words}");
}
