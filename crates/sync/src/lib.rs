//! Reconciles the desired and actual contents of the tables with the smallest
//! change, in a safe order.
//!
//! [`Tables`] is the set of tables that the planner fills and the packet path
//! reads. A [`Table`] is one of them, in the kernel or in memory. The
//! [`Reconciler`] takes [`Delta`]s, tracks the actual and desired contents of
//! each table, and writes the difference in an order in which a packet never
//! finds an entry whose target is missing.
//!
//! `reconciler` holds the order of writes across tables, `table` the state of
//! one table, `compare` the search for drift.

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

/// Why a table could not be read or changed.
#[derive(Debug, Error)]
pub enum TableError {
    /// The table is full. The entry stays outstanding until others are deleted.
    #[error("table {table} is full ({capacity} entries); the new entry is not programmed: raise its size")]
    Full {
        /// Table name.
        table: &'static str,
        /// Its capacity in entries.
        capacity: u32,
    },
    /// The system call failed.
    #[error("table {table}: {operation} failed: {error}")]
    Kernel {
        /// Table name.
        table: &'static str,
        /// `update`, `delete`, `read`.
        operation: &'static str,
        /// The kernel's error.
        error: String,
    },
}

/// One table. All operations are idempotent.
pub trait Table<K, V> {
    /// Inserts or replaces an entry. Readers see the old or the new value.
    /// Fails with [`TableError::Full`] if there is no room.
    fn update(&mut self, key: &K, value: &V) -> Result<(), TableError>;
    /// Deletes an entry. Succeeds if there is none.
    fn delete(&mut self, key: &K) -> Result<(), TableError>;
    /// The value of exactly this key. Not supported by LPM tries, whose lookup
    /// returns the longest match.
    fn get(&self, key: &K) -> Result<Option<V>, TableError>;
    /// The next key in the table's own order. The first key if `key` is none or
    /// no longer in the table.
    fn next_key(&self, key: Option<&K>) -> Result<Option<K>, TableError>;
    /// All entries of the table.
    fn entries(&self) -> Result<Vec<(K, V)>, TableError>;
}

/// The tables that are reconciled. `beeline-kernel` implements it for the
/// pinned maps, [`memory::MemoryTables`] in memory. The table `maglev` is the
/// map named `SHARE`.
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
