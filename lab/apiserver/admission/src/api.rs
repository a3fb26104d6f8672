//! Semantics of API requests, independent of HTTP.
//!
//! One lock is held for the length of a request, so a patch reads and writes atomically and cannot
//! conflict with itself. Nothing here blocks.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use beeline_apiserver_objects::{ApiError, Cause, ObjectKey, Selector};
use beeline_apiserver_schema::{Kind, Kinds};
use beeline_apiserver_storage::{SharedStore, Store, Watch, WatchStart};
use ipnet::IpNet;
use serde_json::{Value, json};

use super::allocate::Allocators;
use super::options::{ListOptions, Page, ResourceVersionMatch, WatchOptions};
use super::registry;
use super::remote::Remote;

/// Access to the objects. Cheap to clone; all clones share the same objects.
#[derive(Clone)]
pub struct Api {
    shared: Arc<Shared>,
    pub(super) skip_validation: bool,
}

struct Shared {
    kinds: RwLock<Kinds>,
    store: SharedStore,
    allocators: Mutex<Allocators>,
    /// The remote API server that holds the objects, if they are not stored here.
    remote: Option<Box<dyn Remote>>,
}

impl Api {
    /// Objects that are stored here: none yet. `log_max` changes are kept per kind; Services get
    /// addresses of `service_cidrs`, one range per family.
    pub fn new(log_max: usize, service_cidrs: &[IpNet]) -> Self {
        Self::build(log_max, Allocators::new(service_cidrs), None)
    }

    /// Objects of a remote API server; what is stored here is a mirror of them.
    pub fn mirror(log_max: usize, remote: Box<dyn Remote>) -> Self {
        Self::build(log_max, Allocators::new(&[]), Some(remote))
    }

    fn build(log_max: usize, allocators: Allocators, remote: Option<Box<dyn Remote>>) -> Self {
        let (kinds, allocators) = (RwLock::new(Kinds::built_in()), Mutex::new(allocators));
        let store = SharedStore::new(Store::new(log_max));
        let shared = Shared { kinds, store, allocators, remote };
        Self { shared: Arc::new(shared), skip_validation: false }
    }

    /// The remote API server that holds the objects, if they are not stored here.
    pub fn remote(&self) -> Option<&dyn Remote> {
        self.shared.remote.as_deref()
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
        let next = registry::refresh(store, &self.kinds(), definitions);
        *self.shared.kinds.write().unwrap_or_else(PoisonError::into_inner) = next;
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
    pub fn get_of(&self, kind: &Kind, key: &ObjectKey) -> Result<Arc<Value>, ApiError> {
        let found = self.lock().get(kind, key).map(|object| kind.to_served_version(object));
        found.ok_or_else(|| ApiError::not_found(kind, &key.name))
    }

    /// Lists the objects of one namespace, or of all.
    pub fn list_of(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        options: &ListOptions,
    ) -> Result<Page, ApiError> {
        let selector = Selector::for_kind(kind.selectable(), &options.labels, &options.fields)?;
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

    /// Watches the objects of one namespace, or of all.
    pub fn watch_of(
        &self,
        kind: &Arc<Kind>,
        namespace: Option<&str>,
        options: &WatchOptions,
    ) -> Result<Watch, ApiError> {
        let selector = Selector::for_kind(kind.selectable(), &options.labels, &options.fields)?;
        let start = match options.after {
            Some(revision) => WatchStart::After(revision),
            None if options.changes_only => WatchStart::Next,
            None => WatchStart::Now { initial_events_end: options.initial_events_end },
        };
        Watch::new(&self.shared.store, kind, namespace, selector, &start, options.bookmarks)
    }

    /// Locks the objects. Nothing may block while the lock is held.
    pub fn lock(&self) -> MutexGuard<'_, Store> {
        self.shared.store.lock()
    }

    /// This lock is always taken after the store's.
    pub(super) fn allocators(&self) -> MutexGuard<'_, Allocators> {
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
