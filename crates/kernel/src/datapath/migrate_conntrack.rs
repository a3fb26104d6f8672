//! The connections' way into a table with another layout.
//!
//! Packets go on meanwhile, and the programs at the hooks change one by one:
//!
//! 1. [`begin`]: the next layout has an empty table which is not yet in its
//!    array, and beside it, as the previous one, the table in use. The next
//!    programs therefore read and write that one, as do those at the hooks
//!    that have not changed yet: all of them know every connection at once.
//! 2. All hooks have changed, and the next layout is current: [`finish`] puts
//!    the next table into its array. New connections go there; the others are
//!    found in the previous one, while they are copied.
//! 3. Every connection is in the table in use, and the previous one is let go.
//!
//! The pin of the previous table says that this is under way. A life that
//! ended in the middle is made up for by the next, whichever layout it has:
//! before the second step it begins anew, after it it finishes.
//!
//! The programs work on a previous value in place. It may be larger by
//! `VALUE_PADDING_WORDS` (what they add to it is zero), and smaller as far as they
//! do not use its end: the kernel's verifier refuses to load them otherwise,
//! and the old ones stay.

use std::os::fd::AsFd;

use beeline_abi::maps;

use super::bpf::Access;
use super::conntrack::{self, PREVIOUS_TABLE};
use super::error::{DatapathError, failed};
use super::maps::{MapDefinition, RawMap};
use super::migrate;
use super::pins::{Pins, pin_over, unpin};

/// Before the tables of `to` are made: shares the connection table if it has
/// this definition; else returns it, to be the previous one.
pub(crate) fn begin(
    from: &Pins,
    to: &Pins,
    definition: MapDefinition,
) -> Result<Option<RawMap>, DatapathError> {
    let table = maps::CONNTRACK_TABLE.name;
    // Of an earlier life of that layout, or of one that did not get far.
    for name in [maps::CONNTRACK.name, maps::CONNTRACK_PREVIOUS.name, table, PREVIOUS_TABLE] {
        unpin(&to.table(name))?;
    }
    let Some(old) = RawMap::open(&from.table(table), table, Access::ReadWrite)? else { return Ok(None) };
    if *old.definition() == definition {
        pin_over(old.as_fd(), &to.table(table))?;
        return Ok(None);
    }
    pin_over(old.as_fd(), &to.table(PREVIOUS_TABLE))?;
    Ok(Some(old))
}

/// After all links have changed: brings the connections over, if that is not
/// done yet.
///
/// A packet that changes an entry in the very moment in which it is copied may
/// change the old one alone: its next packet finds the copy, which has the
/// lifetime and the counts of one packet before.
pub(crate) fn finish(pins: &Pins) -> Result<(), DatapathError> {
    let Some(old) = RawMap::open(&pins.table(PREVIOUS_TABLE), PREVIOUS_TABLE, Access::ReadWrite)? else {
        return Ok(());
    };
    let open = |name| RawMap::open_existing(&pins.table(name), name, Access::ReadWrite);
    let new = open(maps::CONNTRACK_TABLE.name)?;
    let (current, previous) = (open(maps::CONNTRACK.name)?, open(maps::CONNTRACK_PREVIOUS.name)?);
    // Writing an array of maps waits for every program that is under way:
    // here for the last of the old ones, who know nothing of the new table,
    // then for the last that writes the old table.
    conntrack::set_element(&previous, &old)?;
    conntrack::set_element(&current, &new)?;
    let directory = pins.directory();
    migrate::add_missing(&old, &new)
        .map_err(failed("migrate", format!("connections to {}", directory.display())))?;
    conntrack::clear_element(&previous)?;
    unpin(&pins.table(PREVIOUS_TABLE))
}

#[cfg(test)]
mod tests {
    use super::super::conntrack::Conntrack;
    use super::super::object::DeclaredMaps;
    use super::super::testing::{TestLayouts, contents, hash, key};
    use super::*;

    const TABLE: &str = maps::CONNTRACK_TABLE.name;

    /// What an object would declare whose connections have values of this size.
    fn declared(value_size: u32) -> DeclaredMaps {
        let arrays = [&maps::CONNTRACK, &maps::CONNTRACK_PREVIOUS];
        let tables = arrays.map(|spec| (spec.name, MapDefinition::from_spec(spec))).into();
        DeclaredMaps { tables, conntrack: hash(value_size, 100) }
    }

    /// The tables of a layout that follows another one.
    fn prepare(from: &Pins, to: &Pins, value_size: u32) {
        let declared = declared(value_size);
        let previous = begin(from, to, declared.conntrack).unwrap();
        Conntrack::create(to, &declared, previous.as_ref()).unwrap();
    }

    fn open(pins: &Pins, name: &'static str) -> RawMap {
        RawMap::open_existing(&pins.table(name), name, Access::ReadWrite).unwrap()
    }

    /// The number of the table in an array.
    fn element(pins: &Pins, array: &'static str) -> Option<u32> {
        let mut id = [0; 4];
        open(pins, array).get(&[0; 4], &mut id).unwrap().then(|| u32::from_ne_bytes(id))
    }

    /// Numbers of the table in use and of the one before it.
    fn elements(pins: &Pins) -> (Option<u32>, Option<u32>) {
        (element(pins, maps::CONNTRACK.name), element(pins, maps::CONNTRACK_PREVIOUS.name))
    }

    #[test]
    fn kernel_connections_move_to_a_table_with_other_values_and_back() {
        let layouts = TestLayouts::new("conntrack");
        Conntrack::create(&layouts.old, &declared(4), None).unwrap();
        let old = open(&layouts.old, TABLE);
        old.set(&key(1), &[1; 4], 0).unwrap();
        assert_eq!(elements(&layouts.old), (Some(old.id().unwrap()), None));

        prepare(&layouts.old, &layouts.new, 8);
        assert_eq!(elements(&layouts.new), (None, Some(old.id().unwrap())), "all programs use the old table");
        let new = open(&layouts.new, TABLE);
        assert_eq!(contents(&new), []);
        old.set(&key(2), &[2; 4], 0).unwrap();
        finish(&layouts.new).unwrap();
        assert_eq!(elements(&layouts.new), (Some(new.id().unwrap()), None));
        let copied = [(1, vec![1, 1, 1, 1, 0, 0, 0, 0]), (2, vec![2, 2, 2, 2, 0, 0, 0, 0])];
        assert_eq!(contents(&new), copied);
        assert!(!layouts.new.table(PREVIOUS_TABLE).exists(), "the migration is complete");

        new.set(&key(3), &[3; 8], 0).unwrap();
        new.remove(&key(1)).unwrap();
        prepare(&layouts.new, &layouts.old, 4);
        finish(&layouts.old).unwrap();
        let back = open(&layouts.old, TABLE);
        assert_ne!(back.id().unwrap(), old.id().unwrap(), "the old table is stale and is not used again");
        assert_eq!(contents(&back), [(2, vec![2; 4]), (3, vec![3; 4])]);
        assert_eq!(elements(&layouts.old), (Some(back.id().unwrap()), None));
    }

    #[test]
    fn kernel_an_interrupted_connection_migration_completes() {
        let layouts = TestLayouts::new("interrupted");
        Conntrack::create(&layouts.old, &declared(4), None).unwrap();
        let old = open(&layouts.old, TABLE);
        (1..4).for_each(|number| old.set(&key(number), &[1; 4], 0).unwrap());
        // A life that ended before all links had changed, then another one.
        prepare(&layouts.old, &layouts.new, 8);
        prepare(&layouts.old, &layouts.new, 8);
        assert_eq!(elements(&layouts.new), (None, Some(old.id().unwrap())));
        // This one ends after the first connection has been copied.
        let new = open(&layouts.new, TABLE);
        conntrack::set_element(&open(&layouts.new, maps::CONNTRACK.name), &new).unwrap();
        new.set(&key(1), &[9; 8], 0).unwrap();
        new.set(&key(4), &[9; 8], 0).unwrap();
        finish(&layouts.new).unwrap();
        let arrived = |number| (number, vec![1, 1, 1, 1, 0, 0, 0, 0]);
        assert_eq!(contents(&new), [(1, vec![9; 8]), arrived(2), arrived(3), (4, vec![9; 8])]);
        finish(&layouts.new).expect("idempotent");
        assert_eq!(elements(&layouts.new), (Some(new.id().unwrap()), None));
    }

    #[test]
    fn kernel_connections_of_the_same_layout_are_shared() {
        let layouts = TestLayouts::new("shared");
        Conntrack::create(&layouts.old, &declared(4), None).unwrap();
        prepare(&layouts.old, &layouts.new, 4);
        assert_eq!(open(&layouts.new, TABLE).id().unwrap(), open(&layouts.old, TABLE).id().unwrap());
        assert_eq!(elements(&layouts.new), elements(&layouts.old));
        finish(&layouts.new).expect("no migration is needed");
    }
}
