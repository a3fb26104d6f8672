//! The eBPF object: the one inside this binary, and what an object declares.

use std::collections::HashMap;

use aya::include_bytes_aligned;
use aya_obj::Object;
use beeline_abi::maps;

use super::error::DatapathError;
use super::maps::Shape;

/// The programs that this binary was built with; empty if it was built
/// without them.
pub const EMBEDDED: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/beeline.bpf.o"));

/// What an object declares, as far as the loader decides on it.
pub(crate) struct Declared {
    /// The tables of the layout that it has, by name.
    pub tables: HashMap<&'static str, Shape>,
    /// One connection table.
    pub conntrack: Shape,
}

impl Declared {
    /// Reads an object.
    pub(crate) fn parse(object: &[u8]) -> Result<Declared, DatapathError> {
        if object.is_empty() {
            return Err(DatapathError::NoObject);
        }
        let parsed = Object::parse(object).map_err(|error| DatapathError::Object(error.to_string()))?;
        let mut tables = HashMap::new();
        for spec in maps::ALL {
            let declared = parsed.maps.get(spec.name).ok_or_else(|| misfit(spec.name, "is missing"))?;
            tables.insert(spec.name, Shape::declared(declared));
        }
        let inner = parsed.maps.get(maps::CONNTRACK.name).and_then(aya_obj::Map::inner);
        let conntrack = inner
            .as_ref()
            .map(Shape::declared)
            .ok_or_else(|| misfit(maps::CONNTRACK.name, "does not say what is inside"))?;
        Ok(Declared { tables, conntrack })
    }

    /// Holds it against the layout that this binary was compiled with.
    pub(crate) fn check(&self) -> Result<(), DatapathError> {
        for spec in maps::ALL {
            compare(spec, self.tables[spec.name])?;
        }
        compare(&maps::CONNTRACK_TABLE, self.conntrack)
    }
}

fn compare(spec: &maps::MapSpec, declared: Shape) -> Result<(), DatapathError> {
    let expected = Shape::of(spec);
    if declared == expected {
        return Ok(());
    }
    Err(misfit(spec.name, &format!("is declared as {declared}, the layout says {expected}")))
}

fn misfit(table: &str, what: &str) -> DatapathError {
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
        Declared::parse(EMBEDDED).unwrap().check().unwrap();
    }

    #[test]
    fn unit_an_object_that_is_none_is_refused_with_the_next_step() {
        let error = Declared::parse(&[]).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("cargo xtask ebpf"), "{error}");
        let error = Declared::parse(b"not an ELF file").map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("does not fit") && error.contains("make build"), "{error}");
    }
}
