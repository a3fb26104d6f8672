//! Pruning and defaulting of custom resources.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::schema::{Additional, Schema};

/// The object to store, and the paths of the removed fields.
pub(super) fn prune_and_default(schema: &Schema, object: &Value) -> (Value, Vec<String>) {
    let (mut object, mut pruned) = (object.clone(), Vec::new());
    prune_resource(schema, &mut object, "", &mut pruned);
    set_defaults(schema, &mut object);
    (object, pruned)
}

/// Prunes an object with `apiVersion`, `kind` and `metadata`, which its schema need not list.
fn prune_resource(schema: &Schema, object: &mut Value, path: &str, pruned: &mut Vec<String>) {
    let Some(fields) = object.as_object_mut() else { return };
    let own: Vec<(String, Value)> = ["apiVersion", "kind", "metadata"]
        .iter()
        .filter_map(|field| Some(((*field).to_owned(), fields.remove(*field)?)))
        .collect();
    prune_fields(schema, fields, path, pruned);
    for (field, mut value) in own {
        if field == "metadata" {
            prune_metadata(&mut value, &join(path, "metadata"), pruned);
        }
        fields.insert(field, value);
    }
}

/// Removes unknown fields of metadata. Metadata of the wrong type is left for validation.
fn prune_metadata(metadata: &mut Value, path: &str, pruned: &mut Vec<String>) {
    let Ok(read) = ObjectMeta::deserialize(&*metadata) else { return };
    let Ok(Value::Object(known)) = serde_json::to_value(read) else { return };
    let Some(fields) = metadata.as_object_mut() else { return };
    fields.retain(|field, value| {
        let keeps = known.contains_key(field) || value.is_null();
        if !keeps {
            pruned.push(join(path, field));
        }
        keeps && !value.is_null()
    });
}

fn prune(schema: &Schema, value: &mut Value, path: &str, pruned: &mut Vec<String>) {
    match value {
        Value::Object(_) if schema.embedded => prune_resource(schema, value, path, pruned),
        Value::Object(fields) => prune_fields(schema, fields, path, pruned),
        Value::Array(elements) => {
            let Some(items) = &schema.items else { return };
            for (index, element) in elements.iter_mut().enumerate() {
                prune(items, element, &format!("{path}[{index}]"), pruned);
            }
        }
        _ => {}
    }
}

fn prune_fields(schema: &Schema, fields: &mut Map<String, Value>, path: &str, pruned: &mut Vec<String>) {
    fields.retain(|field, value| {
        let path = join(path, field);
        if let Some(property) = schema.properties.get(field) {
            prune(property, value, &path, pruned);
            return true;
        }
        match &schema.additional {
            Additional::Matching(like) => prune(like, value, &path, pruned),
            Additional::Any => {}
            Additional::Forbidden if schema.preserve_unknown => {}
            Additional::Forbidden => {
                pruned.push(path);
                return false;
            }
        }
        true
    });
}

fn join(path: &str, field: &str) -> String {
    if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") }
}

/// Sets defaults. A null value that is not nullable is replaced by the default or removed.
fn set_defaults(schema: &Schema, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, property) in &schema.properties {
                set_property_default(property, fields, name);
            }
            if let Additional::Matching(like) = &schema.additional {
                let others = fields.iter_mut().filter(|(field, _)| !schema.properties.contains_key(*field));
                others.for_each(|(_, value)| set_value_defaults(like, value));
            }
        }
        Value::Array(elements) => {
            if let Some(items) = &schema.items {
                elements.iter_mut().for_each(|element| set_value_defaults(items, element));
            }
        }
        _ => {}
    }
}

fn set_property_default(property: &Schema, fields: &mut Map<String, Value>, name: &str) {
    let is_null = |value: &Value| value.is_null() && !property.nullable;
    if fields.get(name).is_none_or(is_null) {
        match &property.default {
            Some(default) => fields.insert(name.to_owned(), default.clone()),
            None => fields.remove(name),
        };
    }
    if let Some(value) = fields.get_mut(name) {
        set_defaults(property, value);
    }
}

fn set_value_defaults(schema: &Schema, value: &mut Value) {
    if value.is_null()
        && !schema.nullable
        && let Some(default) = &schema.default
    {
        *value = default.clone();
    }
    set_defaults(schema, value);
}
