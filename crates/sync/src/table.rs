//! The reconciler's state of one table: known contents, pending changes and
//! failed changes. The desired state is not stored separately: it is the known
//! contents with the outstanding changes applied, without leftover entries.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::Hash;

use beeline_abi::maps::MapSpec;

use crate::compare::CompareCursor;
use crate::{Report, SyncProblem, Table, TableCount, TableError};

/// Why a change failed.
#[derive(Clone, Debug)]
pub(crate) enum Cause {
    /// The table is full.
    Full,
    /// It depends on an entry of this table, which is not written either.
    Waiting(&'static str),
    /// The kernel returned an error.
    Refused(String),
}

#[derive(Clone, Debug)]
struct Failed<V> {
    /// The value to write; none: the entry is to be deleted.
    desired: Option<V>,
    cause: Cause,
}

#[derive(Debug)]
pub(crate) struct TableState<K, V> {
    pub(crate) spec: &'static MapSpec,
    /// Contents of the table, as far as known.
    pub(crate) written: HashMap<K, V>,
    pub(crate) updates: BTreeMap<K, V>,
    pub(crate) deletes: BTreeSet<K>,
    failed: BTreeMap<K, Failed<V>>,
    /// Entries in the table that are not desired (yet).
    pub(crate) leftover: HashSet<K>,
    /// The table has been read once: later differences are drift.
    read: bool,
    pub(crate) read_error: Option<String>,
    /// The comparison in progress.
    pub(crate) cursor: Option<CompareCursor<K>>,
}

impl<K: Ord + Hash + Copy, V: PartialEq + Copy> TableState<K, V> {
    pub(crate) fn new(spec: &'static MapSpec) -> TableState<K, V> {
        TableState {
            spec,
            written: HashMap::new(),
            updates: BTreeMap::new(),
            deletes: BTreeSet::new(),
            failed: BTreeMap::new(),
            leftover: HashSet::new(),
            read: false,
            read_error: None,
            cursor: None,
        }
    }

    /// Changes the desired state.
    pub(crate) fn submit(&mut self, delta: BTreeMap<K, Option<V>>) {
        for (key, value) in delta {
            self.updates.remove(&key);
            self.deletes.remove(&key);
            self.failed.remove(&key);
            self.leftover.remove(&key);
            let is = self.written.get(&key);
            match value {
                Some(value) if is != Some(&value) => drop(self.updates.insert(key, value)),
                None if is.is_some() => drop(self.deletes.insert(key)),
                _ => {}
            }
        }
    }

    /// Writes pending updates. `missing` returns the table in which an entry
    /// that the new one refers to is not written.
    pub(crate) fn write(
        &mut self,
        table: &mut dyn Table<K, V>,
        report: &mut Report,
        missing: impl Fn(&K, &V) -> Option<&'static str>,
    ) {
        self.write_some(table, report, |_| true, missing);
    }

    /// Like `write`, for keys that `accept` accepts.
    pub(crate) fn write_some(
        &mut self,
        table: &mut dyn Table<K, V>,
        report: &mut Report,
        accept: impl Fn(&K) -> bool,
        missing: impl Fn(&K, &V) -> Option<&'static str>,
    ) {
        let mut full = false;
        let accepted: BTreeMap<K, V>;
        (accepted, self.updates) =
            std::mem::take(&mut self.updates).into_iter().partition(|(key, _)| accept(key));
        for (key, value) in accepted {
            let result = match missing(&key, &value) {
                Some(other) => Err(Cause::Waiting(other)),
                // Once the table is full, only replacements can succeed.
                None if full && !self.written.contains_key(&key) => Err(Cause::Full),
                None => table.update(&key, &value).map_err(Cause::from),
            };
            match result {
                Ok(()) => {
                    self.written.insert(key, value);
                    report.written += 1;
                }
                Err(cause) => {
                    full |= matches!(cause, Cause::Full);
                    self.failed.insert(key, Failed { desired: Some(value), cause });
                }
            }
        }
    }

    /// Performs pending deletes. `user` returns the table in which an entry
    /// still refers to this one.
    pub(crate) fn delete(
        &mut self,
        table: &mut dyn Table<K, V>,
        report: &mut Report,
        user: impl Fn(&K) -> Option<&'static str>,
    ) {
        for key in std::mem::take(&mut self.deletes) {
            let result = match user(&key) {
                Some(other) => Err(Cause::Waiting(other)),
                None => table.delete(&key).map_err(Cause::from),
            };
            match result {
                Ok(()) => {
                    self.written.remove(&key);
                    report.deleted += 1;
                }
                Err(cause) => drop(self.failed.insert(key, Failed { desired: None, cause })),
            }
        }
    }

    /// Makes failed changes with a matching cause pending.
    pub(crate) fn retry(&mut self, is_retryable: impl Fn(&Cause) -> bool) {
        if self.failed.is_empty() {
            return;
        }
        for (key, failed) in std::mem::take(&mut self.failed) {
            match failed.desired {
                _ if !is_retryable(&failed.cause) => drop(self.failed.insert(key, failed)),
                Some(value) => drop(self.updates.insert(key, value)),
                None => drop(self.deletes.insert(key)),
            }
        }
    }

    /// Reads the table. Returns the number of entries that were changed by
    /// others.
    pub(crate) fn reread(&mut self, table: &dyn Table<K, V>) -> u64 {
        let actual: HashMap<K, V> = match table.entries() {
            Ok(entries) => entries.into_iter().collect(),
            Err(error) => {
                self.read_error = Some(error.to_string());
                return 0;
            }
        };
        self.read_error = None;
        let drift = if self.read { differences(&self.written, &actual) } else { 0 };
        self.read = true;
        self.retry(|_| true);
        for (key, value) in std::mem::take(&mut self.written) {
            let is_desired = !self.leftover.contains(&key) && !self.deletes.contains(&key);
            if is_desired && !self.updates.contains_key(&key) {
                self.updates.insert(key, value);
            }
        }
        // Now `updates` is the whole desired state.
        self.deletes.retain(|key| actual.contains_key(key));
        let unknown = |key: &&K| !self.updates.contains_key(key) && !self.deletes.contains(key);
        self.leftover = actual.keys().filter(unknown).copied().collect();
        self.updates.retain(|key, value| actual.get(key) != Some(value));
        self.written = actual;
        drift
    }

    /// Marks leftover entries for deletion.
    pub(crate) fn prune(&mut self) {
        self.deletes.extend(std::mem::take(&mut self.leftover));
    }

    pub(crate) fn is_written(&self, key: &K) -> bool {
        self.written.contains_key(key)
    }

    pub(crate) fn written(&self) -> &HashMap<K, V> {
        &self.written
    }

    /// Keys of failed updates and deletes.
    pub(crate) fn failed_keys(&self) -> impl Iterator<Item = &K> {
        self.failed.keys()
    }

    /// Values in the table whose update or delete failed.
    pub(crate) fn failed_values(&self) -> impl Iterator<Item = &V> {
        self.failed.keys().filter_map(|key| self.written.get(key))
    }

    /// Keys that could not be written.
    pub(crate) fn unwritten(&self) -> impl Iterator<Item = &K> {
        self.failed.iter().filter(|(_, failed)| failed.desired.is_some()).map(|(key, _)| key)
    }

    /// True if an entry with a key in this range could not be written.
    pub(crate) fn is_unwritten(&self, range: impl std::ops::RangeBounds<K>) -> bool {
        self.failed.range(range).any(|(_, failed)| failed.desired.is_some())
    }

    pub(crate) fn has_failed(&self, cause: impl Fn(&Cause) -> bool) -> bool {
        self.failed.values().any(|failed| cause(&failed.cause))
    }

    pub(crate) fn outstanding(&self) -> u64 {
        (self.updates.len() + self.deletes.len() + self.failed.len()) as u64
    }

    /// The desired state.
    pub(crate) fn desired(&self) -> BTreeMap<K, V> {
        let unwanted = |key: &K| {
            self.leftover.contains(key)
                || self.deletes.contains(key)
                || self.failed.get(key).is_some_and(|failed| failed.desired.is_none())
        };
        let mut desired: BTreeMap<K, V> = self
            .written
            .iter()
            .filter(|(key, _)| !unwanted(key))
            .map(|(key, value)| (*key, *value))
            .collect();
        desired.extend(self.updates.iter().map(|(key, value)| (*key, *value)));
        desired.extend(self.failed.iter().filter_map(|(key, failed)| Some((*key, failed.desired?))));
        desired
    }

    pub(crate) fn count(&self) -> TableCount {
        let failed = self.failed.values();
        let waiting = failed.clone().filter(|failed| matches!(failed.cause, Cause::Waiting(_))).count();
        let new = |key: &&K| !self.written.contains_key(key);
        let added = self.updates.keys().filter(new).count() + self.unwritten().filter(new).count();
        let removed = self.deletes.len() + failed.filter(|failed| failed.desired.is_none()).count();
        TableCount {
            name: self.spec.name,
            capacity: self.spec.max_entries,
            entries: self.written.len() as u64,
            desired: (self.written.len() + added).saturating_sub(removed + self.leftover.len()) as u64,
            pending: (self.updates.len() + self.deletes.len() + waiting) as u64,
            failed: (self.failed.len() - waiting) as u64,
        }
    }

    pub(crate) fn problems(&self) -> Vec<SyncProblem> {
        let table = self.spec.name;
        let mut problems: Vec<SyncProblem> = Vec::new();
        if let Some(error) = &self.read_error {
            let message =
                format!("{error}; the table is not compared with the desired state until it can be read");
            problems.push(SyncProblem { table, entries: 0, message });
        }
        let mut causes: BTreeMap<String, u64> = BTreeMap::new();
        for failed in self.failed.values() {
            *causes.entry(self.explain(&failed.cause)).or_default() += 1;
        }
        problems.extend(causes.into_iter().map(|(cause, entries)| SyncProblem {
            table,
            entries,
            message: format!("table {table}: {entries} entries are not programmed: {cause}"),
        }));
        problems
    }

    fn explain(&self, cause: &Cause) -> String {
        match cause {
            Cause::Full => format!(
                "the table is full ({} entries); existing entries stay in effect; remove Services or \
                 endpoints that are not needed, or raise the size of the table",
                self.written.len()
            ),
            Cause::Waiting(other) => format!("waiting for table {other}"),
            Cause::Refused(error) => format!("{error}; the agent retries"),
        }
    }
}

impl From<TableError> for Cause {
    fn from(error: TableError) -> Cause {
        match error {
            TableError::Full { .. } => Cause::Full,
            TableError::Kernel { .. } => Cause::Refused(error.to_string()),
        }
    }
}

fn differences<K: Eq + Hash, V: PartialEq>(known: &HashMap<K, V>, actual: &HashMap<K, V>) -> u64 {
    let missing = known.keys().filter(|key| !actual.contains_key(key)).count();
    let changed = actual.iter().filter(|(key, value)| known.get(key) != Some(value)).count();
    (missing + changed) as u64
}
