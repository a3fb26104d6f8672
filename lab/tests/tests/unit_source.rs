//! The source with a real API server in this process, over TLS on loopback:
//! listings, changes, invalid objects, interruptions, failing servers, and a
//! start without a server.

#![expect(clippy::unwrap_used, reason = "a test may panic, and says where")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use beeline_apiserver::{ApiServer, Config, ServeHandle};
use beeline_model::{Change, Kind, Object, ObjectName, Problem};
use beeline_source::{Origin, Source, SourceConfig, SyncedVersions, Update};
use serde_json::{Value, json};
use tokio::sync::mpsc::Receiver;
use tokio::sync::watch;
use tokio::task::JoinHandle;

const TIMEOUT: Duration = Duration::from_secs(20);

/// The state of a reader of the stream.
#[derive(Default)]
struct Cluster {
    objects: BTreeMap<(Kind, ObjectName), Object>,
    problems: BTreeMap<(Kind, ObjectName), Vec<Problem>>,
    listings: BTreeMap<Kind, u32>,
    listed: Vec<(Kind, ObjectName)>,
    from_journal: u32,
    versions: SyncedVersions,
}

impl Cluster {
    fn take(&mut self, update: Update) {
        self.versions.record(update.version_event);
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

    /// Reads until the condition holds.
    async fn until(&mut self, what: &str, expected: impl Fn(&Cluster) -> bool) {
        let deadline = tokio::time::Instant::now() + TIMEOUT;
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

    /// Serves at the same address again, once it is free: a parallel test may
    /// still have a connection there.
    async fn serve_again(&mut self, address: SocketAddr) {
        let deadline = tokio::time::Instant::now() + TIMEOUT;
        let listener = loop {
            match TcpListener::bind(address) {
                Ok(listener) => break listener,
                Err(error) => assert!(tokio::time::Instant::now() < deadline, "{address}: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        self.front = self.server.serve(listener).unwrap();
    }

    async fn until_listed(&mut self) {
        self.until("everything is listed", |c| c.versions.has_synced()).await;
    }
}

/// A proxy in front of the server that may hang: then its connections stay open
/// and new ones are accepted, but nothing is read.
struct Machine {
    address: SocketAddr,
    hangs: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Machine {
    async fn before(server: SocketAddr) -> Machine {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (hangs, seen) = watch::channel(false);
        let task = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut seen = seen.clone();
                tokio::spawn(async move {
                    let serve = async {
                        let mut server = tokio::net::TcpStream::connect(server).await.unwrap();
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                    };
                    let hung = async { seen.wait_for(|hangs| *hangs).await.is_ok() };
                    let has_hung = tokio::select! {
                        biased;
                        hung = hung => hung,
                        () = serve => false,
                    };
                    if has_hung {
                        // Its connections stay open.
                        std::future::pending::<()>().await;
                    }
                });
            }
        });
        Machine { address, hangs, task }
    }

    fn url(&self) -> String {
        format!("https://{}", self.address)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.task.abort();
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
    config.start_timeout = Duration::from_millis(200);
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
    assert!(story.cluster.versions.at_least(Kind::Service, &name, version(&created)));
    assert!(!story.cluster.versions.at_least(Kind::Service, &name, version(&created) + 1));
    let Object::Service(web) = &story.cluster.objects[&(Kind::Service, name.clone())] else { panic!() };
    assert_eq!(web.cluster_ips.len(), 1);

    // A broken address only affects that endpoint, and is reported.
    let lenient = api.without_validation();
    lenient.create("endpointslices", slice("hand-made", "web", &["10.244.1.5", "10.244.1.555"])).unwrap();
    story.until("the slice is there", |c| c.has(Kind::EndpointSlice, "default/hand-made")).await;
    let key = (Kind::EndpointSlice, ObjectName::new("default", "hand-made"));
    let Object::EndpointSlice(made) = &story.cluster.objects[&key] else { panic!() };
    assert_eq!(made.endpoints.len(), 1);
    assert!(story.cluster.problems[&key][0].message.contains("10.244.1.555"));

    // An object that cannot be decoded stops nothing.
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
    assert!(story.cluster.versions.is_deleted(Kind::Service, &name));
}

#[tokio::test(flavor = "multi_thread")]
async fn unit_only_pods_of_the_own_node_are_watched() {
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
async fn unit_changes_during_an_interruption_are_synced() {
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
    // The history is compacted too: a new listing must find the difference.
    api.compact();
    tokio::time::timeout(TIMEOUT, async {
        while state.connected() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the loss of the server must be seen");

    story.serve_again(address).await;
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
async fn unit_servers_are_tried_in_turn_and_switched_when_they_fail() {
    // The first server is down from the start: nothing listens there.
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
    story.until("the other server sends it", |c| c.has(Kind::Service, "default/web")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unit_an_unresponsive_server_is_left_and_used_again_after_recovery() {
    let server = ApiServer::start(Config::default()).unwrap();
    let front = server.serve(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
    let (first, second) = (Machine::before(front.address()).await, Machine::before(front.address()).await);
    // Accepts connections and never responds.
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let urls = [format!("https://{}", mute.local_addr().unwrap()), first.url(), second.url()];
    let config = config(&server, &front, folder.path(), |config| {
        config.servers = urls.to_vec();
        config.liveness_interval = Duration::from_millis(200);
    });
    let (updates, source) = Source::start(config).await.unwrap();
    let mut story = Story { server, front, cluster: Cluster::default(), updates, source, folder };
    story.until_listed().await;

    let api = story.server.api().clone();
    first.hangs.send_replace(true);
    api.create("services", service("served-by-the-second")).unwrap();
    let has = |name: &'static str| move |c: &Cluster| c.has(Kind::Service, name);
    story.until("the second sends it", has("default/served-by-the-second")).await;

    // No server responds until the first one recovers.
    second.hangs.send_replace(true);
    api.create("services", service("served-by-the-first")).unwrap();
    let state = story.source.state();
    tokio::time::timeout(TIMEOUT, async {
        while state.connected() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the loss of the connection must be noticed");
    first.hangs.send_replace(false);
    story.until("the first sends it", has("default/served-by-the-first")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unit_versions_that_expire_under_load_cost_no_change() {
    let mut story = Story::begin().await;
    let api = story.server.api().clone();
    story.until_listed().await;
    let address = story.front.address();
    let mut expected = BTreeSet::from(["default/kubernetes".to_owned()]);
    for round in 0..4 {
        story.front.stop();
        for number in 0..20 {
            api.create("services", service(&format!("r{round}-{number}"))).unwrap();
            expected.insert(format!("default/r{round}-{number}"));
        }
        for number in 0..20 * usize::from(round > 0) {
            delete(&story.server, "services", &format!("r{}-{number}", round - 1));
            expected.remove(&format!("default/r{}-{number}", round - 1));
        }
        // The versions from which the watches would continue are compacted.
        api.compact();
        story.serve_again(address).await;
        api.create("services", service(&format!("after-{round}"))).unwrap();
        expected.insert(format!("default/after-{round}"));
        let back = tokio::time::Instant::now();
        let last = format!("default/after-{round}");
        story.until("the last one is there", |c| c.has(Kind::Service, &last)).await;
        assert!(back.elapsed() < Duration::from_secs(4), "after {:?}", back.elapsed());
    }
    let expected: Vec<String> = expected.into_iter().collect();
    story.until("nothing is missing or too much", |c| c.names(Kind::Service) == expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unit_a_start_without_the_server_replays_the_journal() {
    let mut story = Story::begin().await;
    story.server.api().create("services", service("web")).unwrap();
    story
        .until("the service is there", |c| c.versions.has_synced() && c.has(Kind::Service, "default/web"))
        .await;
    let (address, state) = (story.front.address(), story.folder.path().join("state"));
    story.front.stop();
    drop(story.source);
    tokio::time::sleep(Duration::from_millis(300)).await;

    let config = config(&story.server, &story.front, story.folder.path(), |_| {});
    let (updates, source) = Source::start(config).await.unwrap();
    (story.updates, story.source, story.cluster) = (updates, source, Cluster::default());
    story.until("the journal is replayed", |c| c.listings.len() == Kind::ALL.len()).await;
    assert!(story.cluster.from_journal > 0 && story.cluster.has(Kind::Service, "default/web"));
    assert!(!story.cluster.versions.has_synced(), "a journal does not count as a live listing");
    assert!(!story.source.state().connected());

    delete(&story.server, "services", "web");
    story.serve_again(address).await;
    story
        .until("the live state is known", |c| c.versions.has_synced() && !c.has(Kind::Service, "default/web"))
        .await;
    assert!(state.join(beeline_source::journal::FILE_NAME).exists());
}
