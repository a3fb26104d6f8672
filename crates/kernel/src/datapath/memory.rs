//! Memory that the tables use in the kernel.

use beeline_abi::maps;

use super::bpf::Access;
use super::conntrack;
use super::error::{DatapathError, failed};
use super::maps::RawMap;
use super::pins::Pins;

/// Memory of every pinned table, including the connection tables, in bytes
/// (`memlock` in `/proc/PID/fdinfo`). Before Linux 6.4 the kernel reports for
/// a hash the size of a full one without overhead.
pub(crate) fn of_pins(pins: &Pins) -> Result<Vec<(&'static str, u64)>, DatapathError> {
    let mut found = Vec::new();
    let inner = [maps::CONNTRACK_TABLE.name, conntrack::PREVIOUS_TABLE];
    for name in maps::ALL.iter().map(|spec| spec.name).chain(inner) {
        let Some(map) = RawMap::open(&pins.table(name), name, Access::Read)? else { continue };
        let bytes = map.memory_bytes().map_err(failed("read the size of", format!("table {name}")))?;
        found.push((name, bytes));
    }
    Ok(found)
}
