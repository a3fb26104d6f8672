//! Requests that name a kind as kubectl does (`pods`, `svc`, `deployments.apps`).

use std::sync::Arc;

use beeline_apiserver_objects::{ApiError, ObjectKey, PatchKind};
use beeline_apiserver_storage::Watch;
use serde_json::Value;

use super::api::Api;
use super::options::{DeleteOptions, ListOptions, Page, Subresource, WatchOptions, WriteOptions};

impl Api {
    /// Returns one object.
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Result<Arc<Value>, ApiError> {
        self.get_of(&*self.kind(kind)?, &ObjectKey::new(namespace, name))
    }

    /// Lists the objects of one namespace, or of all.
    pub fn list(&self, kind: &str, namespace: Option<&str>, options: &ListOptions) -> Result<Page, ApiError> {
        self.list_of(&*self.kind(kind)?, namespace, options)
    }

    /// Watches the objects of one namespace, or of all.
    pub fn watch(
        &self,
        kind: &str,
        namespace: Option<&str>,
        options: &WatchOptions,
    ) -> Result<Watch, ApiError> {
        self.watch_of(&self.kind(kind)?, namespace, options)
    }

    /// Creates the object in the namespace of its metadata.
    pub fn create(&self, kind: &str, object: Value) -> Result<Arc<Value>, ApiError> {
        let kind = self.kind(kind)?;
        self.create_of(&kind, object, &WriteOptions::default())
    }

    /// Replaces an object except its status. Refused if its resourceVersion is not the current one.
    pub fn update(&self, kind: &str, object: Value) -> Result<Arc<Value>, ApiError> {
        self.update_of(&self.kind(kind)?, Subresource::None, object, &WriteOptions::default())
    }

    /// Replaces the status of an object. Refused if its resourceVersion is not the current one.
    pub fn update_status(&self, kind: &str, object: Value) -> Result<Arc<Value>, ApiError> {
        self.update_of(&self.kind(kind)?, Subresource::Status, object, &WriteOptions::default())
    }

    /// Patches an object except its status.
    pub fn patch(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        language: &PatchKind,
        patch: &Value,
    ) -> Result<Arc<Value>, ApiError> {
        let key = ObjectKey::new(namespace, name);
        let options = WriteOptions::default();
        Ok(self.patch_of(&self.kind(kind)?, Subresource::None, &key, language, patch, &options)?.0)
    }

    /// Patches the status of an object; `patch` has the form `{"status": {...}}`.
    pub fn patch_status(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        language: &PatchKind,
        patch: &Value,
    ) -> Result<Arc<Value>, ApiError> {
        let key = ObjectKey::new(namespace, name);
        let options = WriteOptions::default();
        Ok(self.patch_of(&self.kind(kind)?, Subresource::Status, &key, language, patch, &options)?.0)
    }

    /// Deletes an object. Returns its last state, or its current state if finalizers or a grace
    /// period delay the deletion.
    pub fn delete(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Arc<Value>, ApiError> {
        Ok(self.delete_of(&self.kind(kind)?, &ObjectKey::new(namespace, name), options)?.object)
    }
}
