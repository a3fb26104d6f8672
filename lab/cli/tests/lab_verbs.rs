//! The verbs: standard input and signals, exit status, messages.

use std::time::Duration;

use beeline_lab::harness::TestLab;
use nix::sys::signal::Signal;

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: one}
spec:
  containers:
    - name: sleeper
      image: any
      command: [sleep, infinity]
";

#[test]
fn lab_commands_receive_stdin_and_signals_and_return_their_status() {
    let lab = TestLab::up_with("verbs", &["--nodes", "1"]);
    lab.apply(POD);
    for target in [lab.pod("one"), lab.node("node-1"), lab.client(), lab.router()] {
        let outcome = target.run_with_stdin(["cat"], "what goes in\n").succeeds();
        assert_eq!(outcome.stdout, "what goes in\n");
        assert_eq!(target.shell("exit 7").code, Some(7));
        assert_eq!(target.run(["no-such-program"]).code, Some(127));
        assert_eq!(target.run(["/etc/passwd"]).code, Some(126));
        let killed = target.start(["sleep", "100"]).stop(Signal::SIGTERM);
        assert_eq!(killed.code, Some(128 + 15), "{killed}");
        let trap = "trap 'echo caught; exit 3' INT; echo ready; while :; do sleep 0.01; done";
        let trapped = target.start(["sh", "-c", trap]);
        trapped.wait_for("ready", Duration::from_secs(5));
        let trapped = trapped.stop(Signal::SIGINT);
        assert_eq!((trapped.code, trapped.stdout.as_str()), (Some(3), "ready\ncaught\n"), "{trapped}");
    }
    lab.down();
}

#[test]
fn lab_commands_run_in_the_netns_and_cgroup_of_their_target() {
    let lab = TestLab::up_with("places", &["--nodes", "1"]);
    lab.apply(POD);
    let address = &lab.pods("one")[0].ips[0];
    for (target, has, cgroup) in [
        (lab.pod("one"), address.as_str(), "/node-1/pods/"),
        (lab.node("node-1"), "172.30.0.11", "/node-1"),
        (lab.client(), "172.30.0.200", "/client"),
        (lab.router(), "172.30.0.1", "/router"),
    ] {
        let shown = target.run(["ip", "-br", "address"]).succeeds();
        assert!(shown.stdout.contains(has), "{shown}");
        let shown = target.run(["cat", "/proc/self/cgroup"]).succeeds();
        let own = shown.stdout.lines().find(|line| line.starts_with("0::")).unwrap_or_default();
        assert!(own.contains(&format!("beeline-lab-{}{cgroup}", lab.name())), "{shown}");
    }
    lab.down();
}

#[test]
fn lab_verbs_name_missing_objects() {
    let lab = TestLab::up_with("unknown", &["--nodes", "2"]);
    lab.apply(POD);
    let outcome =
        lab.verb(&["exec", "two", "--", "true"]).fails().stderr_contains("there is no pod default/two");
    assert!(outcome.stderr.contains("-n default one") && outcome.code == Some(125), "{outcome}");
    lab.verb(&["exec", "-n", "other", "one", "--", "true"])
        .fails()
        .stderr_contains("there is no pod other/one");
    lab.verb(&["node", "node-3", "--", "true"]).fails().stderr_contains("it has node-1, node-2");
    lab.verb(&["agent", "node-3", "kill"]).fails().stderr_contains("it has node-1, node-2");
    lab.down();
}

#[test]
fn lab_kubeconfig_works_on_the_host_the_client_and_the_nodes() {
    let lab = TestLab::up_with("kubeconfig", &["--nodes", "1"]);
    let path = lab.verb(&["kubeconfig"]).succeeds().stdout.trim().to_owned();
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600, "it holds the token");
    let text = std::fs::read_to_string(&path).unwrap();
    let after =
        |key: &str| text.lines().find_map(|line| line.trim().strip_prefix(key)).unwrap().trim().to_owned();
    let (server, token) = (after("server:"), after("token:"));
    let get = format!(
        "curl --silent --show-error --insecure --max-time 5 --fail -H 'Authorization: Bearer {}' {}/api/v1/nodes",
        token.trim_matches('"'),
        server.trim_matches('"'),
    );
    for target in [lab.client(), lab.node("node-1"), lab.router()] {
        assert!(target.shell(&get).succeeds().stdout.contains("node-1"));
    }
    let here = std::process::Command::new("sh").args(["-c", &get]).output().unwrap();
    assert!(here.status.success(), "{}", String::from_utf8_lossy(&here.stderr));
    let stranger = get.replace("Bearer ", "Bearer not-");
    assert_eq!(lab.client().shell(&stranger).code, Some(22), "a wrong token is refused");
    lab.down();
}

#[test]
fn lab_agents_are_stopped_started_and_restarted_after_a_crash() {
    let lab = TestLab::up_with("agents", &["--nodes", "2"]);
    let node = |name: &str| lab.status().nodes.into_iter().find(|node| node.name == name).unwrap();
    let before = node("node-1");

    lab.verb(&["agent", "node-1", "kill"]).succeeds();
    lab.wait_until("the agent is back", Duration::from_secs(10), || {
        let now = node("node-1");
        now.agent_ready && now.agent_pid != before.agent_pid
    });
    assert!(node("node-1").ready, "a short restart of the agent does not make the node NotReady");

    lab.verb(&["agent", "node-1", "stop"]).succeeds();
    assert_eq!(node("node-1").agent_pid, None);
    lab.wait_until("the node is not Ready", Duration::from_secs(10), || !node("node-1").ready);
    assert!(node("node-2").ready, "the other node is");
    lab.verb(&["agent", "node-1", "kill"]).fails().stderr_contains("not running");

    lab.verb(&["agent", "node-1", "start"]).succeeds();
    lab.wait_until("the node is powered on and Ready", Duration::from_secs(10), || node("node-1").ready);
    lab.down();
}
