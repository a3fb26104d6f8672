//! Pod worker: sandbox, containers, status, removal.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use beeline_lab_net::paths::PodPaths;
use beeline_lab_net::record::{PodRecord, write_json};
use beeline_lab_net::{cgroup, mounts, netdev};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Resource, ResourceExt};
use serde_json::json;
use tokio::sync::watch;

use crate::backoff::Backoff;
use crate::facts::PodFacts;
use crate::kubelet::{DesiredPod, Kubelet, KubeletNode};
use crate::plugin::Sandbox;
use crate::pod_status::Run;
use crate::shared::Shared;
use crate::supervise::container_id;
use crate::volumes::Volumes;
use crate::{etc, pod_containers};

/// Minimum and maximum backoff of sandbox creation.
const SANDBOX_BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Number of attempts of an API call.
const API_ATTEMPTS: u32 = 5;

/// Runs one pod.
pub struct Worker {
    /// Its kubelet.
    pub kubelet: Arc<Kubelet>,
    /// Its node.
    pub node: KubeletNode,
    /// The pod when the worker was started.
    pub pod: Arc<Pod>,
    /// The desired state of the pod.
    pub desired: watch::Receiver<DesiredPod>,
    /// Its files.
    pub paths: PodPaths,
    /// Record of the pod.
    pub record: PodRecord,
    /// State of its containers.
    pub run: Run,
    written: Option<PodStatus>,
}

impl Worker {
    /// A worker for a pod of this node.
    pub fn new(kubelet: Arc<Kubelet>, pod: Arc<Pod>, desired: watch::Receiver<DesiredPod>) -> Worker {
        let (namespace, name, uid) =
            (pod.namespace().unwrap_or_default(), pod.name_any(), pod.uid().unwrap_or_default());
        let paths = kubelet.paths.pod(&namespace, &name);
        let node = kubelet.current_node();
        let netns = if host_network(&pod) { node.netns.clone() } else { paths.netns() };
        let record = PodRecord {
            cgroup: node.pods_cgroup.join(&uid),
            container_id: container_id(),
            namespace,
            name,
            uid,
            node: kubelet.name.clone(),
            netns,
            containers: known_containers(&pod),
        };
        let run = Run::new(&pod, node.addresses.clone(), now());
        Worker { kubelet, node, pod, desired, paths, record, run, written: None }
    }

    fn sandbox(&self) -> Sandbox {
        Sandbox::of(&self.record)
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.kubelet.client.clone(), &self.record.namespace)
    }

    /// State shared by all kubelets.
    pub fn shared(&self) -> Arc<Shared> {
        self.kubelet.shared.clone()
    }

    /// Its volumes.
    pub fn volumes(&self) -> Volumes {
        Volumes { directory: self.paths.volumes(), disk: self.kubelet.paths.node(&self.kubelet.name).disk() }
    }

    fn facts(&self, pod_ips: Vec<String>) -> PodFacts {
        PodFacts {
            pod: Pod::clone(&self.pod),
            node: self.record.node.clone(),
            host_ips: self.node.addresses.clone(),
            pod_ips,
            capacity: self.kubelet.shared.capacity,
        }
    }
}

/// The remaining grace period of a pod that is to be terminated; none for
/// others.
pub fn remaining_grace(desired: &DesiredPod) -> Option<Duration> {
    let Some(pod) = desired else { return Some(Duration::ZERO) };
    pod.meta().deletion_timestamp.as_ref()?;
    let requested = pod.meta().deletion_grace_period_seconds;
    Some(requested.map_or_else(
        || pod_containers::grace(pod),
        |requested| Duration::from_secs(requested.try_into().unwrap_or(0)),
    ))
}

/// Its containers, the default container first.
fn known_containers(pod: &Pod) -> Vec<String> {
    let default = pod.annotations().get("kubectl.kubernetes.io/default-container").cloned();
    let spec = pod.spec.clone().unwrap_or_default();
    let all = spec.containers.into_iter().chain(spec.init_containers.into_iter().flatten());
    let mut names: Vec<String> = all.map(|container| container.name).collect();
    names.sort_by_key(|name| Some(name) != default.as_ref());
    names
}

/// Runs a pod until it is removed.
pub async fn run(mut worker: Worker) {
    if worker.run.completed_before_reboot(&worker.pod, now()) {
        write_status(&mut worker).await;
        until_terminating(&mut worker.desired).await;
    }
    if remaining_grace(&worker.desired.borrow().clone()).is_none()
        && let Some(pod_ips) = make_sandbox(&mut worker).await
    {
        worker.run.sandbox_ready(pod_ips.clone());
        let facts = worker.facts(pod_ips);
        pod_containers::run(&mut worker, facts).await;
    }
    remove(&worker).await;
}

/// Retries until the sandbox exists; none if the pod is terminated before.
async fn make_sandbox(worker: &mut Worker) -> Option<Vec<String>> {
    let mut backoff = Backoff::new(SANDBOX_BACKOFF.0, SANDBOX_BACKOFF.1);
    loop {
        let failed = match worker.volumes().make(&worker.kubelet.client, &worker.facts(Vec::new())).await {
            Err(error) => ("FailedMount", error),
            Ok(()) => match try_sandbox(worker).await {
                Ok(addresses) => return Some(addresses),
                Err(error) => ("FailedCreatePodSandBox", error),
            },
        };
        let message = format!("{:#}", failed.1);
        worker.run.sandbox_failed(message.clone());
        write_status(worker).await;
        worker.kubelet.shared.events.warning(&worker.record, None, failed.0, message);
        tokio::select! {
            () = tokio::time::sleep(backoff.pause()) => (),
            _ = until_terminating(&mut worker.desired) => return None,
        }
    }
}

/// Waits until the pod is to be terminated; returns its remaining grace
/// period.
async fn until_terminating(desired: &mut watch::Receiver<DesiredPod>) -> Duration {
    let terminating = desired.wait_for(|desired| remaining_grace(desired).is_some()).await;
    terminating.ok().and_then(|desired| remaining_grace(&desired)).unwrap_or_default()
}

async fn try_sandbox(worker: &Worker) -> Result<Vec<String>> {
    let bound = worker.kubelet.shared.sandboxes.acquire().await.context("the lab is shutting down")?;
    std::fs::create_dir_all(worker.paths.root()).context("cannot create the pod's directory")?;
    cgroup::create(&worker.record.cgroup)?;
    if host_network(&worker.pod) {
        write_files(worker, &worker.node.addresses)?;
        return Ok(worker.node.addresses.clone());
    }
    let netns = worker.record.netns.clone();
    on_thread(move || if netns.exists() { Ok(()) } else { netdev::pod_namespace(&netns) }).await?;
    let sandbox = worker.sandbox();
    let added = worker.node.plugin.add(&sandbox).await;
    if added.is_err() {
        // The runtime must call DEL after a failed ADD (CNI 1.1, section 2).
        let _ = worker.node.plugin.delete(&sandbox).await;
    }
    drop(bound);
    let addresses = added?;
    write_files(worker, &addresses)?;
    Ok(addresses)
}

fn write_files(worker: &Worker, addresses: &[String]) -> Result<()> {
    etc::write(&worker.paths.etc(), &worker.pod, &worker.record.node, addresses)?;
    write_json(&worker.paths.record(), &worker.record)
}

/// Removes everything of the pod, then the Pod object.
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
            .or_else(ignore_not_found)
            .context("cannot remove the pod's directory"),
    );
    finalise(worker).await;
}

async fn cgroup_removal(worker: &Worker) -> Result<()> {
    let cgroup: PathBuf = worker.record.cgroup.clone();
    on_thread(move || cgroup::remove(&cgroup)).await
}

fn ignore_not_found(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

fn report(result: Result<()>) {
    if let Err(error) = result {
        tracing::warn!("{error:#}");
    }
}

/// Deletes the Pod object once nothing is left of the pod.
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
            // Deleted, or replaced by another pod of the same name.
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => return,
            Err(error) => tracing::warn!("cannot delete the Pod object {}: {error}", worker.record.name),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Writes the status if it has changed since the last write.
pub async fn write_status(worker: &mut Worker) {
    let status = worker.run.status(worker.written.as_ref(), &now());
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

/// Runs blocking work outside the async runtime's threads.
async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.context("a worker thread panicked")?
}

fn host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false)
}

/// The current time in the API's format.
pub fn now() -> Time {
    Time(Timestamp::now())
}
