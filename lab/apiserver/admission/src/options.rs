//! Options and results of requests.

use std::cell::RefCell;
use std::sync::Arc;

use beeline_apiserver_objects::fields::Entry;
use serde_json::Value;

/// Options of a list.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// Label selector in kubectl's notation; empty selects all.
    pub labels: String,
    /// Field selector, such as `spec.nodeName=node-1`; empty selects all.
    pub fields: String,
    /// Maximum number of objects per page; 0 for no limit.
    pub limit: usize,
    /// Continue token of the previous page; empty for the first page.
    pub continue_token: String,
    /// Which revision to list; the most recent by default.
    pub resource_version_match: ResourceVersionMatch,
}

/// `resourceVersion` and `resourceVersionMatch` of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResourceVersionMatch {
    /// The most recent revision.
    #[default]
    MostRecent,
    /// The most recent revision, which must be at least this one.
    NotOlderThan(u64),
    /// Exactly this revision.
    Exact(u64),
}

/// One page of a list.
#[derive(Clone, Debug)]
pub struct Page {
    /// The objects.
    pub items: Vec<Arc<Value>>,
    /// The revision to watch from.
    pub revision: u64,
    /// Token for the next page; empty on the last page.
    pub continue_token: String,
    /// Number of objects after this page; known only without selectors.
    pub remaining_item_count: Option<usize>,
}

/// Options of a watch.
#[derive(Clone, Debug, Default)]
pub struct WatchOptions {
    /// Label selector; empty selects all.
    pub labels: String,
    /// Field selector; empty selects all.
    pub fields: String,
    /// Start with the changes after this revision. None starts with the existing objects.
    pub after: Option<u64>,
    /// Without `after`: skip the existing objects and start with the next change.
    pub changes_only: bool,
    /// Send a bookmark that marks the end of the initial events.
    pub initial_events_end: bool,
    /// Send bookmarks while nothing changes.
    pub bookmarks: bool,
}

/// What happens to the dependents of a deleted object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    /// Dependents are deleted after the owner.
    #[default]
    Background,
    /// The owner is deleted after its dependents.
    Foreground,
    /// Dependents are kept and lose their owner reference.
    Orphan,
}

/// Options of a deletion.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    /// Grace period of a pod in seconds; none uses the pod's own.
    pub grace_seconds: Option<i64>,
    /// What happens to the dependents.
    pub propagation: Propagation,
    /// Precondition: the object has this uid.
    pub uid: Option<String>,
    /// Precondition: the object is at this resource version.
    pub resource_version: Option<String>,
}

/// The part of an object that a request writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subresource {
    /// The object except its status.
    None,
    /// The status.
    Status,
    /// `spec.finalizers` of a Namespace.
    Finalize,
    /// Fields that only the server's own controllers may set, such as `spec.nodeName`.
    Internal,
}

/// Options of a write.
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    /// Store the object even if it is invalid.
    pub skip_validation: bool,
    /// Do everything except storing the object.
    pub dry_run: bool,
    /// How unknown fields are reported. They are never stored.
    pub unknown_fields: UnknownFields,
    /// Warnings about an accepted write.
    pub warnings: RefCell<Vec<String>>,
    /// Field manager; empty for the server's own controllers.
    pub manager: String,
    /// Subresource recorded in the managed fields where the request does not write it directly
    /// (`scale`).
    pub subresource_name: &'static str,
    /// Managed fields to store, if already computed (server-side apply).
    pub applied: Option<Vec<Entry>>,
}

/// How unknown fields are reported: the query parameter `fieldValidation`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownFields {
    #[default]
    /// Not at all.
    Ignore,
    /// As a warning.
    Warn,
    /// As an error.
    Strict,
}

/// Result of a deletion.
pub struct Deleted {
    pub object: Arc<Value>,
    /// Whether the object was removed, not only marked for deletion.
    pub removed: bool,
}
