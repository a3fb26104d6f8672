//! Two table layouts without programs, for the tests of this module.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use aya::maps::MapData;
use aya_obj::generated::bpf_map_type;

use super::bpf::Access;
use super::maps::{MapDefinition, RawMap};
use super::pins::{Pins, pin_over};
use crate::bpffs;

/// A hash with 4-byte keys.
pub(crate) fn hash(value_size: u32, max_entries: u32) -> MapDefinition {
    let kind = bpf_map_type::BPF_MAP_TYPE_HASH as u32;
    MapDefinition { kind, key_size: 4, value_size, max_entries, flags: 1 }
}

/// Two layouts on a bpffs that is unmounted on drop.
pub(crate) struct TestLayouts {
    root: PathBuf,
    pub old: Pins,
    pub new: Pins,
}

impl TestLayouts {
    pub(crate) fn new(word: &str) -> TestLayouts {
        let root = std::env::temp_dir().join(format!("beeline-test-{}-{word}", std::process::id()));
        bpffs::mount(&root).unwrap();
        let (old, new) = (Pins::new(&root, 1), Pins::new(&root, 2));
        old.create().unwrap();
        new.create().unwrap();
        TestLayouts { root, old, new }
    }

    /// The bpffs.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Creates a [`hash`] in a layout.
    pub(crate) fn hash(&self, pins: &Pins, name: &'static str, value_size: u32, max_entries: u32) -> RawMap {
        let made = MapData::create(hash(value_size, max_entries).to_map(), name, None).unwrap();
        pin_over(made.fd().as_fd(), &pins.table(name)).unwrap();
        RawMap::open_existing(&pins.table(name), name, Access::ReadWrite).unwrap()
    }
}

impl Drop for TestLayouts {
    fn drop(&mut self) {
        let _ = bpffs::unmount(&self.root);
        let _ = std::fs::remove_dir(&self.root);
    }
}

/// All entries of a table, sorted, with the first byte of the key.
pub(crate) fn contents(map: &RawMap) -> Vec<(u8, Vec<u8>)> {
    let mut all = Vec::new();
    map.read(|key, value| all.push((key[0], value.to_vec()))).unwrap();
    all.sort();
    all
}

/// A key with this first byte.
pub(crate) fn key(number: u8) -> [u8; 4] {
    [number, 0, 0, 0]
}
