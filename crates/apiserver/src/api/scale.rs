//! The `scale` subresource: an object's replicas as a `Scale` of autoscaling/v1.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Api, PatchKind, Subresource, WriteOptions};
use crate::object::{self, ObjectKey};
use crate::{ApiError, Cause, Kind, patch};

impl Api {
    pub(crate) fn scale_of(&self, kind: &Kind, key: &ObjectKey) -> Result<Value, ApiError> {
        Ok(scale(&*self.get_of(kind, key)?))
    }

    pub(crate) fn update_scale(
        &self,
        kind: &Arc<Kind>,
        key: &ObjectKey,
        wanted: &Value,
    ) -> Result<Value, ApiError> {
        let mut store = self.lock();
        let current = store.get(kind, key).cloned().ok_or_else(|| ApiError::not_found(kind, &key.name))?;
        let replicas = object::number(wanted, "/spec/replicas").unwrap_or(0);
        if replicas < 0 {
            let cause =
                Cause::invalid("spec.replicas", &json!(replicas), "must be greater than or equal to 0");
            return Err(ApiError::invalid(kind, &key.name, vec![cause]));
        }
        let mut next = Value::clone(&current);
        object::child(&mut next, "spec").insert("replicas".to_owned(), replicas.into());
        let version = wanted["metadata"]["resourceVersion"].clone();
        if version.as_str().is_some_and(|version| !version.is_empty()) {
            object::metadata(&mut next).insert("resourceVersion".to_owned(), version);
        }
        let options = WriteOptions::default();
        Ok(scale(&*self.update_locked(&mut store, kind, Subresource::None, next, &options)?))
    }

    pub(crate) fn patch_scale(
        &self,
        kind: &Arc<Kind>,
        key: &ObjectKey,
        language: &PatchKind,
        change: &Value,
    ) -> Result<Value, ApiError> {
        let mut before = self.scale_of(kind, key)?;
        // Only a version that the patch itself names is a condition.
        object::metadata(&mut before).remove("resourceVersion");
        let language = if matches!(language, PatchKind::Apply { .. }) { &PatchKind::Merge } else { language };
        self.update_scale(kind, key, &patch::apply(&before, language, change)?)
    }
}

fn scale(object: &Value) -> Value {
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": object::name(object), "namespace": object::namespace(object), "uid": object::uid(object),
            "resourceVersion": object["metadata"]["resourceVersion"],
            "creationTimestamp": object["metadata"]["creationTimestamp"],
        },
        "spec": {"replicas": object::number(object, "/spec/replicas").unwrap_or(1)},
        "status": {
            "replicas": object::number(object, "/status/replicas").unwrap_or(0),
            "selector": selector_text(&object["spec"]["selector"]),
        },
    })
}

fn selector_text(selector: &Value) -> String {
    let pairs = selector["matchLabels"].as_object().into_iter().flatten();
    let pairs: Vec<String> =
        pairs.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    pairs.join(",")
}
