//! Helpers of the controllers that manage pods.

use std::sync::Arc;

use beeline_apiserver_admission::{Api, DeleteOptions, ListOptions, WriteOptions};
use beeline_apiserver_objects::{ApiError, ObjectKey, object};
use beeline_apiserver_schema::Kind;
use serde_json::{Value, json};

use super::events::Recorder;

/// A pod from the owner's template, not yet created.
pub(super) fn from_template(owner: &Value, api_version: &str, kind: &str) -> Value {
    let template = &owner["spec"]["template"];
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "generateName": format!("{}-", object::name(owner)),
            "namespace": object::namespace(owner),
            "labels": template["metadata"]["labels"].clone(),
            "annotations": template["metadata"]["annotations"].clone(),
            "ownerReferences": [object::controller_reference(owner, api_version, kind)],
        },
        "spec": template["spec"].clone(),
    })
}

/// Creates a pod of this owner (of this plural) and records an event.
pub(super) fn create(
    api: &Api,
    recorder: Recorder,
    plural: &str,
    owner: &Value,
    pod: Value,
) -> Result<(), ApiError> {
    match api.create_of(&api.kind("pods")?, pod, &WriteOptions::default()) {
        Ok(pod) => {
            let message = format!("Created pod: {}", object::name(&pod));
            recorder.normal(api, plural, owner, "SuccessfulCreate", &message);
            Ok(())
        }
        Err(error) => {
            recorder.warning(api, plural, owner, "FailedCreate", &format!("Error creating: {error}"));
            Err(error)
        }
    }
}

/// Deletes a pod of this owner (of this plural) and records an event.
pub(super) fn delete(
    api: &Api,
    recorder: Recorder,
    plural: &str,
    owner: &Value,
    pod: &Value,
) -> Result<(), ApiError> {
    match api.delete_of(&api.kind("pods")?, &ObjectKey::of(pod), &DeleteOptions::default()) {
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => {
            recorder.warning(api, plural, owner, "FailedDelete", &format!("Error deleting: {error}"));
            Err(error)
        }
        Ok(_) => {
            let message = format!("Deleted pod: {}", object::name(pod));
            recorder.normal(api, plural, owner, "SuccessfulDelete", &message);
            Ok(())
        }
    }
}

/// The pods that this owner controls.
pub(super) fn controlled_pods(api: &Api, owner: &Value) -> Result<Vec<Arc<Value>>, ApiError> {
    Ok(controlled_objects(api, &*api.kind("pods")?, owner))
}

/// The objects of a kind that this owner controls.
pub(super) fn controlled_objects(api: &Api, kind: &Kind, owner: &Value) -> Vec<Arc<Value>> {
    let store = api.lock();
    let resource = kind.resource();
    let keys = store.dependents(object::uid(owner)).into_iter().filter(|(found, _)| *found == resource);
    let found = keys.filter_map(|(_, key)| store.get(kind, &key).cloned());
    found.filter(|one| object::is_controlled_by(one, object::uid(owner))).collect()
}

/// Whether the pod is neither being deleted nor finished.
pub(super) fn is_active(pod: &Value) -> bool {
    !object::is_deleting(pod) && !matches!(object::str_at(pod, "/status/phase"), "Succeeded" | "Failed")
}

pub(super) fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready") == Some("True")
}

/// The status of a condition.
pub(super) fn condition<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    object::array_at(object, "/status/conditions").iter().find(|one| one["type"] == name)?["status"].as_str()
}

/// Sorts pods in the order of deletion: not ready before ready, not running before running,
/// unscheduled before scheduled, then newest first.
pub(super) fn sort_for_deletion(pods: &mut [Arc<Value>]) {
    pods.sort_by_key(|pod| {
        let scheduled = !object::str_at(pod, "/spec/nodeName").is_empty();
        let running = object::str_at(pod, "/status/phase") == "Running";
        let age = std::cmp::Reverse(object::str_at(pod, "/metadata/creationTimestamp").to_owned());
        (is_ready(pod), running, scheduled, age, object::name(pod).to_owned())
    });
}

/// Updates the status if it differs.
pub(super) fn write_status(api: &Api, kind: &str, object: &Value, status: Value) -> Result<(), ApiError> {
    if object["status"] == status {
        return Ok(());
    }
    let mut next = object.clone();
    next["status"] = status;
    object::metadata(&mut next).remove("resourceVersion");
    match api.update_status(kind, next) {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

/// A condition. Its transition time changes only with its status.
pub(super) fn new_condition(object: &Value, name: &str, status: bool, reason: &str, message: &str) -> Value {
    let status = if status { "True" } else { "False" };
    let before = object::array_at(object, "/status/conditions").iter().find(|one| one["type"] == name);
    let time = match before.filter(|before| before["status"] == status) {
        Some(before) => before["lastTransitionTime"].clone(),
        None => json!(object::now()),
    };
    json!({
        "type": name, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": time, "lastUpdateTime": time,
    })
}

/// The key of the controlling owner, if it is of this kind.
pub(super) fn controller_key(object: &Value, kind: &str) -> Vec<ObjectKey> {
    let owner = object::controller_of(object).filter(|owner| owner["kind"] == kind);
    let key = |owner: &Value| ObjectKey::new(object::namespace(object), object::str_at(owner, "/name"));
    owner.map(key).into_iter().collect()
}

/// All objects of a kind.
pub(super) fn list_all(api: &Api, kind: &str) -> Result<Vec<Arc<Value>>, ApiError> {
    Ok(api.list(kind, None, &ListOptions::default())?.items)
}
