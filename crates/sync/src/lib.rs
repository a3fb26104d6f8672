//! Desired against actual: the smallest change, in safe order.
//!
//! [`Tables`] is the set of tables that the planner writes and the packet
//! path reads. A [`Table`] is one of them as the kernel has it, or its
//! in-memory double. The [`Reconciler`] takes [`Delta`]s, knows what each table
//! holds and what it should hold, and writes the difference in an order in
//! which a packet never meets an entry whose target is missing.

mod compare;
mod contents;
pub mod memory;
mod reconciler;
mod report;
mod table;

pub use contents::{Contents, Delta, Operation};
pub use reconciler::{Prune, Reconciler};
pub use report::{Report, SyncProblem, TableCount};

/// The desired state of all tables.
pub type Desired = Contents;

use beeline_abi::Ip;
use beeline_abi::address::{AddressKey, AddressValue};
use beeline_abi::endpoint::{EndpointValue, NamespaceValue};
use beeline_abi::node::NodeValue;
use beeline_abi::service::{
    BackendValue, FrontendKey, FrontendValue, MaglevSegment, ServiceAddressValue, ServiceValue, SlotKey,
    SlotValue, SourceRangeKey, SourceRangeValue,
};
use thiserror::Error;

/// Why a table could not be changed or read.
#[derive(Debug, Error)]
pub enum TableError {
    /// The table has no room. The entry is pending until others go.
    #[error("table {table} is full ({capacity} entries); the new entry is not programmed: raise its size")]
    Full {
        /// Table name.
        table: &'static str,
        /// Its capacity.
        capacity: u32,
    },
    /// The kernel refused.
    #[error("table {table}: {operation} failed: {error}")]
    Kernel {
        /// Table name.
        table: &'static str,
        /// `update`, `delete`, `read`.
        operation: &'static str,
        /// What the kernel said.
        error: String,
    },
}

/// One table: update, delete and read back, all idempotent.
pub trait Table<K, V> {
    /// Inserts or replaces, atomically for readers.
    fn update(&mut self, key: &K, value: &V) -> Result<(), TableError>;
    /// Removes; removing what is not there succeeds.
    fn delete(&mut self, key: &K) -> Result<(), TableError>;
    /// The value of exactly this key; not to be asked of prefix tries.
    fn get(&self, key: &K) -> Result<Option<V>, TableError>;
    /// The key after another one in the table's own order; after none, or one
    /// that is gone, the first.
    fn next_key(&self, key: Option<&K>) -> Result<Option<K>, TableError>;
    /// Everything that is in the table.
    fn entries(&self) -> Result<Vec<(K, V)>, TableError>;
}

/// The tables that are synchronised. The kernel room implements it over the
/// pinned maps; [`memory::MemoryTables`] over ordinary maps.
#[expect(missing_docs, reason = "each is the table of that name in beeline_abi::maps")]
pub trait Tables {
    fn address(&mut self) -> &mut dyn Table<AddressKey, AddressValue>;
    fn endpoint(&mut self) -> &mut dyn Table<Ip, EndpointValue>;
    fn namespace(&mut self) -> &mut dyn Table<u64, NamespaceValue>;
    fn node(&mut self) -> &mut dyn Table<u32, NodeValue>;
    fn service_address(&mut self) -> &mut dyn Table<Ip, ServiceAddressValue>;
    fn frontend(&mut self) -> &mut dyn Table<FrontendKey, FrontendValue>;
    fn service(&mut self) -> &mut dyn Table<u32, ServiceValue>;
    fn slot(&mut self) -> &mut dyn Table<SlotKey, SlotValue>;
    fn maglev(&mut self) -> &mut dyn Table<SlotKey, MaglevSegment>;
    fn backend(&mut self) -> &mut dyn Table<u32, BackendValue>;
    fn source_range(&mut self) -> &mut dyn Table<SourceRangeKey, SourceRangeValue>;
}
