//! A minimal kubelet: pods scheduled to its node become namespaces and
//! processes. There is one watch per node and one worker per pod. All of them
//! end with the kubelet's task and leave their namespaces and processes
//! behind, like a power failure.

use std::collections::HashMap;
use std::sync::Arc;

use beeline_lab_net::record::pod_records;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher::{self, Event};
use kube::{Api, ResourceExt};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::node::{DesiredPod, Kubelet};
use crate::plugin::Sandbox;
use crate::pod;
use crate::worker::Worker;

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

/// Watches pods and runs them for as long as the daemon runs.
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

/// After a reboot the recorded sandboxes no longer exist. Calls DEL without a
/// network namespace for each, as container runtimes do.
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
        // It was removed here; its Pod object is about to be deleted.
        Some(running) if running.uid == uid => running,
        // The old pod with this name must be removed first: both use the same
        // directory.
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
    // The entry stays until a pod with the same name is created or the worker
    // ends, because its task must be awaited in that case.
    if let Some(running) = pods.get(key) {
        let _ = running.desired.send(None);
    }
    pods.retain(|_, running| !running.task.is_finished());
}
