//! The pinned maps, as the datapath reads them. Writes are kept in memory and
//! never reach the maps.

use std::cell::RefCell;
use std::collections::HashMap;

use anyhow::Result;
use beeline_abi::Ip;
use beeline_abi::address::{AddressKey, AddressValue};
use beeline_abi::config::ConfigValue;
use beeline_abi::conntrack::{ConntrackKey, ConntrackValue};
use beeline_abi::endpoint::{EndpointValue, NamespaceValue};
use beeline_abi::fragment::{FragmentKey, FragmentValue};
use beeline_abi::service::{
    AffinityKey, AffinityValue, BackendValue, FrontendKey, FrontendValue, MAGLEV_SEGMENT_SIZE,
    SOURCE_SET_BITS, ServiceAddressValue, ServiceValue, SlotKey, SlotValue, SourceRangeKey,
};
use beeline_abi::socket::{SocketKey, SocketValue};
use beeline_datapath::platform::Tables;
use beeline_datapath::socket::Sockets;
use beeline_kernel::datapath::PinnedDatapath;

/// The maps of a node, overlaid with the writes of the packet.
pub struct LiveTables<'a> {
    pinned: &'a PinnedDatapath,
    /// The value that the random number generator returns to the socket hooks.
    pub random: u32,
    connections: HashMap<ConntrackKey, ConntrackValue>,
    failure: RefCell<Option<anyhow::Error>>,
}

impl<'a> LiveTables<'a> {
    /// Reads from pinned maps.
    pub fn new(pinned: &'a PinnedDatapath) -> LiveTables<'a> {
        LiveTables { pinned, random: 0, connections: HashMap::new(), failure: RefCell::new(None) }
    }

    /// The first lookup error; the result of the trace is then invalid.
    pub fn failure(self) -> Result<()> {
        self.failure.into_inner().map_or(Ok(()), Err)
    }

    fn value<V, E: Into<anyhow::Error>>(&self, found: Result<Option<V>, E>) -> Option<V> {
        found.unwrap_or_else(|error| {
            self.failure.borrow_mut().get_or_insert(error.into());
            None
        })
    }
}

impl Tables for LiveTables<'_> {
    fn config(&self) -> Option<ConfigValue> {
        self.value(self.pinned.config().map(Some))
    }
    fn address(&self, ip: &Ip) -> Option<AddressValue> {
        let key = AddressKey { prefix_bits: 128, ip: *ip };
        self.value(self.pinned.tables().address.get(&key))
    }
    fn endpoint(&self, ip: &Ip) -> Option<EndpointValue> {
        self.value(self.pinned.tables().endpoint.get(ip))
    }
    fn service_address(&self, ip: &Ip) -> Option<ServiceAddressValue> {
        self.value(self.pinned.tables().service_address.get(ip))
    }
    fn frontend(&self, key: &FrontendKey) -> Option<FrontendValue> {
        self.value(self.pinned.tables().frontend.get(key))
    }
    fn service(&self, id: u32) -> Option<ServiceValue> {
        self.value(self.pinned.tables().service.get(&id))
    }
    fn slot(&self, key: &SlotKey) -> Option<SlotValue> {
        self.value(self.pinned.tables().slot.get(key))
    }
    fn maglev(&self, segment: &SlotKey, index: u32) -> Option<u32> {
        let segment = self.value(self.pinned.tables().share.get(segment))?;
        Some(segment.backends[index as usize % MAGLEV_SEGMENT_SIZE])
    }
    fn backend(&self, id: u32) -> Option<BackendValue> {
        self.value(self.pinned.tables().backend.get(&id))
    }
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentValue> {
        self.value(self.pinned.fragments().get(key))
    }
    fn fragment_insert(&mut self, _key: &FragmentKey, _value: &FragmentValue) {}
    fn source_allowed(&self, set: u32, client: &Ip) -> bool {
        let key = SourceRangeKey { prefix_bits: SOURCE_SET_BITS + 128, set, ip: *client };
        self.value(self.pinned.tables().source_range.get(&key)).is_some_and(|value| value.allowed != 0)
    }
    fn affinity(&self, key: &AffinityKey) -> Option<AffinityValue> {
        self.value(self.pinned.affinity().get(key))
    }
    fn affinity_insert(&mut self, _key: &AffinityKey, _value: &AffinityValue) {}
    fn conntrack(&mut self, key: &ConntrackKey) -> Option<&mut ConntrackValue> {
        if !self.connections.contains_key(key) {
            let found = self.value(self.pinned.connection(key))?;
            self.connections.insert(*key, found);
        }
        self.connections.get_mut(key)
    }
    fn conntrack_insert(&mut self, key: &ConntrackKey, value: &ConntrackValue) -> bool {
        self.connections.insert(*key, *value);
        true
    }
}

impl Sockets for LiveTables<'_> {
    fn tick(&self) -> u32 {
        super::steps::now().unwrap_or_else(|error| {
            self.failure.borrow_mut().get_or_insert(error);
            0
        })
    }
    fn random(&mut self) -> u32 {
        self.random
    }
    fn namespace(&self, cookie: u64) -> Option<NamespaceValue> {
        self.value(self.pinned.tables().namespace.get(&cookie))
    }
    /// The simulated socket has no entry.
    fn socket(&self, _key: &SocketKey) -> Option<SocketValue> {
        None
    }
    fn socket_insert(&mut self, _key: &SocketKey, _value: &SocketValue) {}
}
