//! Removal of fields that the kind does not have.

use beeline_apiserver_objects::{ApiError, object};
use beeline_apiserver_schema::Kind;
use serde_json::Value;

/// What errors about unknown fields begin with.
pub(super) const STRICT: &str = "strict decoding error: ";

/// The object without its unknown fields, and their paths.
pub(super) fn unknown_fields(
    kind: &Kind,
    object: Value,
    skip: bool,
) -> Result<(Value, Vec<String>), ApiError> {
    if let Some(custom) = kind.custom.as_ref().filter(|_| !skip) {
        return Ok(custom.prune_and_default(&object));
    }
    let Some(prune) = kind.prune.filter(|_| !skip) else { return Ok((object, Vec::new())) };
    let pruned = prune(&object).map_err(|error| {
        let (version, kind_name) = (&kind.version, &kind.kind);
        ApiError::bad_request(format!(
            "{kind_name} in version {version:?} cannot be handled as a {kind_name}: {error}"
        ))
    })?;
    let mut unknown = Vec::new();
    object::collect_missing(&object, &pruned, "", &mut unknown);
    Ok((pruned, unknown))
}
