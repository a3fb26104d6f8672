//! The controllers run against a remote server over HTTPS on loopback.

#![expect(clippy::unwrap_used, reason = "a test panics if it cannot continue")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::time::Duration;

use beeline_apiserver::{
    ApiServer, Component, Config, Credentials, DeleteOptions, ListOptions, PatchKind, RemoteApi,
};
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};

/// How long to wait for an expected state.
const TIMEOUT: Duration = Duration::from_secs(20);

const SHOP: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 4
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: i}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{port: 80}]}
";

/// A server without controllers.
async fn server() -> (ApiServer, Client) {
    let credentials = Credentials::generate(&[]).unwrap();
    let config = Config {
        token: Some(credentials.token.clone()),
        certificate: Some(credentials.certificate.clone()),
        components: BTreeSet::new(),
        ..Config::default()
    };
    let server = ApiServer::start(config).unwrap();
    let front = server.serve(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
    let kubeconfig = credentials.kubeconfig(&format!("https://{}", front.address()));
    let kubeconfig = Kubeconfig::from_yaml(&kubeconfig).unwrap();
    let config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    (server, Client::try_from(config).unwrap())
}

fn names(server: &ApiServer, kind: &str) -> Vec<String> {
    let all = server.api().list(kind, Some("shop"), &ListOptions::default()).unwrap().items;
    all.iter().map(|object| object["metadata"]["name"].to_string()).collect()
}

fn spread(server: &ApiServer) -> BTreeMap<String, usize> {
    let mut nodes = BTreeMap::new();
    for pod in server.api().list("pods", Some("shop"), &ListOptions::default()).unwrap().items {
        *nodes.entry(pod["spec"]["nodeName"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
    }
    nodes
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + TIMEOUT;
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "not yet: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unit_controllers_run_against_a_remote_server() {
    let (server, client) = server().await;
    let config = Config {
        components: [Component::ControllerManager, Component::Scheduler].into(),
        ..Config::default()
    };
    let remote = std::sync::Arc::new(RemoteApi::new(client, &config));
    let own = remote.clone();
    let running = tokio::spawn(async move { own.run(&config, "authority").await });
    for name in ["node-1", "node-2"] {
        server.api().create("nodes", json!({"metadata": {"name": name}})).unwrap();
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        server.api().patch_status("nodes", "", name, &PatchKind::Merge, &ready).unwrap();
    }
    let ranges = || -> Vec<Value> {
        let nodes = server.api().list("nodes", None, &ListOptions::default()).unwrap().items;
        nodes.iter().map(|node| node["spec"]["podCIDR"].clone()).collect()
    };
    until("nodes have ranges", || ranges() == [json!("10.244.1.0/24"), json!("10.244.2.0/24")]).await;

    // Manifests are applied remotely too, and the result can be read at once.
    let report = tokio::task::spawn_blocking({
        let remote = remote.clone();
        let runtime = tokio::runtime::Handle::current();
        move || {
            let _inside = runtime.enter();
            remote.api().apply("shop.yaml", SHOP)
        }
    });
    let report = report.await.unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    let actions: Vec<&str> = report.applied.iter().map(|one| one.action).collect();
    assert_eq!(actions, ["created"; 3]);
    until("four pods are spread", || spread(&server) == [("node-1".into(), 2), ("node-2".into(), 2)].into())
        .await;
    until("the Service has its slice", || names(&server, "endpointslices").len() == 1).await;
    assert_eq!(names(&server, "serviceaccounts"), ["\"default\""]);

    server.api().delete("deployments", "shop", "web", &DeleteOptions::default()).unwrap();
    until("its dependents are terminating", || {
        let pods = server.api().list("pods", Some("shop"), &ListOptions::default()).unwrap().items;
        pods.iter().all(|pod| !pod["metadata"]["deletionTimestamp"].is_null())
    })
    .await;
    assert!(names(&server, "replicasets").is_empty());
    running.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unit_remote_apply_conflicts_unless_it_is_forced() {
    let (server, client) = server().await;
    let config = Config { components: BTreeSet::new(), ..Config::default() };
    let remote = RemoteApi::new(client, &config);
    let api = remote.api().clone();
    let apply = move |manager: &str, force: bool, value: &str| {
        let language = PatchKind::Apply { manager: manager.to_owned(), force };
        let wanted = json!({"data": {"a": value}});
        api.patch("configmaps", "default", "words", &language, &wanted)
    };
    let done = tokio::spawn(async move {
        apply("one & only", false, "1").unwrap();
        let refused = apply("two", false, "2").unwrap_err();
        apply("two", true, "3").unwrap();
        refused
    });
    let refused = done.await.unwrap();
    assert_eq!((refused.code, refused.reason), (409, "Conflict"));
    let causes: Vec<_> = refused.details.causes.iter().map(|one| (one.reason, one.field.as_str())).collect();
    assert_eq!(causes, [("FieldManagerConflict", ".data.a")]);
    assert!(refused.message.contains("one & only"), "{}", refused.message);
    let words = server.api().get("configmaps", "default", "words").unwrap();
    assert_eq!(words["data"]["a"], "3");
}
