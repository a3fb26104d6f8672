//! Events about problems, with a real API server in this process: one event
//! from many nodes, deleted objects, missing permissions, an unreachable
//! server.

#![expect(clippy::unwrap_used, reason = "a test may panic, and says where")]

use std::cell::RefCell;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use beeline_apiserver::{ApiServer, Config, ListOptions, ServeHandle};
use beeline_model::{Kind, ObjectName, Problem, Reason};
use beeline_source::{EventCounts, EventOutcome, ProblemChanges, Source, SourceConfig, Update, write_event};
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{Event, ServiceAccount};
use kube::api::{Api, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config as ClientConfig};
use serde_json::{Value, json};
use tokio::sync::mpsc::Receiver;
use tokio::time::Instant;

const TIMEOUT: Duration = Duration::from_secs(20);

/// Read-only permissions, as granted by older charts.
const READER: &str = r#"
apiVersion: v1
kind: ServiceAccount
metadata: {name: reader}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: reader}
rules:
- {apiGroups: ["", discovery.k8s.io], resources: ["*"], verbs: [get, list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: reader}
roleRef: {kind: ClusterRole, name: reader, apiGroup: rbac.authorization.k8s.io}
subjects: [{kind: ServiceAccount, name: reader, namespace: default}]
"#;

struct World {
    server: ApiServer,
    front: ServeHandle,
    folder: tempfile::TempDir,
}

/// A node whose updates are not read.
struct Node {
    source: Source,
    _updates: Receiver<Update>,
}

impl World {
    fn new() -> World {
        let server = ApiServer::start(Config::default()).unwrap();
        let front = server.serve(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
        World { server, front, folder: tempfile::tempdir().unwrap() }
    }

    fn kubeconfig(&self) -> String {
        self.server.kubeconfig(&format!("https://{}", self.front.address()))
    }

    async fn node(&self, name: &str) -> Node {
        Node::start(name, &self.kubeconfig(), self.folder.path()).await
    }

    fn service(&self, name: &str) -> Value {
        let spec = json!({"selector": {"app": name}, "ports": [{"port": 80}]});
        let service = json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec});
        Value::clone(&self.server.api().create("services", service).unwrap())
    }

    /// Events published by Beeline, oldest first.
    fn events(&self) -> Vec<Value> {
        let listed = self.server.api().list("events", None, &ListOptions::default()).unwrap().items;
        let ours = listed.iter().filter(|event| event["source"]["component"] == "beeline");
        ours.map(|event| Value::clone(event)).collect()
    }

    async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let end = Instant::now() + TIMEOUT;
        while !holds() {
            assert!(Instant::now() < end, "not yet: {what}\n{:#?}", self.events());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Node {
    async fn start(name: &str, kubeconfig: &str, folder: &Path) -> Node {
        let path = folder.join(name);
        std::fs::write(&path, kubeconfig).unwrap();
        let mut config = SourceConfig::new(name);
        config.kubeconfig = Some(path);
        let (updates, source) = Source::start(config).await.unwrap();
        Node { source, _updates: updates }
    }

    fn report(&self, problems: &[Problem], nodes: usize) {
        let added = problems.to_vec();
        self.source.event_recorder().update(ProblemChanges { added, resolved: Vec::new(), nodes });
    }

    fn counts(&self) -> EventCounts {
        self.source.event_recorder().counts()
    }
}

fn problem(kind: Kind, name: &str, message: &str) -> Problem {
    let name = ObjectName::new("default", name);
    Problem { kind, name, reason: Reason::FrontendCollision, message: message.to_owned() }
}

#[tokio::test(flavor = "multi_thread")]
async fn unit_a_problem_seen_by_every_node_is_one_event() {
    let world = World::new();
    let web = world.service("web");
    let mut nodes = Vec::new();
    for number in 1..=4 {
        nodes.push(world.node(&format!("node-{number}")).await);
    }
    let seen = problem(Kind::Service, "web", "its port conflicts with Service default/api");
    let begin = Instant::now();
    nodes.iter().for_each(|node| node.report(std::slice::from_ref(&seen), nodes.len()));
    world.until("there is an event", || !world.events().is_empty()).await;
    assert!(begin.elapsed() < Duration::from_secs(2), "after {:?}", begin.elapsed());
    world.until("every node knows of it", || nodes.iter().all(|node| node.counts().published == 1)).await;
    let events = world.events();
    assert_eq!(events.len(), 1, "{events:#?}");
    let event = &events[0];
    assert_eq!(event["involvedObject"]["uid"], web["metadata"]["uid"]);
    assert_eq!((&event["type"], &event["count"]), (&json!("Warning"), &json!(1)));
    assert_eq!(event["message"], seen.message);
    assert!(event["source"]["host"].is_null(), "{event:#}");

    // The Service is recreated: the event is on the new one.
    world.server.api().delete("services", "default", "web", &Default::default()).unwrap();
    let anew = world.service("web");
    let changes = ProblemChanges { resolved: vec![seen.clone()], added: vec![seen], nodes: nodes.len() };
    nodes.iter().for_each(|node| node.source.event_recorder().update(changes.clone()));
    world.until("every node knows of it", || nodes.iter().all(|node| node.counts().published == 2)).await;
    let events = world.events();
    let on_it = events.iter().filter(|event| event["involvedObject"]["uid"] == anew["metadata"]["uid"]);
    assert_eq!((events.len(), on_it.count()), (2, 1), "{events:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn unit_node_local_problems_name_the_node_and_deleted_objects_get_no_event() {
    let world = World::new();
    world.service("web");
    let pod = json!({"metadata": {"name": "web", "namespace": "default"},
        "spec": {"nodeName": "node-1", "containers": [{"name": "c", "image": "i"}]}});
    world.server.api().without_validation().create("pods", pod).unwrap();
    let node = world.node("node-1").await;
    let gone = problem(Kind::Service, "gone", "nobody reads this");
    let last = problem(Kind::Service, "web", "said last");
    node.report(&[gone, problem(Kind::Pod, "web", "its hostPort is another's"), last], 0);
    world.until("both are published", || node.counts().published == 2).await;
    let events = world.events();
    let hosts: Vec<_> =
        events.iter().map(|event| (&event["involvedObject"]["kind"], &event["source"]["host"])).collect();
    assert!(hosts.contains(&(&json!("Pod"), &json!("node-1"))), "{hosts:?}");
    assert!(hosts.contains(&(&json!("Service"), &Value::Null)), "{hosts:?}");
    assert_eq!(node.counts(), EventCounts { published: 2, dropped: 0, failed: 0 });
}

#[tokio::test(flavor = "multi_thread")]
async fn unit_missing_permission_is_reported_once_and_watches_continue() {
    let world = World::new();
    assert!(world.server.apply("reader.yaml", READER).problems.is_empty());
    world.service("web");
    let admin = Kubeconfig::from_yaml(&world.kubeconfig()).unwrap();
    let admin = ClientConfig::from_custom_kubeconfig(admin, &KubeConfigOptions::default()).await.unwrap();
    let accounts: Api<ServiceAccount> = Api::default_namespaced(Client::try_from(admin).unwrap());
    let response =
        accounts.create_token_request("reader", &PostParams::default(), &TokenRequest::default()).await;
    let token = response.unwrap().status.unwrap().token.unwrap();
    let kubeconfig = world.kubeconfig().replace(world.server.token(), &token);
    let node = Node::start("node-1", &kubeconfig, world.folder.path()).await;
    let recorder = node.source.event_recorder();
    let problems: Vec<Problem> =
        (0..5).map(|number| problem(Kind::Service, "web", &format!("said {number}"))).collect();
    node.report(&problems, 1);
    world.until("it is refused", || recorder.problem().is_some()).await;
    let why = recorder.problem().unwrap();
    assert!(why.contains("ClusterRole") && why.contains("`create`") && why.contains("events"), "{why}");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(node.counts(), EventCounts { failed: 1, ..EventCounts::default() }, "it is tried rarely");
    assert!(world.events().is_empty() && node.source.state().connected());
}

#[tokio::test(flavor = "multi_thread")]
async fn unit_events_are_published_after_the_server_returns() {
    let world = World::new();
    world.service("web");
    let node = world.node("node-1").await;
    let state = node.source.state();
    world.until("the server is known", || state.connected()).await;
    let address = world.front.address();
    world.front.stop();
    node.report(&[problem(Kind::Service, "web", "said meanwhile")], 1);
    world.until("it was tried", || node.counts().failed > 0).await;
    let listener = RefCell::new(None);
    world
        .until("the address is free", || {
            *listener.borrow_mut() = TcpListener::bind(address).ok();
            listener.borrow().is_some()
        })
        .await;
    let _front = world.server.serve(listener.take().unwrap()).unwrap();
    world.until("it is published", || node.counts().published == 1).await;
    assert_eq!((world.events().len(), node.source.event_recorder().problem()), (1, None));
}

/// Repetition and expiry of an event, without waiting an hour.
#[tokio::test(flavor = "multi_thread")]
async fn unit_repeated_events_raise_the_count_and_expired_events_are_recreated() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let world = World::new();
    let (server, kubeconfig) = (&world.server, world.kubeconfig());
    let kubeconfig = Kubeconfig::from_yaml(&kubeconfig).unwrap();
    let config = ClientConfig::from_custom_kubeconfig(kubeconfig, &Default::default()).await.unwrap();
    let client = Client::try_from(config).unwrap();
    let spec = json!({"ports": [{"port": 80}]});
    server.api().create("services", json!({"metadata": {"name": "web"}, "spec": spec})).unwrap();

    let web = problem(Kind::Service, "web", "its port is another's");
    let events: Api<Event> = Api::default_namespaced(client.clone());
    let only = async || {
        let mut listed = events.list(&Default::default()).await.unwrap().items;
        assert_eq!(listed.len(), 1, "{listed:#?}");
        listed.remove(0)
    };
    assert_eq!(write_event(&client, "node-1", &web, 0).await, EventOutcome::Created(1));
    let first = only().await;
    assert_eq!(write_event(&client, "node-2", &web, 0).await, EventOutcome::AlreadyExists);
    assert_eq!(write_event(&client, "node-1", &web, 1).await, EventOutcome::Created(2));
    let second = only().await;
    assert_eq!((second.count, &second.metadata.name), (Some(2), &first.metadata.name));
    assert_eq!(second.first_timestamp, first.first_timestamp);
    assert!(second.last_timestamp.unwrap().0 >= first.last_timestamp.unwrap().0);
    server.api().delete("events", "default", &second.metadata.name.unwrap(), &Default::default()).unwrap();
    assert_eq!(write_event(&client, "node-1", &web, 2).await, EventOutcome::Created(3));
    assert_eq!(only().await.count, Some(3));
    assert_eq!(
        write_event(&client, "node-1", &problem(Kind::Service, "gone", "its port is another's"), 0).await,
        EventOutcome::ObjectDeleted
    );
}
