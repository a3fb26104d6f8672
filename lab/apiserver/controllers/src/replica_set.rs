//! ReplicaSets: keep the desired number of pods.

use std::sync::Arc;

use beeline_apiserver_admission::Api;
use beeline_apiserver_objects::{ApiError, ObjectKey, object};
use serde_json::{Value, json};

use super::controller::Controller;
use super::events::Recorder;
use super::pods;

/// Maximum number of pods created or deleted per reconciliation, so that a large set does not delay
/// others.
const BURST: usize = 500;

const RECORDER: Recorder = Recorder("replicaset-controller");

pub(super) struct ReplicaSetController;

impl Controller for ReplicaSetController {
    fn name(&self) -> &'static str {
        "replicaset"
    }

    fn watches(&self) -> &'static [&'static str] {
        &["replicasets", "pods"]
    }

    fn keys_for_event(&self, _: &Api, kind: &str, object: &Value) -> Vec<ObjectKey> {
        if kind == "replicasets" {
            vec![ObjectKey::of(object)]
        } else {
            pods::controller_key(object, "ReplicaSet")
        }
    }

    fn reconcile(&mut self, api: &Api, key: &ObjectKey) -> Result<(), ApiError> {
        let Ok(set) = api.get("replicasets", &key.namespace, &key.name) else { return Ok(()) };
        let mut active: Vec<Arc<Value>> =
            pods::controlled_pods(api, &set)?.into_iter().filter(|pod| pods::is_active(pod)).collect();
        if !object::is_deleting(&set) {
            scale(api, &set, &mut active)?;
        }
        pods::write_status(api, "replicasets", &set, status(&set, &active))
    }
}

fn scale(api: &Api, set: &Value, active: &mut Vec<Arc<Value>>) -> Result<(), ApiError> {
    let desired = usize::try_from(object::i64_at(set, "/spec/replicas").unwrap_or(1)).unwrap_or(0);
    for _ in active.len()..desired.min(active.len() + BURST) {
        let pod = pods::from_template(set, "apps/v1", "ReplicaSet");
        pods::create(api, RECORDER, "replicasets", set, pod)?;
    }
    let surplus = active.len().saturating_sub(desired).min(BURST);
    pods::sort_for_deletion(active);
    for pod in active.drain(..surplus) {
        pods::delete(api, RECORDER, "replicasets", set, &pod)?;
    }
    Ok(())
}

fn status(set: &Value, active: &[Arc<Value>]) -> Value {
    let ready = active.iter().filter(|pod| pods::is_ready(pod)).count();
    let mut status = json!({
        "replicas": active.len(), "fullyLabeledReplicas": active.len(),
        "observedGeneration": set["metadata"]["generation"],
    });
    if ready > 0 {
        status["readyReplicas"] = json!(ready);
        status["availableReplicas"] = json!(ready);
    }
    status
}
