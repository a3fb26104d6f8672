//! The connection tables: an array of two maps, the one in use and the one
//! before it. Each is pinned beside the array, because the array gives only
//! the number of a map, which takes more privileges to open.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use aya::maps::MapData;
use beeline_abi::conntrack::{ConntrackKey, ConntrackValue};
use beeline_abi::maps;
use beeline_sync::TableError;

use super::bpf::{self, Access};
use super::error::{DatapathError, failed};
use super::maps::{RawMap, Shape};
use super::object::Declared;
use super::pins::{Pins, pin_over};
use super::programs::refused;
use super::tables::KernelTable;

/// Name of the pin of the table before the one in use.
pub(crate) const PREVIOUS: &str = "CONNTRACK_PREVIOUS";

/// The connection tables of one layout.
#[derive(Debug)]
pub(crate) struct Conntrack {
    pub(crate) current: KernelTable<ConntrackKey, ConntrackValue>,
    previous: Option<KernelTable<ConntrackKey, ConntrackValue>>,
}

impl Conntrack {
    /// Opens what is pinned.
    pub(crate) fn open(pins: &Pins, access: Access) -> Result<Conntrack, DatapathError> {
        let path = pins.table(maps::CONNTRACK_TABLE.name);
        let missing = || io::Error::from_raw_os_error(libc::ENOENT);
        let current = RawMap::open(&path, maps::CONNTRACK_TABLE.name, access)?
            .ok_or_else(|| failed("open", format!("the table pinned at {}", path.display()))(missing()))?;
        let previous = RawMap::open(&pins.table(PREVIOUS), PREVIOUS, access)?;
        Ok(Conntrack { current: KernelTable::new(current), previous: previous.map(KernelTable::new) })
    }

    /// Makes the table in use and the array of tables where they are missing,
    /// pins them and puts the one into the other.
    ///
    /// Called before the programs are loaded, because the loader would make
    /// the array over a table with BTF, and Linux 6.1 does not take a table
    /// without BTF for its like.
    pub(crate) fn create(pins: &Pins, declared: &Declared) -> Result<(), DatapathError> {
        let table = create_table(pins, declared.conntrack)?;
        let array = create_array(pins, declared.tables[maps::CONNTRACK.name], &table)?;
        put(&array, maps::CONNTRACK_CURRENT, &table)
    }

    /// Every connection of both tables; those of the one in use first. One
    /// that is in both comes once.
    pub(crate) fn entries(&self) -> Result<Vec<(ConntrackKey, ConntrackValue)>, TableError> {
        let mut entries = self.current.entries()?;
        if let Some(previous) = &self.previous {
            let known: std::collections::HashSet<ConntrackKey> =
                entries.iter().map(|(key, _)| *key).collect();
            entries.extend(previous.entries()?.into_iter().filter(|(key, _)| !known.contains(key)));
        }
        Ok(entries)
    }

    /// One connection, as a packet finds it: current, then previous.
    pub(crate) fn get(&self, key: &ConntrackKey) -> Result<Option<ConntrackValue>, TableError> {
        let found = self.current.get(key)?;
        match (&self.previous, found) {
            (Some(previous), None) => previous.get(key),
            (_, found) => Ok(found),
        }
    }
}

/// The table in use: the pinned one, else a new one.
fn create_table(pins: &Pins, shape: Shape) -> Result<RawMap, DatapathError> {
    let name = maps::CONNTRACK_TABLE.name;
    let path = pins.table(name);
    if RawMap::open(&path, name, Access::Read)?.is_none() {
        let made = MapData::create(shape.to_map(), name, None);
        let made = made.map_err(|error| refused(&format!("table {name}"), &error))?;
        pin_over(made.fd().as_fd(), &path)?;
    }
    RawMap::open_checked(&path, name, Access::ReadWrite, shape)
}

/// The array of tables that look like this one: the pinned one, else a new one.
fn create_array(pins: &Pins, shape: Shape, table: &RawMap) -> Result<RawMap, DatapathError> {
    let name = maps::CONNTRACK.name;
    let path = pins.table(name);
    if RawMap::open(&path, name, Access::Read)?.is_none() {
        let made = bpf::create_map_of_maps(name, &shape, table.as_fd());
        let made = made.map_err(failed("make", format!("table {name}")))?;
        pin_over(made.as_fd(), &path)?;
    }
    RawMap::open_checked(&path, name, Access::ReadWrite, shape)
}

/// Puts a table into a slot of the array, unless it is there: changing the
/// array waits for every packet that is under way (8 ms).
fn put(array: &RawMap, slot: u32, table: &RawMap) -> Result<(), DatapathError> {
    let object = || format!("slot {slot} of table {}", array.name());
    let wanted = table.id().map_err(failed("examine", object()))?;
    let mut id = [0; 4];
    let there = array.get(&slot.to_ne_bytes(), &mut id).map_err(failed("read", object()))?;
    if there && u32::from_ne_bytes(id) == wanted {
        return Ok(());
    }
    let fd = table.as_fd().as_raw_fd() as u32;
    array.set(&slot.to_ne_bytes(), &fd.to_ne_bytes(), 0).map_err(failed("write", object()))
}
