//! The comparison of a table with what it should hold, a few entries at a
//! time: whoever wants to write meanwhile never waits for more than those.

use std::hash::Hash;

use beeline_abi::maps::MapKind;

use crate::table::TableState;
use crate::{Table, TableError};

/// More keys than were believed to be there are looked at before a walk ends:
/// a table that changes under it may send it back to its beginning.
const SCANS_MAX: usize = 2;
const KEYS_MIN: usize = 1_024;

/// Where a comparison stands.
#[derive(Debug)]
pub(crate) enum CompareCursor<K> {
    /// What was believed to be there and is still to be asked for.
    Known(Vec<K>),
    /// Key after key of the table, for those that nobody knows of.
    Scan { after: Option<K>, left: usize },
}

impl<K: Ord + Hash + Copy, V: PartialEq + Copy> TableState<K, V> {
    /// Looks at entries as long as there is a budget, from where the last call
    /// stopped. Returns how many are not as we left them; what is to be done
    /// about them is pending. The walk is over when [`TableState::is_comparing`]
    /// says no.
    pub(crate) fn compare(&mut self, table: &dyn Table<K, V>, budget: &mut usize) -> u64 {
        if self.spec.kind == MapKind::LpmTrie {
            // A trie cannot be asked for exactly one prefix.
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

    /// A comparison has begun and is not over.
    pub(crate) fn is_comparing(&self) -> bool {
        self.cursor.is_some()
    }

    /// One entry: does it differ? None: that was the last one.
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
