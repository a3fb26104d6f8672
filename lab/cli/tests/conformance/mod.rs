//! Conformance tests by topic.

pub mod backend_selection;
pub mod external;
pub mod fixture;
pub mod invalid;
pub mod termination;
pub mod updates;
