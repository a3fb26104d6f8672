//! Migration of connections to a table with another layout.
//!
//! Packets are processed during the migration, and the links are updated to
//! the new programs one by one:
//!
//! 1. [`begin`]: the new layout gets an empty connection table, which is not
//!    yet in its array of maps, and the current table as its previous table.
//!    Old and new programs both read and write the current table, so that all
//!    of them see every connection.
//! 2. After all links are updated and the new layout is current, [`finish`]
//!    puts the new table into its array. New connections are created there;
//!    existing ones are found in the previous table until they are copied.
//! 3. When all connections are copied, the previous table is released.
//!
//! The pin of the previous table marks a migration in progress. If the agent
//! is stopped during a migration, the next start completes it, with either
//! layout: it starts over if step 2 was not reached, and finishes otherwise.
//!
//! The new programs access values of the previous table in place. A value may
//! grow by at most `VALUE_END_WORDS`, which read as zero, and may shrink if
//! the programs do not access its end. Otherwise the verifier rejects the new
//! programs, and the old ones stay attached.

use std::os::fd::AsFd;

use beeline_abi::maps;

use super::bpf::Access;
use super::conntrack::{self, PREVIOUS_TABLE};
use super::error::{DatapathError, failed};
use super::maps::{MapDefinition, RawMap};
use super::migrate;
use super::pins::{Pins, pin_over, unpin};

/// Call before the tables of `to` are created. Shares the connection table of
/// `from` if it has this definition; otherwise pins it as the previous table
/// and returns it.
pub(crate) fn begin(
    from: &Pins,
    to: &Pins,
    definition: MapDefinition,
) -> Result<Option<RawMap>, DatapathError> {
    let table = maps::CONNTRACK_TABLE.name;
    // Left by an earlier use of that layout, or by an interrupted migration.
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

/// Call after all links are updated. Copies the connections to the new table,
/// if a migration is in progress.
///
/// A packet that updates an entry while it is copied may update only the old
/// one. The copy then lacks the timeout and the counters of that one packet.
pub(crate) fn finish(pins: &Pins) -> Result<(), DatapathError> {
    let Some(old) = RawMap::open(&pins.table(PREVIOUS_TABLE), PREVIOUS_TABLE, Access::ReadWrite)? else {
        return Ok(());
    };
    let open = |name| RawMap::open_existing(&pins.table(name), name, Access::ReadWrite);
    let new = open(maps::CONNTRACK_TABLE.name)?;
    let (current, previous) = (open(maps::CONNTRACK.name)?, open(maps::CONNTRACK_PREVIOUS.name)?);
    // Updating an array of maps waits until all running programs have ended
    // (an RCU grace period): first for the old programs, which do not know the
    // new table, then for the last program that inserts into the old table.
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

    /// The maps of an object whose connections have values of this size.
    fn declared(value_size: u32) -> DeclaredMaps {
        let arrays = [&maps::CONNTRACK, &maps::CONNTRACK_PREVIOUS];
        let tables = arrays.map(|spec| (spec.name, MapDefinition::from_spec(spec))).into();
        DeclaredMaps { tables, conntrack: hash(value_size, 100) }
    }

    /// Creates the tables of a layout that replaces another one.
    fn prepare(from: &Pins, to: &Pins, value_size: u32) {
        let declared = declared(value_size);
        let previous = begin(from, to, declared.conntrack).unwrap();
        Conntrack::create(to, &declared, previous.as_ref()).unwrap();
    }

    fn open(pins: &Pins, name: &'static str) -> RawMap {
        RawMap::open_existing(&pins.table(name), name, Access::ReadWrite).unwrap()
    }

    /// ID of the map in an array of maps.
    fn element(pins: &Pins, array: &'static str) -> Option<u32> {
        let mut id = [0; 4];
        open(pins, array).get(&[0; 4], &mut id).unwrap().then(|| u32::from_ne_bytes(id))
    }

    /// Map IDs of the current and of the previous table.
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
        // Two starts that end before all links are updated.
        prepare(&layouts.old, &layouts.new, 8);
        prepare(&layouts.old, &layouts.new, 8);
        assert_eq!(elements(&layouts.new), (None, Some(old.id().unwrap())));
        // A start that ends after the first connection is copied.
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
