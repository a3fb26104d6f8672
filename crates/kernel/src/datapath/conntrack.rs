//! The connection tables: an array of two maps, the one in use and the one
//! before it. Each is pinned beside the array, because the array gives only
//! the number of a map, which takes more privileges to open.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;

use aya::maps::MapData;
use beeline_abi::conntrack::{ConntrackKey, ConntrackValue};
use beeline_abi::maps;
use beeline_sync::TableError;

use super::bpf::Access;
use super::error::{DatapathError, failed};
use super::maps::{RawMap, Shape};
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

    /// Makes the table in use where it is missing, pins it and puts it into
    /// the array.
    pub(crate) fn create(pins: &Pins, shape: Shape) -> Result<(), DatapathError> {
        let path = pins.table(maps::CONNTRACK_TABLE.name);
        let table = match RawMap::open(&path, maps::CONNTRACK_TABLE.name, Access::ReadWrite)? {
            Some(table) => table,
            None => {
                let name = maps::CONNTRACK_TABLE.name;
                let made = MapData::create(shape.to_map(), name, None)
                    .map_err(|error| refused(&format!("table {name}"), &error))?;
                pin_over(made.fd().as_fd(), &path)?;
                RawMap::open_checked(&path, name, Access::ReadWrite, shape)?
            }
        };
        table.check(&path, shape)?;
        put(pins, maps::CONNTRACK_CURRENT, &table)
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

/// Puts a table into a slot of the array, unless it is there: changing the
/// array waits for every packet that is under way (8 ms).
fn put(pins: &Pins, slot: u32, table: &RawMap) -> Result<(), DatapathError> {
    let path: PathBuf = pins.table(maps::CONNTRACK.name);
    let name = maps::CONNTRACK.name;
    let object = || format!("slot {slot} of table {name}");
    let array = RawMap::open_checked(&path, name, Access::ReadWrite, Shape::of(&maps::CONNTRACK))?;
    let wanted = table.id().map_err(failed("examine", object()))?;
    let mut id = [0; 4];
    let there = array.get(&slot.to_ne_bytes(), &mut id).map_err(failed("read", object()))?;
    if there && u32::from_ne_bytes(id) == wanted {
        return Ok(());
    }
    let fd = table.as_fd().as_raw_fd() as u32;
    array.set(&slot.to_ne_bytes(), &fd.to_ne_bytes(), 0).map_err(failed("write", object()))
}
