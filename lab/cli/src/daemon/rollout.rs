//! Rollout status of workloads, as `kubectl rollout status` computes it. Pure.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::status;

/// After this many restarts a container is considered failed.
const RESTARTS_MAX: i32 = 3;

/// Progress of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Complete.
    Done,
    /// Not complete; the reason.
    Pending(String),
    /// Failed permanently; the reason.
    Failed(String),
}

/// A Deployment.
pub fn deployment(object: &Deployment, pods: &[Pod]) -> Progress {
    let wanted = object.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let status = object.status.clone().unwrap_or_default();
    let updated = status.updated_replicas.unwrap_or(0);
    let done = status.observed_generation >= object.metadata.generation
        && updated >= wanted
        && status.replicas.unwrap_or(0) <= updated
        && status.available_replicas.unwrap_or(0) >= updated;
    progress(done, wanted, pods)
}

/// A ReplicaSet.
pub fn replica_set(object: &ReplicaSet, pods: &[Pod]) -> Progress {
    let wanted = object.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let status = object.status.clone().unwrap_or_default();
    let observed = status.observed_generation >= object.metadata.generation;
    progress(observed && status.available_replicas.unwrap_or(0) >= wanted, wanted, pods)
}

/// A DaemonSet.
pub fn daemon_set(object: &DaemonSet, pods: &[Pod]) -> Progress {
    let status = object.status.clone().unwrap_or_default();
    let wanted = status.desired_number_scheduled;
    let done = status.observed_generation >= object.metadata.generation
        && status.updated_number_scheduled.unwrap_or(0) >= wanted
        && status.number_available.unwrap_or(0) >= wanted;
    progress(done, wanted, pods)
}

/// A standalone pod: complete when it is ready or has succeeded.
pub fn pod(object: &Pod) -> Progress {
    let succeeded = phase(object) == "Succeeded";
    progress(succeeded || status::is_ready(object), 1, std::slice::from_ref(object))
}

fn progress(done: bool, wanted: i32, pods: &[Pod]) -> Progress {
    if done {
        return Progress::Done;
    }
    let live: Vec<&Pod> = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect();
    if let Some(failed) = live.iter().find(|pod| has_failed(pod)) {
        return Progress::Failed(describe(failed));
    }
    let ready = live.iter().filter(|pod| status::is_ready(pod)).count();
    let counted = format!("{ready} of {wanted} pods are ready");
    match live.iter().find(|pod| !status::is_ready(pod)) {
        Some(waiting) => Progress::Pending(format!("{counted}; {}", describe(waiting))),
        None => Progress::Pending(counted),
    }
}

/// Whether the image is missing, the pod failed, or a container keeps
/// crashing.
fn has_failed(pod: &Pod) -> bool {
    let containers = pod.status.iter().flat_map(|status| {
        status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten())
    });
    let is_stuck = containers.clone().any(|container| {
        let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
        match waiting.and_then(|waiting| waiting.reason.as_deref()) {
            Some(
                "ErrImageNeverPull"
                | "ErrImagePull"
                | "ImagePullBackOff"
                | "CreateContainerError"
                | "RunContainerError",
            ) => true,
            Some("CrashLoopBackOff") => container.restart_count >= RESTARTS_MAX,
            _ => false,
        }
    });
    is_stuck || phase(pod) == "Failed"
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

fn describe(pod: &Pod) -> String {
    let reason = status::reason(pod).filter(|reason| !reason.is_empty());
    let reason = reason.unwrap_or_else(|| "not started".into());
    format!("pod {}/{}: {reason}", pod.namespace().unwrap_or_default(), pod.name_any())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn of<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    fn pod_in(state: Value, restarts: i32, ready: bool) -> Pod {
        of(json!({
            "metadata": {"namespace": "default", "name": "web-1"},
            "status": {
                "phase": "Pending",
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
                "containerStatuses": [{
                    "name": "c", "image": "i", "imageID": "", "ready": ready, "restartCount": restarts,
                    "state": state,
                }],
            },
        }))
    }

    fn deployment_of(wanted: i32, available: i32) -> Deployment {
        of(json!({
            "metadata": {"name": "web", "generation": 2},
            "spec": {"replicas": wanted, "selector": {}, "template": {}},
            "status": {
                "observedGeneration": 2, "replicas": wanted, "updatedReplicas": wanted,
                "availableReplicas": available,
            },
        }))
    }

    #[test]
    fn unit_a_deployment_is_done_when_the_new_pods_are_available_and_the_old_ones_gone() {
        assert_eq!(deployment(&deployment_of(2, 2), &[]), Progress::Done);
        let mut old_pods = deployment_of(2, 2);
        old_pods.status.as_mut().unwrap().replicas = Some(3);
        assert!(matches!(deployment(&old_pods, &[]), Progress::Pending(_)));
        let mut unobserved = deployment_of(2, 2);
        unobserved.metadata.generation = Some(3);
        assert!(matches!(deployment(&unobserved, &[]), Progress::Pending(_)));
        let none: Deployment = deployment_of(0, 0);
        assert_eq!(deployment(&none, &[]), Progress::Done);
    }

    #[test]
    fn unit_pending_names_its_reason_and_stuck_pods_fail() {
        let waiting = |reason: &str| json!({"waiting": {"reason": reason, "message": "why"}});
        let starting = pod_in(waiting("ContainerCreating"), 0, false);
        match deployment(&deployment_of(2, 1), &[pod_in(json!({"running": {}}), 0, true), starting]) {
            Progress::Pending(words) => {
                assert_eq!(words, "1 of 2 pods are ready; pod default/web-1: ContainerCreating: why");
            }
            other => panic!("{other:?}"),
        }
        let missing = pod_in(waiting("ErrImageNeverPull"), 0, false);
        assert!(matches!(deployment(&deployment_of(1, 0), &[missing]), Progress::Failed(_)));
        let crashing = |restarts| pod_in(waiting("CrashLoopBackOff"), restarts, false);
        assert!(matches!(deployment(&deployment_of(1, 0), &[crashing(1)]), Progress::Pending(_)));
        assert!(matches!(deployment(&deployment_of(1, 0), &[crashing(3)]), Progress::Failed(_)));
    }

    #[test]
    fn unit_a_pod_is_done_when_it_is_ready_or_succeeded() {
        let mut one = pod_in(json!({"terminated": {"exitCode": 0}}), 0, false);
        one.status.as_mut().unwrap().phase = Some("Succeeded".into());
        assert_eq!(pod(&one), Progress::Done);
        one.status.as_mut().unwrap().phase = Some("Failed".into());
        assert!(matches!(pod(&one), Progress::Failed(_)));
    }
}
