//! Paths and operations of the kinds.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::Kind;

pub(super) fn group_version_kind(kind: &Kind) -> Value {
    json!({"group": kind.group, "version": kind.version, "kind": kind.kind})
}

/// The name of a kind's schema, with the group's domain reversed:
/// `io.k8s.networking.gateway.v1.HTTPRoute`.
pub(super) fn name_of(kind: &Kind) -> String {
    let mut parts: Vec<&str> = kind.group.split('.').collect();
    parts.reverse();
    format!("{}.{}.{}", parts.join("."), kind.version, kind.kind)
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
pub(super) fn parameters(method: &str) -> &'static [(&'static str, &'static str)] {
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
pub(super) fn paths(kinds: &[Arc<Kind>], parameter: fn(&str, &str, &str) -> Value) -> Value {
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

pub(super) fn info() -> Value {
    json!({"title": "Kubernetes", "version": "v1.36.0+beeline-lab"})
}
