//! The comparison of a table with what it should hold, a few entries at a
//! time: whoever wants to write meanwhile never waits for more than those.

use std::hash::Hash;

use beeline_abi::maps::MapKind;

use crate::table::TableState;
use crate::{Table, TableError};

/// More keys than were believed to be there are looked at before a walk ends:
/// a table that changes under it may send it back to its beginning.
const ROUNDS_MAX: usize = 2;
const KEYS_MIN: usize = 1_024;

/// Where a comparison stands.
#[derive(Debug)]
pub(crate) enum Walk<K> {
    /// What was believed to be there and is still to be asked for.
    Believed(Vec<K>),
    /// Key after key of the table, for those that nobody knows of.
    Found { after: Option<K>, left: usize },
}

impl<K: Ord + Hash + Copy, V: PartialEq + Copy> TableState<K, V> {
    /// Looks at entries as long as there is a budget, from where the last call
    /// stopped. Returns how many are not as we left them; what is to be done
    /// about them is pending. The walk is over when [`TableState::is_walking`]
    /// says no.
    pub(crate) fn compare(&mut self, table: &dyn Table<K, V>, budget: &mut usize) -> u64 {
        if self.spec.kind == MapKind::LpmTrie {
            // A trie cannot be asked for exactly one prefix.
            *budget = budget.saturating_sub(self.written.len() + 1);
            return self.reread(table);
        }
        let mut walk = self.walk.take().unwrap_or_else(|| {
            self.retry(|_| true);
            Walk::Believed(self.written.keys().copied().collect())
        });
        let mut drift = 0;
        while *budget > 0 {
            *budget -= 1;
            match self.step(table, &mut walk) {
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
        self.walk = Some(walk);
        drift
    }

    /// A comparison has begun and is not over.
    pub(crate) fn is_walking(&self) -> bool {
        self.walk.is_some()
    }

    /// One entry: does it differ? None: that was the last one.
    fn step(&mut self, table: &dyn Table<K, V>, walk: &mut Walk<K>) -> Result<Option<bool>, TableError> {
        match walk {
            Walk::Believed(keys) => match keys.pop() {
                Some(key) => self.compare_believed(table, key).map(Some),
                None => {
                    let left = (ROUNDS_MAX * self.written.len()).max(KEYS_MIN);
                    *walk = Walk::Found { after: None, left };
                    Ok(Some(false))
                }
            },
            Walk::Found { after, left } => match table.next_key(after.as_ref())? {
                Some(key) if *left > 0 => {
                    (*after, *left) = (Some(key), *left - 1);
                    self.compare_found(table, key).map(Some)
                }
                _ => Ok(None),
            },
        }
    }

    fn compare_believed(&mut self, table: &dyn Table<K, V>, key: K) -> Result<bool, TableError> {
        let Some(believed) = self.written.get(&key).copied() else { return Ok(false) };
        let actual = table.get(&key)?;
        if actual == Some(believed) {
            return Ok(false);
        }
        let is_settled = !self.unsets.contains(&key) && !self.leftover.contains(&key);
        if is_settled && !self.sets.contains_key(&key) {
            self.sets.insert(key, believed);
        }
        match actual {
            Some(value) => drop(self.written.insert(key, value)),
            None => {
                self.written.remove(&key);
                self.unsets.remove(&key);
                self.leftover.remove(&key);
            }
        }
        Ok(true)
    }

    fn compare_found(&mut self, table: &dyn Table<K, V>, key: K) -> Result<bool, TableError> {
        if self.written.contains_key(&key) {
            return Ok(false);
        }
        let Some(value) = table.get(&key)? else { return Ok(false) };
        self.written.insert(key, value);
        if !self.sets.contains_key(&key) {
            self.leftover.insert(key);
        }
        Ok(true)
    }
}
