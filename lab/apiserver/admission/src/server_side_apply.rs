//! Server-side apply.

use std::sync::Arc;

use beeline_apiserver_objects::fields::{self, ApplyConfiguration, LAST_APPLIED, Manager};
use beeline_apiserver_objects::{ApiError, ObjectKey, object};
use beeline_apiserver_schema::Kind;
use beeline_apiserver_storage::Store;
use serde_json::{Value, json};

use super::api::Api;
use super::managed_fields::{manager, type_of};
use super::options::{Subresource, WriteOptions};
use super::{prune, server_fields};

/// One server-side apply request.
pub(super) struct ServerSideApply<'a> {
    pub kind: &'a Arc<Kind>,
    pub subresource: Subresource,
    pub key: &'a ObjectKey,
    pub change: &'a Value,
    pub force: bool,
}

impl Api {
    /// Applies the request. The flag is true if the object was created.
    pub(super) fn server_side_apply(
        &self,
        store: &mut Store,
        request: &ServerSideApply<'_>,
        current: Option<Arc<Value>>,
        options: &WriteOptions,
    ) -> Result<(Arc<Value>, bool), ApiError> {
        let ServerSideApply { kind, subresource, key, .. } = request;
        let change = check_apply(request, current.as_deref())?;
        let (known, _) =
            prune::unknown_fields(kind, change.clone(), options.skip_validation || self.skip_validation)?;
        let manager = manager(kind, *subresource, options);
        let one = ApplyConfiguration {
            kind: type_of(kind),
            api_version: &kind.api_version(),
            manager: &manager,
            force: request.force,
            config: &change,
            pruned_config: &known,
        };
        let live = current.as_deref().cloned().unwrap_or(json!({}));
        let (mut merged, managers) =
            fields::apply(&live, fields::read(&live), &one).map_err(fields::conflict_error)?;
        update_last_applied_annotation(&mut merged, &live, &change, &manager);
        let own = WriteOptions { applied: Some(managers), ..options.clone() };
        let stored = match &current {
            None if *subresource != Subresource::None => Err(ApiError::not_found(*kind, &key.name)),
            None => self.create_locked(store, kind, merged, &own),
            Some(_) => self.update_locked(store, kind, *subresource, merged, &own),
        };
        options.warnings.replace(own.warnings.into_inner());
        Ok((stored?, current.is_none()))
    }
}

/// The applied configuration, with name and namespace from the path; refuses contradictions.
fn check_apply(request: &ServerSideApply<'_>, current: Option<&Value>) -> Result<Value, ApiError> {
    let (kind, key) = (request.kind, request.key);
    let mut change = request.change.clone();
    server_fields::check_type(kind, &mut change)?;
    if !object::array_at(&change, "/metadata/managedFields").is_empty() {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    let metadata = object::metadata(&mut change);
    object::set_default(metadata, "name", key.name.clone());
    if kind.namespaced {
        object::set_default(metadata, "namespace", key.namespace.clone());
    }
    check_patched_name(kind, key, &change)?;
    fields::check_lists(&change, type_of(kind)).map_err(|why| {
        let (version, kind_name) = (kind.api_version(), &kind.kind);
        let message =
            format!("failed to create typed patch object ({key}; {version}, Kind={kind_name}): {why}");
        ApiError::bad_request(message)
    })?;
    let version = object::str_at(&change, "/metadata/resourceVersion");
    let uid = object::uid(&change);
    match current {
        Some(current)
            if !version.is_empty() && version != object::str_at(current, "/metadata/resourceVersion") =>
        {
            Err(ApiError::conflict(kind, &key.name, server_fields::MODIFIED))
        }
        None if !uid.is_empty() => {
            let why = format!(
                "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
            );
            Err(ApiError::conflict(kind, &key.name, &why))
        }
        None => {
            object::metadata(&mut change).remove("resourceVersion");
            Ok(change)
        }
        Some(_) => Ok(change),
    }
}

/// Updates kubectl's last-applied annotation if the object has one, for later client-side applies.
fn update_last_applied_annotation(merged: &mut Value, live: &Value, change: &Value, manager: &Manager) {
    if manager.name == "kubectl" && object::annotation(live, LAST_APPLIED).is_some() {
        let annotations = object::child_mut(&mut merged["metadata"], "annotations");
        annotations.insert(LAST_APPLIED.to_owned(), change.to_string().into());
    }
}

pub(super) fn check_patched_name(kind: &Kind, key: &ObjectKey, changed: &Value) -> Result<(), ApiError> {
    if ObjectKey::of(changed) == *key {
        return Ok(());
    }
    let message = format!("the patch would change the name or namespace of {} {key}", kind.resource());
    Err(ApiError::bad_request(message))
}
