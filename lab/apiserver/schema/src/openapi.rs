//! OpenAPI documents: version 2 as JSON and protobuf, version 3 per group and version.
//!
//! Schemas of built-in kinds are derived from their Rust types, which have names, types and required
//! fields but no descriptions.

mod definitions;
mod paths;
mod protobuf;
mod v2;
mod v3;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::Kinds;

#[cfg(test)]
pub(crate) use definitions::built_in;

/// Media types of the documents. Clients put an `@` before the version when they ask for protobuf.
pub(crate) const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
const V2_PREFIX: &str = "application/com.github.proto-openapi.spec.v2";
pub(crate) const JSON: &str = "application/json";

/// OpenAPI documents of the served kinds, cached until the kinds change.
#[derive(Default)]
pub struct OpenApiDocuments {
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
        let definitions = definitions::of(kinds);
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

#[cfg(test)]
mod tests;
