//! OpenAPI 2: one document for all kinds.

use serde_json::{Map, Value, json};

use super::paths::{info, paths};
use crate::Kinds;
use crate::describe::{Definitions, REFERENCE};

pub(super) fn document(kinds: &Kinds, definitions: &Definitions) -> Value {
    let all: Vec<_> = kinds.iter().cloned().collect();
    let definitions: Map<String, Value> =
        definitions.iter().map(|(name, schema)| (name.clone(), translate(schema))).collect();
    json!({"swagger": "2.0", "info": info(), "paths": paths(&all, parameter), "definitions": definitions})
}

fn parameter(name: &str, place: &str, kind: &str) -> Value {
    json!({"name": name, "in": place, "type": kind, "required": place == "path", "uniqueItems": true})
}

/// Converts a schema. OpenAPI 2 has no nullable values or several types; such fields get no type.
fn translate(schema: &Value) -> Value {
    if let Some(name) = schema[REFERENCE].as_str() {
        let mut reference = json!({REFERENCE: format!("#/definitions/{name}")});
        // Clients read list keys and descriptions next to the reference.
        copy_extensions(schema, &mut reference);
        return reference;
    }
    let Some(fields) = schema.as_object() else { return json!({}) };
    let is_open = schema["nullable"] == true || schema["x-kubernetes-preserve-unknown-fields"] == true;
    let mut result = Map::new();
    for (field, value) in fields {
        match field.as_str() {
            "oneOf" | "anyOf" | "allOf" | "not" | "nullable" | "default" => {}
            "type" | "items" | "properties" | "additionalProperties" | "required" if is_open => {}
            "items" => drop(result.insert(field.clone(), translate(value))),
            "additionalProperties" if value.is_object() => {
                drop(result.insert(field.clone(), translate(value)))
            }
            "additionalProperties" => {}
            "properties" => {
                let properties = value.as_object().into_iter().flatten();
                let properties: Map<String, Value> =
                    properties.map(|(name, schema)| (name.clone(), translate(schema))).collect();
                result.insert(field.clone(), Value::Object(properties));
            }
            _ => drop(result.insert(field.clone(), value.clone())),
        }
    }
    Value::Object(result)
}

fn copy_extensions(from: &Value, to: &mut Value) {
    for (field, value) in from.as_object().into_iter().flatten() {
        if field.starts_with("x-kubernetes-") || field == "description" {
            to[field] = value.clone();
        }
    }
}
