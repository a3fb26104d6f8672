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
//! `VALUE_END_WORDS` (what they add to it is zero), and smaller as far as they
//! do not use its end: the kernel's verifier refuses to load them otherwise,
//! and the old ones stay.

use std::os::fd::AsFd;

use beeline_abi::maps;

use super::bpf::Access;
use super::conntrack::{self, PREVIOUS_TABLE};
use super::error::{DatapathError, failed};
use super::maps::{RawMap, Shape};
use super::migrate;
use super::pins::{Pins, pin_over, unpin};

/// Before the tables of `to` are made: shares the connection table if it has
/// this shape; else returns it, to be the previous one.
pub(crate) fn begin(from: &Pins, to: &Pins, shape: Shape) -> Result<Option<RawMap>, DatapathError> {
    let table = maps::CONNTRACK_TABLE.name;
    // Of an earlier life of that layout, or of one that did not get far.
    for name in [maps::CONNTRACK.name, maps::CONNTRACK_PREVIOUS.name, table, PREVIOUS_TABLE] {
        unpin(&to.table(name))?;
    }
    let Some(old) = RawMap::open(&from.table(table), table, Access::ReadWrite)? else { return Ok(None) };
    if *old.shape() == shape {
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
    conntrack::write(&previous, &old)?;
    conntrack::write(&current, &new)?;
    let folder = pins.folder();
    migrate::add_missing(&old, &new)
        .map_err(failed("migrate", format!("connections to {}", folder.display())))?;
    conntrack::clear(&previous)?;
    unpin(&pins.table(PREVIOUS_TABLE))
}
