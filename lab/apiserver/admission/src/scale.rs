//! The `scale` subresource: an object's replicas as a `Scale` of autoscaling/v1.

use std::sync::Arc;

use beeline_apiserver_objects::{ApiError, Cause, ObjectKey, PatchKind, object, patch};
use beeline_apiserver_schema::Kind;
use beeline_apiserver_schema::custom::ScalePaths;
use serde_json::{Value, json};

use super::api::Api;
use super::options::{Subresource, WriteOptions};

impl Api {
    /// The scale of an object.
    pub fn scale_of(&self, kind: &Kind, key: &ObjectKey) -> Result<Value, ApiError> {
        Ok(scale(kind, &*self.get_of(kind, key)?))
    }

    /// Replaces the scale of an object.
    pub fn update_scale(
        &self,
        kind: &Arc<Kind>,
        key: &ObjectKey,
        requested: &Value,
        options: &WriteOptions,
    ) -> Result<Value, ApiError> {
        let mut store = self.lock();
        let current = store.get(kind, key).map(|object| kind.to_served_version(object));
        let current = current.ok_or_else(|| ApiError::not_found(kind, &key.name))?;
        let replicas = object::i64_at(requested, "/spec/replicas").unwrap_or(0);
        if replicas < 0 {
            let cause =
                Cause::invalid("spec.replicas", &json!(replicas), "must be greater than or equal to 0");
            return Err(ApiError::invalid(kind, &key.name, vec![cause]));
        }
        let mut next = Value::clone(&current);
        set_replicas(kind, &mut next, replicas);
        let version = requested["metadata"]["resourceVersion"].clone();
        if version.as_str().is_some_and(|version| !version.is_empty()) {
            object::metadata(&mut next).insert("resourceVersion".to_owned(), version);
        }
        let options = WriteOptions { subresource_name: "scale", ..options.clone() };
        Ok(scale(kind, &*self.update_locked(&mut store, kind, Subresource::None, next, &options)?))
    }

    /// Patches the scale of an object.
    pub fn patch_scale(
        &self,
        kind: &Arc<Kind>,
        key: &ObjectKey,
        language: &PatchKind,
        change: &Value,
        options: &WriteOptions,
    ) -> Result<Value, ApiError> {
        let mut before = self.scale_of(kind, key)?;
        // The resourceVersion is a precondition only if the patch itself sets it.
        object::metadata(&mut before).remove("resourceVersion");
        self.update_scale(kind, key, &patch::apply(&before, language, change)?, options)
    }
}

fn set_replicas(kind: &Kind, object: &mut Value, replicas: i64) {
    let path = spec_replicas_path(kind);
    let mut parts: Vec<&str> = path.split('/').skip(1).collect();
    let Some(last) = parts.pop() else { return };
    let mut place = object;
    for part in parts {
        object::child_mut(place, part);
        place = &mut place[part];
    }
    place[last] = replicas.into();
}

fn spec_replicas_path(kind: &Kind) -> &str {
    paths(kind).map_or("/spec/replicas", |paths| &paths.spec_replicas)
}

fn paths(kind: &Kind) -> Option<&ScalePaths> {
    kind.custom.as_ref()?.scale.as_ref()
}

fn scale(kind: &Kind, object: &Value) -> Value {
    let actual = paths(kind).map_or("/status/replicas", |paths| &paths.status_replicas);
    let selector = match paths(kind) {
        Some(paths) => {
            paths.selector.as_deref().map(|path| object::str_at(object, path).to_owned()).unwrap_or_default()
        }
        None => selector_text(&object["spec"]["selector"]),
    };
    let missing = if kind.custom.is_some() { 0 } else { 1 };
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": object::name(object), "namespace": object::namespace(object), "uid": object::uid(object),
            "resourceVersion": object["metadata"]["resourceVersion"],
            "creationTimestamp": object["metadata"]["creationTimestamp"],
        },
        "spec": {"replicas": object::i64_at(object, spec_replicas_path(kind)).unwrap_or(missing)},
        "status": {
            "replicas": object::i64_at(object, actual).unwrap_or(0),
            "selector": selector,
        },
    })
}

fn selector_text(selector: &Value) -> String {
    let pairs = selector["matchLabels"].as_object().into_iter().flatten();
    let pairs: Vec<String> =
        pairs.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    pairs.join(",")
}
