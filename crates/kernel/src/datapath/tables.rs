//! Typed access to the pinned maps that user space writes.

use std::io;
use std::marker::PhantomData;

use beeline_abi::Ip;
use beeline_abi::address::{AddressKey, AddressValue};
use beeline_abi::endpoint::{EndpointValue, NamespaceValue};
use beeline_abi::maps::{self, MapSpec};
use beeline_abi::node::NodeValue;
use beeline_abi::service::{
    BackendValue, FrontendKey, FrontendValue, MaglevSegment, ServiceAddressValue, ServiceValue, SlotKey,
    SlotValue, SourceRangeKey, SourceRangeValue,
};
use beeline_sync::{Contents, Table, TableError, Tables};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::error::DatapathError;
use super::maps::RawMap;

/// Types of keys and values: plain bytes without padding.
pub trait Plain: FromBytes + IntoBytes + Immutable {}
impl<T: FromBytes + IntoBytes + Immutable> Plain for T {}

/// A pinned map with typed keys and values. If their sizes differ from those of
/// the map (the layout of another release), every operation fails with
/// [`TableError::Kernel`].
#[derive(Debug)]
pub struct KernelTable<K, V> {
    map: RawMap,
    types: PhantomData<fn(K) -> V>,
}

impl<K: Plain, V: Plain> KernelTable<K, V> {
    pub(crate) fn new(map: RawMap) -> KernelTable<K, V> {
        KernelTable { map, types: PhantomData }
    }

    /// The value of a key; in the address table the value of the longest
    /// matching prefix.
    pub fn get(&self, key: &K) -> Result<Option<V>, TableError> {
        let mut value = V::new_zeroed();
        // `get` checks the sizes.
        let found = self.map.get(key.as_bytes(), as_bytes_mut(&mut value));
        Ok(found.map_err(|error| self.error("read", error))?.then_some(value))
    }

    /// All entries of the table.
    pub fn entries(&self) -> Result<Vec<(K, V)>, TableError> {
        self.check_sizes().map_err(|error| self.error("read", error))?;
        let mut entries = Vec::new();
        let each = |key: &[u8], value: &[u8]| {
            let key = K::read_from_bytes(key).expect("its size was checked above");
            let value = V::read_from_bytes(value).expect("its size was checked above");
            entries.push((key, value));
        };
        self.map.read(each).map_err(|error| self.error("read", error))?;
        Ok(entries)
    }

    pub(crate) fn write(&self, key: &K, value: &V) -> Result<(), TableError> {
        self.map.set(key.as_bytes(), value.as_bytes(), 0).map_err(|error| self.error("update", error))
    }

    fn check_sizes(&self) -> io::Result<()> {
        let definition = self.map.definition();
        if (definition.key_size as usize, definition.value_size as usize) == (size_of::<K>(), size_of::<V>())
        {
            return Ok(());
        }
        Err(io::Error::other(format!("the map has another layout ({definition})")))
    }

    fn error(&self, operation: &'static str, error: io::Error) -> TableError {
        // A full hash returns E2BIG, a full LPM trie ENOSPC.
        let full = [Some(libc::E2BIG), Some(libc::ENOSPC)].contains(&error.raw_os_error());
        if full && operation == "update" {
            return TableError::Full { table: self.map.name(), capacity: self.map.definition().max_entries };
        }
        TableError::Kernel { table: self.map.name(), operation, error: error.to_string() }
    }
}

impl<K: Plain, V: Plain> Table<K, V> for KernelTable<K, V> {
    fn update(&mut self, key: &K, value: &V) -> Result<(), TableError> {
        self.write(key, value)
    }

    fn delete(&mut self, key: &K) -> Result<(), TableError> {
        self.map.remove(key.as_bytes()).map(|_| ()).map_err(|error| self.error("delete", error))
    }

    fn get(&self, key: &K) -> Result<Option<V>, TableError> {
        KernelTable::get(self, key)
    }

    fn next_key(&self, key: Option<&K>) -> Result<Option<K>, TableError> {
        let mut next = K::new_zeroed();
        let found = self.map.next_key(key.map(IntoBytes::as_bytes), as_bytes_mut(&mut next));
        Ok(found.map_err(|error| self.error("read", error))?.then_some(next))
    }

    fn entries(&self) -> Result<Vec<(K, V)>, TableError> {
        KernelTable::entries(self)
    }
}

fn as_bytes_mut<T: Plain>(value: &mut T) -> &mut [u8] {
    // SAFETY: every byte pattern is valid (FromBytes), no byte is padding
    // (IntoBytes), and the slice borrows the value.
    unsafe { std::slice::from_raw_parts_mut(std::ptr::from_mut(value).cast(), size_of::<T>()) }
}

/// The tables that the agent synchronises with the desired state.
#[expect(missing_docs, reason = "each is the table of that name in beeline_abi::maps")]
#[derive(Debug)]
pub struct KernelTables {
    pub address: KernelTable<AddressKey, AddressValue>,
    pub endpoint: KernelTable<Ip, EndpointValue>,
    pub namespace: KernelTable<u64, NamespaceValue>,
    pub node: KernelTable<u32, NodeValue>,
    pub service_address: KernelTable<Ip, ServiceAddressValue>,
    pub frontend: KernelTable<FrontendKey, FrontendValue>,
    pub service: KernelTable<u32, ServiceValue>,
    pub slot: KernelTable<SlotKey, SlotValue>,
    pub share: KernelTable<SlotKey, MaglevSegment>,
    pub backend: KernelTable<u32, BackendValue>,
    pub source_range: KernelTable<SourceRangeKey, SourceRangeValue>,
}

impl KernelTables {
    /// Opens each table with `open`.
    pub(crate) fn open(
        open: impl Fn(&'static MapSpec) -> Result<RawMap, DatapathError>,
    ) -> Result<KernelTables, DatapathError> {
        Ok(KernelTables {
            address: KernelTable::new(open(&maps::ADDRESS)?),
            endpoint: KernelTable::new(open(&maps::ENDPOINT)?),
            namespace: KernelTable::new(open(&maps::NAMESPACE)?),
            node: KernelTable::new(open(&maps::NODE)?),
            service_address: KernelTable::new(open(&maps::SERVICE_ADDRESS)?),
            frontend: KernelTable::new(open(&maps::FRONTEND)?),
            service: KernelTable::new(open(&maps::SERVICE)?),
            slot: KernelTable::new(open(&maps::SLOT)?),
            share: KernelTable::new(open(&maps::SHARE)?),
            backend: KernelTable::new(open(&maps::BACKEND)?),
            source_range: KernelTable::new(open(&maps::SOURCE_RANGE)?),
        })
    }

    /// The contents of all tables.
    pub fn contents(&self) -> Result<Contents, TableError> {
        Ok(Contents {
            address: self.address.entries()?.into_iter().collect(),
            endpoint: self.endpoint.entries()?.into_iter().collect(),
            namespace: self.namespace.entries()?.into_iter().collect(),
            node: self.node.entries()?.into_iter().collect(),
            service_address: self.service_address.entries()?.into_iter().collect(),
            frontend: self.frontend.entries()?.into_iter().collect(),
            service: self.service.entries()?.into_iter().collect(),
            slot: self.slot.entries()?.into_iter().collect(),
            maglev: self.share.entries()?.into_iter().collect(),
            backend: self.backend.entries()?.into_iter().collect(),
            source_range: self.source_range.entries()?.into_iter().collect(),
        })
    }
}

impl Tables for KernelTables {
    fn address(&mut self) -> &mut dyn Table<AddressKey, AddressValue> {
        &mut self.address
    }
    fn endpoint(&mut self) -> &mut dyn Table<Ip, EndpointValue> {
        &mut self.endpoint
    }
    fn namespace(&mut self) -> &mut dyn Table<u64, NamespaceValue> {
        &mut self.namespace
    }
    fn node(&mut self) -> &mut dyn Table<u32, NodeValue> {
        &mut self.node
    }
    fn service_address(&mut self) -> &mut dyn Table<Ip, ServiceAddressValue> {
        &mut self.service_address
    }
    fn frontend(&mut self) -> &mut dyn Table<FrontendKey, FrontendValue> {
        &mut self.frontend
    }
    fn service(&mut self) -> &mut dyn Table<u32, ServiceValue> {
        &mut self.service
    }
    fn slot(&mut self) -> &mut dyn Table<SlotKey, SlotValue> {
        &mut self.slot
    }
    fn maglev(&mut self) -> &mut dyn Table<SlotKey, MaglevSegment> {
        &mut self.share
    }
    fn backend(&mut self) -> &mut dyn Table<u32, BackendValue> {
        &mut self.backend
    }
    fn source_range(&mut self) -> &mut dyn Table<SourceRangeKey, SourceRangeValue> {
        &mut self.source_range
    }
}
