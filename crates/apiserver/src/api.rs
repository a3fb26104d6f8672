//! What a request does to an object: the semantics behind every verb, free of HTTP.
//!
//! One lock is held for the length of one request, so a patch reads and writes in one step and never
//! conflicts with itself. Nothing here waits.

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

/// Access to the objects. Cheap to clone; all clones see the same objects.
#[derive(Clone)]
pub struct Api {
    shared: Arc<Shared>,
    skip_validation: bool,
}

struct Shared {
    kinds: RwLock<Kinds>,
    store: SharedStore,
    allocators: Mutex<Allocators>,
    /// The server that has the objects, if it is another one.
    remote: Option<Remote>,
}

/// What a list is narrowed to.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// Label selector in kubectl's notation; empty for all.
    pub labels: String,
    /// Field selector, such as `spec.nodeName=node-1`; empty for all.
    pub fields: String,
    /// The most objects in one page; 0 for all.
    pub limit: usize,
    /// Where the last page ended.
    pub continue_token: String,
    /// Which moment is wanted; the newest one by default.
    pub resource_version_match: ResourceVersionMatch,
}

/// The moment that a list shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResourceVersionMatch {
    /// Now.
    #[default]
    MostRecent,
    /// Now, provided that it is not before this revision.
    NotOlderThan(u64),
    /// This revision.
    Exact(u64),
}

/// One page of a list.
#[derive(Clone, Debug)]
pub struct Page {
    /// The objects.
    pub items: Vec<Arc<Value>>,
    /// The revision to watch from.
    pub revision: u64,
    /// The token for the next page; empty at the end.
    pub continue_token: String,
    /// Objects behind this page, known when nothing is selected.
    pub remaining_item_count: Option<usize>,
}

/// What a watch is narrowed to and where it starts.
#[derive(Clone, Debug, Default)]
pub struct WatchOptions {
    /// Label selector; empty for all.
    pub labels: String,
    /// Field selector; empty for all.
    pub fields: String,
    /// Start with the changes after this revision; none starts with the objects that exist.
    pub after: Option<u64>,
    /// Without `after`: leave the objects that exist out and start with the next change.
    pub changes_only: bool,
    /// End the initial objects with a bookmark that says so.
    pub initial_events_end: bool,
    /// Send bookmarks when nothing happens.
    pub bookmarks: bool,
}

/// What becomes of the objects that an object owns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    /// They are deleted soon after it.
    #[default]
    Background,
    /// It goes when they are gone.
    Foreground,
    /// They stay and lose their owner.
    Orphan,
}

/// How an object is deleted.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    /// Seconds a pod gets to end; none for the pod's own.
    pub grace_seconds: Option<i64>,
    /// What becomes of owned objects.
    pub propagation: Propagation,
    /// Only if it still has this uid.
    pub uid: Option<String>,
    /// Only if it is still at this revision.
    pub resource_version: Option<String>,
}

/// The languages in which a change may be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PatchKind {
    /// RFC 7386.
    Merge,
    /// RFC 6902.
    Json,
    /// Kubernetes' own, which merges lists by key.
    Strategic,
    /// Server-side apply by this field manager; creates what does not exist.
    Apply {
        /// Who owns the fields in the patch.
        manager: String,
        /// Whether it takes over what others own.
        force: bool,
    },
}

impl Api {
    pub(crate) fn new(kinds: Kinds, store: SharedStore, allocators: Allocators) -> Self {
        Self::build(kinds, store, allocators, None)
    }

    /// The objects of another server: what is stored here is a mirror of them.
    pub(crate) fn mirror(kinds: Kinds, store: SharedStore, remote: Remote) -> Self {
        Self::build(kinds, store, Allocators::new(&[]), Some(remote))
    }

    fn build(kinds: Kinds, store: SharedStore, allocators: Allocators, remote: Option<Remote>) -> Self {
        let (kinds, allocators) = (RwLock::new(kinds), Mutex::new(allocators));
        let shared = Shared { kinds, store, allocators, remote };
        Self { shared: Arc::new(shared), skip_validation: false }
    }

    /// The server that has the objects, if it is another one.
    pub(crate) fn remote(&self) -> Option<&Remote> {
        self.shared.remote.as_ref()
    }

    /// The same objects, writable without validation: for tests that need objects which Kubernetes
    /// would have refused.
    pub fn without_validation(&self) -> Self {
        Self { shared: self.shared.clone(), skip_validation: true }
    }

    /// The kinds that are served now.
    pub fn kinds(&self) -> Kinds {
        self.shared.kinds.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Follows a change of the definitions of kinds. Taken after the store's lock, never before.
    pub(crate) fn refresh_kinds(&self, store: &mut Store, definitions: &Arc<Kind>) {
        let next = custom::refresh(store, &self.kinds(), definitions);
        *self.shared.kinds.write().unwrap_or_else(PoisonError::into_inner) = next;
    }

    /// Takes over an object of the other server into the mirror.
    pub(crate) fn mirror_put(&self, kind: &Arc<Kind>, value: Value) {
        let mut store = self.lock();
        store.mirror_put(kind, value);
        if kind.is("customresourcedefinitions") {
            self.refresh_kinds(&mut store, kind);
        }
    }

    /// The kind called `name` (`pods`, `svc`, `deployments.apps`).
    pub fn kind(&self, name: &str) -> Result<Arc<Kind>, ApiError> {
        let kind = self.kinds().by_name(name).cloned();
        kind.ok_or_else(|| {
            ApiError::new(404, "NotFound", format!("there is no resource type named {name:?}"))
        })
    }

    /// The newest revision of anything.
    pub fn revision(&self) -> u64 {
        self.lock().revision()
    }

    /// Forgets the history: watches that are behind get 410, as after a compaction of etcd.
    pub fn compact(&self) {
        self.lock().compact();
    }

    /// One object.
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Result<Arc<Value>, ApiError> {
        self.get_of(&*self.kind(kind)?, &ObjectKey::new(namespace, name))
    }

    /// Objects of one namespace, or of all.
    pub fn list(&self, kind: &str, namespace: Option<&str>, options: &ListOptions) -> Result<Page, ApiError> {
        self.list_of(&*self.kind(kind)?, namespace, options)
    }

    /// Events of one namespace, or of all.
    pub fn watch(
        &self,
        kind: &str,
        namespace: Option<&str>,
        options: &WatchOptions,
    ) -> Result<Watch, ApiError> {
        self.watch_of(&self.kind(kind)?, namespace, options)
    }

    /// Creates the object in the namespace that it names.
    pub fn create(&self, kind: &str, object: Value) -> Result<Arc<Value>, ApiError> {
        let kind = self.kind(kind)?;
        self.create_of(&kind, object, &WriteOptions::default())
    }

    /// Replaces an object except its status; refused when its resourceVersion is not the current one.
    pub fn update(&self, kind: &str, object: Value) -> Result<Arc<Value>, ApiError> {
        self.update_of(&self.kind(kind)?, Subresource::None, object, &WriteOptions::default())
    }

    /// Replaces an object's status; refused when its resourceVersion is not the current one.
    pub fn update_status(&self, kind: &str, object: Value) -> Result<Arc<Value>, ApiError> {
        self.update_of(&self.kind(kind)?, Subresource::Status, object, &WriteOptions::default())
    }

    /// Changes an object except its status.
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

    /// Changes an object's status; `patch` has the form `{"status": {...}}`.
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

    /// Deletes an object. What is returned is its last state, or its state while something still
    /// holds it (finalizers, a pod's grace period).
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

    /// Always taken after the store's lock, never before.
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
