//! Field management: `metadata.managedFields`, server-side apply and its conflicts.
//!
//! A manager that applies owns exactly the fields that it applied; a manager that creates, updates or
//! patches owns the fields that it changed. Apply refuses to change fields of other managers unless
//! it is forced. It removes fields that the manager owned and no longer applies, unless another
//! manager owns them too. The rules are those of Kubernetes' structured-merge-diff.

mod apply;
mod managed;
mod set;
mod types;
mod walk;

#[cfg(test)]
mod tests;

pub use apply::{ApplyConfiguration, LAST_APPLIED, apply, conflict_error};
pub use managed::{Entry, Manager, is_reset, read, track, write};
pub use types::Type;
pub use walk::check_lists;
