//! The tables as ordinary maps.

use std::collections::{BTreeMap, HashMap};

use beeline_abi::Ip;
use beeline_abi::address::{AddressKey, AddressValue};
use beeline_abi::config::ConfigValue;
use beeline_abi::conntrack::{ConntrackKey, ConntrackValue};
use beeline_abi::endpoint::EndpointValue;
use beeline_abi::fragment::{FragmentKey, FragmentValue};
use beeline_abi::service::{
    AffinityKey, AffinityValue, BackendValue, FrontendKey, FrontendValue, MAGLEV_SEGMENT_SIZE, MaglevSegment,
    SOURCE_SET_BITS, ServiceAddressValue, ServiceValue, SlotKey, SlotValue, SourceRangeKey, SourceRangeValue,
};

use crate::platform::Tables;

/// Every table that a packet reads.
#[expect(missing_docs, reason = "each is the table of that name in beeline_abi::maps")]
#[derive(Clone, Debug)]
pub struct MemoryTables {
    pub config: Option<ConfigValue>,
    pub address: BTreeMap<AddressKey, AddressValue>,
    pub endpoint: HashMap<Ip, EndpointValue>,
    pub service_address: HashMap<Ip, ServiceAddressValue>,
    pub frontend: HashMap<FrontendKey, FrontendValue>,
    pub service: HashMap<u32, ServiceValue>,
    pub slot: HashMap<SlotKey, SlotValue>,
    pub maglev: HashMap<SlotKey, MaglevSegment>,
    pub backend: HashMap<u32, BackendValue>,
    pub fragment: HashMap<FragmentKey, FragmentValue>,
    pub source_range: BTreeMap<SourceRangeKey, SourceRangeValue>,
    pub affinity: HashMap<AffinityKey, AffinityValue>,
    pub conntrack: HashMap<ConntrackKey, ConntrackValue>,
    /// The previous connection table, read if the current one has no entry.
    pub conntrack_previous: HashMap<ConntrackKey, ConntrackValue>,
    /// Capacity of `conntrack` in entries.
    pub conntrack_capacity: usize,
}

impl Default for MemoryTables {
    fn default() -> MemoryTables {
        MemoryTables {
            config: Some(ConfigValue::defaults()),
            address: BTreeMap::new(),
            endpoint: HashMap::new(),
            service_address: HashMap::new(),
            frontend: HashMap::new(),
            service: HashMap::new(),
            slot: HashMap::new(),
            maglev: HashMap::new(),
            backend: HashMap::new(),
            fragment: HashMap::new(),
            source_range: BTreeMap::new(),
            affinity: HashMap::new(),
            conntrack: HashMap::new(),
            conntrack_previous: HashMap::new(),
            conntrack_capacity: usize::MAX,
        }
    }
}

/// `ip` with all but its first `bits` bits zero.
fn masked(ip: &Ip, bits: u32) -> Ip {
    let mask = if bits == 0 { 0 } else { u128::MAX << (128 - bits) };
    Ip::from_octets((u128::from_be_bytes(ip.octets()) & mask).to_be_bytes())
}

impl Tables for MemoryTables {
    fn config(&self) -> Option<ConfigValue> {
        self.config
    }
    fn address(&self, ip: &Ip) -> Option<AddressValue> {
        let key = |bits| AddressKey { prefix_bits: bits, ip: masked(ip, bits) };
        (0..=128).rev().find_map(|bits| self.address.get(&key(bits)).copied())
    }
    fn endpoint(&self, ip: &Ip) -> Option<EndpointValue> {
        self.endpoint.get(ip).copied()
    }
    fn service_address(&self, ip: &Ip) -> Option<ServiceAddressValue> {
        self.service_address.get(ip).copied()
    }
    fn frontend(&self, key: &FrontendKey) -> Option<FrontendValue> {
        self.frontend.get(key).copied()
    }
    fn service(&self, id: u32) -> Option<ServiceValue> {
        self.service.get(&id).copied()
    }
    fn slot(&self, key: &SlotKey) -> Option<SlotValue> {
        self.slot.get(key).copied()
    }
    fn maglev(&self, segment: &SlotKey, index: u32) -> Option<u32> {
        Some(self.maglev.get(segment)?.backends[index as usize % MAGLEV_SEGMENT_SIZE])
    }
    fn backend(&self, id: u32) -> Option<BackendValue> {
        self.backend.get(&id).copied()
    }
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentValue> {
        self.fragment.get(key).copied()
    }
    fn fragment_insert(&mut self, key: &FragmentKey, value: &FragmentValue) {
        self.fragment.insert(*key, *value);
    }
    fn conntrack(&mut self, key: &ConntrackKey) -> Option<&mut ConntrackValue> {
        let current = self.conntrack.get_mut(key);
        current.or_else(|| self.conntrack_previous.get_mut(key))
    }
    fn source_allowed(&self, set: u32, client: &Ip) -> bool {
        let key =
            |bits| SourceRangeKey { prefix_bits: SOURCE_SET_BITS + bits, set, ip: masked(client, bits) };
        let found = (0..=128).rev().find_map(|bits| self.source_range.get(&key(bits)));
        found.is_some_and(|value| value.allowed != 0)
    }
    fn affinity(&self, key: &AffinityKey) -> Option<AffinityValue> {
        self.affinity.get(key).copied()
    }
    fn affinity_insert(&mut self, key: &AffinityKey, value: &AffinityValue) {
        self.affinity.insert(*key, *value);
    }
    fn conntrack_insert(&mut self, key: &ConntrackKey, value: &ConntrackValue) -> bool {
        if self.conntrack.len() >= self.conntrack_capacity && !self.conntrack.contains_key(key) {
            return false;
        }
        self.conntrack.insert(*key, *value);
        true
    }
}

impl<T: Tables> Tables for &mut T {
    fn config(&self) -> Option<ConfigValue> {
        (**self).config()
    }
    fn address(&self, ip: &Ip) -> Option<AddressValue> {
        (**self).address(ip)
    }
    fn endpoint(&self, ip: &Ip) -> Option<EndpointValue> {
        (**self).endpoint(ip)
    }
    fn service_address(&self, ip: &Ip) -> Option<ServiceAddressValue> {
        (**self).service_address(ip)
    }
    fn frontend(&self, key: &FrontendKey) -> Option<FrontendValue> {
        (**self).frontend(key)
    }
    fn service(&self, id: u32) -> Option<ServiceValue> {
        (**self).service(id)
    }
    fn slot(&self, key: &SlotKey) -> Option<SlotValue> {
        (**self).slot(key)
    }
    fn maglev(&self, segment: &SlotKey, index: u32) -> Option<u32> {
        (**self).maglev(segment, index)
    }
    fn backend(&self, id: u32) -> Option<BackendValue> {
        (**self).backend(id)
    }
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentValue> {
        (**self).fragment(key)
    }
    fn fragment_insert(&mut self, key: &FragmentKey, value: &FragmentValue) {
        (**self).fragment_insert(key, value);
    }
    fn conntrack(&mut self, key: &ConntrackKey) -> Option<&mut ConntrackValue> {
        (**self).conntrack(key)
    }
    fn source_allowed(&self, set: u32, client: &Ip) -> bool {
        (**self).source_allowed(set, client)
    }
    fn affinity(&self, key: &AffinityKey) -> Option<AffinityValue> {
        (**self).affinity(key)
    }
    fn affinity_insert(&mut self, key: &AffinityKey, value: &AffinityValue) {
        (**self).affinity_insert(key, value);
    }
    fn conntrack_insert(&mut self, key: &ConntrackKey, value: &ConntrackValue) -> bool {
        (**self).conntrack_insert(key, value)
    }
}
