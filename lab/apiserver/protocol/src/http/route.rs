//! Request paths.

use std::sync::Arc;

use beeline_apiserver_objects::ApiError;
use beeline_apiserver_schema::{Kind, Kinds};

use super::query::decode;

/// A collection, an object or a subresource.
#[derive(Debug)]
pub(super) struct Target {
    pub kind: Arc<Kind>,
    /// None for requests across all namespaces and for cluster-scoped kinds.
    pub namespace: Option<String>,
    pub name: Option<String>,
    pub subresource: Option<String>,
}

pub(super) fn target(kinds: &Kinds, path: &str) -> Result<Target, ApiError> {
    let parts: Vec<String> = path.split('/').filter(|part| !part.is_empty()).map(decode).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    match parts.as_slice() {
        ["api", "v1", rest @ ..] => parse_resource(kinds, "", "v1", rest),
        ["apis", group, version, rest @ ..] => parse_resource(kinds, group, version, rest),
        _ => Err(ApiError::no_such_path()),
    }
}

fn parse_resource(kinds: &Kinds, group: &str, version: &str, rest: &[&str]) -> Result<Target, ApiError> {
    match rest {
        // `namespaces/NAME/PLURAL` is a collection in a namespace unless PLURAL is a subresource of
        // namespaces.
        ["namespaces", namespace, plural, rest @ ..] if !is_namespace_subresource(group, plural) => {
            let mut target = object(kinds, group, version, plural, rest)?;
            if !target.kind.namespaced {
                return Err(ApiError::no_such_path());
            }
            target.namespace = Some((*namespace).to_owned());
            Ok(target)
        }
        [plural, rest @ ..] => {
            let target = object(kinds, group, version, plural, rest)?;
            if target.kind.namespaced && target.name.is_some() {
                return Err(ApiError::no_such_path());
            }
            Ok(target)
        }
        [] => Err(ApiError::no_such_path()),
    }
}

fn is_namespace_subresource(group: &str, segment: &str) -> bool {
    group.is_empty() && matches!(segment, "status" | "finalize")
}

fn object(
    kinds: &Kinds,
    group: &str,
    version: &str,
    plural: &str,
    rest: &[&str],
) -> Result<Target, ApiError> {
    let kind = kinds.by_path(group, version, plural).ok_or_else(ApiError::no_such_path)?.clone();
    let (name, subresource) = match rest {
        [] => (None, None),
        [name] => (Some((*name).to_owned()), None),
        [name, subresource] => (Some((*name).to_owned()), Some((*subresource).to_owned())),
        _ => return Err(ApiError::no_such_path()),
    };
    Ok(Target { kind, namespace: None, name, subresource })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, expected: &str) {
        let shown = match target(&Kinds::built_in(), path) {
            Ok(target) => format!(
                "{} {} {} {}",
                target.kind.resource(),
                target.namespace.as_deref().unwrap_or("-"),
                target.name.as_deref().unwrap_or("-"),
                target.subresource.as_deref().unwrap_or("-"),
            ),
            Err(error) => error.code.to_string(),
        };
        assert_eq!(shown, expected, "{path}");
    }

    #[test]
    fn unit_paths_are_parsed() {
        check("/api/v1/pods", "pods - - -");
        check("/api/v1/nodes/node-1/status", "nodes - node-1 status");
        check("/api/v1/namespaces", "namespaces - - -");
        check("/api/v1/namespaces/a", "namespaces - a -");
        check("/api/v1/namespaces/a/finalize", "namespaces - a finalize");
        check("/api/v1/namespaces/a/pods", "pods a - -");
        check("/apis/apps/v1/namespaces/a/deployments/web/scale", "deployments.apps a web scale");
        check("/api/v1/pods/web", "404");
        check("/api/v1/namespaces/a/nodes", "404");
        check("/apis/apps/v2/deployments", "404");
        check("/api/v1/namespaces/a/pods/b/c/d", "404");
        check("/", "404");
    }
}
