//! Who owns which fields of an object: `metadata.managedFields`, server-side apply and its conflicts.
//!
//! A manager that applies owns what it applied, exactly; a manager that creates, updates or patches
//! owns what it changed. Apply refuses to change what another manager owns unless it is forced to,
//! and takes away what its manager owned and applies no more, unless somebody else owns it too. The
//! rules are those of Kubernetes' structured merge.

mod apply;
mod managed;
mod set;
mod types;
mod walk;

#[cfg(test)]
mod tests;

pub(crate) use apply::{ApplyConfiguration, LAST_APPLIED, apply, conflict_error};
pub(crate) use managed::{Entry, Manager, is_reset, read, track, write};
pub(crate) use types::Type;
pub(crate) use walk::check_lists;
