//! An object on its way in: fields that the schema does not know go, defaults come.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::schema::{Additional, Schema};

/// The object as it is kept, and the paths of the fields that it loses.
pub(super) fn read(schema: &Schema, object: &Value) -> (Value, Vec<String>) {
    let (mut object, mut lost) = (object.clone(), Vec::new());
    prune_resource(schema, &mut object, "", &mut lost);
    fill_in(schema, &mut object);
    (object, lost)
}

/// An object with `apiVersion`, `kind` and `metadata`, which no schema needs to name.
fn prune_resource(schema: &Schema, object: &mut Value, path: &str, lost: &mut Vec<String>) {
    let Some(fields) = object.as_object_mut() else { return };
    let own: Vec<(String, Value)> = ["apiVersion", "kind", "metadata"]
        .iter()
        .filter_map(|field| Some(((*field).to_owned(), fields.remove(*field)?)))
        .collect();
    prune_fields(schema, fields, path, lost);
    for (field, mut value) in own {
        if field == "metadata" {
            prune_metadata(&mut value, &join(path, "metadata"), lost);
        }
        fields.insert(field, value);
    }
}

/// Keeps of metadata what it is made of. What is no metadata at all stays for others to refuse.
fn prune_metadata(metadata: &mut Value, path: &str, lost: &mut Vec<String>) {
    let Ok(read) = ObjectMeta::deserialize(&*metadata) else { return };
    let Ok(Value::Object(known)) = serde_json::to_value(read) else { return };
    let Some(fields) = metadata.as_object_mut() else { return };
    fields.retain(|field, value| {
        let keeps = known.contains_key(field) || value.is_null();
        if !keeps {
            lost.push(join(path, field));
        }
        keeps && !value.is_null()
    });
}

fn prune(schema: &Schema, value: &mut Value, path: &str, lost: &mut Vec<String>) {
    match value {
        Value::Object(_) if schema.embedded => prune_resource(schema, value, path, lost),
        Value::Object(fields) => prune_fields(schema, fields, path, lost),
        Value::Array(elements) => {
            let Some(items) = &schema.items else { return };
            for (index, element) in elements.iter_mut().enumerate() {
                prune(items, element, &format!("{path}[{index}]"), lost);
            }
        }
        _ => {}
    }
}

fn prune_fields(schema: &Schema, fields: &mut Map<String, Value>, path: &str, lost: &mut Vec<String>) {
    fields.retain(|field, value| {
        let path = join(path, field);
        if let Some(property) = schema.properties.get(field) {
            prune(property, value, &path, lost);
            return true;
        }
        match &schema.additional {
            Additional::Like(like) => prune(like, value, &path, lost),
            Additional::Anything => {}
            Additional::Nothing if schema.preserve_unknown => {}
            Additional::Nothing => {
                lost.push(path);
                return false;
            }
        }
        true
    });
}

fn join(path: &str, field: &str) -> String {
    if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") }
}

/// Sets defaults. A null that is not allowed gives way to the default, or goes.
fn fill_in(schema: &Schema, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, property) in &schema.properties {
                fill_in_property(property, fields, name);
            }
            if let Additional::Like(like) = &schema.additional {
                let others = fields.iter_mut().filter(|(field, _)| !schema.properties.contains_key(*field));
                others.for_each(|(_, value)| fill_in_value(like, value));
            }
        }
        Value::Array(elements) => {
            if let Some(items) = &schema.items {
                elements.iter_mut().for_each(|element| fill_in_value(items, element));
            }
        }
        _ => {}
    }
}

fn fill_in_property(property: &Schema, fields: &mut Map<String, Value>, name: &str) {
    let is_null = |value: &Value| value.is_null() && !property.nullable;
    if fields.get(name).is_none_or(is_null) {
        match &property.default {
            Some(default) => fields.insert(name.to_owned(), default.clone()),
            None => fields.remove(name),
        };
    }
    if let Some(value) = fields.get_mut(name) {
        fill_in(property, value);
    }
}

fn fill_in_value(schema: &Schema, value: &mut Value) {
    if value.is_null()
        && !schema.nullable
        && let Some(default) = &schema.default
    {
        *value = default.clone();
    }
    fill_in(schema, value);
}
