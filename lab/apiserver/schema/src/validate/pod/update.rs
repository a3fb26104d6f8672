//! Mutable fields of an existing pod: images, a shorter deadline, more tolerations.

use beeline_apiserver_objects::{
    Cause,
    object::{array_at, i64_at},
};
use serde_json::{Value, json};

pub(super) fn check(before: &Value, after: &Value, causes: &mut Vec<Cause>) {
    for list in ["containers", "initContainers"] {
        if array_at(before, &format!("/{list}")).len() != array_at(after, &format!("/{list}")).len() {
            let why = "pod updates may not add or remove containers";
            causes.push(Cause::forbidden(format!("spec.{list}"), why));
            return;
        }
    }
    check_deadline(before, after, causes);
    check_tolerations(before, after, causes);
    if immutable_part(before) != immutable_part(after) {
        let why = "pod updates may not change fields other than `spec.containers[*].image`,\
                   `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to \
                   existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was \
                   previously negative)";
        causes.push(Cause::forbidden("spec", why));
    }
}

fn check_deadline(before: &Value, after: &Value, causes: &mut Vec<Cause>) {
    let field = "spec.activeDeadlineSeconds";
    let Some(old) = i64_at(before, "/activeDeadlineSeconds") else { return };
    match i64_at(after, "/activeDeadlineSeconds") {
        None => causes.push(Cause::invalid(
            field,
            &json!(null),
            "must not update from a positive integer to nil value",
        )),
        Some(new) if new > old => {
            causes.push(Cause::invalid(field, &json!(new), "must be less than or equal to previous value"));
        }
        Some(_) => {}
    }
}

/// Existing tolerations must stay; only their `tolerationSeconds` may change.
fn check_tolerations(before: &Value, after: &Value, causes: &mut Vec<Cause>) {
    let timeless = |toleration: &Value| {
        let mut toleration = toleration.clone();
        toleration.as_object_mut().and_then(|fields| fields.remove("tolerationSeconds"));
        toleration
    };
    let kept: Vec<Value> = array_at(after, "/tolerations").iter().map(timeless).collect();
    if !array_at(before, "/tolerations").iter().map(timeless).all(|old| kept.contains(&old)) {
        let why = "existing toleration can not be modified except its tolerationSeconds";
        causes.push(Cause::forbidden("spec.tolerations", why));
    }
}

/// The immutable part of a pod's spec.
fn immutable_part(spec: &Value) -> Value {
    let mut spec = spec.clone();
    let Some(fields) = spec.as_object_mut() else { return spec };
    for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        fields.remove(field);
    }
    for list in ["containers", "initContainers"] {
        for container in fields.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(container) = container.as_object_mut() {
                container.remove("image");
            }
        }
    }
    spec
}
