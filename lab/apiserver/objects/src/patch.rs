//! JSON merge patch, JSON patch and strategic merge patch. Server-side apply is in `fields`.

pub mod lists;
mod strategic;

use serde_json::Value;

use crate::ApiError;

/// Patch types.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PatchKind {
    /// JSON merge patch (RFC 7386).
    Merge,
    /// JSON patch (RFC 6902).
    Json,
    /// Strategic merge patch, which merges lists by key.
    Strategic,
    /// Server-side apply by this field manager; creates the object if it does not exist.
    Apply {
        /// The field manager.
        manager: String,
        /// Whether to take ownership of fields of other managers on conflict.
        force: bool,
    },
}

/// Returns the patched object.
pub fn apply(current: &Value, language: &PatchKind, change: &Value) -> Result<Value, ApiError> {
    let mut changed = current.clone();
    match language {
        PatchKind::Merge => json_patch::merge(&mut changed, change),
        PatchKind::Json => apply_json(&mut changed, change)?,
        PatchKind::Strategic => strategic::merge(&mut changed, change)?,
        // Apply to a subresource that is stored in another object, such as the scale.
        PatchKind::Apply { .. } => json_patch::merge(&mut changed, change),
    }
    if !changed.is_object() {
        return Err(ApiError::bad_request("the patched value is not an object"));
    }
    Ok(changed)
}

fn apply_json(changed: &mut Value, change: &Value) -> Result<(), ApiError> {
    let patch: json_patch::Patch = serde_json::from_value(change.clone()).map_err(|error| {
        ApiError::bad_request(format!("the body is not a JSON patch (RFC 6902): {error}"))
    })?;
    json_patch::patch(changed, &patch).map_err(|error| {
        ApiError::new(
            422,
            "Invalid",
            format!("the server rejected our request due to an error in our request: {error}"),
        )
    })
}
