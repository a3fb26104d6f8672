//! An eBPF map without types: its definition, and its elements as bytes.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use aya_obj::generated::bpf_map_type;
use beeline_abi::maps::{MapKind, MapSpec};

use super::bpf::{self, Access};
use super::error::{DatapathError, failed};

/// `BPF_F_NO_PREALLOC` of linux/bpf.h.
const NO_PREALLOC: u32 = 1;
/// Elements of the first batch; doubled when a hash bucket holds more.
const BATCH: usize = 2048;
/// How often a read is retried after concurrent deletions.
const TRIES: usize = 16;

/// The definition of a map: type, sizes and flags.
///
/// Mirrors the fields of that name in `struct bpf_map_info` (Linux 4.13).
#[doc(alias = "bpf_map_info")]
#[doc(alias = "bpf_map_def")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapDefinition {
    /// `enum bpf_map_type`.
    pub kind: u32,
    /// Size of a key, bytes.
    pub key_size: u32,
    /// Size of a value, bytes.
    pub value_size: u32,
    /// Capacity, in elements (in bytes for a ring buffer).
    pub max_entries: u32,
    /// `BPF_F_*`.
    pub flags: u32,
}

impl MapDefinition {
    /// The definition of a table of the layout.
    pub fn from_spec(spec: &MapSpec) -> MapDefinition {
        let (kind, flags) = match spec.kind {
            MapKind::Hash => (bpf_map_type::BPF_MAP_TYPE_HASH, NO_PREALLOC),
            MapKind::LruHash => (bpf_map_type::BPF_MAP_TYPE_LRU_HASH, 0),
            MapKind::LpmTrie => (bpf_map_type::BPF_MAP_TYPE_LPM_TRIE, NO_PREALLOC),
            MapKind::Array => (bpf_map_type::BPF_MAP_TYPE_ARRAY, 0),
            MapKind::PerCpuArray => (bpf_map_type::BPF_MAP_TYPE_PERCPU_ARRAY, 0),
            MapKind::ArrayOfMaps => (bpf_map_type::BPF_MAP_TYPE_ARRAY_OF_MAPS, 0),
            MapKind::RingBuf => (bpf_map_type::BPF_MAP_TYPE_RINGBUF, 0),
        };
        MapDefinition {
            kind: kind as u32,
            key_size: spec.key_size as u32,
            value_size: spec.value_size as u32,
            max_entries: spec.max_entries,
            flags,
        }
    }

    /// The definition that an object file declares.
    pub(crate) fn from_object(map: &aya_obj::Map) -> MapDefinition {
        let ring = map.map_type() == bpf_map_type::BPF_MAP_TYPE_RINGBUF as u32;
        MapDefinition {
            kind: map.map_type(),
            key_size: map.key_size(),
            // The loader sets it to 0, whatever the type of the elements is.
            value_size: if ring { 0 } else { map.value_size() },
            max_entries: map.max_entries(),
            flags: map.map_flags(),
        }
    }

    /// A map without BTF with this definition, for creating it.
    pub(crate) fn to_map(self) -> aya_obj::Map {
        let MapDefinition { kind, key_size, value_size, max_entries, flags } = self;
        aya_obj::Map::new_from_params(kind, key_size, value_size, max_entries, flags)
    }

    /// Bytes that a lookup copies. For a per-CPU map that is one value for each
    /// possible CPU, each padded to 8 bytes.
    fn value_bytes(&self) -> io::Result<usize> {
        let size = self.value_size as usize;
        if self.kind != bpf_map_type::BPF_MAP_TYPE_PERCPU_ARRAY as u32 {
            return Ok(size);
        }
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
        Ok(size.next_multiple_of(8) * cpus)
    }
}

impl fmt::Display for MapDefinition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MapDefinition { kind, key_size, value_size, max_entries, flags } = self;
        match bpf_map_type::try_from(*kind) {
            Ok(kind) => f.write_str(&format!("{kind:?}").replace("BPF_MAP_TYPE_", "").to_lowercase())?,
            Err(_) => write!(f, "a map of type {kind}")?,
        }
        write!(
            f,
            " with {key_size}-byte keys, {value_size}-byte values, {max_entries} entries, flags {flags}"
        )
    }
}

/// An open map whose keys and values are bytes.
#[doc(alias = "bpf_map")]
#[derive(Debug)]
pub(crate) struct RawMap {
    name: &'static str,
    fd: OwnedFd,
    definition: MapDefinition,
    value_bytes: usize,
}

impl RawMap {
    /// Opens a pinned map. Returns none if nothing is pinned there.
    pub(crate) fn open(
        path: &Path,
        name: &'static str,
        access: Access,
    ) -> Result<Option<RawMap>, DatapathError> {
        let what = || format!("the table pinned at {}", path.display());
        let fd = match bpf::open_pin(path, access) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(failed("open", what()))?,
        };
        let info = bpf::map_info(fd.as_fd()).map_err(failed("examine", what()))?;
        let definition = MapDefinition {
            kind: info.type_,
            key_size: info.key_size,
            value_size: info.value_size,
            max_entries: info.max_entries,
            flags: info.map_flags,
        };
        let value_bytes = definition.value_bytes().map_err(failed("count the CPUs for", what()))?;
        Ok(Some(RawMap { name, fd, definition, value_bytes }))
    }

    /// Opens a pinned map that must exist.
    pub(crate) fn open_existing(
        path: &Path,
        name: &'static str,
        access: Access,
    ) -> Result<RawMap, DatapathError> {
        let missing = || io::Error::from_raw_os_error(libc::ENOENT);
        RawMap::open(path, name, access)?
            .ok_or_else(|| failed("open", format!("the table pinned at {}", path.display()))(missing()))
    }

    /// Opens a pinned map that must exist and have this definition.
    pub(crate) fn open_checked(
        path: &Path,
        name: &'static str,
        access: Access,
        expected: MapDefinition,
    ) -> Result<RawMap, DatapathError> {
        let map = RawMap::open_existing(path, name, access)?;
        map.check(path, expected)?;
        Ok(map)
    }

    /// Compares the definition. Neither aya nor the kernel does so when a
    /// pinned map is reused.
    pub(crate) fn check(&self, path: &Path, expected: MapDefinition) -> Result<(), DatapathError> {
        if self.definition == expected {
            return Ok(());
        }
        Err(DatapathError::MapMismatch { path: path.to_owned(), found: self.definition, expected })
    }

    /// Name of the table in the layout.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Definition.
    pub(crate) fn definition(&self) -> &MapDefinition {
        &self.definition
    }

    /// Bytes of a value in user space, for all CPUs.
    pub(crate) fn value_bytes(&self) -> usize {
        self.value_bytes
    }

    /// Map ID.
    pub(crate) fn id(&self) -> io::Result<u32> {
        bpf::map_info(self.as_fd()).map(|info| info.id)
    }

    /// Memory of the map in the kernel, bytes (`memlock` in fdinfo).
    pub(crate) fn memory_bytes(&self) -> io::Result<u64> {
        let path = format!("/proc/self/fdinfo/{}", self.fd.as_raw_fd());
        let text = std::fs::read_to_string(path)?;
        let line = text.lines().find_map(|line| line.strip_prefix("memlock:"));
        line.and_then(|number| number.trim().parse().ok()).ok_or_else(|| {
            io::Error::other("the kernel does not report the memory size of the map (memlock in fdinfo)")
        })
    }

    /// Reads the value of a key. Returns false if the key does not exist.
    pub(crate) fn get(&self, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
        self.check_lengths(key, Some(value.len()), self.value_bytes)?;
        // SAFETY: the lengths are the map's.
        unsafe { bpf::lookup(self.as_fd(), key, value) }
    }

    /// Writes the key that follows `key` to `next`; the first key if `key` is
    /// none or does not exist. Returns false if there is no further key.
    pub(crate) fn next_key(&self, key: Option<&[u8]>, next: &mut [u8]) -> io::Result<bool> {
        key.map_or(Ok(()), |key| self.check_lengths(key, None, 0))?;
        self.check_lengths(next, None, 0)?;
        // SAFETY: both are as long as the map's keys.
        unsafe { bpf::next_key(self.as_fd(), key, next) }
    }

    /// Inserts or replaces a value (`flags` 0), or only inserts it (`BPF_NOEXIST`).
    pub(crate) fn set(&self, key: &[u8], value: &[u8], flags: u64) -> io::Result<()> {
        self.check_lengths(key, Some(value.len()), self.value_bytes)?;
        // SAFETY: the lengths are the map's.
        unsafe { bpf::update(self.as_fd(), key, value, flags) }
    }

    /// Removes a key. Returns false if it does not exist.
    pub(crate) fn remove(&self, key: &[u8]) -> io::Result<bool> {
        self.check_lengths(key, None, 0)?;
        // SAFETY: the length is the map's.
        unsafe { bpf::delete(self.as_fd(), key) }
    }

    /// Passes the key and value of every element to `each`. Elements that are
    /// written or removed meanwhile may be missing. They may also be passed
    /// twice, but not if a hash is read in batches.
    pub(crate) fn read(&self, mut each: impl FnMut(&[u8], &[u8])) -> io::Result<()> {
        match self.read_batches(&mut each) {
            // Not every type of map supports batches in every kernel.
            Err(error) if is_unsupported(&error) => self.walk(&mut each),
            other => other,
        }
    }

    fn read_batches(&self, each: &mut impl FnMut(&[u8], &[u8])) -> io::Result<()> {
        let (key_bytes, value_bytes) = (self.definition.key_size as usize, self.value_bytes);
        let most = self.definition.max_entries as usize;
        let mut count = BATCH.min(most).max(1);
        let (mut keys, mut values) = (vec![0; count * key_bytes], vec![0; count * value_bytes]);
        let (mut from, mut to) = (vec![0; key_bytes.max(8)], vec![0; key_bytes.max(8)]);
        let mut started = false;
        let mut tries = 0;
        loop {
            let cursor = started.then_some(from.as_slice());
            // SAFETY: the buffers hold `count` keys and values, the cursors a key.
            let (came, outcome) = unsafe {
                bpf::lookup_batch(self.as_fd(), cursor, &mut to, &mut keys, &mut values, count as u32)
            };
            let last = match outcome {
                Ok(()) => false,
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
                // A hash bucket holds more elements than the buffer.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && count < most => {
                    count = (count * 2).min(most);
                    keys.resize(count * key_bytes, 0);
                    values.resize(count * value_bytes, 0);
                    continue;
                }
                // Elements were removed meanwhile; those that were returned are valid.
                Err(error) if error.raw_os_error() == Some(libc::EINTR) && tries < TRIES => {
                    tries += 1;
                    false
                }
                Err(error) => return Err(error),
            };
            let elements = keys.chunks_exact(key_bytes).zip(values.chunks_exact(value_bytes));
            elements.take(came as usize).for_each(|(key, value)| each(key, value));
            if last {
                return Ok(());
            }
            if came > 0 {
                std::mem::swap(&mut from, &mut to);
                started = true;
            }
        }
    }

    /// Reads key by key. If the current key is removed meanwhile, the iteration
    /// restarts at the first key, so the number of steps is bounded.
    fn walk(&self, each: &mut impl FnMut(&[u8], &[u8])) -> io::Result<()> {
        let mut value = vec![0; self.value_bytes];
        let mut key: Option<Vec<u8>> = None;
        for _ in 0..TRIES * (self.definition.max_entries as usize + 1) {
            let mut next = vec![0; self.definition.key_size as usize];
            if !self.next_key(key.as_deref(), &mut next)? {
                return Ok(());
            }
            if self.get(&next, &mut value)? {
                each(&next, &value);
            }
            key = Some(next);
        }
        Err(io::Error::other("the map changes faster than it can be read"))
    }

    fn check_lengths(&self, key: &[u8], value: Option<usize>, value_bytes: usize) -> io::Result<()> {
        if key.len() == self.definition.key_size as usize && value.is_none_or(|length| length == value_bytes)
        {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "the map has another layout ({}): use the binaries of the release that created it",
            self.definition
        )))
    }
}

impl AsFd for RawMap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    /// `ENOTSUPP` of linux/errno.h: internal to the kernel, but returned by bpf(2).
    const ENOTSUPP: i32 = 524;
    [Some(ENOTSUPP), Some(libc::EOPNOTSUPP), Some(libc::EINVAL)].contains(&error.raw_os_error())
}
