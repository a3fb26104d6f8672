//! Semantics of API requests, independent of HTTP: admission, defaults, validation, server-set fields
//! and allocation around the store.
//!
//! One lock is held for the length of a request, so a patch reads and writes atomically and cannot
//! conflict with itself. Nothing here blocks, except for writes to a remote server.

mod allocate;
mod api;
mod bind;
mod by_name;
mod delete;
mod managed_fields;
mod manifest;
mod mirror;
mod options;
mod patch;
mod prune;
mod registry;
mod remote;
mod scale;
mod server_fields;
mod server_side_apply;
mod service_account;
mod write;

pub use api::Api;
pub use manifest::{Applied, ApplyProblem, ApplyReport};
pub use options::{DeleteOptions, ListOptions, Page, Propagation, ResourceVersionMatch, WatchOptions};
pub use options::{Subresource, UnknownFields, WriteOptions};
pub use registry::CLEANUP;
pub use remote::Remote;

#[cfg(test)]
mod tests;
