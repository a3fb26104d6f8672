//! The source against a real API server in this process, over TLS on
//! loopback: listings, changes, broken objects, interruptions, servers that
//! come and go, and a start without any.

#![expect(clippy::unwrap_used, reason = "a test may panic, and says where")]

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use beeline_apiserver::{ApiServer, Config, ServeHandle};
use beeline_model::{Change, Kind, Object, ObjectName, Problem};
use beeline_source::{Origin, Seen, Source, SourceConfig, Update};
use serde_json::{Value, json};
use tokio::sync::mpsc::Receiver;

const PATIENCE: Duration = Duration::from_secs(20);

/// What a reader of the stream knows.
#[derive(Default)]
struct Cluster {
    objects: BTreeMap<(Kind, ObjectName), Object>,
    problems: BTreeMap<(Kind, ObjectName), Vec<Problem>>,
    listings: BTreeMap<Kind, u32>,
    listed: Vec<(Kind, ObjectName)>,
    from_journal: u32,
    seen: Seen,
}

impl Cluster {
    fn take(&mut self, update: Update) {
        self.seen.note(update.mark);
        self.from_journal += u32::from(update.origin == Origin::Journal);
        for problem in &update.problems {
            self.problems.entry((problem.kind, problem.name.clone())).or_default().push(problem.clone());
        }
        match update.change {
            Some(Change::Apply(object)) => {
                let key = (object.kind(), object.name());
                self.listed.push(key.clone());
                self.objects.insert(key, *object);
            }
            Some(Change::Delete(kind, name)) => drop(self.objects.remove(&(kind, name))),
            Some(Change::ResetStart(kind)) => self.listed.retain(|(listed, _)| *listed != kind),
            Some(Change::ResetEnd(kind)) => {
                *self.listings.entry(kind).or_default() += 1;
                let listed = &self.listed;
                self.objects.retain(|key, _| key.0 != kind || listed.contains(key));
            }
            None => {}
        }
    }

    fn names(&self, kind: Kind) -> Vec<String> {
        self.objects.keys().filter(|(k, _)| *k == kind).map(|(_, name)| name.to_string()).collect()
    }

    fn has(&self, kind: Kind, name: &str) -> bool {
        self.names(kind).iter().any(|known| known == name)
    }
}

struct Story {
    server: ApiServer,
    front: ServeHandle,
    cluster: Cluster,
    updates: Receiver<Update>,
    source: Source,
    folder: tempfile::TempDir,
}

impl Story {
    async fn begin() -> Story {
        Story::begin_with(|_| {}).await
    }

    async fn begin_with(adjust: impl FnOnce(&mut SourceConfig)) -> Story {
        let server = ApiServer::start(Config::default()).unwrap();
        let front = server.serve(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let config = config(&server, &front, folder.path(), adjust);
        let (updates, source) = Source::start(config).await.unwrap();
        Story { server, front, cluster: Cluster::default(), updates, source, folder }
    }

    /// Reads until the cluster looks as expected.
    async fn until(&mut self, what: &str, expected: impl Fn(&Cluster) -> bool) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !expected(&self.cluster) {
            match tokio::time::timeout_at(deadline, self.updates.recv()).await {
                Ok(Some(update)) => self.cluster.take(update),
                other => panic!(
                    "waiting until {what}: {other:?}\nobjects {:#?}\nproblems {:#?}\nlistings {:?}",
                    self.cluster.objects.keys(),
                    self.cluster.problems,
                    self.cluster.listings
                ),
            }
        }
    }

    async fn until_listed(&mut self) {
        self.until("everything is listed", |c| c.seen.complete()).await;
    }
}

fn config(
    server: &ApiServer,
    front: &ServeHandle,
    folder: &Path,
    adjust: impl FnOnce(&mut SourceConfig),
) -> SourceConfig {
    let path = folder.join("kubeconfig");
    std::fs::write(&path, server.kubeconfig(&format!("https://{}", front.address()))).unwrap();
    let mut config = SourceConfig::new("node-1");
    config.kubeconfig = Some(path);
    config.state_dir = Some(folder.join("state"));
    config.patience = Duration::from_millis(200);
    adjust(&mut config);
    config
}

fn service(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80}]}})
}

fn slice(name: &str, service: &str, addresses: &[&str]) -> Value {
    let endpoints: Vec<Value> = addresses.iter().map(|a| json!({"addresses": [a]})).collect();
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "ports": [{"port": 8080}], "endpoints": endpoints})
}

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

fn delete(server: &ApiServer, kind: &str, name: &str) {
    server.api().delete(kind, "default", name, &Default::default()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn unit_a_day_of_a_service() {
    let mut story = Story::begin().await;
    let api = story.server.api().clone();
    story.until_listed().await;
    assert!(
        story.cluster.has(Kind::Service, "default/kubernetes")
            && story.cluster.has(Kind::Namespace, "default")
    );
    assert!(story.source.state().connected());

    let created = api.create("services", service("web")).unwrap();
    let name = ObjectName::new("default", "web");
    story.until("the service is there", |c| c.has(Kind::Service, "default/web")).await;
    assert!(story.cluster.seen.at_least(Kind::Service, &name, version(&created)));
    assert!(!story.cluster.seen.at_least(Kind::Service, &name, version(&created) + 1));
    let Object::Service(web) = &story.cluster.objects[&(Kind::Service, name.clone())] else { panic!() };
    assert_eq!(web.cluster_ips.len(), 1);

    // A broken address costs that endpoint only, and is told.
    let lenient = api.without_validation();
    lenient.create("endpointslices", slice("hand-made", "web", &["10.244.1.5", "10.244.1.555"])).unwrap();
    story.until("the slice is there", |c| c.has(Kind::EndpointSlice, "default/hand-made")).await;
    let key = (Kind::EndpointSlice, ObjectName::new("default", "hand-made"));
    let Object::EndpointSlice(made) = &story.cluster.objects[&key] else { panic!() };
    assert_eq!(made.endpoints.len(), 1);
    assert!(story.cluster.problems[&key][0].message.contains("10.244.1.555"));

    // An object that cannot be read at all stops nothing.
    let mut unreadable = service("odd");
    unreadable["spec"]["ports"] = json!("eighty");
    unreadable["spec"]["clusterIP"] = json!("None");
    lenient.create("services", unreadable).unwrap();
    api.create("services", service("after")).unwrap();
    story.until("the next one is there", |c| c.has(Kind::Service, "default/after")).await;
    assert!(story.cluster.problems.contains_key(&(Kind::Service, ObjectName::new("default", "odd"))));
    assert!(!story.cluster.has(Kind::Service, "default/odd"));

    delete(&story.server, "services", "web");
    story.until("the service is gone", |c| !c.has(Kind::Service, "default/web")).await;
    assert!(story.cluster.seen.gone(Kind::Service, &name));
}

#[tokio::test(flavor = "multi_thread")]
async fn unit_only_the_own_nodes_pods_are_told() {
    let mut story = Story::begin().await;
    let api = story.server.api().without_validation();
    story.until_listed().await;
    for (name, node) in [("mine", "node-1"), ("theirs", "node-2")] {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}});
        api.create("pods", pod).unwrap();
    }
    story.until("the pod is there", |c| c.has(Kind::Pod, "default/mine")).await;
    assert_eq!(story.cluster.names(Kind::Pod), ["default/mine"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn unit_what_happens_during_an_interruption_is_caught_up() {
    let mut story = Story::begin().await;
    let api = story.server.api().clone();
    api.create("services", service("old")).unwrap();
    story.until_listed().await;
    story.until("the old service is there", |c| c.has(Kind::Service, "default/old")).await;

    let address = story.front.address();
    story.front.stop();
    let state = story.source.state();
    api.create("services", service("new")).unwrap();
    delete(&story.server, "services", "old");
    // The history is lost too: a new listing must find the difference.
    api.compact();
    tokio::time::timeout(PATIENCE, async {
        while state.connected() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the loss of the server must be seen");

    story.front = story.server.serve(TcpListener::bind(address).unwrap()).unwrap();
    story
        .until("the difference is known", |c| {
            c.has(Kind::Service, "default/new") && !c.has(Kind::Service, "default/old")
        })
        .await;
    assert!(story.cluster.listings[&Kind::Service] >= 2, "{:?}", story.cluster.listings);
    story.server.api().create("services", service("later")).unwrap();
    story.until("it goes on", |c| c.has(Kind::Service, "default/later")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unit_servers_are_tried_in_turn_and_left_when_they_die() {
    // The first one is dead from the start: nobody listens there.
    let dead = TcpListener::bind("127.0.0.1:0").unwrap();
    let dead_url = format!("https://{}", dead.local_addr().unwrap());
    drop(dead);
    let server = ApiServer::start(Config::default()).unwrap();
    let fronts: Vec<ServeHandle> =
        (0..2).map(|_| server.serve(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap()).collect();
    let folder = tempfile::tempdir().unwrap();
    let urls =
        [dead_url, format!("https://{}", fronts[0].address()), format!("https://{}", fronts[1].address())];
    let config = config(&server, &fronts[0], folder.path(), |config| config.servers = urls.to_vec());
    let (updates, source) = Source::start(config).await.unwrap();
    let front = server.serve(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
    let mut story = Story { server, front, cluster: Cluster::default(), updates, source, folder };
    story.until_listed().await;
    fronts[0].stop();
    story.server.api().create("services", service("web")).unwrap();
    story.until("the other server tells it", |c| c.has(Kind::Service, "default/web")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unit_a_start_without_the_server_tells_the_last_good_state() {
    let mut story = Story::begin().await;
    story.server.api().create("services", service("web")).unwrap();
    story.until("the service is there", |c| c.seen.complete() && c.has(Kind::Service, "default/web")).await;
    let (address, state) = (story.front.address(), story.folder.path().join("state"));
    story.front.stop();
    drop(story.source);
    tokio::time::sleep(Duration::from_millis(300)).await;

    let config = config(&story.server, &story.front, story.folder.path(), |_| {});
    let (updates, source) = Source::start(config).await.unwrap();
    (story.updates, story.source, story.cluster) = (updates, source, Cluster::default());
    story.until("the journal is told", |c| c.listings.len() == Kind::ALL.len()).await;
    assert!(story.cluster.from_journal > 0 && story.cluster.has(Kind::Service, "default/web"));
    assert!(!story.cluster.seen.complete(), "a journal is not the API server's word");
    assert!(!story.source.state().connected());

    delete(&story.server, "services", "web");
    story.front = story.server.serve(TcpListener::bind(address).unwrap()).unwrap();
    story.until("the truth is known", |c| c.seen.complete() && !c.has(Kind::Service, "default/web")).await;
    assert!(state.join(beeline_source::journal::FILE_NAME).exists());
}
