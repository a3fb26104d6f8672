//! Objects and their history: one revision counter, one table per kind, and a bounded log per table
//! that watches read at their own pace. Writers never wait for watches. A watch that falls behind the
//! log gets 410 Gone and has to list again.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use beeline_apiserver_objects::{ApiError, ObjectKey, Selector, object};
use beeline_apiserver_schema::Kind;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

/// Type of a watch event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The object was created, or matches the selector now.
    Added,
    /// The object changed.
    Modified,
    /// The object was deleted, or no longer matches the selector.
    Deleted,
    /// All changes up to the revision of the object have been sent.
    Bookmark,
}

impl EventKind {
    /// The event type in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
            Self::Bookmark => "BOOKMARK",
        }
    }
}

/// A watch event.
#[derive(Clone, Debug)]
pub struct WatchEvent {
    /// Type of the event.
    pub kind: EventKind,
    /// The object after the change. For a deletion: its last state with the revision of the deletion.
    pub object: Arc<Value>,
    /// The object before the change, if it existed.
    pub before: Option<Arc<Value>>,
}

/// All objects. Protected by one mutex; operations are short and never block.
pub struct Store {
    tables: HashMap<String, Table>,
    revision: u64,
    log_max: usize,
    first_revision: u64,
    uids: HashMap<String, (Arc<Kind>, ObjectKey)>,
    dependents: HashMap<String, BTreeSet<(String, ObjectKey)>>,
    changed: watch::Sender<u64>,
}

struct Table {
    objects: BTreeMap<ObjectKey, Arc<Value>>,
    log: VecDeque<LogEntry>,
    /// Revision of the newest discarded log entry.
    compacted: u64,
    changed: watch::Sender<u64>,
    /// The kind is no longer served; its watches end.
    closed: bool,
}

#[derive(Clone)]
struct LogEntry {
    revision: u64,
    before: Option<Arc<Value>>,
    /// The object after the change. For a deletion: its last state with the revision of the deletion.
    object: Arc<Value>,
    deleted: bool,
}

impl Store {
    /// An empty store that keeps `log_max` changes per kind.
    pub fn new(log_max: usize) -> Self {
        // Revisions start at the current time in microseconds, so that revisions of an earlier server
        // are recognised as too old.
        let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let first_revision = u64::try_from(elapsed.as_micros()).unwrap_or(1);
        Self {
            tables: HashMap::new(),
            revision: first_revision,
            log_max,
            first_revision,
            uids: HashMap::new(),
            dependents: HashMap::new(),
            changed: watch::Sender::new(first_revision),
        }
    }

    /// The most recent revision.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Notifies of every change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The object with this key.
    pub fn get(&self, kind: &Kind, key: &ObjectKey) -> Option<&Arc<Value>> {
        self.tables.get(&kind.resource())?.objects.get(key)
    }

    /// Objects in key order, of one namespace or all, after the key `after`.
    pub fn list<'a>(
        &'a self,
        kind: &Kind,
        namespace: Option<&'a str>,
        after: Option<&ObjectKey>,
    ) -> impl Iterator<Item = (&'a ObjectKey, &'a Arc<Value>)> + use<'a> {
        let start = match (after, namespace) {
            (Some(after), _) => Bound::Excluded(after.clone()),
            (None, Some(namespace)) => Bound::Included(ObjectKey::new(namespace, "")),
            (None, None) => Bound::Unbounded,
        };
        let objects =
            self.tables.get(&kind.resource()).map(|table| table.objects.range((start, Bound::Unbounded)));
        let objects = objects.into_iter().flatten();
        objects.take_while(move |(key, _)| namespace.is_none_or(|namespace| key.namespace == namespace))
    }

    /// Objects in key order at a revision that the log still covers.
    pub fn list_at(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        after: Option<&ObjectKey>,
        revision: u64,
    ) -> Vec<(ObjectKey, Arc<Value>)> {
        let mut then: BTreeMap<ObjectKey, Arc<Value>> =
            self.list(kind, namespace, after).map(|(key, value)| (key.clone(), value.clone())).collect();
        let log = self.tables.get(&kind.resource()).map(|table| &table.log);
        // Undo the changes from the newest to the oldest.
        for entry in log.into_iter().flatten().rev().take_while(|entry| entry.revision > revision) {
            let key = ObjectKey::of(&entry.object);
            let elsewhere = namespace.is_some_and(|namespace| key.namespace != namespace);
            if elsewhere || after.is_some_and(|after| key <= *after) {
                continue;
            }
            match &entry.before {
                Some(before) => then.insert(key, before.clone()),
                None => then.remove(&key),
            };
        }
        then.into_iter().collect()
    }

    /// Number of objects of a kind.
    pub fn count(&self, kind: &Kind) -> usize {
        self.tables.get(&kind.resource()).map_or(0, |table| table.objects.len())
    }

    /// The object with this uid.
    pub fn by_uid(&self, uid: &str) -> Option<&(Arc<Kind>, ObjectKey)> {
        self.uids.get(uid)
    }

    /// Dependents (resource and key): objects with an owner reference to this uid.
    pub fn dependents(&self, uid: &str) -> Vec<(String, ObjectKey)> {
        self.dependents.get(uid).into_iter().flatten().cloned().collect()
    }

    /// Stores the object with a new revision.
    pub fn put(&mut self, kind: &Arc<Kind>, mut value: Value) -> Arc<Value> {
        let revision = self.revision + 1;
        object::metadata(&mut value).insert("resourceVersion".to_owned(), json!(revision.to_string()));
        self.insert_as_is(kind, value)
    }

    /// Stores the object unchanged; the store's revision is incremented.
    fn insert_as_is(&mut self, kind: &Arc<Kind>, value: Value) -> Arc<Value> {
        self.revision += 1;
        let key = ObjectKey::of(&value);
        let value = Arc::new(value);
        let before = self.table(kind).objects.insert(key.clone(), value.clone());
        if let Some(before) = &before {
            self.unindex(kind, &key, before);
        }
        self.index(kind, &key, &value);
        self.record(
            kind,
            LogEntry { revision: self.revision, before, object: value.clone(), deleted: false },
        );
        value
    }

    /// Removes the object and returns its last state with the revision of the deletion.
    pub fn remove(&mut self, kind: &Arc<Kind>, key: &ObjectKey) -> Option<Arc<Value>> {
        let before = self.table(kind).objects.remove(key)?;
        self.unindex(kind, key, &before);
        self.revision += 1;
        let mut last = Value::clone(&before);
        object::metadata(&mut last).insert("resourceVersion".to_owned(), json!(self.revision.to_string()));
        let last = Arc::new(last);
        let entry =
            LogEntry { revision: self.revision, before: Some(before), object: last.clone(), deleted: true };
        self.record(kind, entry);
        Some(last)
    }

    /// Mirrors an object of the remote server unless the stored one is newer.
    pub fn mirror_put(&mut self, kind: &Arc<Kind>, value: Value) {
        let known = self.get(kind, &ObjectKey::of(&value));
        let newer = known.is_some_and(|known| {
            let same = object::uid(known) == object::uid(&value);
            same && object::resource_version(known) >= object::resource_version(&value)
        });
        if !newer {
            self.insert_as_is(kind, value);
        }
    }

    /// Mirrors a deletion on the remote server.
    pub fn mirror_delete(&mut self, kind: &Arc<Kind>, value: &Value) {
        let key = ObjectKey::of(value);
        if self.get(kind, &key).is_some_and(|known| object::uid(known) == object::uid(value)) {
            self.remove(kind, &key);
        }
    }

    /// Removes all objects of a kind except these, which the remote server has.
    pub fn mirror_retain(&mut self, kind: &Arc<Kind>, keys: &BTreeSet<ObjectKey>) {
        let removed: Vec<ObjectKey> = self
            .list(kind, None, None)
            .map(|(key, _)| key)
            .filter(|key| !keys.contains(key))
            .cloned()
            .collect();
        for key in removed {
            self.remove(kind, &key);
        }
    }

    /// Discards the history, like a compaction of etcd: watches of older revisions get 410 Gone.
    pub fn compact(&mut self) {
        let revision = self.revision;
        for table in self.tables.values_mut() {
            table.log.clear();
            table.compacted = revision;
        }
        self.first_revision = revision;
    }

    /// Refuses a revision that a watch cannot start from.
    pub fn check_revision(&self, kind: &Kind, revision: u64) -> Result<(), ApiError> {
        let oldest = self.tables.get(&kind.resource()).map_or(self.first_revision, |table| table.compacted);
        if revision < oldest {
            return Err(ApiError::gone(format!("too old resource version: {revision} ({oldest})")));
        }
        if revision > self.revision {
            let newest = self.revision;
            return Err(ApiError::gone(format!(
                "resource version {revision} is larger than the newest one ({newest})"
            )));
        }
        Ok(())
    }

    /// Allows watches of a kind that was not served before.
    pub fn start_serving(&mut self, kind: &Kind) {
        self.table(kind).closed = false;
    }

    /// Ends the watches of a kind that is no longer served, after they have received all changes.
    pub fn stop_serving(&mut self, kind: &Kind) {
        let revision = self.revision;
        let table = self.table(kind);
        table.closed = true;
        table.changed.send_replace(revision);
    }

    fn table(&mut self, kind: &Kind) -> &mut Table {
        let compacted = self.first_revision;
        self.tables.entry(kind.resource()).or_insert_with(|| Table {
            objects: BTreeMap::new(),
            log: VecDeque::new(),
            compacted,
            changed: watch::Sender::new(compacted),
            closed: false,
        })
    }

    fn record(&mut self, kind: &Kind, entry: LogEntry) {
        let (revision, log_max) = (entry.revision, self.log_max);
        let table = self.table(kind);
        table.closed = false;
        table.log.push_back(entry);
        while table.log.len() > log_max {
            table.compacted = table.log.pop_front().map_or(table.compacted, |oldest| oldest.revision);
        }
        table.changed.send_replace(revision);
        self.changed.send_replace(revision);
    }

    fn index(&mut self, kind: &Arc<Kind>, key: &ObjectKey, value: &Value) {
        self.uids.insert(object::uid(value).to_owned(), (kind.clone(), key.clone()));
        for owner in object::owner_references(value) {
            let dependents = self.dependents.entry(object::str_at(owner, "/uid").to_owned()).or_default();
            dependents.insert((kind.resource(), key.clone()));
        }
    }

    fn unindex(&mut self, kind: &Kind, key: &ObjectKey, value: &Value) {
        self.uids.remove(object::uid(value));
        for owner in object::owner_references(value) {
            let uid = object::str_at(owner, "/uid");
            if let Some(dependents) = self.dependents.get_mut(uid) {
                dependents.remove(&(kind.resource(), key.clone()));
                if dependents.is_empty() {
                    self.dependents.remove(uid);
                }
            }
        }
    }
}

/// Shared handle of the store.
#[derive(Clone)]
pub struct SharedStore(Arc<Mutex<Store>>);

impl SharedStore {
    /// Shares a store.
    pub fn new(store: Store) -> Self {
        Self(Arc::new(Mutex::new(store)))
    }

    /// Locks the store. Poisoning is ignored: a panic leaves no partial objects.
    pub fn lock(&self) -> MutexGuard<'_, Store> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Maximum number of log entries that a watch reads at a time.
const BATCH: usize = 256;

/// Interval of bookmarks on an idle watch.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(15);

/// A watch. It holds only its revision, no lock and no queue in the store.
pub struct Watch {
    store: SharedStore,
    kind: Arc<Kind>,
    namespace: Option<String>,
    selector: Selector,
    revision: u64,
    bookmarks: bool,
    ready: VecDeque<WatchEvent>,
    changed: watch::Receiver<u64>,
    bookmark_due: Instant,
    bookmark_interval: Duration,
}

/// Start of a watch.
pub enum WatchStart {
    /// The existing objects as added; with `true` followed by a bookmark that marks their end.
    Now {
        /// Send a bookmark that marks the end of the initial events.
        initial_events_end: bool,
    },
    /// Changes after this revision.
    After(u64),
    /// Changes from now on.
    Next,
}

impl Watch {
    /// Starts a watch.
    pub fn new(
        shared: &SharedStore,
        kind: &Arc<Kind>,
        namespace: Option<&str>,
        selector: Selector,
        start: &WatchStart,
        bookmarks: bool,
    ) -> Result<Self, ApiError> {
        let mut store = shared.lock();
        let changed = store.table(kind).changed.subscribe();
        let mut watch = Self {
            store: shared.clone(),
            kind: kind.clone(),
            namespace: namespace.map(str::to_owned),
            selector,
            revision: store.revision,
            bookmarks,
            ready: VecDeque::new(),
            changed,
            bookmark_due: Instant::now() + BOOKMARK_INTERVAL,
            bookmark_interval: BOOKMARK_INTERVAL,
        };
        match start {
            WatchStart::After(revision) => {
                store.check_revision(kind, *revision)?;
                watch.revision = *revision;
            }
            WatchStart::Now { initial_events_end } => watch.take_initial(&store, *initial_events_end),
            WatchStart::Next => {}
        }
        Ok(watch)
    }

    /// Waits for the next event. Fails with 410 if the watch is too far behind.
    pub async fn next(&mut self) -> Result<WatchEvent, ApiError> {
        loop {
            if let Some(event) = self.try_next()? {
                self.bookmark_due = Instant::now() + self.bookmark_interval;
                return Ok(event);
            }
            // A timeout, because changes that the watch filters out also wake it.
            let change = tokio::time::timeout_at(self.bookmark_due, self.changed.changed()).await;
            if change.is_err() {
                self.bookmark_due = Instant::now() + self.bookmark_interval;
                self.catch_up()?;
                if self.bookmarks && self.ready.is_empty() {
                    let bookmark = self.bookmark();
                    self.ready.push_back(bookmark);
                }
            }
        }
    }

    /// The next event, if one is pending.
    pub fn try_next(&mut self) -> Result<Option<WatchEvent>, ApiError> {
        if self.ready.is_empty() {
            self.changed.mark_unchanged();
            self.catch_up()?;
        }
        Ok(self.ready.pop_front())
    }

    /// A bookmark at the revision up to which all events were returned.
    pub fn bookmark(&self) -> WatchEvent {
        WatchEvent { kind: EventKind::Bookmark, object: Arc::new(self.bookmark_object()), before: None }
    }

    fn bookmark_object(&self) -> Value {
        json!({
            "apiVersion": self.kind.api_version(), "kind": self.kind.kind,
            "metadata": {"resourceVersion": self.revision.to_string(), "creationTimestamp": null},
        })
    }

    fn take_initial(&mut self, store: &Store, initial_events_end: bool) {
        for (_, object) in store.list(&self.kind, self.namespace.as_deref(), None) {
            if self.selector.matches(object) {
                self.ready.push_back(WatchEvent {
                    kind: EventKind::Added,
                    object: self.kind.to_served_version(object),
                    before: None,
                });
            }
        }
        if initial_events_end {
            let mut bookmark = self.bookmark_object();
            bookmark["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
            self.ready.push_back(WatchEvent {
                kind: EventKind::Bookmark,
                object: Arc::new(bookmark),
                before: None,
            });
        }
    }

    /// Reads log entries into `ready` until an event matches.
    fn catch_up(&mut self) -> Result<(), ApiError> {
        let shared = self.store.clone();
        while self.ready.is_empty() {
            let batch = {
                let store = shared.lock();
                store.check_revision(&self.kind, self.revision)?;
                let Some(table) = store.tables.get(&self.kind.resource()) else { return Ok(()) };
                if table.closed && table.log.back().is_none_or(|last| last.revision <= self.revision) {
                    let message = format!("{} is no longer served", self.kind.resource());
                    return Err(ApiError::gone(message));
                }
                let start = table.log.partition_point(|entry| entry.revision <= self.revision);
                let batch: Vec<LogEntry> = table.log.range(start..).take(BATCH).cloned().collect();
                if start + batch.len() == table.log.len() {
                    self.revision = store.revision;
                } else if let Some(last) = batch.last() {
                    self.revision = last.revision;
                }
                batch
            };
            if batch.is_empty() {
                return Ok(());
            }
            let events: Vec<WatchEvent> = batch.iter().filter_map(|entry| self.event_of(entry)).collect();
            self.ready.extend(events);
        }
        Ok(())
    }

    fn event_of(&self, entry: &LogEntry) -> Option<WatchEvent> {
        let namespace = object::namespace(&entry.object);
        if self.namespace.as_deref().is_some_and(|selected| selected != namespace) {
            return None;
        }
        let before = entry.before.as_ref().is_some_and(|before| self.selector.matches(before));
        let after = !entry.deleted && self.selector.matches(&entry.object);
        let kind = match (before, after) {
            (false, false) => return None,
            (false, true) => EventKind::Added,
            (true, true) => EventKind::Modified,
            (true, false) => EventKind::Deleted,
        };
        let before = entry.before.as_ref().map(|before| self.kind.to_served_version(before));
        Some(WatchEvent { kind, object: self.kind.to_served_version(&entry.object), before })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use beeline_apiserver_schema::Kinds;

    fn pods() -> Arc<Kind> {
        Kinds::built_in().by_name("pods").unwrap().clone()
    }

    fn pod(name: &str, app: &str) -> Value {
        json!({"metadata": {"namespace": "default", "name": name, "uid": name, "labels": {"app": app}}})
    }

    fn watch(store: &SharedStore, start: WatchStart, labels: &str) -> Result<Watch, ApiError> {
        Watch::new(store, &pods(), None, Selector::for_kind(None, labels, "").unwrap(), &start, true)
    }

    fn drain(watch: &mut Watch) -> Vec<String> {
        let mut seen = Vec::new();
        while let Some(event) = watch.try_next().unwrap() {
            seen.push(format!("{} {}", event.kind.as_str(), object::name(&event.object)));
        }
        seen
    }

    #[test]
    fn unit_a_watch_sends_the_initial_state_and_then_changes() {
        let shared = SharedStore::new(Store::new(100));
        shared.lock().put(&pods(), pod("a", "web"));
        let mut watch = watch(&shared, WatchStart::Now { initial_events_end: true }, "").unwrap();
        assert_eq!(drain(&mut watch), ["ADDED a", "BOOKMARK "]);
        shared.lock().put(&pods(), pod("a", "db"));
        shared.lock().put(&pods(), pod("b", "db"));
        shared.lock().remove(&pods(), &ObjectKey::new("default", "a"));
        assert_eq!(drain(&mut watch), ["MODIFIED a", "ADDED b", "DELETED a"]);
        assert_eq!(drain(&mut watch), [""; 0]);
    }

    #[test]
    fn unit_a_selector_turns_changes_into_additions_and_deletions() {
        let shared = SharedStore::new(Store::new(100));
        let mut watch = watch(&shared, WatchStart::Next, "app=web").unwrap();
        shared.lock().put(&pods(), pod("a", "db"));
        shared.lock().put(&pods(), pod("a", "web"));
        shared.lock().put(&pods(), pod("a", "web"));
        shared.lock().put(&pods(), pod("a", "db"));
        assert_eq!(drain(&mut watch), ["ADDED a", "MODIFIED a", "DELETED a"]);
    }

    #[test]
    fn unit_a_slow_watch_gets_410() {
        let shared = SharedStore::new(Store::new(3));
        let start = shared.lock().revision();
        let mut slow = watch(&shared, WatchStart::After(start), "").unwrap();
        for index in 0..5 {
            shared.lock().put(&pods(), pod(&format!("p{index}"), "web"));
        }
        assert_eq!(slow.try_next().unwrap_err().code, 410);
        assert_eq!(watch(&shared, WatchStart::After(start), "").err().unwrap().code, 410);
        assert_eq!(watch(&shared, WatchStart::After(u64::MAX), "").err().unwrap().code, 410);
        let recent = shared.lock().revision() - 2;
        assert_eq!(
            drain(&mut watch(&shared, WatchStart::After(recent), "").unwrap()),
            ["ADDED p3", "ADDED p4"]
        );
    }

    #[test]
    fn unit_an_old_revision_can_be_listed() {
        let mut store = Store::new(100);
        for name in ["a", "b", "c"] {
            store.put(&pods(), pod(name, "old"));
        }
        let then = store.revision();
        store.put(&pods(), pod("a", "new"));
        store.put(&pods(), pod("a", "newer"));
        store.remove(&pods(), &ObjectKey::new("default", "b"));
        store.put(&pods(), pod("d", "new"));
        let shown = |after: Option<&ObjectKey>, revision| -> Vec<String> {
            let listed = store.list_at(&pods(), Some("default"), after, revision);
            listed
                .iter()
                .map(|(key, pod)| format!("{} {}", key.name, pod["metadata"]["labels"]["app"]))
                .collect()
        };
        assert_eq!(shown(None, then), ["a \"old\"", "b \"old\"", "c \"old\""]);
        assert_eq!(shown(Some(&ObjectKey::new("default", "a")), then), ["b \"old\"", "c \"old\""]);
        assert_eq!(shown(None, store.revision()), ["a \"newer\"", "c \"old\"", "d \"new\""]);
    }

    #[tokio::test]
    async fn unit_bookmarks_are_sent_although_other_objects_change() {
        let shared = SharedStore::new(Store::new(1000));
        let mut watch = watch(&shared, WatchStart::Next, "app=web").unwrap();
        watch.bookmark_interval = Duration::from_millis(100);
        watch.bookmark_due = Instant::now() + watch.bookmark_interval;
        let busy = shared.clone();
        let noise = tokio::spawn(async move {
            for index in 0.. {
                busy.lock().put(&pods(), pod(&format!("p{index}"), "db"));
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        let event =
            tokio::time::timeout(Duration::from_secs(60), watch.next()).await.expect("a bookmark").unwrap();
        assert_eq!(event.kind, EventKind::Bookmark);
        noise.abort();
    }

    #[test]
    fn unit_changes_of_other_kinds_do_not_expire_a_watch() {
        let shared = SharedStore::new(Store::new(3));
        let nodes = Kinds::built_in().by_name("nodes").unwrap().clone();
        let start = shared.lock().revision();
        for index in 0..10 {
            shared
                .lock()
                .put(&nodes, json!({"metadata": {"name": format!("n{index}"), "uid": index.to_string()}}));
        }
        assert!(watch(&shared, WatchStart::After(start), "").is_ok());
    }

    #[test]
    fn unit_dependents_follow_owner_references() {
        let mut store = Store::new(10);
        let mut owned = pod("a", "web");
        owned["metadata"]["ownerReferences"] = json!([{"uid": "owner"}]);
        store.put(&pods(), owned);
        assert_eq!(store.dependents("owner").len(), 1);
        store.put(&pods(), pod("a", "web"));
        assert_eq!(store.dependents("owner").len(), 0);
    }
}
