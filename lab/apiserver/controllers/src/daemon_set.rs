//! DaemonSets: one pod on every matching node. Pods are created with their node set.

use std::collections::BTreeMap;
use std::sync::Arc;

use beeline_apiserver_admission::{Api, ListOptions};
use beeline_apiserver_objects::{ApiError, ObjectKey, object};
use serde_json::{Value, json};

use super::controller::Controller;
use super::events::Recorder;
use super::{pods, scheduler};

const GENERATION: &str = "pod-template-generation";

const RECORDER: Recorder = Recorder("daemonset-controller");

pub(super) struct DaemonSetController;

impl Controller for DaemonSetController {
    fn name(&self) -> &'static str {
        "daemonset"
    }

    fn watches(&self) -> &'static [&'static str] {
        &["daemonsets", "pods", "nodes"]
    }

    fn keys_for_event(&self, api: &Api, kind: &str, object: &Value) -> Vec<ObjectKey> {
        match kind {
            "daemonsets" => vec![ObjectKey::of(object)],
            "pods" => pods::controller_key(object, "DaemonSet"),
            _ => pods::list_all(api, "daemonsets")
                .unwrap_or_default()
                .iter()
                .map(|set| ObjectKey::of(set))
                .collect(),
        }
    }

    fn reconcile(&mut self, api: &Api, key: &ObjectKey) -> Result<(), ApiError> {
        let Ok(set) = api.get("daemonsets", &key.namespace, &key.name) else { return Ok(()) };
        if object::is_deleting(&set) {
            return Ok(());
        }
        let nodes = api.list("nodes", None, &ListOptions::default())?.items;
        let fitting: Vec<&Arc<Value>> = nodes
            .iter()
            .filter(|node| scheduler::matches_node(&set["spec"]["template"]["spec"], node))
            .collect();
        let mut by_node: BTreeMap<String, Vec<Arc<Value>>> = BTreeMap::new();
        for pod in pods::controlled_pods(api, &set)? {
            by_node.entry(object::str_at(&pod, "/spec/nodeName").to_owned()).or_default().push(pod);
        }
        for node in &fitting {
            sync_node(
                api,
                &set,
                object::name(node),
                by_node.get(object::name(node)).map(Vec::as_slice).unwrap_or_default(),
            )?;
        }
        for (node, surplus) in &by_node {
            if !fitting.iter().any(|fitting| object::name(fitting) == node) {
                surplus
                    .iter()
                    .filter(|pod| pods::is_active(pod))
                    .try_for_each(|pod| delete(api, &set, pod))?;
            }
        }
        replace_old(api, &set, &by_node)?;
        pods::write_status(api, "daemonsets", &set, status(&set, fitting.len(), &by_node))
    }
}

/// Ensures one pod on the node: replaces a failed pod, waits for a terminating one.
fn sync_node(api: &Api, set: &Value, node: &str, there: &[Arc<Value>]) -> Result<(), ApiError> {
    let mut active: Vec<Arc<Value>> = there.iter().filter(|pod| pods::is_active(pod)).cloned().collect();
    pods::sort_for_deletion(&mut active);
    for surplus in active.iter().rev().skip(1) {
        delete(api, set, surplus)?;
    }
    for over in there.iter().filter(|pod| !pods::is_active(pod) && !object::is_deleting(pod)) {
        delete(api, set, over)?;
    }
    if !there.is_empty() {
        return Ok(());
    }
    let mut pod = pods::from_template(set, "apps/v1", "DaemonSet");
    object::metadata(&mut pod);
    object::child_mut(&mut pod["metadata"], "labels").insert(GENERATION.to_owned(), json!(generation(set)));
    object::child_mut(&mut pod, "spec").insert("nodeName".to_owned(), json!(node));
    pods::create(api, RECORDER, "daemonsets", set, pod)
}

fn delete(api: &Api, set: &Value, pod: &Value) -> Result<(), ApiError> {
    pods::delete(api, RECORDER, "daemonsets", set, pod)
}

fn generation(set: &Value) -> String {
    object::i64_at(set, "/metadata/generation").unwrap_or(1).to_string()
}

fn is_current(set: &Value, pod: &Value) -> bool {
    object::label(pod, GENERATION) == Some(&generation(set))
}

/// Deletes pods of an older template, at most `maxUnavailable` at a time.
fn replace_old(api: &Api, set: &Value, by_node: &BTreeMap<String, Vec<Arc<Value>>>) -> Result<(), ApiError> {
    if object::str_at(set, "/spec/updateStrategy/type") == "OnDelete" {
        return Ok(());
    }
    let limit = object::i64_at(set, "/spec/updateStrategy/rollingUpdate/maxUnavailable").unwrap_or(1).max(1);
    let all = || by_node.values().flatten();
    let missing =
        all().filter(|pod| !pods::is_active(pod) || (is_current(set, pod) && !pods::is_ready(pod))).count();
    let delete_max = usize::try_from(limit).unwrap_or(1).saturating_sub(missing);
    let mut old: Vec<Arc<Value>> =
        all().filter(|pod| pods::is_active(pod) && !is_current(set, pod)).cloned().collect();
    pods::sort_for_deletion(&mut old);
    old.iter().take(delete_max).try_for_each(|pod| delete(api, set, pod))
}

fn status(set: &Value, desired: usize, by_node: &BTreeMap<String, Vec<Arc<Value>>>) -> Value {
    let active: Vec<&Arc<Value>> = by_node.values().flatten().filter(|pod| pods::is_active(pod)).collect();
    let ready = active.iter().filter(|pod| pods::is_ready(pod)).count();
    let updated = active.iter().filter(|pod| is_current(set, pod)).count();
    let mut status = json!({
        "observedGeneration": set["metadata"]["generation"],
        "desiredNumberScheduled": desired,
        "currentNumberScheduled": active.len(),
        "numberMisscheduled": 0,
        "numberReady": ready,
    });
    for (field, count) in [
        ("updatedNumberScheduled", updated),
        ("numberAvailable", ready),
        ("numberUnavailable", desired.saturating_sub(ready)),
    ] {
        if count > 0 {
            status[field] = json!(count);
        }
    }
    status
}
