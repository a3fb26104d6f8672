//! One pod's life: sandbox, containers, status, removal.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Resource, ResourceExt};
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::container::PodFacts;
use super::kubelet::{Kubelet, KubeletNode, Wish};
use super::plugin::Sandbox;
use super::pod_status::Run;
use super::supervise::{self, Backoff, Change, Job};
use crate::paths::PodPaths;
use crate::record::{PodRecord, write_json};
use crate::{cgroup, mounts, wire};

/// The grace period of a pod that names none.
const GRACE_SECONDS: i64 = 30;

/// The first pause before a sandbox is tried again, and the longest.
const SANDBOX_BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How often a call to the API is tried.
const API_ATTEMPTS: u32 = 5;

/// Runs one pod.
pub struct Worker {
    kubelet: Arc<Kubelet>,
    node: KubeletNode,
    pod: Arc<Pod>,
    wish: watch::Receiver<Wish>,
    paths: PodPaths,
    record: PodRecord,
    run: Run,
    written: Option<PodStatus>,
}

impl Worker {
    /// A worker for a pod of this node.
    pub fn new(kubelet: Arc<Kubelet>, pod: Arc<Pod>, wish: watch::Receiver<Wish>) -> Worker {
        let (namespace, name, uid) =
            (pod.namespace().unwrap_or_default(), pod.name_any(), pod.uid().unwrap_or_default());
        let paths = kubelet.paths.pod(&namespace, &name);
        let place = kubelet.place();
        let netns = if host_network(&pod) { place.netns.clone() } else { paths.netns() };
        let record = PodRecord {
            cgroup: place.pods_cgroup.join(&uid),
            container_id: container_id(),
            namespace,
            name,
            uid,
            node: kubelet.name.clone(),
            netns,
        };
        let run = Run::new(&pod, place.addresses.clone(), now());
        Worker { kubelet, node: place, pod, wish, paths, record, run, written: None }
    }

    fn sandbox(&self) -> Sandbox {
        Sandbox::of(&self.record)
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.kubelet.client.clone(), &self.record.namespace)
    }

    /// How long the pod has left, once it is to go.
    fn doom(wish: &Wish) -> Option<Duration> {
        let Some(pod) = wish else { return Some(Duration::ZERO) };
        pod.meta().deletion_timestamp.as_ref()?;
        let own = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
        let seconds = pod.meta().deletion_grace_period_seconds.or(own).unwrap_or(GRACE_SECONDS);
        Some(Duration::from_secs(seconds.try_into().unwrap_or(0)))
    }

    fn facts(&self, pod_ips: Vec<String>) -> PodFacts {
        PodFacts {
            name: self.record.name.clone(),
            namespace: self.record.namespace.clone(),
            uid: self.record.uid.clone(),
            node: self.record.node.clone(),
            host_ip: self.node.addresses.first().cloned().unwrap_or_default(),
            pod_ips,
        }
    }

    fn job(&self, index: usize, facts: &PodFacts) -> Job {
        let spec = self.pod.spec.clone().unwrap_or_default();
        let container = spec.containers[index].clone();
        Job {
            index,
            log: self.paths.container_log(&container.name),
            spec: container,
            restart_policy: spec.restart_policy.unwrap_or_default(),
            facts: facts.clone(),
            images: self.kubelet.images.clone(),
            own: self.kubelet.own.clone(),
            netns: self.record.netns.clone(),
            cgroup: self.record.cgroup.clone(),
        }
    }
}

/// Lives one pod's life.
pub async fn run(mut worker: Worker) {
    if worker.run.outlived(&worker.pod, now()) {
        write_status(&mut worker).await;
        doomed(&mut worker.wish).await;
    }
    if Worker::doom(&worker.wish.borrow().clone()).is_none()
        && let Some(pod_ips) = make_sandbox(&mut worker).await
    {
        run_containers(&mut worker, pod_ips).await;
    }
    remove(&worker).await;
}

/// Tries until the sandbox stands; none if the pod is to go before.
async fn make_sandbox(worker: &mut Worker) -> Option<Vec<String>> {
    let mut backoff = Backoff::new(SANDBOX_BACKOFF.0, SANDBOX_BACKOFF.1);
    loop {
        match try_sandbox(worker).await {
            Ok(addresses) => return Some(addresses),
            Err(error) => {
                let message = format!("{error:#}");
                tracing::warn!("{}/{}: no sandbox: {message}", worker.record.namespace, worker.record.name);
                worker.run.sandbox_failed(message.clone());
                write_status(worker).await;
                emit_event(worker, "FailedCreatePodSandBox", &message).await;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.pause()) => (),
            _ = doomed(&mut worker.wish) => return None,
        }
    }
}

/// Waits until the pod is to go; hands back how long it has left.
async fn doomed(wish: &mut watch::Receiver<Wish>) -> Duration {
    let doomed = wish.wait_for(|wish| Worker::doom(wish).is_some()).await;
    doomed.ok().and_then(|wish| Worker::doom(&wish)).unwrap_or_default()
}

async fn try_sandbox(worker: &Worker) -> Result<Vec<String>> {
    let bound = worker.kubelet.sandboxes.acquire().await.context("the lab is ending")?;
    std::fs::create_dir_all(worker.paths.root()).context("cannot create the pod's folder")?;
    cgroup::create(&worker.record.cgroup)?;
    if host_network(&worker.pod) {
        write_json(&worker.paths.record(), &worker.record)?;
        return Ok(worker.node.addresses.clone());
    }
    let netns = worker.record.netns.clone();
    on_thread(move || if netns.exists() { Ok(()) } else { wire::pod_namespace(&netns) }).await?;
    let sandbox = worker.sandbox();
    let added = worker.node.plugin.add(&sandbox).await;
    if added.is_err() {
        // The runtime's duty after a failed ADD (CNI 1.1, section 2).
        let _ = worker.node.plugin.delete(&sandbox).await;
    }
    drop(bound);
    let addresses = added?;
    write_json(&worker.paths.record(), &worker.record)?;
    Ok(addresses)
}

/// Runs the containers until the pod is to go.
async fn run_containers(worker: &mut Worker, pod_ips: Vec<String>) {
    worker.run.sandbox_ready(pod_ips.clone());
    let count = worker.pod.spec.as_ref().map_or(0, |spec| spec.containers.len());
    let facts = worker.facts(pod_ips);
    let (sender, mut changes) = mpsc::channel(16);
    let (stop, stopped) = watch::channel(None);
    let mut tasks = JoinSet::new();
    for index in 0..count {
        tasks.spawn(supervise::run(worker.job(index, &facts), sender.clone(), stopped.clone()));
    }
    drop(sender);
    let mut wish = worker.wish.clone();
    loop {
        tokio::select! {
            Some((index, change)) = changes.recv() => {
                note(worker, index, change);
                while let Ok((index, change)) = changes.try_recv() {
                    note(worker, index, change);
                }
                write_status(worker).await;
            }
            grace = doomed(&mut wish) => {
                let _ = stop.send(Some(grace));
                break;
            }
        }
    }
    drop(changes);
    while tasks.join_next().await.is_some() {}
}

fn note(worker: &mut Worker, index: usize, change: Change) {
    if let Change::Waiting { reason, message } = &change {
        tracing::warn!("{}/{}: {reason}: {message}", worker.record.namespace, worker.record.name);
    }
    worker.run.container_changed(index, change, now());
}

/// Takes everything of the pod away, then the object.
async fn remove(worker: &Worker) {
    let gone = cgroup_removal(worker).await;
    if !host_network(&worker.pod) && worker.record.netns.exists() {
        if let Err(error) = worker.node.plugin.delete(&worker.sandbox()).await {
            tracing::warn!("{}/{}: DEL: {error:#}", worker.record.namespace, worker.record.name);
        }
        let netns = worker.record.netns.clone();
        report(on_thread(move || mounts::unmount(&netns)).await);
    }
    report(gone);
    report(
        std::fs::remove_dir_all(worker.paths.root())
            .or_else(absent_is_fine)
            .context("the pod's folder stays"),
    );
    finalise(worker).await;
}

async fn cgroup_removal(worker: &Worker) -> Result<()> {
    let cgroup: PathBuf = worker.record.cgroup.clone();
    on_thread(move || cgroup::remove(&cgroup)).await
}

fn absent_is_fine(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

fn report(result: Result<()>) {
    if let Err(error) = result {
        tracing::warn!("{error:#}");
    }
}

/// Tells the API that nothing is left of the pod.
async fn finalise(worker: &Worker) {
    let preconditions = Preconditions { uid: Some(worker.record.uid.clone()), resource_version: None };
    let parameters = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(preconditions),
        ..Default::default()
    };
    for _ in 0..API_ATTEMPTS {
        match worker.pods().delete(&worker.record.name, &parameters).await {
            Ok(_) => return,
            // Gone, or another pod of that name stands there.
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => return,
            Err(error) => tracing::warn!("cannot finalise {}: {error}", worker.record.name),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Writes the status if it differs from what was written last.
async fn write_status(worker: &mut Worker) {
    let terminating = Worker::doom(&worker.wish.borrow().clone()).is_some();
    let status = worker.run.status(worker.written.as_ref(), terminating, &now());
    if worker.written.as_ref() == Some(&status) {
        return;
    }
    let patch = json!({"metadata": {"uid": worker.record.uid}, "status": status});
    for _ in 0..API_ATTEMPTS {
        let parameters = PatchParams::default();
        match worker.pods().patch_status(&worker.record.name, &parameters, &Patch::Merge(&patch)).await {
            Ok(_) => break,
            Err(kube::Error::Api(error)) if error.code == 404 || error.code == 409 => break,
            Err(error) => tracing::warn!("cannot write the status of {}: {error}", worker.record.name),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    worker.written = Some(status);
}

async fn emit_event(worker: &Worker, reason: &str, message: &str) {
    let event = Event {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}.", worker.record.name)),
            namespace: Some(worker.record.namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: Some(worker.record.name.clone()),
            namespace: Some(worker.record.namespace.clone()),
            uid: Some(worker.record.uid.clone()),
            ..ObjectReference::default()
        },
        reason: Some(reason.into()),
        message: Some(message.into()),
        type_: Some("Warning".into()),
        source: Some(EventSource {
            component: Some("kubelet".into()),
            host: Some(worker.record.node.clone()),
        }),
        first_timestamp: Some(now()),
        last_timestamp: Some(now()),
        count: Some(1),
        ..Event::default()
    };
    let events: Api<Event> = Api::namespaced(worker.kubelet.client.clone(), &worker.record.namespace);
    if let Err(error) = events.create(&PostParams::default(), &event).await {
        tracing::warn!("cannot write an event for {}: {error}", worker.record.name);
    }
}

/// Blocking work, away from the runtime's threads.
async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.context("a thread of the lab panicked")?
}

fn host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false)
}

fn now() -> Time {
    Time(Timestamp::now())
}

/// 64 random hexadecimal digits, as container runtimes use.
fn container_id() -> String {
    let mut bytes = [0; 32];
    // Fails on no supported kernel; zeroes would still be one valid name.
    let _ = std::fs::File::open("/dev/urandom")
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes));
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
