//! OpenAPI documents: version 2 as JSON and protobuf, version 3 per group and version.
//!
//! Schemas of built-in kinds are derived from their Rust types, which have names, types and required
//! fields but no descriptions.

mod describe;
mod protobuf;
mod v2;
mod v3;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use serde_json::{Value, json};

pub(crate) use describe::{Definitions, describe};

use crate::{Kind, Kinds};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// Media types of the documents. Clients put an `@` before the version when they ask for protobuf.
pub(crate) const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
const V2_PREFIX: &str = "application/com.github.proto-openapi.spec.v2";
pub(crate) const JSON: &str = "application/json";

/// OpenAPI documents of the served kinds, cached until the kinds change.
#[derive(Default)]
pub(crate) struct OpenApiDocuments {
    built: Mutex<Option<Arc<BuiltDocuments>>>,
}

struct BuiltDocuments {
    kinds: Kinds,
    v2: Bytes,
    v2_protobuf: Bytes,
    /// By path below `/openapi/v3/`, such as `apis/apps/v1`.
    v3: BTreeMap<String, Bytes>,
    v3_index: Bytes,
}

impl OpenApiDocuments {
    /// The document at a path and its media type.
    pub fn answer(&self, kinds: &Kinds, path: &str, accept: &str) -> Option<(&'static str, Bytes)> {
        let rest = path.strip_prefix("/openapi/")?.trim_end_matches('/');
        let built = self.built(kinds);
        match rest {
            "v2" if prefers_protobuf(accept) => Some((V2_PROTOBUF, built.v2_protobuf.clone())),
            "v2" => Some((JSON, built.v2.clone())),
            "v3" => Some((JSON, built.v3_index.clone())),
            rest => Some((JSON, built.v3.get(rest.strip_prefix("v3/")?)?.clone())),
        }
    }

    fn built(&self, kinds: &Kinds) -> Arc<BuiltDocuments> {
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        match built.as_ref().filter(|built| built.kinds.ptr_eq(kinds)) {
            Some(built) => built.clone(),
            None => built.insert(Arc::new(BuiltDocuments::of(kinds))).clone(),
        }
    }
}

impl BuiltDocuments {
    fn of(kinds: &Kinds) -> Self {
        let definitions = definitions(kinds);
        let v2 = v2::document(kinds, &definitions);
        let v3 = v3::documents(kinds, &definitions);
        Self {
            kinds: kinds.clone(),
            v2_protobuf: protobuf::document(&v2).into(),
            v2: v2.to_string().into(),
            v3_index: v3::index(&v3).to_string().into(),
            v3,
        }
    }
}

/// Whether protobuf comes before JSON in the Accept header.
fn prefers_protobuf(accept: &str) -> bool {
    let first =
        accept.split(',').map(str::trim).find(|one| one.starts_with(V2_PREFIX) || one.starts_with(JSON));
    first.is_some_and(|one| one.starts_with(V2_PREFIX))
}

/// Schemas of all kinds and of the types in them, by name. References contain only the name.
fn definitions(kinds: &Kinds) -> Definitions {
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

fn group_version_kind(kind: &Kind) -> Value {
    json!({"group": kind.group, "version": kind.version, "kind": kind.kind})
}

/// The name of a kind's schema, with the group's domain reversed:
/// `io.k8s.networking.gateway.v1.HTTPRoute`.
fn name_of(kind: &Kind) -> String {
    let mut parts: Vec<&str> = kind.group.split('.').collect();
    parts.reverse();
    format!("{}.{}.{}", parts.join("."), kind.version, kind.kind)
}

fn custom_schema(kind: &Kind, source: &Value) -> Value {
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
        properties.insert("metadata".into(), describe::reference(META));
        schema["properties"] = Value::Object(properties);
    }
    schema["x-kubernetes-group-version-kind"] = json!([group_version_kind(kind)]);
    schema
}

/// One path of a document and its operations.
struct Path {
    path: String,
    operations: Vec<(&'static str, &'static str)>,
    kind: Arc<Kind>,
    has_name: bool,
    namespaced: bool,
}

/// The paths of a kind.
fn paths_of(kind: &Arc<Kind>) -> Vec<Path> {
    let root = if kind.group.is_empty() {
        "/api/v1".to_owned()
    } else {
        format!("/apis/{}/{}", kind.group, kind.version)
    };
    let place = if kind.namespaced { format!("{root}/namespaces/{{namespace}}") } else { root };
    let path = |end: String, operations: &[(&'static str, &'static str)], has_name| Path {
        path: format!("{place}/{end}"),
        operations: operations.to_vec(),
        kind: kind.clone(),
        has_name,
        namespaced: kind.namespaced,
    };
    let plural = &kind.plural;
    let all = [("get", "list"), ("post", "post"), ("delete", "deletecollection")];
    let one = [("get", "get"), ("put", "put"), ("patch", "patch"), ("delete", "delete")];
    let mut paths =
        vec![path(plural.to_string(), &all, false), path(format!("{plural}/{{name}}"), &one, true)];
    let part = [("get", "get"), ("put", "put"), ("patch", "patch")];
    if kind.status {
        paths.push(path(format!("{plural}/{{name}}/status"), &part, true));
    }
    paths
}

/// Query parameters of a method: name and type.
fn parameters(method: &str) -> &'static [(&'static str, &'static str)] {
    match method {
        "post" | "put" => &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")],
        "patch" => &[
            ("dryRun", "string"),
            ("fieldManager", "string"),
            ("fieldValidation", "string"),
            ("force", "boolean"),
        ],
        "delete" => {
            &[("dryRun", "string"), ("gracePeriodSeconds", "integer"), ("propagationPolicy", "string")]
        }
        _ => &[
            ("allowWatchBookmarks", "boolean"),
            ("continue", "string"),
            ("fieldSelector", "string"),
            ("labelSelector", "string"),
            ("limit", "integer"),
            ("resourceVersion", "string"),
            ("resourceVersionMatch", "string"),
            ("sendInitialEvents", "boolean"),
            ("timeoutSeconds", "integer"),
            ("watch", "boolean"),
        ],
    }
}

/// The paths of a document; `parameter` builds a parameter from name, location and type.
fn paths(kinds: &[Arc<Kind>], parameter: fn(&str, &str, &str) -> Value) -> Value {
    let mut all = serde_json::Map::new();
    for path in kinds.iter().flat_map(paths_of) {
        let mut item = serde_json::Map::new();
        for (method, action) in &path.operations {
            let query = parameters(method).iter().map(|(name, kind)| parameter(name, "query", kind));
            item.insert(
                (*method).to_owned(),
                json!({
                    "parameters": query.collect::<Vec<_>>(),
                    "responses": {"200": {"description": "OK"}},
                    "x-kubernetes-action": action,
                    "x-kubernetes-group-version-kind": group_version_kind(&path.kind),
                }),
            );
        }
        let mut places = Vec::new();
        if path.has_name {
            places.push(parameter("name", "path", "string"));
        }
        if path.namespaced {
            places.push(parameter("namespace", "path", "string"));
        }
        item.insert("parameters".to_owned(), json!(places));
        all.insert(path.path, Value::Object(item));
    }
    Value::Object(all)
}

fn info() -> Value {
    json!({"title": "Kubernetes", "version": "v1.36.0+beeline-lab"})
}

#[cfg(test)]
mod tests;
