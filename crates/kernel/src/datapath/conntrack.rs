//! The connection tables: the current one and, during a migration to another
//! layout (`migrate_conntrack`), the previous one. Each is the element of an
//! array of maps. It is also pinned, because the array yields only the map ID,
//! and opening a map by ID needs CAP_SYS_ADMIN.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use aya::maps::MapData;
use beeline_abi::conntrack::{ConntrackKey, ConntrackValue};
use beeline_abi::maps;
use beeline_sync::TableError;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::bpf::{self, Access};
use super::error::{DatapathError, failed};
use super::maps::{MapDefinition, RawMap};
use super::object::DeclaredMaps;
use super::pins::{Pins, pin_over};
use super::programs::load_failed;
use super::tables::KernelTable;

/// Name of the pin of the previous table.
pub(crate) const PREVIOUS_TABLE: &str = "CONNTRACK_PREVIOUS_TABLE";

/// Key of the only element of each array.
const ELEMENT: [u8; 4] = [0; 4];

/// The connection tables of one layout.
#[derive(Debug)]
pub(crate) struct Conntrack {
    pub(crate) current: KernelTable<ConntrackKey, ConntrackValue>,
    previous: Option<PreviousTable>,
}

impl Conntrack {
    /// Opens the pinned tables.
    pub(crate) fn open(pins: &Pins, access: Access) -> Result<Conntrack, DatapathError> {
        let path = pins.table(maps::CONNTRACK_TABLE.name);
        let current = RawMap::open_existing(&path, maps::CONNTRACK_TABLE.name, access)?;
        let previous = RawMap::open(&pins.table(PREVIOUS_TABLE), PREVIOUS_TABLE, access)?;
        Ok(Conntrack { current: KernelTable::new(current), previous: previous.map(PreviousTable) })
    }

    /// Creates and pins the current table and the arrays of maps if they are
    /// missing. Puts the current table into its array; if there is a previous
    /// table, puts only that one into its own array.
    ///
    /// Call this before the programs are loaded. Otherwise the loader would
    /// create the array with an inner map that has BTF, and Linux 6.1 does not
    /// accept a table without BTF as an element of it.
    pub(crate) fn create(
        pins: &Pins,
        declared: &DeclaredMaps,
        previous: Option<&RawMap>,
    ) -> Result<(), DatapathError> {
        let table = create_table(pins, declared.conntrack)?;
        let array = |name, table| create_array(pins, name, declared.tables[name], table);
        let in_use = array(maps::CONNTRACK.name, &table)?;
        let before = array(maps::CONNTRACK_PREVIOUS.name, previous.unwrap_or(&table))?;
        match previous {
            Some(previous) => ensure_element(&before, previous),
            None => ensure_element(&in_use, &table),
        }
    }

    /// All connections of both tables, those of the current one first. A
    /// connection that is in both is listed once.
    pub(crate) fn entries(&self) -> Result<Vec<(ConntrackKey, ConntrackValue)>, TableError> {
        let mut entries = self.current.entries()?;
        if let Some(previous) = &self.previous {
            let known: std::collections::HashSet<ConntrackKey> =
                entries.iter().map(|(key, _)| *key).collect();
            entries.extend(previous.entries()?.into_iter().filter(|(key, _)| !known.contains(key)));
        }
        Ok(entries)
    }

    /// Looks up a connection as the programs do: first in the current table,
    /// then in the previous one.
    pub(crate) fn get(&self, key: &ConntrackKey) -> Result<Option<ConntrackValue>, TableError> {
        let found = self.current.get(key)?;
        match (&self.previous, found) {
            (Some(previous), None) => previous.get(key),
            (_, found) => Ok(found),
        }
    }
}

/// The previous table, whose values may have another size.
#[derive(Debug)]
struct PreviousTable(RawMap);

impl PreviousTable {
    fn get(&self, key: &ConntrackKey) -> Result<Option<ConntrackValue>, TableError> {
        let mut value = vec![0; self.0.value_bytes()];
        let found = self.0.get(key.as_bytes(), &mut value).map_err(|error| self.error(&error))?;
        Ok(found.then(|| convert(&value)))
    }

    fn entries(&self) -> Result<Vec<(ConntrackKey, ConntrackValue)>, TableError> {
        let mut entries = Vec::new();
        let each = |key: &[u8], value: &[u8]| {
            // Keys have the same size in every layout that can be migrated.
            entries.extend(ConntrackKey::read_from_bytes(key).ok().map(|key| (key, convert(value))));
        };
        self.0.read(each).map_err(|error| self.error(&error))?;
        Ok(entries)
    }

    fn error(&self, error: &io::Error) -> TableError {
        TableError::Kernel { table: self.0.name(), operation: "read", error: error.to_string() }
    }
}

/// Converts a value to the current layout; see `migrate`.
fn convert(bytes: &[u8]) -> ConntrackValue {
    let mut value = ConntrackValue::new_zeroed();
    let shared = bytes.len().min(size_of::<ConntrackValue>());
    value.as_mut_bytes()[..shared].copy_from_slice(&bytes[..shared]);
    value
}

/// Opens the current table, or creates it.
fn create_table(pins: &Pins, definition: MapDefinition) -> Result<RawMap, DatapathError> {
    let name = maps::CONNTRACK_TABLE.name;
    let path = pins.table(name);
    if RawMap::open(&path, name, Access::Read)?.is_none() {
        let made = MapData::create(definition.to_map(), name, None);
        let made = made.map_err(|error| load_failed(&format!("table {name}"), &error))?;
        pin_over(made.fd().as_fd(), &path)?;
    }
    RawMap::open_checked(&path, name, Access::ReadWrite, definition)
}

/// Opens an array of maps whose elements have the definition of `table`, or
/// creates it.
fn create_array(
    pins: &Pins,
    name: &'static str,
    definition: MapDefinition,
    table: &RawMap,
) -> Result<RawMap, DatapathError> {
    let path = pins.table(name);
    if RawMap::open(&path, name, Access::Read)?.is_none() {
        let made = bpf::create_map_of_maps(name, &definition, table.as_fd());
        let made = made.map_err(failed("create", format!("table {name}")))?;
        pin_over(made.as_fd(), &path)?;
    }
    RawMap::open_checked(&path, name, Access::ReadWrite, definition)
}

/// Puts a table into an array, unless it is there already: updating the array
/// waits for an RCU grace period (about 8 ms).
fn ensure_element(array: &RawMap, table: &RawMap) -> Result<(), DatapathError> {
    let wanted = table.id().map_err(failed("examine", table.name()))?;
    let mut id = [0; 4];
    let there = array.get(&ELEMENT, &mut id).map_err(failed("read", array.name()))?;
    if there && u32::from_ne_bytes(id) == wanted { Ok(()) } else { set_element(array, table) }
}

/// Puts a table into an array. When this returns, every program that was
/// running has ended (the kernel waits for an RCU grace period).
pub(crate) fn set_element(array: &RawMap, table: &RawMap) -> Result<(), DatapathError> {
    let fd = table.as_fd().as_raw_fd() as u32;
    array.set(&ELEMENT, &fd.to_ne_bytes(), 0).map_err(failed("write", array.name()))
}

/// Removes the table from an array. It is no error if there is none.
pub(crate) fn clear_element(array: &RawMap) -> Result<(), DatapathError> {
    array.remove(&ELEMENT).map(|_| ()).map_err(failed("empty", array.name()))
}
