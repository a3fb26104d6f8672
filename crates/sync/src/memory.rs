//! Tables in memory, with limits and injected failures. They replace the
//! kernel's maps in tests and benchmarks.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use beeline_abi::Ip;
use beeline_abi::address::{AddressKey, AddressValue};
use beeline_abi::endpoint::{EndpointValue, NamespaceValue};
use beeline_abi::maps;
use beeline_abi::node::NodeValue;
use beeline_abi::service::{
    BackendValue, FrontendKey, FrontendValue, MaglevSegment, ServiceAddressValue, ServiceValue, SlotKey,
    SlotValue, SourceRangeKey, SourceRangeValue,
};

use crate::{Contents, Operation, Table, TableError, Tables};

/// State that all tables of a set have in common.
#[derive(Debug, Default)]
struct Shared {
    log: Option<Vec<Operation>>,
    /// Number of further writes that succeed.
    writes_left: Option<u64>,
}

type SharedCell = Arc<Mutex<Shared>>;

fn lock(shared: &SharedCell) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One table in memory.
#[derive(Debug)]
pub struct MemoryTable<K, V> {
    /// Name, as in messages.
    pub name: &'static str,
    /// Capacity in entries.
    pub capacity: u32,
    /// Content; tests may change it behind the reconciler's back.
    pub entries: BTreeMap<K, V>,
    /// Number of updates that fail next.
    pub fail_updates: u32,
    /// Number of deletes that fail next.
    pub fail_deletes: u32,
    /// Reads fail.
    pub fail_reads: bool,
    /// Keys whose updates and deletes always fail.
    pub refused: BTreeSet<K>,
    record: fn(K, Option<V>) -> Operation,
    shared: SharedCell,
}

impl<K: Ord + Copy, V: Copy> MemoryTable<K, V> {
    fn new(
        spec: &maps::MapSpec,
        record: fn(K, Option<V>) -> Operation,
        shared: &SharedCell,
    ) -> MemoryTable<K, V> {
        MemoryTable {
            name: spec.name,
            capacity: spec.max_entries,
            entries: BTreeMap::new(),
            fail_updates: 0,
            fail_deletes: 0,
            fail_reads: false,
            refused: BTreeSet::new(),
            record,
            shared: shared.clone(),
        }
    }

    fn log_write(&self, key: K, value: Option<V>) {
        if let Some(log) = lock(&self.shared).log.as_mut() {
            log.push((self.record)(key, value));
        }
    }

    /// Consumes one of the remaining writes; false if none is left.
    fn may_write(&self) -> bool {
        match &mut lock(&self.shared).writes_left {
            None => true,
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
        }
    }

    fn refused_error(&self, operation: &'static str) -> TableError {
        TableError::Kernel { table: self.name, operation, error: "refused by the test".into() }
    }
}

impl<K: Ord + Copy, V: Copy> Table<K, V> for MemoryTable<K, V> {
    fn update(&mut self, key: &K, value: &V) -> Result<(), TableError> {
        if self.fail_updates > 0 || self.refused.contains(key) || !self.may_write() {
            self.fail_updates = self.fail_updates.saturating_sub(1);
            return Err(self.refused_error("update"));
        }
        if self.entries.len() >= self.capacity as usize && !self.entries.contains_key(key) {
            return Err(TableError::Full { table: self.name, capacity: self.capacity });
        }
        self.entries.insert(*key, *value);
        self.log_write(*key, Some(*value));
        Ok(())
    }

    fn delete(&mut self, key: &K) -> Result<(), TableError> {
        if self.fail_deletes > 0 || self.refused.contains(key) || !self.may_write() {
            self.fail_deletes = self.fail_deletes.saturating_sub(1);
            return Err(self.refused_error("delete"));
        }
        self.entries.remove(key);
        self.log_write(*key, None);
        Ok(())
    }

    fn get(&self, key: &K) -> Result<Option<V>, TableError> {
        if self.fail_reads { Err(self.refused_error("read")) } else { Ok(self.entries.get(key).copied()) }
    }

    fn next_key(&self, key: Option<&K>) -> Result<Option<K>, TableError> {
        if self.fail_reads {
            return Err(self.refused_error("read"));
        }
        let mut rest = match key.filter(|key| self.entries.contains_key(key)) {
            Some(key) => self.entries.range((Bound::Excluded(*key), Bound::Unbounded)),
            None => self.entries.range(..),
        };
        Ok(rest.next().map(|(key, _)| *key))
    }

    fn entries(&self) -> Result<Vec<(K, V)>, TableError> {
        if self.fail_reads {
            return Err(self.refused_error("read"));
        }
        Ok(self.entries.iter().map(|(key, value)| (*key, *value)).collect())
    }
}

/// All tables in memory, with the capacities of `beeline_abi::maps`.
#[expect(missing_docs, reason = "each is the table of that name in beeline_abi::maps")]
#[derive(Debug)]
pub struct MemoryTables {
    pub address: MemoryTable<AddressKey, AddressValue>,
    pub endpoint: MemoryTable<Ip, EndpointValue>,
    pub namespace: MemoryTable<u64, NamespaceValue>,
    pub node: MemoryTable<u32, NodeValue>,
    pub service_address: MemoryTable<Ip, ServiceAddressValue>,
    pub frontend: MemoryTable<FrontendKey, FrontendValue>,
    pub service: MemoryTable<u32, ServiceValue>,
    pub slot: MemoryTable<SlotKey, SlotValue>,
    pub maglev: MemoryTable<SlotKey, MaglevSegment>,
    pub backend: MemoryTable<u32, BackendValue>,
    pub source_range: MemoryTable<SourceRangeKey, SourceRangeValue>,
    shared: SharedCell,
}

impl Default for MemoryTables {
    fn default() -> MemoryTables {
        MemoryTables::new()
    }
}

impl MemoryTables {
    /// Empty tables.
    pub fn new() -> MemoryTables {
        let shared = SharedCell::default();
        MemoryTables {
            address: MemoryTable::new(&maps::ADDRESS, Operation::Address, &shared),
            endpoint: MemoryTable::new(&maps::ENDPOINT, Operation::Endpoint, &shared),
            namespace: MemoryTable::new(&maps::NAMESPACE, Operation::Namespace, &shared),
            node: MemoryTable::new(&maps::NODE, Operation::Node, &shared),
            service_address: MemoryTable::new(&maps::SERVICE_ADDRESS, Operation::ServiceAddress, &shared),
            frontend: MemoryTable::new(&maps::FRONTEND, Operation::Frontend, &shared),
            service: MemoryTable::new(&maps::SERVICE, Operation::Service, &shared),
            slot: MemoryTable::new(&maps::SLOT, Operation::Slot, &shared),
            maglev: MemoryTable::new(&maps::SHARE, Operation::Maglev, &shared),
            backend: MemoryTable::new(&maps::BACKEND, Operation::Backend, &shared),
            source_range: MemoryTable::new(&maps::SOURCE_RANGE, Operation::SourceRange, &shared),
            shared,
        }
    }

    /// What the tables hold.
    pub fn contents(&self) -> Contents {
        Contents {
            address: self.address.entries.clone(),
            endpoint: self.endpoint.entries.clone(),
            namespace: self.namespace.entries.clone(),
            node: self.node.entries.clone(),
            service_address: self.service_address.entries.clone(),
            frontend: self.frontend.entries.clone(),
            service: self.service.entries.clone(),
            slot: self.slot.entries.clone(),
            maglev: self.maglev.entries.clone(),
            backend: self.backend.entries.clone(),
            source_range: self.source_range.entries.clone(),
        }
    }

    /// Starts logging every successful write.
    pub fn start_log(&mut self) {
        lock(&self.shared).log = Some(Vec::new());
    }

    /// What was logged since the last call, in order.
    pub fn take_log(&mut self) -> Vec<Operation> {
        lock(&self.shared).log.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Makes all writes fail after this many more, as if the agent had been
    /// killed there. None removes the limit.
    pub fn stop_after(&mut self, writes: Option<u64>) {
        lock(&self.shared).writes_left = writes;
    }
}

impl Tables for MemoryTables {
    fn address(&mut self) -> &mut dyn Table<AddressKey, AddressValue> {
        &mut self.address
    }
    fn endpoint(&mut self) -> &mut dyn Table<Ip, EndpointValue> {
        &mut self.endpoint
    }
    fn namespace(&mut self) -> &mut dyn Table<u64, NamespaceValue> {
        &mut self.namespace
    }
    fn node(&mut self) -> &mut dyn Table<u32, NodeValue> {
        &mut self.node
    }
    fn service_address(&mut self) -> &mut dyn Table<Ip, ServiceAddressValue> {
        &mut self.service_address
    }
    fn frontend(&mut self) -> &mut dyn Table<FrontendKey, FrontendValue> {
        &mut self.frontend
    }
    fn service(&mut self) -> &mut dyn Table<u32, ServiceValue> {
        &mut self.service
    }
    fn slot(&mut self) -> &mut dyn Table<SlotKey, SlotValue> {
        &mut self.slot
    }
    fn maglev(&mut self) -> &mut dyn Table<SlotKey, MaglevSegment> {
        &mut self.maglev
    }
    fn backend(&mut self) -> &mut dyn Table<u32, BackendValue> {
        &mut self.backend
    }
    fn source_range(&mut self) -> &mut dyn Table<SourceRangeKey, SourceRangeValue> {
        &mut self.source_range
    }
}
