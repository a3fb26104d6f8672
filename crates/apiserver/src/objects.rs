//! Objects as JSON values, without I/O: reading and changing fields, selectors, patches, field
//! ownership, and the errors of the API.

pub(crate) mod error;
pub(crate) mod fields;
pub(crate) mod object;
pub(crate) mod patch;
pub(crate) mod selector;
pub(crate) mod service;

pub use error::{ApiError, Cause, Details, KindNames};
pub use object::ObjectKey;
pub use patch::PatchKind;
pub(crate) use selector::Selector;
