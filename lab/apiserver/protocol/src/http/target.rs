//! What a request for objects is about.

use std::sync::Arc;

use beeline_apiserver_objects::ApiError;
use beeline_apiserver_schema::{Kind, Kinds};

use super::params::PathParams;

/// A collection, an object or a subresource.
#[derive(Debug)]
pub(super) struct Target {
    pub kind: Arc<Kind>,
    /// None for requests across all namespaces and for cluster-scoped kinds.
    pub namespace: Option<String>,
    pub name: Option<String>,
    pub subresource: Option<String>,
}

impl Target {
    /// The target of a path. Without a plural it is a subresource of a namespace, without a group a
    /// core kind.
    pub fn of(kinds: &Kinds, path: &PathParams) -> Result<Self, ApiError> {
        let plural = path.find("plural").unwrap_or("namespaces");
        let version = path.find("version").unwrap_or("v1");
        let kind =
            kinds.by_path(path.get("group"), version, plural).ok_or_else(ApiError::no_such_path)?.clone();
        let owned = |name: &str| path.find(name).map(str::to_owned);
        let (namespace, name) = (owned("namespace"), owned("name"));
        let subresource = owned("subresource").or_else(|| {
            // The routes of `namespaces/NAME/status` and `finalize`.
            path.find("plural").is_none().then(|| path.last_segment().to_owned())
        });
        let misplaced =
            if namespace.is_some() { !kind.namespaced } else { kind.namespaced && name.is_some() };
        if misplaced {
            return Err(ApiError::no_such_path());
        }
        Ok(Self { kind, namespace, name, subresource })
    }
}
