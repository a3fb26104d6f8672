//! The part of a kubelet that the lab needs: pods that are scheduled to its
//! node become namespaces and processes. One watch per node, one worker per
//! pod; all of them end with the task that runs the kubelet, and leave what
//! they made as a power failure would.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::plugin::{Plugin, Sandbox};
use super::pod::{self, Worker};
use super::shared::Shared;
use crate::paths::LabPaths;
use crate::record::pod_records;

/// What the workers of a node share.
pub struct Kubelet {
    /// The API.
    pub client: Client,
    /// The lab's files.
    pub paths: LabPaths,
    /// Its node's name.
    pub name: String,
    /// Its node.
    pub node: RwLock<KubeletNode>,
    /// Local programs by image.
    pub images: BTreeMap<String, PathBuf>,
    /// The program behind the built-in image: this one.
    pub own: PathBuf,
    /// What the kubelets of the lab share.
    pub shared: Arc<Shared>,
}

/// A node, as its kubelet sees it.
#[derive(Clone, Debug)]
pub struct KubeletNode {
    /// Its addresses, IPv4 first.
    pub addresses: Vec<String>,
    /// Its network namespace.
    pub netns: PathBuf,
    /// The cgroup of its pods.
    pub pods_cgroup: PathBuf,
    /// Its network plugin.
    pub plugin: Plugin,
}

impl Kubelet {
    /// Its node as it is now.
    pub fn current_node(&self) -> KubeletNode {
        self.node.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The node has other addresses from now on; pods that run keep theirs.
    pub fn readdress(&self, addresses: Vec<String>) {
        self.node.write().unwrap_or_else(PoisonError::into_inner).addresses = addresses;
    }
}

/// What a worker is told: the pod as it is, or that it is gone.
pub type DesiredPod = Option<Arc<Pod>>;

struct Running {
    uid: String,
    desired: watch::Sender<DesiredPod>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Watches pods and runs them, for as long as the daemon lives.
pub async fn run(kubelet: Arc<Kubelet>) {
    forget_sandboxes(&kubelet).await;
    let api: Api<Pod> = Api::all(kubelet.client.clone());
    let own = watcher::Config::default().fields(&format!("spec.nodeName={}", kubelet.name));
    let mut events = watcher::watcher(api, own).boxed();
    let mut pods: HashMap<(String, String), Running> = HashMap::new();
    let mut listed = Vec::new();
    loop {
        match events.try_next().await {
            Ok(Some(Event::Apply(pod))) => update_pod(&kubelet, &mut pods, pod),
            Ok(Some(Event::Delete(pod))) => forget(&mut pods, &key(&pod)),
            Ok(Some(Event::Init)) => listed.clear(),
            Ok(Some(Event::InitApply(pod))) => {
                listed.push(key(&pod));
                update_pod(&kubelet, &mut pods, pod);
            }
            Ok(Some(Event::InitDone)) => {
                let gone: Vec<_> = pods.keys().filter(|key| !listed.contains(key)).cloned().collect();
                gone.iter().for_each(|key| forget(&mut pods, key));
            }
            Ok(None) => return,
            Err(error) => {
                tracing::warn!("watch of pods failed, restarting it: {error}");
                tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            }
        }
    }
}

/// After a reboot: the sandboxes that the runtime remembers are gone; the
/// plugin is told so (DEL without a namespace), as container runtimes do.
async fn forget_sandboxes(kubelet: &Kubelet) {
    let records = pod_records(&kubelet.paths).into_iter().filter(|record| record.node == kubelet.name);
    let node = kubelet.current_node();
    for record in records {
        if record.netns == node.netns {
            continue;
        }
        if let Err(error) = node.plugin.delete(&Sandbox::of(&record)).await {
            tracing::warn!("{}/{}: DEL after a reboot: {error:#}", record.namespace, record.name);
        }
        let _ = std::fs::remove_file(kubelet.paths.pod(&record.namespace, &record.name).record());
    }
}

fn key(pod: &Pod) -> (String, String) {
    (pod.namespace().unwrap_or_default(), pod.name_any())
}

fn update_pod(kubelet: &Arc<Kubelet>, pods: &mut HashMap<(String, String), Running>, pod: Pod) {
    let (key, uid, pod) = (key(&pod), pod.uid().unwrap_or_default(), Arc::new(pod));
    let before = pods.remove(&key);
    let running = match before {
        Some(running) if running.uid == uid && !running.task.is_finished() => {
            let _ = running.desired.send(Some(pod));
            running
        }
        // It has been removed here and will be from the API.
        Some(running) if running.uid == uid => running,
        // The one of the same name has to be gone first: they share a directory.
        before => start(kubelet, uid, pod, before),
    };
    pods.insert(key, running);
}

fn start(kubelet: &Arc<Kubelet>, uid: String, pod: Arc<Pod>, before: Option<Running>) -> Running {
    let (sender, receiver) = watch::channel(Some(pod.clone()));
    let worker = Worker::new(kubelet.clone(), pod, receiver);
    let task = tokio::spawn(async move {
        if let Some(mut before) = before {
            let _ = before.desired.send(None);
            let _ = (&mut before.task).await;
        }
        pod::run(worker).await;
    });
    Running { uid, desired: sender, task }
}

fn forget(pods: &mut HashMap<(String, String), Running>, key: &(String, String)) {
    // The entry stays until a pod of the same name comes or the worker ends:
    // its task must be awaited then.
    if let Some(running) = pods.get(key) {
        let _ = running.desired.send(None);
    }
    pods.retain(|_, running| !running.task.is_finished());
}
