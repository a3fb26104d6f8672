//! Migration of the tables to another layout. The contents of the old tables
//! are copied to the new ones before the first link runs a new program.
//!
//! Keys must keep their size. A value that grows is extended with zero bytes,
//! one that shrinks is truncated. A release that changes a layout in any other
//! way needs its own conversion. Tables that the programs write are shared if
//! their definition is unchanged, so that old and new programs see the same
//! entries. Connections are migrated even if it changed (`migrate_conntrack`).

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::AsFd;

use aya_obj::generated::bpf_map_type;
use beeline_abi::maps;

use super::bpf::Access;
use super::error::{DatapathError, failed};
use super::maps::{MapDefinition, RawMap};
use super::pins::{Pins, pin_over};

/// `BPF_NOEXIST` of linux/bpf.h.
const ONLY_NEW: u64 = 1;

/// Tables that are not copied: their contents are short-lived, or are migrated
/// by `migrate_conntrack`.
const NOT_COPIED: &[&str] = &[
    maps::CONNTRACK.name,
    maps::CONNTRACK_PREVIOUS.name,
    maps::SWEEP.name,
    maps::EVENT_STATE.name,
    maps::EVENTS.name,
];

/// Tables that the programs write.
const SHARED: &[&str] = &[maps::FRAGMENT.name, maps::COUNTER.name, maps::AFFINITY.name, maps::SOCKET.name];

/// Call before the tables of `to` are created. Pins the tables of `from` that
/// can be shared for `to` as well.
pub(crate) fn share(
    from: &Pins,
    to: &Pins,
    declared: &HashMap<&'static str, MapDefinition>,
) -> Result<(), DatapathError> {
    for name in SHARED {
        let Some(old) = RawMap::open(&from.table(name), name, Access::ReadWrite)? else { continue };
        if *old.definition() == declared[name] {
            pin_over(old.as_fd(), &to.table(name))?;
        }
    }
    Ok(())
}

/// Copies the tables of `from` to those of `to`, and removes entries that
/// `from` does not have.
pub(crate) fn copy(from: &Pins, to: &Pins) -> Result<(), DatapathError> {
    for spec in maps::ALL.iter().filter(|spec| !NOT_COPIED.contains(&spec.name)) {
        let (Some(old), Some(new)) = both(from, to, spec.name)? else { continue };
        let failed = failed("migrate", format!("table {} to {}", spec.name, to.directory().display()));
        copy_table(&old, &new, to.version()).map_err(failed)?;
    }
    Ok(())
}

/// Copies the entries that the new table does not have.
pub(crate) fn add_missing(old: &RawMap, new: &RawMap) -> io::Result<()> {
    insert_all(old, new, ONLY_NEW, |_| {})
}

fn both(
    from: &Pins,
    to: &Pins,
    name: &'static str,
) -> Result<(Option<RawMap>, Option<RawMap>), DatapathError> {
    let old = RawMap::open(&from.table(name), name, Access::Read)?;
    Ok((old, RawMap::open(&to.table(name), name, Access::ReadWrite)?))
}

fn copy_table(old: &RawMap, new: &RawMap, version: u32) -> io::Result<()> {
    if old.id()? == new.id()? {
        return Ok(()); // It is shared.
    }
    if old.definition().key_size != new.definition().key_size
        || old.definition().kind != new.definition().kind
    {
        return Err(io::Error::other(format!("{} cannot become {}", old.definition(), new.definition())));
    }
    let per_cpu = bpf_map_type::BPF_MAP_TYPE_PERCPU_ARRAY as u32;
    if new.definition().kind == per_cpu && old.value_bytes() != new.value_bytes() {
        return Ok(()); // Counters of another size start at zero.
    }
    let is_config = new.name() == maps::CONFIG.name;
    insert_all(old, new, 0, |value| {
        // The first word is the ABI version; 0 = no configuration was written yet.
        if is_config && value[..4] != [0; 4] {
            value[..4].copy_from_slice(&version.to_ne_bytes());
        }
    })?;
    remove_others(old, new)
}

fn insert_all(old: &RawMap, new: &RawMap, flags: u64, change: impl Fn(&mut [u8])) -> io::Result<()> {
    let mut outcome = Ok(());
    let mut value = vec![0; new.value_bytes()];
    old.read(|key, old_value| {
        value.fill(0);
        let shared = old_value.len().min(value.len());
        value[..shared].copy_from_slice(&old_value[..shared]);
        change(&mut value);
        match new.set(key, &value, flags) {
            // The new table has this entry, or a newer one.
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
            Err(error) => outcome = Err(error),
            Ok(()) => {}
        }
    })?;
    outcome
}

/// Removes entries left by an earlier use of the new layout.
fn remove_others(old: &RawMap, new: &RawMap) -> io::Result<()> {
    let arrays = [bpf_map_type::BPF_MAP_TYPE_ARRAY as u32, bpf_map_type::BPF_MAP_TYPE_PERCPU_ARRAY as u32];
    if arrays.contains(&new.definition().kind) {
        return Ok(());
    }
    let mut known = HashSet::new();
    old.read(|key, _| {
        known.insert(key.to_vec());
    })?;
    let mut others = Vec::new();
    new.read(|key, _| {
        if !known.contains(key) {
            others.push(key.to_vec());
        }
    })?;
    others.iter().try_for_each(|key| new.remove(key).map(|_| ()))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestLayouts, contents, key};
    use super::*;

    #[test]
    fn kernel_values_grow_and_shrink_and_stale_entries_are_removed() {
        let layouts = TestLayouts::new("grow");
        let old = layouts.hash(&layouts.old, maps::NODE.name, 4, 10);
        let new = layouts.hash(&layouts.new, maps::NODE.name, 6, 20);
        old.set(&key(1), &[1, 2, 3, 4], 0).unwrap();
        old.set(&key(2), &[5, 6, 7, 8], 0).unwrap();
        new.set(&key(2), &[9; 6], 0).unwrap();
        new.set(&key(3), &[9; 6], 0).unwrap();
        copy(&layouts.old, &layouts.new).unwrap();
        assert_eq!(contents(&new), [(1, vec![1, 2, 3, 4, 0, 0]), (2, vec![5, 6, 7, 8, 0, 0])]);
        copy(&layouts.new, &layouts.old).unwrap();
        assert_eq!(contents(&old), [(1, vec![1, 2, 3, 4]), (2, vec![5, 6, 7, 8])]);
    }

    #[test]
    fn kernel_tables_that_packets_write_are_shared_if_the_layout_is_equal() {
        let layouts = TestLayouts::new("share");
        let old = layouts.hash(&layouts.old, maps::FRAGMENT.name, 4, 10);
        let other = layouts.hash(&layouts.old, maps::COUNTER.name, 4, 10);
        let mut declared: HashMap<&'static str, MapDefinition> =
            [(maps::FRAGMENT.name, *old.definition()), (maps::COUNTER.name, *other.definition())].into();
        declared.get_mut(maps::COUNTER.name).unwrap().value_size = 8;
        share(&layouts.old, &layouts.new, &declared).unwrap();
        let shared =
            RawMap::open(&layouts.new.table(maps::FRAGMENT.name), "", Access::Read).unwrap().unwrap();
        assert_eq!(shared.id().unwrap(), old.id().unwrap());
        let none = RawMap::open(&layouts.new.table(maps::COUNTER.name), "", Access::Read).unwrap();
        assert!(none.is_none(), "a table with another value size cannot be shared: {none:?}");
        // Copying a shared table does nothing.
        old.set(&key(1), &[1; 4], 0).unwrap();
        copy(&layouts.old, &layouts.new).unwrap();
        assert_eq!(contents(&old), [(1, vec![1; 4])]);
    }

    #[test]
    fn kernel_missing_entries_are_added_and_newer_ones_kept() {
        let layouts = TestLayouts::new("missing");
        let old = layouts.hash(&layouts.old, maps::NODE.name, 4, 10);
        let new = layouts.hash(&layouts.new, maps::NODE.name, 8, 10);
        old.set(&key(1), &[2; 4], 0).unwrap();
        old.set(&key(2), &[3; 4], 0).unwrap();
        new.set(&key(1), &[7; 8], 0).unwrap();
        add_missing(&old, &new).unwrap();
        assert_eq!(contents(&new), [(1, vec![7; 8]), (2, vec![3, 3, 3, 3, 0, 0, 0, 0])]);
    }

    #[test]
    fn kernel_a_table_that_is_too_small_is_named() {
        let layouts = TestLayouts::new("small");
        let old = layouts.hash(&layouts.old, maps::NODE.name, 4, 10);
        layouts.hash(&layouts.new, maps::NODE.name, 4, 2);
        (0..5).for_each(|number| old.set(&key(number), &[0; 4], 0).unwrap());
        let text = copy(&layouts.old, &layouts.new).unwrap_err().to_string();
        assert!(text.contains("cannot migrate table NODE") && text.contains("v2"), "{text}");
        assert_eq!(contents(&old).len(), 5, "the old table is unchanged");
    }
}
