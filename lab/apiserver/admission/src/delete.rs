//! Deletion: immediate, graceful for running pods, or delayed by finalizers.

use std::sync::Arc;

use beeline_apiserver_objects::object::{self, FOREGROUND, ORPHAN};
use beeline_apiserver_objects::{ApiError, ObjectKey};
use beeline_apiserver_schema::Kind;
use beeline_apiserver_storage::Store;
use serde_json::{Value, json};

use super::api::Api;
use super::options::{DeleteOptions, Deleted, ListOptions, Propagation};
use super::{registry, server_fields};

impl Api {
    /// Deletes an object, or marks it for deletion.
    pub fn delete_of(
        &self,
        kind: &Arc<Kind>,
        key: &ObjectKey,
        options: &DeleteOptions,
    ) -> Result<Deleted, ApiError> {
        if let Some(remote) = self.remote() {
            return Ok(self.mirror_deleted(kind, key, remote.delete(kind, key, options)?));
        }
        let mut store = self.lock();
        let current = store.get(kind, key).map(|object| kind.to_served_version(object));
        let current = current.ok_or_else(|| ApiError::not_found(kind, &key.name))?;
        check_preconditions(kind, &current, options)?;
        let grace = grace_seconds(kind, &current, options);
        let mut next = Value::clone(&current);
        mark_for_deletion(&mut next, grace);
        add_propagation_finalizer(&mut next, options.propagation);
        if kind.is("namespaces") {
            object::child_mut(&mut next, "status").insert("phase".to_owned(), json!("Terminating"));
        }
        if kind.is("customresourcedefinitions") && !object::is_deleting(&current) {
            add_finalizer(&mut next, registry::CLEANUP);
        }
        if server_fields::can_be_removed(kind, &next) {
            let object = self.remove_locked(&mut store, kind, key).unwrap_or(current);
            return Ok(Deleted { object, removed: true });
        }
        if next == *current {
            return Ok(Deleted { object: current, removed: false });
        }
        server_fields::increment_generation(&mut next);
        Ok(Deleted { object: self.put_locked(&mut store, kind, next), removed: false })
    }

    /// Deletes all objects that a list with these options returns.
    pub fn delete_collection(
        &self,
        kind: &Arc<Kind>,
        namespace: Option<&str>,
        list: &ListOptions,
        options: &DeleteOptions,
    ) -> Result<Vec<Arc<Value>>, ApiError> {
        let page = self.list_of(kind, namespace, list)?;
        let deleted =
            page.items.iter().map(|item| match self.delete_of(kind, &ObjectKey::of(item), options) {
                Ok(deleted) => Ok(deleted.object),
                Err(error) if error.is_not_found() => Ok(item.clone()),
                Err(error) => Err(error),
            });
        deleted.collect()
    }

    /// Removes an object without a grace period.
    pub fn remove_of(&self, kind: &Arc<Kind>, key: &ObjectKey) {
        if self.remote().is_some() {
            let at_once = DeleteOptions { grace_seconds: Some(0), ..DeleteOptions::default() };
            // On failure the caller retries.
            let _ = self.delete_of(kind, key, &at_once);
            return;
        }
        let store: &mut Store = &mut self.lock();
        self.remove_locked(store, kind, key);
    }
}

fn check_preconditions(kind: &Kind, current: &Value, options: &DeleteOptions) -> Result<(), ApiError> {
    let name = object::name(current);
    let differs = |expected: &Option<String>, field: &str| {
        let actual = object::str_at(current, field);
        expected
            .as_deref()
            .filter(|expected| *expected != actual)
            .map(|expected| (expected.to_owned(), actual.to_owned()))
    };
    for (expected, field, label) in [
        (&options.uid, "/metadata/uid", "UID"),
        (&options.resource_version, "/metadata/resourceVersion", "ResourceVersion"),
    ] {
        if let Some((expected, actual)) = differs(expected, field) {
            let why = format!(
                "the {label} in the precondition ({expected}) does not match the {label} in record ({actual})"
            );
            return Err(ApiError::conflict(kind, name, &why));
        }
    }
    Ok(())
}

/// Grace period in seconds. Only pods that are bound to a node have one; a repeated deletion can only
/// shorten it.
fn grace_seconds(kind: &Kind, current: &Value, options: &DeleteOptions) -> i64 {
    let over = matches!(object::str_at(current, "/status/phase"), "Succeeded" | "Failed");
    if !kind.is("pods") || over || object::str_at(current, "/spec/nodeName").is_empty() {
        return 0;
    }
    let own = object::i64_at(current, "/spec/terminationGracePeriodSeconds").unwrap_or(30);
    let grace = options.grace_seconds.unwrap_or(own).max(0);
    match object::i64_at(current, "/metadata/deletionGracePeriodSeconds") {
        Some(running) if object::is_deleting(current) => grace.min(running),
        _ => grace,
    }
}

fn mark_for_deletion(next: &mut Value, grace: i64) {
    let already = object::is_deleting(next);
    let before = object::i64_at(next, "/metadata/deletionGracePeriodSeconds");
    if already && before == Some(grace) {
        return;
    }
    let metadata = object::metadata(next);
    metadata.insert(
        "deletionTimestamp".to_owned(),
        object::format_time(object::seconds_since_epoch() + grace).into(),
    );
    metadata.insert("deletionGracePeriodSeconds".to_owned(), grace.into());
}

fn add_propagation_finalizer(next: &mut Value, propagation: Propagation) {
    let finalizer = match propagation {
        Propagation::Background => return,
        Propagation::Foreground => FOREGROUND,
        Propagation::Orphan => ORPHAN,
    };
    add_finalizer(next, finalizer);
}

fn add_finalizer(next: &mut Value, finalizer: &str) {
    let metadata = object::metadata(next);
    object::set_default(metadata, "finalizers", json!([]));
    if let Some(list) = metadata["finalizers"].as_array_mut()
        && !list.iter().any(|one| one == finalizer)
    {
        list.push(json!(finalizer));
    }
}
