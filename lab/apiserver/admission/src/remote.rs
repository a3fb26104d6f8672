//! A remote API server that stores the objects of an `Api`.

use beeline_apiserver_objects::{ApiError, ObjectKey, PatchKind};
use beeline_apiserver_schema::Kind;
use serde_json::Value;

use super::options::{DeleteOptions, Subresource};

/// Client of the remote API server.
pub trait Remote: Send + Sync {
    /// Reads the current object.
    fn get(&self, kind: &Kind, key: &ObjectKey) -> Result<Value, ApiError>;

    /// Creates an object.
    fn create(&self, kind: &Kind, body: Value) -> Result<Value, ApiError>;

    /// Replaces a part of an object.
    fn update(&self, kind: &Kind, subresource: Subresource, body: Value) -> Result<Value, ApiError>;

    /// Patches a part of an object. The flag is true if the object was created.
    fn patch(
        &self,
        kind: &Kind,
        subresource: Subresource,
        key: &ObjectKey,
        language: &PatchKind,
        change: &Value,
    ) -> Result<(Value, bool), ApiError>;

    /// Deletes an object. Returns its last state, or a `Status` once it is removed.
    fn delete(&self, kind: &Kind, key: &ObjectKey, options: &DeleteOptions) -> Result<Value, ApiError>;

    /// Binds a pod to a node. The response does not contain the pod.
    fn bind(&self, kind: &Kind, key: &ObjectKey, node: &str) -> Result<(), ApiError>;
}
