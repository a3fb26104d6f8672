//! A lab with an external control plane: the programs of Kubernetes if
//! KUBEBUILDER_ASSETS is set, and in any case the embedded API server as a
//! separate process, so that the code for external API servers is tested on
//! every host.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use beeline_kernel::netns::NetNs;
use beeline_lab::harness::{TestLab, program};
use beeline_lab_net::cgroup;
use beeline_lab_net::process::ProcessId;
use beeline_lab_net::record::LabRecord;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use nix::sys::signal::Signal;
use serde_json::json;

/// Timeout for expected changes.
const TIMEOUT: Duration = Duration::from_secs(30);

const SHOP: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: c, image: beeline/echo, ports: [{containerPort: 8080}]}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Pod
metadata: {name: asker}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: beeline/echo, ports: [{containerPort: 8080}]}]
";

/// Runs `up` with the control plane programs in this directory.
fn up(lab: &TestLab, assets: &Path) -> Output {
    let mut command = Command::new(program("beeline-lab"));
    command.args(["up", "--nodes", "2", "--name", lab.name().as_str()]);
    command.env("KUBEBUILDER_ASSETS", assets).output().unwrap()
}

fn script(directory: &Path, name: &str, line: &str) {
    let path = directory.join(name);
    fs::write(&path, format!("#!/bin/sh\n{line}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Debian's etcd, unpacked by tools/lib/etcd.sh.
fn etcd() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let unpacked = root.join(".tools/etcd/usr/bin/etcd");
    unpacked.canonicalize().ok()
}

fn words(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

#[test]
fn lab_runs_on_an_api_server_that_is_another_process() {
    let lab = TestLab::named("process");
    let assets = tempfile::tempdir().unwrap();
    let own = program("beeline-lab");
    script(assets.path(), "kube-apiserver", &format!("exec {} kube-apiserver -- \"$@\"", own.display()));
    let etcd = etcd();
    match &etcd {
        Some(path) => script(assets.path(), "etcd", &format!("exec {} \"$@\"", path.display())),
        None => {
            println!(
                "skipped: etcd was not started: Debian's etcd-server is not below .tools (make test unpacks it)"
            );
            script(assets.path(), "etcd", "exec sleep infinity");
        }
    }
    let begun = up(&lab, assets.path());
    assert!(begun.status.success(), "{}\n{}", words(&begun), lab.state());
    assert!(
        words(&begun).contains("kube-apiserver") || words(&begun).contains("Kubernetes API of"),
        "{}",
        words(&begun)
    );
    if etcd.is_some() {
        etcd_is_healthy(&lab);
    }
    a_day_of_a_cluster(&lab);
    the_end_needs_no_daemon(lab);
}

#[test]
fn lab_runs_on_the_kubernetes_control_plane() {
    let Some(assets) = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from) else {
        println!(
            "skipped: Kubernetes' own control plane: KUBEBUILDER_ASSETS names no directory with etcd and kube-apiserver"
        );
        return;
    };
    let lab = TestLab::named("real");
    let begun = up(&lab, &assets);
    assert!(begun.status.success(), "{}", words(&begun));
    etcd_is_healthy(&lab);
    a_day_of_a_cluster(&lab);
    the_end_needs_no_daemon(lab);
}

#[test]
fn lab_reports_why_a_control_plane_does_not_start() {
    let lab = TestLab::named("broken");
    let assets = tempfile::tempdir().unwrap();
    let refused = up(&lab, assets.path());
    assert!(!refused.status.success());
    assert!(words(&refused).contains("has no program etcd"), "{}", words(&refused));
    script(assets.path(), "etcd", "exec sleep infinity");
    script(assets.path(), "kube-apiserver", "echo no such flag >&2; exit 3");
    let refused = up(&lab, assets.path());
    assert!(!refused.status.success());
    for expected in ["kube-apiserver exited", "no such flag", "was removed"] {
        assert!(words(&refused).contains(expected), "{expected:?} is not printed:\n{}", words(&refused));
    }
    lab.check_leaks();
    lab.down();
}

/// Health of etcd, queried in the control plane's namespace.
fn etcd_is_healthy(lab: &TestLab) {
    let netns = NetNs::open(lab.paths().netns("control-plane")).unwrap();
    let ask = || -> std::io::Result<String> {
        let target: SocketAddr = "127.0.0.1:2379".parse().unwrap();
        let mut stream = TcpStream::connect_timeout(&target, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let healthy = || netns.enter(ask).unwrap().is_ok_and(|answer| answer.contains("\"health\":\"true\""));
    lab.wait_until("etcd is healthy", TIMEOUT, healthy);
}

/// Controllers, scheduler, kubelets and agents work with the external API
/// server.
fn a_day_of_a_cluster(lab: &TestLab) {
    assert!(lab.status().nodes.iter().all(|node| node.ready), "{}", lab.state());
    lab.apply(SHOP);
    let pods = lab.pods("web-");
    assert_eq!(pods.iter().filter(|pod| pod.ready).count(), 2, "{pods:?}");
    assert_ne!(pods[0].node, pods[1].node, "the scheduler spreads them: {pods:?}");
    let service = lab.status().services.into_iter().find(|service| service.name == "web").unwrap();
    for address in &service.cluster_ips {
        let url =
            if address.contains(':') { format!("http://[{address}]/") } else { format!("http://{address}/") };
        let output = lab.pod("asker").run(["curl", "-sS", "--max-time", "10", &url]).succeeds();
        assert!(output.stdout.contains("web-"), "{output}");
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(controllers_work(lab));
}

async fn controllers_work(lab: &TestLab) {
    let kubeconfig = Kubeconfig::read_from(lab.paths().kubeconfig()).unwrap();
    let config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    let client = kube::Client::try_from(config).unwrap();
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "shop");
    let replicas: Api<ReplicaSet> = Api::namespaced(client.clone(), "shop");
    let pods: Api<Pod> = Api::namespaced(client.clone(), "shop");
    let count = async || pods.list(&Default::default()).await.unwrap().items.len();

    let scale = Patch::Merge(json!({"spec": {"replicas": 4}}));
    deployments.patch("web", &PatchParams::default(), &scale).await.unwrap();
    eventually("four pods are there", async || count().await == 4).await;
    let endpoints = || {
        let service = lab.status().services.into_iter().find(|service| service.name == "web");
        service.map_or(0, |service| service.endpoints.values().map(Vec::len).sum::<usize>())
    };
    eventually("eight endpoints are shown", async || endpoints() == 8).await;

    deployments.delete("web", &DeleteParams::default()).await.unwrap();
    eventually("what it owned is gone", async || {
        count().await == 0 && replicas.list(&Default::default()).await.unwrap().items.is_empty()
    })
    .await;
    let namespaces: Api<Namespace> = Api::all(client);
    namespaces.delete("shop", &DeleteParams::default()).await.unwrap();
    eventually("the namespace is gone", async || namespaces.get_opt("shop").await.unwrap().is_none()).await;
}

async fn eventually(what: &str, holds: impl AsyncFn() -> bool) {
    let deadline = tokio::time::Instant::now() + TIMEOUT;
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "timed out after {} s: {what}", TIMEOUT.as_secs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The control plane's programs survive a killed daemon, and `down` ends them.
fn the_end_needs_no_daemon(lab: TestLab) {
    let record = LabRecord::read(&lab.paths()).unwrap().unwrap();
    let own = &record.others["control-plane"].cgroup;
    let before = cgroup::processes(own).into_iter().filter_map(|pid| ProcessId::of(pid as i32));
    let before: Vec<ProcessId> = before.collect();
    assert!(before.len() >= 2, "etcd and the API server run in {}: {before:?}", own.display());
    for log in ["etcd.log", "kube-apiserver.log"] {
        assert!(lab.paths().control_plane().join(log).exists(), "there is no {log}");
    }
    assert!(record.daemon.signal(Signal::SIGKILL));
    lab.wait_until("the daemon is gone", TIMEOUT, || !record.daemon.alive());
    lab.down();
    for process in before {
        assert!(!process.alive(), "{process:?} is left");
    }
}
