//! Objects as JSON values, without I/O: reading and changing fields, selectors, patches, field
//! ownership, and the errors of the API.

pub mod error;
pub mod fields;
pub mod object;
pub mod patch;
pub mod selector;
pub mod service;

pub use error::{ApiError, Cause, Details, KindNames};
pub use object::ObjectKey;
pub use patch::PatchKind;
pub use selector::Selector;
