//! The eBPF object embedded in this binary, and the maps that an object declares.

use std::collections::HashMap;

use aya::include_bytes_aligned;
use aya_obj::Object;
use beeline_abi::maps;

use super::error::DatapathError;
use super::maps::MapDefinition;

/// The eBPF object embedded in this binary; empty if it was built without one.
pub const EMBEDDED: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/beeline.bpf.o"));

/// The maps that an object declares.
pub(crate) struct DeclaredMaps {
    /// The tables of the layout, by name.
    pub tables: HashMap<&'static str, MapDefinition>,
    /// The connection table: the inner map of `CONNTRACK`.
    pub conntrack: MapDefinition,
}

impl DeclaredMaps {
    /// Parses an ELF object.
    pub(crate) fn parse(object: &[u8]) -> Result<DeclaredMaps, DatapathError> {
        if object.is_empty() {
            return Err(DatapathError::NoObject);
        }
        let parsed = Object::parse(object).map_err(|error| DatapathError::Object(error.to_string()))?;
        let mut tables = HashMap::new();
        for spec in maps::ALL {
            let declared = parsed.maps.get(spec.name).ok_or_else(|| mismatch(spec.name, "is missing"))?;
            tables.insert(spec.name, MapDefinition::from_object(declared));
        }
        let inner = parsed.maps.get(maps::CONNTRACK.name).and_then(aya_obj::Map::inner);
        let conntrack = inner
            .as_ref()
            .map(MapDefinition::from_object)
            .ok_or_else(|| mismatch(maps::CONNTRACK.name, "does not declare its inner map"))?;
        Ok(DeclaredMaps { tables, conntrack })
    }

    /// Compares it with the layout of this binary.
    pub(crate) fn check(&self) -> Result<(), DatapathError> {
        for spec in maps::ALL {
            compare(spec, self.tables[spec.name])?;
        }
        compare(&maps::CONNTRACK_TABLE, self.conntrack)
    }
}

fn compare(spec: &maps::MapSpec, declared: MapDefinition) -> Result<(), DatapathError> {
    let expected = MapDefinition::from_spec(spec);
    if declared == expected {
        return Ok(());
    }
    Err(mismatch(spec.name, &format!("is declared as {declared}, but the layout requires {expected}")))
}

fn mismatch(table: &str, what: &str) -> DatapathError {
    DatapathError::Object(format!("table {table} {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_the_embedded_object_has_the_layout_of_this_binary() {
        if EMBEDDED.is_empty() {
            eprintln!("skipped: no eBPF object is embedded (run `cargo xtask ebpf` first)");
            return;
        }
        DeclaredMaps::parse(EMBEDDED).unwrap().check().unwrap();
    }

    #[test]
    fn unit_an_invalid_object_is_refused_with_the_next_step() {
        let error = DeclaredMaps::parse(&[]).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("cargo xtask ebpf"), "{error}");
        let error = DeclaredMaps::parse(b"not an ELF file").map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("does not match") && error.contains("make build"), "{error}");
    }
}
