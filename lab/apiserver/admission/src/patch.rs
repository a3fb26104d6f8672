//! Patches of objects.

use std::sync::Arc;

use beeline_apiserver_objects::{ApiError, Cause, ObjectKey, PatchKind, object, patch};
use beeline_apiserver_schema::Kind;
use serde_json::Value;

use super::api::Api;
use super::options::{Subresource, WriteOptions};
use super::prune::STRICT;
use super::server_fields;
use super::server_side_apply::{ServerSideApply, check_patched_name};
use super::write::get_existing;

impl Api {
    /// Applies a patch. The flag is true if the object was created.
    pub fn patch_of(
        &self,
        kind: &Arc<Kind>,
        subresource: Subresource,
        key: &ObjectKey,
        language: &PatchKind,
        change: &Value,
        options: &WriteOptions,
    ) -> Result<(Arc<Value>, bool), ApiError> {
        if let Some(remote) = self.remote() {
            let (patched, created) = remote.patch(kind, subresource, key, language, change)?;
            return Ok((self.mirror_written(kind, patched), created));
        }
        let mut store = self.lock();
        let found = get_existing(&store, kind, key).ok();
        if let PatchKind::Apply { manager, force } = language {
            let request = ServerSideApply { kind, subresource, key, change, force: *force };
            let own = WriteOptions { manager: manager.clone(), ..options.clone() };
            let done = self.server_side_apply(&mut store, &request, found, &own);
            options.warnings.replace(own.warnings.into_inner());
            return done;
        }
        let current = found.ok_or_else(|| ApiError::not_found(kind, &key.name))?;
        let changed = patch::apply(&current, language, change)?;
        check_patched_name(kind, key, &changed)?;
        let changed = self.with_checked_version(kind, &current, changed, change, language)?;
        let shown = changed.clone();
        let stored = self.update_locked(&mut store, kind, subresource, changed, options);
        Ok((stored.map_err(|error| patch_error(error, &shown))?, false))
    }

    /// A resourceVersion in the patch is a precondition.
    fn with_checked_version(
        &self,
        kind: &Kind,
        current: &Value,
        changed: Value,
        change: &Value,
        language: &PatchKind,
    ) -> Result<Value, ApiError> {
        let expected_version = match language {
            PatchKind::Json => object::str_at(&changed, "/metadata/resourceVersion"),
            _ => object::str_at(change, "/metadata/resourceVersion"),
        };
        if !expected_version.is_empty()
            && expected_version != object::str_at(current, "/metadata/resourceVersion")
        {
            return Err(ApiError::conflict(kind, object::name(current), server_fields::MODIFIED));
        }
        Ok(changed)
    }
}

/// Errors in the result of a patch are reported as errors of the patch.
fn patch_error(error: ApiError, patched: &Value) -> ApiError {
    let Some(at) = error.message.find(STRICT).filter(|_| error.code == 400) else { return error };
    let cause = Cause::invalid("patch", patched, &error.message[at..]);
    let mut error = ApiError::new(422, "Invalid", format!(" \"\" is invalid: {cause}"));
    error.details.causes = vec![cause];
    error
}
