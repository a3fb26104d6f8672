//! Garbage collector: deletes objects whose owners are absent, processes the deletion finalizers
//! (`foregroundDeletion`, `orphan`), and deletes pods of deleted nodes. Its keys include the kind:
//! namespace `KIND/NAMESPACE` and the object's name.

use std::sync::Arc;

use beeline_apiserver_admission::{Api, DeleteOptions, Propagation, Subresource, WriteOptions};
use beeline_apiserver_objects::{
    ApiError, ObjectKey,
    object::{self, FOREGROUND, ORPHAN, str_at},
};
use beeline_apiserver_schema::Kind;
use serde_json::{Value, json};

use super::controller::Controller;
use super::pods;

/// Prefix of keys of pods whose node was deleted.
const ORPHANED_PODS: &str = "orphaned pods";

pub(super) struct GarbageCollector;

impl Controller for GarbageCollector {
    fn name(&self) -> &'static str {
        "garbage"
    }

    fn watches(&self) -> &'static [&'static str] {
        &[
            "nodes",
            "pods",
            "services",
            "configmaps",
            "secrets",
            "deployments",
            "replicasets",
            "daemonsets",
            "endpointslices",
            "leases",
        ]
    }

    fn watches_custom_resources(&self) -> bool {
        true
    }

    fn keys_for_event(&self, api: &Api, kind: &str, object: &Value) -> Vec<ObjectKey> {
        let mut keys = vec![key(kind, &ObjectKey::of(object))];
        let store = api.lock();
        let is_deleted = store.by_uid(object::uid(object)).is_none();
        // Its dependents may be garbage now, and its owners may wait for its deletion.
        if is_deleted {
            keys.extend(store.dependents(object::uid(object)).iter().map(|(kind, found)| key(kind, found)));
            for owner in object::owner_references(object) {
                let owner = store.by_uid(str_at(owner, "/uid"));
                keys.extend(owner.map(|(kind, found)| key(&kind.resource(), found)));
            }
        }
        drop(store);
        if is_deleted && kind == "nodes" {
            keys.extend(orphaned_pods_of(api, object::name(object)));
        }
        keys
    }

    fn reconcile(&mut self, api: &Api, key: &ObjectKey) -> Result<(), ApiError> {
        let (resource, namespace) = key.namespace.split_once('/').unwrap_or((&key.namespace, ""));
        if resource == ORPHANED_PODS {
            return remove_orphaned_pod(api, &ObjectKey::new(namespace, &key.name));
        }
        let kind = api.kind(resource)?;
        let key = ObjectKey::new(namespace, &key.name);
        let Ok(object) = api.get_of(&kind, &key) else { return Ok(()) };
        if object::is_deleting(&object) {
            return process_finalizers(api, &kind, &object);
        }
        if !object::owner_references(&object).is_empty() && owners_are_absent(api, &object)? {
            return delete(api, &kind, &object);
        }
        Ok(())
    }
}

fn key(resource: &str, found: &ObjectKey) -> ObjectKey {
    ObjectKey::new(format!("{resource}/{}", found.namespace), &found.name)
}

fn orphaned_pods_of(api: &Api, node: &str) -> Vec<ObjectKey> {
    let pods = pods::list_all(api, "pods").unwrap_or_default();
    pods.iter()
        .filter(|pod| str_at(pod, "/spec/nodeName") == node)
        .map(|pod| key(ORPHANED_PODS, &ObjectKey::of(pod)))
        .collect()
}

/// Removes a pod of a deleted node without waiting for a kubelet.
fn remove_orphaned_pod(api: &Api, key: &ObjectKey) -> Result<(), ApiError> {
    let Ok(pod) = api.get("pods", &key.namespace, &key.name) else { return Ok(()) };
    let node = str_at(&pod, "/spec/nodeName");
    if !node.is_empty() && api.get("nodes", "", node).is_err() {
        api.remove_of(&api.kind("pods")?, key);
    }
    Ok(())
}

fn owners_are_absent(api: &Api, object: &Value) -> Result<bool, ApiError> {
    let store = api.lock();
    let known =
        object::owner_references(object).iter().any(|owner| store.by_uid(str_at(owner, "/uid")).is_some());
    drop(store);
    if known {
        return Ok(false);
    }
    let Some(remote) = api.remote() else { return Ok(true) };
    // A mirror may receive an object before its owner, so ask the remote server.
    for owner in object::owner_references(object) {
        let kind = api.kinds().by_type(str_at(owner, "/apiVersion"), str_at(owner, "/kind")).cloned();
        let Some(kind) = kind else { return Ok(false) };
        let namespace = if kind.namespaced { object::namespace(object) } else { "" };
        match remote.get(&kind, &ObjectKey::new(namespace, str_at(owner, "/name"))) {
            Ok(found) if object::uid(&found) == str_at(owner, "/uid") => return Ok(false),
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
    }
    Ok(true)
}

fn delete(api: &Api, kind: &Arc<Kind>, object: &Value) -> Result<(), ApiError> {
    let options = DeleteOptions { uid: Some(object::uid(object).to_owned()), ..DeleteOptions::default() };
    match api.delete_of(kind, &ObjectKey::of(object), &options) {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

/// Processes the deletion finalizers of an object that is being deleted.
fn process_finalizers(api: &Api, kind: &Arc<Kind>, object: &Value) -> Result<(), ApiError> {
    let finalizers = object::strs_at(object, "/metadata/finalizers");
    if finalizers.contains(&ORPHAN) {
        orphan(api, object)?;
        return remove_finalizer(api, kind, object, ORPHAN);
    }
    if finalizers.contains(&FOREGROUND) && delete_dependents(api, object)? == 0 {
        return remove_finalizer(api, kind, object, FOREGROUND);
    }
    Ok(())
}

fn dependents(api: &Api, owner: &Value) -> Vec<(Arc<Kind>, Arc<Value>)> {
    let store = api.lock();
    let found = store.dependents(object::uid(owner));
    let found = found.into_iter().filter_map(|(resource, key)| {
        let kind = api.kinds().by_name(&resource)?.clone();
        let object = store.get(&kind, &key)?.clone();
        Some((kind, object))
    });
    found.collect()
}

/// Starts the deletion of all dependents. Returns how many still block the owner.
fn delete_dependents(api: &Api, owner: &Value) -> Result<usize, ApiError> {
    let mut waiting = 0;
    for (kind, object) in dependents(api, owner) {
        let reference =
            object::owner_references(&object).iter().find(|reference| reference["uid"] == object::uid(owner));
        waiting +=
            usize::from(reference.is_some_and(|reference| object::bool_at(reference, "/blockOwnerDeletion")));
        if !object::is_deleting(&object) {
            let options = DeleteOptions { propagation: Propagation::Foreground, ..DeleteOptions::default() };
            let deleted = api.delete_of(&kind, &ObjectKey::of(&object), &options);
            if deleted.is_ok_and(|deleted| deleted.removed) {
                waiting = waiting.saturating_sub(1);
            }
        }
    }
    Ok(waiting)
}

fn orphan(api: &Api, owner: &Value) -> Result<(), ApiError> {
    for (kind, object) in dependents(api, owner) {
        let mut next = Value::clone(&object);
        let rest: Vec<Value> = object::owner_references(&object)
            .iter()
            .filter(|reference| reference["uid"] != object::uid(owner))
            .cloned()
            .collect();
        object::metadata(&mut next).insert("ownerReferences".to_owned(), json!(rest));
        api.update_of(&kind, Subresource::Internal, next, &WriteOptions::default())?;
    }
    Ok(())
}

fn remove_finalizer(api: &Api, kind: &Arc<Kind>, object: &Value, finalizer: &str) -> Result<(), ApiError> {
    let mut next = object.clone();
    let rest: Vec<&str> =
        object::strs_at(object, "/metadata/finalizers").into_iter().filter(|one| *one != finalizer).collect();
    object::metadata(&mut next).insert("finalizers".to_owned(), json!(rest));
    api.update_of(kind, Subresource::Internal, next, &WriteOptions::default()).map(|_| ())
}
