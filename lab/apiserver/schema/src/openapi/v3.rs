//! OpenAPI 3: one document per group version, and an index.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::paths::{group_version_kind, info, name_of, paths};
use crate::describe::{Definitions, REFERENCE};
use crate::{Kind, Kinds};

/// The documents by path, such as `apis/apps/v1`.
pub(super) fn documents(kinds: &Kinds, definitions: &Definitions) -> BTreeMap<String, Bytes> {
    let mut by_path: BTreeMap<String, Vec<Arc<Kind>>> = BTreeMap::new();
    for kind in kinds.iter() {
        let path = match kind.group.as_ref() {
            "" => format!("api/{}", kind.version),
            group => format!("apis/{group}/{}", kind.version),
        };
        by_path.entry(path).or_default().push(kind.clone());
    }
    let document = |(path, kinds): (String, Vec<Arc<Kind>>)| {
        let document = document(&kinds, definitions).to_string();
        (path, Bytes::from(document))
    };
    by_path.into_iter().map(document).collect()
}

/// The index, with a hash per document so that clients can cache them.
pub(super) fn index(documents: &BTreeMap<String, Bytes>) -> Value {
    let entry = |(path, document): (&String, &Bytes)| {
        let mut hasher = DefaultHasher::new();
        document.hash(&mut hasher);
        let url = format!("/openapi/v3/{path}?hash={:016X}", hasher.finish());
        (path.clone(), json!({"serverRelativeURL": url}))
    };
    json!({"paths": documents.iter().map(entry).collect::<Map<_, _>>()})
}

fn document(kinds: &[Arc<Kind>], definitions: &Definitions) -> Value {
    let mut schemas = Map::new();
    for kind in kinds {
        let name = match &kind.custom {
            Some(_) => name_of(kind),
            None => built_in_name(kind, definitions).unwrap_or_default(),
        };
        collect(&name, definitions, &mut schemas);
    }
    json!({
        "openapi": "3.0.0", "info": info(), "paths": paths(kinds, parameter), "components": {"schemas": schemas},
    })
}

fn built_in_name(kind: &Kind, definitions: &Definitions) -> Option<String> {
    let expected = group_version_kind(kind);
    let is_it = |schema: &Value| schema["x-kubernetes-group-version-kind"][0] == expected;
    definitions.iter().find(|(_, schema)| is_it(schema)).map(|(name, _)| name.clone())
}

/// Adds a schema and the schemas that it references.
fn collect(name: &str, definitions: &Definitions, schemas: &mut Map<String, Value>) {
    let Some(schema) = definitions.get(name).filter(|_| !schemas.contains_key(name)) else { return };
    let mut needed = Vec::new();
    let schema = translate(schema, &mut needed);
    schemas.insert(name.to_owned(), schema);
    needed.iter().for_each(|name| collect(name, definitions, schemas));
}

fn parameter(name: &str, place: &str, kind: &str) -> Value {
    json!({"name": name, "in": place, "schema": {"type": kind, "uniqueItems": true}, "required": place == "path"})
}

/// Converts references to those of this document. Other fields are not allowed next to a reference,
/// so it is put into `allOf`.
fn translate(schema: &Value, needed: &mut Vec<String>) -> Value {
    match schema {
        Value::Object(fields) => {
            if let Some(name) = fields.get(REFERENCE).and_then(Value::as_str) {
                needed.push(name.to_owned());
                let reference = json!({REFERENCE: format!("#/components/schemas/{name}")});
                let mut beside: Map<String, Value> = fields.clone();
                beside.remove(REFERENCE);
                if beside.is_empty() {
                    return reference;
                }
                beside.insert("allOf".to_owned(), json!([reference]));
                return Value::Object(beside);
            }
            fields.iter().map(|(field, value)| (field.clone(), translate(value, needed))).collect()
        }
        Value::Array(elements) => elements.iter().map(|element| translate(element, needed)).collect(),
        other => other.clone(),
    }
}
