//! Compares a table with its desired state, a few entries at a time, so that
//! other writers wait for at most that many.

use std::hash::Hash;

use beeline_abi::maps::MapKind;

use crate::table::TableState;
use crate::{Table, TableError};

/// Bounds a scan of the table: changes during the scan may restart it from the
/// first key.
const SCANS_MAX: usize = 2;
const KEYS_MIN: usize = 1_024;

/// Position of a comparison.
#[derive(Debug)]
pub(crate) enum CompareCursor<K> {
    /// Known entries that are still to be read.
    Known(Vec<K>),
    /// Scan of the table's keys, for entries that are not known.
    Scan { after: Option<K>, left: usize },
}

impl<K: Ord + Hash + Copy, V: PartialEq + Copy> TableState<K, V> {
    /// Compares up to `budget` entries, starting where the last call stopped.
    /// Returns the number of entries that differ; corrections become pending.
    /// The comparison is complete when [`TableState::is_comparing`] returns
    /// false.
    pub(crate) fn compare(&mut self, table: &dyn Table<K, V>, budget: &mut usize) -> u64 {
        if self.spec.kind == MapKind::LpmTrie {
            // A lookup in an LPM trie does not match a prefix exactly.
            *budget = budget.saturating_sub(self.written.len() + 1);
            return self.reread(table);
        }
        let mut cursor = self.cursor.take().unwrap_or_else(|| {
            self.retry(|_| true);
            CompareCursor::Known(self.written.keys().copied().collect())
        });
        let mut drift = 0;
        while *budget > 0 {
            *budget -= 1;
            match self.step(table, &mut cursor) {
                Ok(Some(differs)) => drift += u64::from(differs),
                Ok(None) => {
                    self.read_error = None;
                    return drift;
                }
                Err(error) => {
                    self.read_error = Some(error.to_string());
                    return drift;
                }
            }
        }
        self.cursor = Some(cursor);
        drift
    }

    /// A comparison has started and is not complete.
    pub(crate) fn is_comparing(&self) -> bool {
        self.cursor.is_some()
    }

    /// Compares one entry: true if it differs. None: the comparison is
    /// complete.
    fn step(
        &mut self,
        table: &dyn Table<K, V>,
        cursor: &mut CompareCursor<K>,
    ) -> Result<Option<bool>, TableError> {
        match cursor {
            CompareCursor::Known(keys) => match keys.pop() {
                Some(key) => self.compare_known(table, key).map(Some),
                None => {
                    let left = (SCANS_MAX * self.written.len()).max(KEYS_MIN);
                    *cursor = CompareCursor::Scan { after: None, left };
                    Ok(Some(false))
                }
            },
            CompareCursor::Scan { after, left } => match table.next_key(after.as_ref())? {
                Some(key) if *left > 0 => {
                    (*after, *left) = (Some(key), *left - 1);
                    self.compare_scanned(table, key).map(Some)
                }
                _ => Ok(None),
            },
        }
    }

    fn compare_known(&mut self, table: &dyn Table<K, V>, key: K) -> Result<bool, TableError> {
        let Some(known) = self.written.get(&key).copied() else { return Ok(false) };
        let actual = table.get(&key)?;
        if actual == Some(known) {
            return Ok(false);
        }
        let is_desired = !self.deletes.contains(&key) && !self.leftover.contains(&key);
        if is_desired && !self.updates.contains_key(&key) {
            self.updates.insert(key, known);
        }
        match actual {
            Some(value) => drop(self.written.insert(key, value)),
            None => {
                self.written.remove(&key);
                self.deletes.remove(&key);
                self.leftover.remove(&key);
            }
        }
        Ok(true)
    }

    fn compare_scanned(&mut self, table: &dyn Table<K, V>, key: K) -> Result<bool, TableError> {
        if self.written.contains_key(&key) {
            return Ok(false);
        }
        let Some(value) = table.get(&key)? else { return Ok(false) };
        self.written.insert(key, value);
        if !self.updates.contains_key(&key) {
            self.leftover.insert(key);
        }
        Ok(true)
    }
}
