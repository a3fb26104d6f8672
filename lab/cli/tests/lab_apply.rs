//! Manifests and values: what is accepted and what is rejected, with which
//! messages.

use std::fs;
use std::time::Duration;

use beeline_lab::harness::TestLab;
use beeline_lab_net::cgroup::processes;
use beeline_lab_net::record::pod_records;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn pod(name: &str, container: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  containers:\n    - {{name: c, {container}}}\n"
    )
}

#[test]
fn lab_accepts_values_of_cilium_users() {
    let lab = TestLab::named("values");
    let set = [
        "kubeProxyReplacement=strict",
        "k8sServiceHost=192.0.2.10",
        "k8sServicePort=6443",
        "bpf.masquerade=true",
        "routingMode=native",
        "autoDirectNodeRoutes=true",
        "ipv4.nativeRoutingCIDR=10.0.0.0/8",
        "loadBalancer.mode=dsr",
    ];
    let mut arguments = vec!["up", "--nodes", "2"];
    arguments.extend(set.iter().flat_map(|value| ["--set", value]));
    let outcome = lab.verb(&arguments).succeeds();
    for words in [
        "kubeProxyReplacement",
        "ipv4NativeRoutingCIDR",
        "172.30.0.2 port 6443: used instead of 192.0.2.10 port 6443",
        "loadBalancer.mode=dsr is not implemented: ignored, loadBalancer.mode=snat is used instead",
    ] {
        assert!(outcome.stdout.contains(words), "up does not print {words:?}\n{outcome}");
    }
    assert!(!outcome.stdout.contains("bpf.masquerade"), "bpf.masquerade is implemented\n{outcome}");
    assert!(lab.status().nodes.iter().all(|node| node.ready));
    lab.down();
}

#[test]
fn lab_rejects_invalid_arguments_before_creating_anything() {
    let lab = TestLab::named("refused");
    lab.verb(&["up", "--set", "routingMod=native"]).fails().stderr_contains("did you mean `routingMode`?");
    lab.verb(&["up", "--set", "routingMode=fast"]).fails().stderr_contains("routingMode=fast");
    lab.verb(&["up", "--set", "routingMode"]).fails().stderr_contains("NAME=VALUE");
    lab.verb(&["up", "--image", "web=/no/such/program"])
        .fails()
        .stderr_contains("program /no/such/program does not exist");
    lab.verb(&["up", "--nodes", "0"]).fails().stderr_contains("--nodes");
    lab.verb(&["up", "-f", "/no/such/file.yaml"]).fails().stderr_contains("/no/such/file.yaml");
    let directory = tempfile::tempdir().unwrap();
    let bad = directory.path().join("bad.yaml");
    fs::write(&bad, "apiVersion: v1\nkind: Pod\n---\nmetadata:\n  name: x\n bad: y\n").unwrap();
    lab.verb(&["up", "-f", bad.to_str().unwrap()]).fails().stderr_contains("bad.yaml, line 6: invalid YAML");
    assert!(!lab.paths().root().exists());
    lab.down();
}

#[test]
fn lab_applies_valid_objects_and_reports_the_others() {
    let lab = TestLab::up_with("partly", &["--nodes", "2"]);
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    write("a.yaml", &pod("good", "image: any, command: [sleep, infinity]"));
    write("b.yaml", "apiVersion: v9\nkind: Nothing\nmetadata: {name: none}\n");
    write("c.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: zero}\nspec: {ports: [{port: 0}]}\n");
    let outcome = lab.verb(&["apply", "-f", directory.path().to_str().unwrap()]).fails();
    assert!(outcome.stdout.contains("pods/good created"), "{outcome}");
    for words in
        ["b.yaml, document 1 (Nothing none)", "c.yaml, document 1 (Service zero)", "spec.ports[0].port"]
    {
        assert!(outcome.stderr.contains(words), "apply does not print {words:?}\n{outcome}");
    }
    assert!(lab.pods("good")[0].ready, "the valid objects are applied");

    let later = "apiVersion: v1\nkind: Service\nmetadata: {name: later}\nspec: {externalIPs: [192.0.2.1], ports: [{port: 80}]}\n";
    let noted = lab.verb_with_stdin(&["apply", "-f", "-"], later).succeeds();
    let said = "its externalIP 192.0.2.1 is not served: externalIPs.enabled is off";
    assert!(noted.stdout.contains("note: ") && noted.stdout.contains(said), "{noted}");
    assert_eq!(noted.stdout.matches("note: ").count(), 1, "a notice of all nodes is printed once: {noted}");

    let bad = directory.path().join("d.yaml");
    fs::write(&bad, "kind: [\n").unwrap();
    lab.verb(&["apply", "-f", bad.to_str().unwrap()]).fails().stderr_contains("d.yaml, line ");
    lab.down();
}

#[test]
fn lab_reports_why_a_pod_does_not_run() {
    let lab = TestLab::up_with("pods", &["--nodes", "1"]);
    let failing = [
        ("missing-image", "image: nginx", "--image nginx=PROGRAM"),
        ("missing-program", "image: any, command: [/no/such/program]", "/no/such/program"),
        ("crashing", "image: any, command: [sh, -c, 'echo the reason >&2; exit 3']", "the reason"),
    ];
    for (name, container, words) in failing {
        lab.verb_with_stdin(&["apply", "-f", "-"], &pod(name, container)).fails().stderr_contains(words);
        let shown = lab.verb(&["status"]).succeeds();
        assert!(shown.stdout.contains(&format!("pod default/{name}: ")), "{shown}");
    }
    let unschedulable = "apiVersion: v1\nkind: Pod\nmetadata: {name: ends}\nspec:\n  restartPolicy: Never\n  \
                         containers: [{name: c, image: any, command: ['true']}]\n";
    lab.apply(unschedulable);
    assert_eq!(lab.pods("ends")[0].phase, "Succeeded");
    lab.down();
}

#[test]
fn lab_follows_updates_and_deletions() {
    let lab = TestLab::up_with("changes", &["--nodes", "2"]);
    let deployment = |replicas: u32| {
        format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web}}\nspec:\n  replicas: {replicas}\n  \
             selector: {{matchLabels: {{app: web}}}}\n  template:\n    metadata: {{labels: {{app: web}}}}\n    \
             spec: {{terminationGracePeriodSeconds: 1, containers: [{{name: echo, image: beeline/echo, ports: [{{containerPort: 80}}]}}]}}\n"
        )
    };
    for replicas in [1, 4, 2, 0, 1] {
        lab.apply(&deployment(replicas));
        let ready = lab.pods("web-").iter().filter(|pod| pod.ready && pod.phase == "Running").count();
        assert_eq!(ready, replicas as usize, "{:?}", lab.pods("web-"));
    }
    let name = lab.pods("web-").iter().find(|pod| pod.ready).unwrap().name.clone();
    // A container whose process is killed is restarted.
    let record = pod_records(&lab.paths()).into_iter().find(|record| record.name == name).unwrap();
    let process = processes(&record.cgroup)[0];
    kill(Pid::from_raw(process as i32), Signal::SIGKILL).unwrap();
    lab.wait_until("the pod was started again", Duration::from_secs(20), || {
        lab.pods(&name).first().is_some_and(|pod| pod.ready && pod.restarts == 1)
    });
    lab.down();
}
