//! Pod worker: sandbox, containers, status, removal.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use beeline_lab_net::record::write_json;
use beeline_lab_net::{cgroup, mounts, netdev};
use kube::api::{DeleteParams, Preconditions};
use tokio::sync::watch;

use crate::backoff::Backoff;
use crate::node::DesiredPod;
use crate::worker::{API_ATTEMPTS, Worker, host_network, now, remaining_grace, write_status};
use crate::{etc, pod_containers};

/// Minimum and maximum backoff of sandbox creation.
const SANDBOX_BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

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

/// Runs blocking work outside the async runtime's threads.
async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.context("a worker thread panicked")?
}
