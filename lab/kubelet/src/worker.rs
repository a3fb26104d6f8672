//! The worker of a pod: its state, and what the stages of its life share.

use std::sync::Arc;
use std::time::Duration;

use beeline_lab_net::paths::PodPaths;
use beeline_lab_net::record::PodRecord;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kube::{Resource, ResourceExt};
use serde_json::json;
use tokio::sync::watch;

use crate::facts::PodFacts;
use crate::node::{DesiredPod, Kubelet, KubeletNode};
use crate::plugin::Sandbox;
use crate::pod_status::Run;
use crate::shared::Shared;
use crate::supervise::container_id;
use crate::volumes::Volumes;

/// Number of attempts of an API call.
pub const API_ATTEMPTS: u32 = 5;

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

    /// Its sandbox.
    pub fn sandbox(&self) -> Sandbox {
        Sandbox::of(&self.record)
    }

    /// The pods of its namespace in the API.
    pub fn pods(&self) -> Api<Pod> {
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

    /// What is known of the pod, with these addresses.
    pub fn facts(&self, pod_ips: Vec<String>) -> PodFacts {
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
    Some(
        requested
            .map_or_else(|| grace(pod), |requested| Duration::from_secs(requested.try_into().unwrap_or(0))),
    )
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

/// The grace period of a pod.
pub fn grace(pod: &Pod) -> Duration {
    let own = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    Duration::from_secs(own.unwrap_or(30).try_into().unwrap_or(0))
}

/// Whether the pod is in the network namespace of its node.
pub fn host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false)
}

/// The current time in the API's format.
pub fn now() -> Time {
    Time(Timestamp::now())
}
