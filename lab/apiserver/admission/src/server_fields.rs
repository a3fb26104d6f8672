//! Server-set fields: what the server writes into an object before it is stored, and what an update
//! keeps from the stored object.

use beeline_apiserver_objects::{ApiError, ObjectKey, object, service};
use beeline_apiserver_schema::{Kind, Kinds};
use beeline_apiserver_storage::Store;
use serde_json::{Value, json};

use super::options::Subresource;

/// Message of a conflict.
pub const MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

/// Fills in `apiVersion` and `kind`; refuses the request if they name another kind.
pub fn check_type(kind: &Kind, object: &mut Value) -> Result<(), ApiError> {
    let Some(fields) = object.as_object_mut() else {
        return Err(ApiError::bad_request(format!("a {} must be a JSON object", kind.kind)));
    };
    if !fields.get("metadata").is_none_or(|metadata| metadata.is_object() || metadata.is_null()) {
        return Err(ApiError::bad_request("metadata must be a JSON object"));
    }
    object::set_default(fields, "apiVersion", kind.api_version());
    object::set_default(fields, "kind", kind.kind.as_ref());
    for (field, expected) in [("apiVersion", kind.api_version()), ("kind", kind.kind.to_string())] {
        if fields[field] != expected.as_str() {
            let given = &fields[field];
            let message =
                format!("{field} in the data ({given}) does not match the expected one ({expected:?})");
            return Err(ApiError::bad_request(message));
        }
    }
    Ok(())
}

/// Sets the default namespace on namespaced objects and removes the namespace from cluster-scoped
/// ones.
pub(crate) fn check_namespace_field(kind: &Kind, object: &mut Value) -> Result<(), ApiError> {
    let metadata = object::metadata(object);
    if !kind.namespaced {
        metadata.remove("namespace");
        return Ok(());
    }
    if metadata.get("namespace").is_none_or(|namespace| namespace.is_null() || namespace == "") {
        metadata.insert("namespace".to_owned(), json!("default"));
    }
    Ok(())
}

/// Refuses new objects in a namespace that does not exist or is being deleted.
pub(crate) fn check_namespace_exists(
    store: &Store,
    kinds: &Kinds,
    kind: &Kind,
    object: &Value,
) -> Result<(), ApiError> {
    let Some(namespaces) = kinds.by_path("", "v1", "namespaces").filter(|_| kind.namespaced) else {
        return Ok(());
    };
    let namespace = object::namespace(object);
    match store.get(namespaces, &ObjectKey::new("", namespace)) {
        None => Err(ApiError::not_found(namespaces, namespace)),
        Some(found) if object::is_deleting(found) => {
            let why = format!(
                "unable to create new content in namespace {namespace} because it is being terminated"
            );
            Err(ApiError::forbidden(kind, object::name(object), &why))
        }
        Some(_) => Ok(()),
    }
}

/// Sets `spec.priority` of a pod from its priority class, which must exist.
pub(crate) fn set_priority(
    store: &Store,
    kinds: &Kinds,
    kind: &Kind,
    object: &mut Value,
) -> Result<(), ApiError> {
    let Some(classes) =
        kinds.by_path("scheduling.k8s.io", "v1", "priorityclasses").filter(|_| kind.is("pods"))
    else {
        return Ok(());
    };
    let given = object::str_at(object, "/spec/priorityClassName").to_owned();
    let found = match given.as_str() {
        "" => store
            .list(classes, None, None)
            .map(|(_, class)| class)
            .find(|class| object::bool_at(class, "/globalDefault")),
        name => store.get(classes, &ObjectKey::new("", name)),
    };
    if !given.is_empty() && found.is_none() {
        let why = format!("no PriorityClass with name {given} was found");
        return Err(ApiError::forbidden(kind, object::name(object), &why));
    }
    let value = found.and_then(|class| object::i64_at(class, "/value")).unwrap_or(0);
    let policy =
        found.map(|class| object::str_at(class, "/preemptionPolicy")).filter(|policy| !policy.is_empty());
    let policy = policy.unwrap_or("PreemptLowerPriority").to_owned();
    let name = found.map(|class| object::name(class).to_owned());
    let spec = object::child_mut(object, "spec");
    if let Some(name) = name {
        spec.insert("priorityClassName".to_owned(), name.into());
    }
    spec.insert("priority".to_owned(), value.into());
    object::set_default(spec, "preemptionPolicy", policy);
    Ok(())
}

/// Sets the identity (uid, creation time, generation) and the initial status of a new object.
pub(crate) fn prepare_for_create(kind: &Kind, object: &mut Value) {
    let metadata = object::metadata(object);
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "managedFields", "selfLink"] {
        metadata.remove(field);
    }
    metadata.insert("uid".to_owned(), object::new_uid().into());
    metadata.insert("creationTimestamp".to_owned(), object::now().into());
    if object.get("spec").is_some() || kind.custom.is_some() {
        object::metadata(object).insert("generation".to_owned(), json!(1));
    }
    if kind.custom.is_some() && kind.status {
        *object = with_field(std::mem::take(object), "status", None);
    }
    match kind.built_in_plural() {
        "pods" => object["status"] = json!({"phase": "Pending", "qosClass": "BestEffort"}),
        "services" => object["status"] = json!({"loadBalancer": {}}),
        "namespaces" => {
            object["status"] = json!({"phase": "Active"});
            object::child_mut(object, "spec").insert("finalizers".to_owned(), json!(["kubernetes"]));
        }
        "deployments" | "replicasets" | "daemonsets" | "customresourcedefinitions" => {
            object["status"] = json!({});
        }
        _ => {}
    }
}

/// Refuses an update whose resourceVersion or uid is not that of the stored object.
pub(crate) fn check_precondition(kind: &Kind, current: &Value, object: &Value) -> Result<(), ApiError> {
    let name = object::name(current);
    let version = object::str_at(object, "/metadata/resourceVersion");
    if !version.is_empty()
        && version != "0"
        && version != object::str_at(current, "/metadata/resourceVersion")
    {
        return Err(ApiError::conflict(kind, name, MODIFIED));
    }
    let (wanted, actual) = (object::uid(object), object::uid(current));
    if !wanted.is_empty() && wanted != actual {
        let why = format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {actual}");
        return Err(ApiError::conflict(kind, name, &why));
    }
    Ok(())
}

/// The object to store for an update: the fields that the subresource may write come from the
/// request, the others from the stored object.
pub(crate) fn prepare_for_update(
    kind: &Kind,
    subresource: Subresource,
    current: &Value,
    object: Value,
) -> Value {
    let mut next = match subresource {
        Subresource::None if kind.status_is_ordinary_field() => object,
        Subresource::None => with_field(object, "status", current.get("status")),
        Subresource::Status => with_field(current.clone(), "status", object.get("status")),
        Subresource::Finalize => {
            let mut next = current.clone();
            let finalizers = object.pointer("/spec/finalizers").cloned().unwrap_or(json!([]));
            object::child_mut(&mut next, "spec").insert("finalizers".to_owned(), finalizers);
            next
        }
        Subresource::Internal => object,
    };
    let metadata = object::metadata(&mut next);
    metadata.remove("managedFields");
    for field in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "resourceVersion",
    ] {
        match current["metadata"].get(field) {
            Some(value) => metadata.insert(field.to_owned(), value.clone()),
            None => metadata.remove(field),
        };
    }
    next
}

fn with_field(mut object: Value, field: &str, value: Option<&Value>) -> Value {
    if let Some(fields) = object.as_object_mut() {
        match value {
            Some(value) => fields.insert(field.to_owned(), value.clone()),
            None => fields.remove(field),
        };
    }
    object
}

/// Keeps fields that the server assigned and that the client left out of the update.
pub(crate) fn keep_assigned_values(kind: &Kind, object: &mut Value, current: &Value) {
    if kind.is("services") {
        return service::drop_type_dependent_fields(object, current);
    }
    let fields: &[&str] = match kind.built_in_plural() {
        "namespaces" => &["finalizers"],
        "nodes" => &["podCIDR", "podCIDRs"],
        "pods" => &["nodeName", "serviceAccountName", "serviceAccount"],
        _ => return,
    };
    for field in fields {
        let Some(value) = current.pointer(&format!("/spec/{field}")) else { continue };
        let spec = object::child_mut(object, "spec");
        if kind.is("namespaces") {
            spec.insert((*field).to_owned(), value.clone());
        } else {
            object::set_default(spec, field, value.clone());
        }
    }
}

/// Whether an update changes nothing.
pub(crate) fn is_unchanged(object: &Value, current: &Value) -> bool {
    object == current
}

/// Increments `metadata.generation` if the desired state changed: the spec of built-in kinds; for
/// custom resources everything except metadata and, if it is a subresource, the status.
pub(crate) fn update_generation(kind: &Kind, object: &mut Value, current: &Value) {
    let desired = |object: &Value| {
        let fields = object.as_object().cloned().unwrap_or_default();
        let is_desired = |field: &str| match field {
            "metadata" | "apiVersion" => false,
            "status" => kind.status_is_ordinary_field(),
            _ => true,
        };
        fields.into_iter().filter(|(field, _)| is_desired(field)).collect::<Value>()
    };
    let changed = match kind.custom {
        Some(_) => desired(object) != desired(current),
        None => object.get("spec") != current.get("spec"),
    };
    if changed {
        increment_generation(object);
    }
}

pub(crate) fn increment_generation(object: &mut Value) {
    if let Some(generation) = object::i64_at(object, "/metadata/generation") {
        object::metadata(object).insert("generation".to_owned(), json!(generation + 1));
    }
}

/// Whether an object that is being deleted has no finalizers and no grace period left.
pub(crate) fn can_be_removed(kind: &Kind, object: &Value) -> bool {
    object::is_deleting(object)
        && object::array_at(object, "/metadata/finalizers").is_empty()
        && object::i64_at(object, "/metadata/deletionGracePeriodSeconds").unwrap_or(0) == 0
        && (!kind.is("namespaces") || object::array_at(object, "/spec/finalizers").is_empty())
}
