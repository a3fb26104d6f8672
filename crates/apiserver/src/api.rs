//! Semantics of API requests, independent of HTTP.
//!
//! One lock is held for the length of a request, so a patch reads and writes atomically and cannot
//! conflict with itself. Nothing here blocks.

mod delete;
mod fields;
mod scale;
mod write;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use serde_json::{Value, json};

use crate::allocate::Allocators;
use crate::kinds::{Kind, Kinds};
use crate::object::ObjectKey;
use crate::remote::Remote;
use crate::selector::Selector;
use crate::store::{SharedStore, Store, Watch, WatchStart};
use crate::{ApiError, Cause, custom};

pub(crate) use delete::Deleted;
pub(crate) use write::{Subresource, UnknownFields, WriteOptions};

/// Access to the objects. Cheap to clone; all clones share the same objects.
#[derive(Clone)]
pub struct Api {
    shared: Arc<Shared>,
    skip_validation: bool,
}

struct Shared {
    kinds: RwLock<Kinds>,
    store: SharedStore,
    allocators: Mutex<Allocators>,
    /// The remote API server that holds the objects, if they are not stored here.
    remote: Option<Remote>,
}

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

impl Api {
    pub(crate) fn new(kinds: Kinds, store: SharedStore, allocators: Allocators) -> Self {
        Self::build(kinds, store, allocators, None)
    }

    /// Objects of a remote API server; the store is a mirror of them.
    pub(crate) fn mirror(kinds: Kinds, store: SharedStore, remote: Remote) -> Self {
        Self::build(kinds, store, Allocators::new(&[]), Some(remote))
    }

    fn build(kinds: Kinds, store: SharedStore, allocators: Allocators, remote: Option<Remote>) -> Self {
        let (kinds, allocators) = (RwLock::new(kinds), Mutex::new(allocators));
        let shared = Shared { kinds, store, allocators, remote };
        Self { shared: Arc::new(shared), skip_validation: false }
    }

    /// The remote API server that holds the objects, if they are not stored here.
    pub(crate) fn remote(&self) -> Option<&Remote> {
        self.shared.remote.as_ref()
    }

    /// The same objects without validation of writes, for tests that need objects which Kubernetes
    /// would refuse.
    pub fn without_validation(&self) -> Self {
        Self { shared: self.shared.clone(), skip_validation: true }
    }

    /// The kinds that are served at present.
    pub fn kinds(&self) -> Kinds {
        self.shared.kinds.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Updates the served kinds after a change of the CustomResourceDefinitions. This lock is always
    /// taken after the store's.
    pub(crate) fn refresh_kinds(&self, store: &mut Store, definitions: &Arc<Kind>) {
        let next = custom::refresh(store, &self.kinds(), definitions);
        *self.shared.kinds.write().unwrap_or_else(PoisonError::into_inner) = next;
    }

    /// Writes an object of the remote server into the mirror.
    pub(crate) fn mirror_put(&self, kind: &Arc<Kind>, value: Value) {
        let mut store = self.lock();
        store.mirror_put(kind, value);
        if kind.is("customresourcedefinitions") {
            self.refresh_kinds(&mut store, kind);
        }
    }

    /// The kind with this name, as kubectl accepts it (`pods`, `svc`, `deployments.apps`).
    pub fn kind(&self, name: &str) -> Result<Arc<Kind>, ApiError> {
        let kind = self.kinds().by_name(name).cloned();
        kind.ok_or_else(|| {
            ApiError::new(404, "NotFound", format!("there is no resource type named {name:?}"))
        })
    }

    /// The most recent revision.
    pub fn revision(&self) -> u64 {
        self.lock().revision()
    }

    /// Discards the history, like a compaction of etcd: watches that are behind get 410 Gone.
    pub fn compact(&self) {
        self.lock().compact();
    }

    /// Returns one object.
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Result<Arc<Value>, ApiError> {
        self.get_of(&*self.kind(kind)?, &ObjectKey::new(namespace, name))
    }

    /// Lists the objects of one namespace, or of all.
    pub fn list(&self, kind: &str, namespace: Option<&str>, options: &ListOptions) -> Result<Page, ApiError> {
        self.list_of(&*self.kind(kind)?, namespace, options)
    }

    /// Watches the objects of one namespace, or of all.
    pub fn watch(
        &self,
        kind: &str,
        namespace: Option<&str>,
        options: &WatchOptions,
    ) -> Result<Watch, ApiError> {
        self.watch_of(&self.kind(kind)?, namespace, options)
    }

    /// Creates the object in the namespace of its metadata.
    pub fn create(&self, kind: &str, object: Value) -> Result<Arc<Value>, ApiError> {
        let kind = self.kind(kind)?;
        self.create_of(&kind, object, &WriteOptions::default())
    }

    /// Replaces an object except its status. Refused if its resourceVersion is not the current one.
    pub fn update(&self, kind: &str, object: Value) -> Result<Arc<Value>, ApiError> {
        self.update_of(&self.kind(kind)?, Subresource::None, object, &WriteOptions::default())
    }

    /// Replaces the status of an object. Refused if its resourceVersion is not the current one.
    pub fn update_status(&self, kind: &str, object: Value) -> Result<Arc<Value>, ApiError> {
        self.update_of(&self.kind(kind)?, Subresource::Status, object, &WriteOptions::default())
    }

    /// Patches an object except its status.
    pub fn patch(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        language: &PatchKind,
        patch: &Value,
    ) -> Result<Arc<Value>, ApiError> {
        let key = ObjectKey::new(namespace, name);
        let options = WriteOptions::default();
        Ok(self.patch_of(&self.kind(kind)?, Subresource::None, &key, language, patch, &options)?.0)
    }

    /// Patches the status of an object; `patch` has the form `{"status": {...}}`.
    pub fn patch_status(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        language: &PatchKind,
        patch: &Value,
    ) -> Result<Arc<Value>, ApiError> {
        let key = ObjectKey::new(namespace, name);
        let options = WriteOptions::default();
        Ok(self.patch_of(&self.kind(kind)?, Subresource::Status, &key, language, patch, &options)?.0)
    }

    /// Deletes an object. Returns its last state, or its current state if finalizers or a grace
    /// period delay the deletion.
    pub fn delete(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Arc<Value>, ApiError> {
        Ok(self.delete_of(&self.kind(kind)?, &ObjectKey::new(namespace, name), options)?.object)
    }

    pub(crate) fn get_of(&self, kind: &Kind, key: &ObjectKey) -> Result<Arc<Value>, ApiError> {
        let found = self.lock().get(kind, key).map(|object| kind.to_served_version(object));
        found.ok_or_else(|| ApiError::not_found(kind, &key.name))
    }

    pub(crate) fn list_of(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        options: &ListOptions,
    ) -> Result<Page, ApiError> {
        let selector = Selector::for_kind(kind, &options.labels, &options.fields)?;
        let store = self.lock();
        let (revision, after) = match (options.continue_token.as_str(), options.resource_version_match) {
            ("", ResourceVersionMatch::MostRecent) => (store.revision(), None),
            ("", ResourceVersionMatch::NotOlderThan(revision)) => {
                check_not_in_future(&store, revision)?;
                (store.revision(), None)
            }
            ("", ResourceVersionMatch::Exact(revision)) => {
                check_not_in_future(&store, revision)?;
                store.check_revision(kind, revision)?;
                (revision, None)
            }
            (token, _) => {
                let (revision, after) = decode_continue_token(token)?;
                store.check_revision(kind, revision)?;
                (revision, Some(after))
            }
        };
        let then;
        let objects: Box<dyn Iterator<Item = (&ObjectKey, &Arc<Value>)>> = if revision == store.revision() {
            Box::new(store.list(kind, namespace, after.as_ref()))
        } else {
            then = store.list_at(kind, namespace, after.as_ref(), revision);
            Box::new(then.iter().map(|(key, value)| (key, value)))
        };
        let mut matching = objects.filter(|(_, value)| selector.matches(value));
        let limit = if options.limit == 0 { usize::MAX } else { options.limit };
        let (mut items, mut last) = (Vec::new(), None);
        for (key, value) in matching.by_ref().take(limit) {
            items.push(kind.to_served_version(value));
            last = Some(key);
        }
        let behind = matching.count();
        let continue_token = match last {
            Some(last) if behind > 0 => encode_continue_token(revision, last),
            _ => String::new(),
        };
        let remaining_item_count = (behind > 0 && selector.is_empty()).then_some(behind);
        Ok(Page { items, revision, continue_token, remaining_item_count })
    }

    pub(crate) fn watch_of(
        &self,
        kind: &Arc<Kind>,
        namespace: Option<&str>,
        options: &WatchOptions,
    ) -> Result<Watch, ApiError> {
        let selector = Selector::for_kind(kind, &options.labels, &options.fields)?;
        let start = match options.after {
            Some(revision) => WatchStart::After(revision),
            None if options.changes_only => WatchStart::Next,
            None => WatchStart::Now { initial_events_end: options.initial_events_end },
        };
        Watch::new(&self.shared.store, kind, namespace, selector, &start, options.bookmarks)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Store> {
        self.shared.store.lock()
    }

    /// This lock is always taken after the store's.
    fn allocators(&self) -> MutexGuard<'_, Allocators> {
        self.shared.allocators.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check_not_in_future(store: &Store, revision: u64) -> Result<(), ApiError> {
    if revision <= store.revision() {
        return Ok(());
    }
    let message = format!("Too large resource version: {revision}, current: {}", store.revision());
    let mut error = ApiError::new(504, "Timeout", message);
    let message = "Too large resource version".to_owned();
    error.details.causes.push(Cause { reason: "ResourceVersionTooLarge", field: String::new(), message });
    Err(error)
}

fn encode_continue_token(revision: u64, key: &ObjectKey) -> String {
    use base64::Engine;
    let token = json!([revision, key.namespace, key.name]).to_string();
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(token)
}

fn decode_continue_token(token: &str) -> Result<(u64, ObjectKey), ApiError> {
    use base64::Engine;
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(token).ok();
    let parts: Option<(u64, String, String)> = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let (revision, namespace, name) = parts
        .ok_or_else(|| ApiError::bad_request("continue key is not valid: pass the one of the last page"))?;
    Ok((revision, ObjectKey::new(namespace, name)))
}
