//! Validation of built-in kinds: the parts that matter for networking and common mistakes.

mod checks;
mod endpoint_slice;
mod metadata;
mod node;
mod pod;
mod rbac;
mod service;
mod service_update;
mod workload;

use beeline_apiserver_objects::Cause;
use serde_json::Value;

use crate::Kind;

/// All errors of an object.
pub fn object(kind: &Kind, object: &Value, before: Option<&Value>) -> Vec<Cause> {
    let mut causes = metadata::check(kind, object, before);
    if let Some(custom) = &kind.custom {
        causes.extend(custom.check(object));
    }
    match kind.built_in_plural() {
        "services" => service::check(object, before, &mut causes),
        "endpointslices" => endpoint_slice::check(object, before, &mut causes),
        "pods" => pod::check(object, before, &mut causes),
        "nodes" => node::check(object, before, &mut causes),
        "customresourcedefinitions" => crate::definition::check(object, before, &mut causes),
        "deployments" | "replicasets" | "daemonsets" => workload::check(object, before, &mut causes),
        "roles" | "clusterroles" => rbac::check_role(kind, object, &mut causes),
        "rolebindings" | "clusterrolebindings" => rbac::check_binding(kind, object, before, &mut causes),
        _ => {}
    }
    causes
}

/// All errors of a status.
pub fn status(kind: &Kind, object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    if let Some(custom) = &kind.custom {
        causes.extend(custom.check(object));
    }
    match kind.built_in_plural() {
        "pods" => pod::check_status(object, &mut causes),
        "services" => service::check_status(object, &mut causes),
        "nodes" => node::check_status(object, &mut causes),
        _ => {}
    }
    causes
}

#[cfg(test)]
mod tests;
