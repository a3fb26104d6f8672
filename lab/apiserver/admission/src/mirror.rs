//! The mirror of the objects of a remote server. Responses are written to it at once, so that callers
//! read their own writes.

use std::collections::BTreeSet;
use std::sync::Arc;

use beeline_apiserver_objects::{ObjectKey, object};
use beeline_apiserver_schema::Kind;
use serde_json::Value;

use super::api::Api;
use super::options::Deleted;

impl Api {
    /// Writes an object of the remote server into the mirror.
    pub fn mirror_put(&self, kind: &Arc<Kind>, value: Value) {
        let mut store = self.lock();
        store.mirror_put(kind, value);
        if kind.is("customresourcedefinitions") {
            self.refresh_kinds(&mut store, kind);
        }
    }

    /// Removes an object that the remote server no longer has.
    pub fn mirror_delete(&self, kind: &Arc<Kind>, last: &Value) {
        self.lock().mirror_delete(kind, last);
    }

    /// Removes the objects of a kind that are not among these.
    pub fn mirror_retain(&self, kind: &Arc<Kind>, keys: &BTreeSet<ObjectKey>) {
        self.lock().mirror_retain(kind, keys);
    }

    /// Writes the response to a write, and returns the object in the mirror.
    pub(super) fn mirror_written(&self, kind: &Arc<Kind>, value: Value) -> Arc<Value> {
        self.mirror_put(kind, value.clone());
        let known = self.lock().get(kind, &ObjectKey::of(&value)).cloned();
        // Return the response even if the mirror already has a newer object.
        known.unwrap_or_else(|| Arc::new(value))
    }

    /// Writes the response to a deletion.
    pub(super) fn mirror_deleted(&self, kind: &Arc<Kind>, key: &ObjectKey, last: Value) -> Deleted {
        let before = self.lock().get(kind, key).cloned();
        if last["kind"] == "Status" {
            let object = before.unwrap_or_default();
            self.mirror_delete(kind, &object);
            return Deleted { object, removed: true };
        }
        let held = !object::strs_at(&last, "/metadata/finalizers").is_empty();
        let grace = object::i64_at(&last, "/metadata/deletionGracePeriodSeconds").unwrap_or(0);
        let removed = !held && grace == 0 && !kind.is("namespaces");
        if removed {
            self.mirror_delete(kind, &last);
            return Deleted { object: Arc::new(last), removed };
        }
        Deleted { object: self.mirror_written(kind, last), removed }
    }
}
