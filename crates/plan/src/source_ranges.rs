//! Sets of source ranges. Equal sets share an id. The content of a set never
//! changes: a Service with other ranges gets another id.

use std::collections::{BTreeMap, HashMap};

use beeline_abi::service::{SOURCE_SET_BITS, SourceRangeKey, SourceRangeValue};
use beeline_model::SourceRanges;
use beeline_sync::{Contents, Delta};
use ipnet::IpNet;

use crate::ids::Ids;
use crate::pod_cidr_owners::Prefix;

/// Prefixes in 128-bit form, sorted, without duplicates.
type Set = Box<[Prefix]>;

#[derive(Debug)]
pub(crate) struct SourceSets {
    sets: HashMap<Set, (u32, u32)>,
    by_id: HashMap<u32, Set>,
    ids: Ids,
    adopted: HashMap<Set, u32>,
    released: Vec<u32>,
}

impl SourceSets {
    pub(crate) fn new() -> SourceSets {
        SourceSets {
            sets: HashMap::new(),
            by_id: HashMap::new(),
            ids: Ids::new(1),
            adopted: HashMap::new(),
            released: Vec::new(),
        }
    }

    pub(crate) fn adopt(&mut self, actual: &Contents) {
        let mut sets: BTreeMap<u32, Vec<Prefix>> = BTreeMap::new();
        // Sets that allow no client have no entries.
        for value in actual.frontend.values().filter(|value| value.source_ranges != 0) {
            sets.entry(value.source_ranges).or_default();
        }
        for key in actual.source_range.keys() {
            sets.entry(key.set).or_default().push(prefix_of(key));
        }
        self.ids.adopt(sets.keys().copied());
        for (id, mut prefixes) in sets {
            prefixes.sort();
            self.adopted.entry(prefixes.into()).or_insert(id);
        }
    }

    pub(crate) fn finish_adoption(&mut self) {
        self.ids.finish_adoption();
        self.adopted = HashMap::new();
    }

    /// The id of the set for the frontends of a family; 0: every client is
    /// allowed.
    pub(crate) fn acquire(&mut self, ranges: &SourceRanges, ipv6: bool, delta: &mut Delta) -> u32 {
        let mut prefixes: Vec<Prefix> = ranges
            .ranges
            .iter()
            .filter(|range| matches!(range, IpNet::V6(_)) == ipv6)
            .map(|range| Prefix::of(range.trunc()))
            .collect();
        // As in kube-proxy, ranges of one family do not restrict the other. A
        // malformed range may belong to either family, so it restricts both.
        if prefixes.is_empty() && !ranges.malformed {
            return 0;
        }
        prefixes.sort();
        prefixes.dedup();
        let set: Set = prefixes.into();
        if let Some((id, users)) = self.sets.get_mut(&set) {
            *users += 1;
            return *id;
        }
        let adopted = self.adopted.get(&set).copied().filter(|id| self.ids.take_adopted(*id));
        let id = adopted.unwrap_or_else(|| self.ids.allocate());
        delta
            .source_range
            .extend(set.iter().map(|prefix| (key(id, *prefix), Some(SourceRangeValue { allowed: 1 }))));
        self.by_id.insert(id, set.clone());
        self.sets.insert(set, (id, 1));
        id
    }

    /// Releases one use of the set.
    pub(crate) fn release(&mut self, id: u32) {
        let users = self.by_id.get(&id).and_then(|set| self.sets.get_mut(set));
        if let Some((_, users)) = users {
            *users -= 1;
            self.released.push(id);
        }
    }

    /// Removes sets that are no longer used.
    pub(crate) fn remove_unused(&mut self, delta: &mut Delta) {
        for id in std::mem::take(&mut self.released) {
            let Some(set) = self.by_id.get(&id) else { continue };
            if self.sets.get(set).is_some_and(|(_, users)| *users == 0) {
                delta.source_range.extend(set.iter().map(|prefix| (key(id, *prefix), None)));
                self.sets.remove(set);
                self.by_id.remove(&id);
                self.ids.free(id);
            }
        }
    }
}

fn key(set: u32, prefix: Prefix) -> SourceRangeKey {
    let prefix = prefix.key();
    SourceRangeKey { prefix_bits: SOURCE_SET_BITS + prefix.prefix_bits, set, ip: prefix.ip }
}

fn prefix_of(key: &SourceRangeKey) -> Prefix {
    let prefix_bits = key.prefix_bits.saturating_sub(SOURCE_SET_BITS);
    beeline_abi::address::AddressKey { prefix_bits, ip: key.ip }.into()
}
