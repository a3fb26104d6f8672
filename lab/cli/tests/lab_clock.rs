//! Clock jumps, hours ahead or days back, as after a late NTP sync or a
//! suspend. Only the lab's processes see them (libfaketime); the host's clock
//! is unchanged.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use beeline_api::{Call, Client, Response};
use beeline_lab::harness::TestLab;

const TIMEOUT: Duration = Duration::from_secs(20);
const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: near, labels: {app: web}}
spec:
  nodeName: node-1
  containers: [{name: echo, image: beeline/echo, ports: [{containerPort: 8080}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: far}
spec:
  nodeName: node-2
  containers: [{name: echo, image: beeline/echo, ports: [{containerPort: 8080}]}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
";

/// The libfaketime library, if it is installed.
fn library() -> Option<PathBuf> {
    let directories = std::fs::read_dir("/usr/lib").ok()?.flatten();
    let mut libraries = directories.map(|directory| directory.path().join("faketime/libfaketime.so.1"));
    libraries.find(|library| library.exists())
}

/// Sets the offset of the lab's clock from the host's.
fn set(file: &Path, offset: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, offset).unwrap();
    std::fs::rename(new, file).unwrap();
}

fn connected(lab: &TestLab, node: &str) -> bool {
    match Client::new(lab.paths().node(node).socket()).call(Call::Status) {
        Ok(Response::Status(status)) => status.api_connected && status.synced,
        _ => false,
    }
}

fn all_is_well(lab: &TestLab, service: &str) {
    for address in lab.service(service).cluster_ips {
        let host = if address.contains(':') { format!("[{address}]") } else { address };
        let url = format!("http://{host}/");
        lab.pod("far").run(["curl", "-gs", "--fail", "--max-time", "2", &url]).succeeds();
    }
    for node in ["node-1", "node-2"] {
        assert!(connected(lab, node), "{node}\n{}", lab.state());
    }
}

/// A new pod and Service take effect, and the pod is deleted: its address,
/// sandbox and grace period are handled correctly.
fn changes_are_made(lab: &TestLab, name: &str, years: i32) {
    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  \
         nodeName: node-1\n  terminationGracePeriodSeconds: 1\n  containers: [{{name: echo, image: \
         beeline/echo, ports: [{{containerPort: 8080}}]}}]\n---\napiVersion: v1\nkind: Service\nmetadata: \
         {{name: {name}}}\nspec:\n  selector: {{app: {name}}}\n  ports: [{{port: 80, targetPort: 8080}}]\n"
    );
    lab.apply(&pod);
    all_is_well(lab, name);
    let path = format!("/api/v1/namespaces/default/pods/{name}");
    let made: serde_json::Value = serde_json::from_str(&lab.api(&path, "").succeeds().stdout).unwrap();
    let time = made["metadata"]["creationTimestamp"].as_str().unwrap();
    let year: i32 = time[..4].parse().unwrap();
    assert!((year - this_year() - years).abs() <= 1, "the clock has not jumped: {time}");
    lab.api(&path, "-X DELETE").succeeds();
    lab.wait_until("the pod is gone", TIMEOUT, || lab.pods(name).is_empty());
}

fn this_year() -> i32 {
    let date = std::process::Command::new("date").arg("+%Y").output().unwrap();
    String::from_utf8(date.stdout).unwrap().trim().parse().unwrap()
}

fn agent_starts_anew(lab: &TestLab) {
    lab.verb(&["agent", "node-1", "stop"]).succeeds();
    lab.verb(&["agent", "node-1", "start"]).succeeds();
    lab.wait_until("the agent is back", TIMEOUT, || connected(lab, "node-1"));
}

#[test]
fn lab_clock_jumps_are_harmless() {
    let Some(library) = library() else {
        return println!("skipped: libfaketime is not installed: run make test");
    };
    let directory = tempfile::tempdir().unwrap();
    let clock = directory.path().join("clock");
    set(&clock, "+0");
    let lab = TestLab::named("clock");
    let environment = [
        ("LD_PRELOAD", library.to_str().unwrap()),
        ("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap()),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("NO_FAKE_STAT", "1"),
    ];
    lab.up_with_env(&environment, &["--nodes", "2"]);
    lab.apply(PODS);
    all_is_well(&lab, "web");

    // Ten years.
    set(&clock, "+3653d");
    all_is_well(&lab, "web");
    changes_are_made(&lab, "ahead", 10);
    agent_starts_anew(&lab);
    changes_are_made(&lab, "again", 10);

    set(&clock, "-3652d");
    all_is_well(&lab, "web");
    changes_are_made(&lab, "behind", -10);
    agent_starts_anew(&lab);
    changes_are_made(&lab, "later", -10);

    set(&clock, "+0");
    all_is_well(&lab, "web");
    changes_are_made(&lab, "now", 0);
    lab.down();
}
