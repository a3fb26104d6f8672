//! Schemas of the served kinds and of the types in them.

use std::sync::OnceLock;

use serde_json::{Value, json};

use super::paths::{group_version_kind, name_of};
use crate::describe::{Definitions, reference};
use crate::{Kind, Kinds};

pub(super) const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// Schemas of all kinds and of the types in them, by name. References contain only the name.
pub(super) fn of(kinds: &Kinds) -> Definitions {
    static BUILT_IN: OnceLock<Definitions> = OnceLock::new();
    let mut all = BUILT_IN.get_or_init(built_in).clone();
    for kind in kinds.iter() {
        if let Some(custom) = &kind.custom {
            all.insert(name_of(kind), custom_schema(kind, &custom.source));
        }
    }
    all
}

pub(crate) fn built_in() -> Definitions {
    let mut all = Definitions::new();
    for kind in Kinds::built_in().iter() {
        let Some(describe) = kind.describe else { continue };
        let name = describe(&mut all);
        if let Some(schema) = all.get_mut(&name) {
            schema["x-kubernetes-group-version-kind"] = json!([group_version_kind(kind)]);
        }
    }
    all
}

pub(super) fn custom_schema(kind: &Kind, source: &Value) -> Value {
    let mut schema = source.clone();
    if !schema.is_object() {
        schema = json!({"type": "object"});
    }
    if schema["properties"].is_object() || schema.get("x-kubernetes-preserve-unknown-fields").is_none() {
        let own = schema["properties"].as_object().cloned().unwrap_or_default();
        let text = |description: &Value| json!({"type": "string", "description": description});
        let description =
            |field: &str| own.get(field).map(|one| one["description"].clone()).unwrap_or_default();
        let mut properties = own.clone();
        properties.insert("apiVersion".into(), text(&description("apiVersion")));
        properties.insert("kind".into(), text(&description("kind")));
        properties.insert("metadata".into(), reference(META));
        schema["properties"] = Value::Object(properties);
    }
    schema["x-kubernetes-group-version-kind"] = json!([group_version_kind(kind)]);
    schema
}
