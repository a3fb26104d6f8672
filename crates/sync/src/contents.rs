//! The contents of all tables as ordinary maps, and changes to them.

use std::collections::BTreeMap;

use beeline_abi::Ip;
use beeline_abi::address::{AddressKey, AddressValue};
use beeline_abi::endpoint::{EndpointValue, NamespaceValue};
use beeline_abi::node::NodeValue;
use beeline_abi::service::{
    BackendValue, FrontendKey, FrontendValue, MAGLEV_SEGMENT_SIZE, MaglevSegment, SLOT_BY_BACKEND,
    ServiceAddressValue, ServiceValue, SlotKey, SlotValue, SourceRangeKey, SourceRangeValue, address_flags,
};

/// Actual or desired contents of all tables.
#[expect(missing_docs, reason = "each is the table of that name in beeline_abi::maps")]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    pub address: BTreeMap<AddressKey, AddressValue>,
    pub endpoint: BTreeMap<Ip, EndpointValue>,
    pub namespace: BTreeMap<u64, NamespaceValue>,
    pub node: BTreeMap<u32, NodeValue>,
    pub service_address: BTreeMap<Ip, ServiceAddressValue>,
    pub frontend: BTreeMap<FrontendKey, FrontendValue>,
    pub service: BTreeMap<u32, ServiceValue>,
    pub slot: BTreeMap<SlotKey, SlotValue>,
    pub maglev: BTreeMap<SlotKey, MaglevSegment>,
    pub backend: BTreeMap<u32, BackendValue>,
    pub source_range: BTreeMap<SourceRangeKey, SourceRangeValue>,
}

/// Changes to the desired state: a value to write, or none to delete the entry.
/// Each key occurs once; the last change applies.
#[expect(missing_docs, reason = "each is the table of that name in beeline_abi::maps")]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    pub address: BTreeMap<AddressKey, Option<AddressValue>>,
    pub endpoint: BTreeMap<Ip, Option<EndpointValue>>,
    pub namespace: BTreeMap<u64, Option<NamespaceValue>>,
    pub node: BTreeMap<u32, Option<NodeValue>>,
    pub service_address: BTreeMap<Ip, Option<ServiceAddressValue>>,
    pub frontend: BTreeMap<FrontendKey, Option<FrontendValue>>,
    pub service: BTreeMap<u32, Option<ServiceValue>>,
    pub slot: BTreeMap<SlotKey, Option<SlotValue>>,
    pub maglev: BTreeMap<SlotKey, Option<MaglevSegment>>,
    pub backend: BTreeMap<u32, Option<BackendValue>>,
    pub source_range: BTreeMap<SourceRangeKey, Option<SourceRangeValue>>,
}

impl Delta {
    /// Number of changes.
    pub fn len(&self) -> usize {
        self.address.len()
            + self.endpoint.len()
            + self.namespace.len()
            + self.node.len()
            + self.service_address.len()
            + self.frontend.len()
            + self.service.len()
            + self.slot.len()
            + self.maglev.len()
            + self.backend.len()
            + self.source_range.len()
    }

    /// True if nothing changes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One write to one table, as logged by [`crate::memory::MemoryTables`].
#[expect(missing_docs, reason = "each is the table of that name in beeline_abi::maps")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Address(AddressKey, Option<AddressValue>),
    Endpoint(Ip, Option<EndpointValue>),
    Namespace(u64, Option<NamespaceValue>),
    Node(u32, Option<NodeValue>),
    ServiceAddress(Ip, Option<ServiceAddressValue>),
    Frontend(FrontendKey, Option<FrontendValue>),
    Service(u32, Option<ServiceValue>),
    Slot(SlotKey, Option<SlotValue>),
    Maglev(SlotKey, Option<MaglevSegment>),
    Backend(u32, Option<BackendValue>),
    SourceRange(SourceRangeKey, Option<SourceRangeValue>),
}

fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
}

impl Contents {
    /// Number of entries in all tables.
    pub fn len(&self) -> usize {
        self.address.len()
            + self.endpoint.len()
            + self.namespace.len()
            + self.node.len()
            + self.service_address.len()
            + self.frontend.len()
            + self.service.len()
            + self.slot.len()
            + self.maglev.len()
            + self.backend.len()
            + self.source_range.len()
    }

    /// True if every table is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Applies a logged operation.
    pub fn apply_operation(&mut self, operation: Operation) {
        match operation {
            Operation::Address(key, value) => put(&mut self.address, key, value),
            Operation::Endpoint(key, value) => put(&mut self.endpoint, key, value),
            Operation::Namespace(key, value) => put(&mut self.namespace, key, value),
            Operation::Node(key, value) => put(&mut self.node, key, value),
            Operation::ServiceAddress(key, value) => put(&mut self.service_address, key, value),
            Operation::Frontend(key, value) => put(&mut self.frontend, key, value),
            Operation::Service(key, value) => put(&mut self.service, key, value),
            Operation::Slot(key, value) => put(&mut self.slot, key, value),
            Operation::Maglev(key, value) => put(&mut self.maglev, key, value),
            Operation::Backend(key, value) => put(&mut self.backend, key, value),
            Operation::SourceRange(key, value) => put(&mut self.source_range, key, value),
        }
    }

    /// Applies a delta as if every write succeeded.
    pub fn apply_delta(&mut self, delta: &Delta) {
        delta.address.iter().for_each(|(key, value)| put(&mut self.address, *key, *value));
        delta.endpoint.iter().for_each(|(key, value)| put(&mut self.endpoint, *key, *value));
        delta.namespace.iter().for_each(|(key, value)| put(&mut self.namespace, *key, *value));
        delta.node.iter().for_each(|(key, value)| put(&mut self.node, *key, *value));
        delta.service_address.iter().for_each(|(key, value)| put(&mut self.service_address, *key, *value));
        delta.frontend.iter().for_each(|(key, value)| put(&mut self.frontend, *key, *value));
        delta.service.iter().for_each(|(key, value)| put(&mut self.service, *key, *value));
        delta.slot.iter().for_each(|(key, value)| put(&mut self.slot, *key, *value));
        delta.maglev.iter().for_each(|(key, value)| put(&mut self.maglev, *key, *value));
        delta.backend.iter().for_each(|(key, value)| put(&mut self.backend, *key, *value));
        delta.source_range.iter().for_each(|(key, value)| put(&mut self.source_range, *key, *value));
    }

    /// Entries whose target is missing, which a packet could find. Empty at any
    /// time, unless a delete has failed.
    pub fn dangling(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (key, value) in &self.address {
            if value.node != 0 && !self.node.contains_key(&value.node) {
                found.push(format!("address {}/{}: node {} is missing", key.ip, key.prefix_bits, value.node));
            }
        }
        // Only an address that Services have alone refuses other ports.
        let exclusive = |value: &&ServiceAddressValue| value.flags & address_flags::EXCLUSIVE != 0;
        for (ip, value) in self.service_address.iter().filter(|(_, value)| exclusive(value)) {
            let from = FrontendKey { class: value.class, ..FrontendKey::default() };
            if self.frontend.range(from..).next().is_none_or(|(key, _)| key.class != value.class) {
                found.push(format!("service address {ip}: class {} has no frontend", value.class));
            }
        }
        for (key, value) in &self.frontend {
            if !self.service.contains_key(&value.service) {
                found.push(format!("frontend {key:?}: service {} is missing", value.service));
            }
        }
        for (id, service) in &self.service {
            for slot in 0..service.slots {
                let key = SlotKey { service: *id, generation: service.generation, slot };
                match self.slot.get(&key) {
                    None => found.push(format!("service {id}: {key:?} is missing")),
                    Some(value) if !self.backend.contains_key(&value.backend) => {
                        found.push(format!("{key:?}: backend {} is missing", value.backend));
                    }
                    Some(value) if service.has_slots_by_backend() => {
                        let by_backend =
                            SlotKey { service: *id, generation: SLOT_BY_BACKEND, slot: value.backend };
                        if !self.slot.contains_key(&by_backend) {
                            found.push(format!(
                                "{key:?}: backend {} has no slot by backend id",
                                value.backend
                            ));
                        }
                    }
                    Some(_) => {}
                }
            }
            found.extend(self.dangling_maglev(*id, service));
        }
        found
    }

    fn dangling_maglev(&self, id: u32, service: &ServiceValue) -> Vec<String> {
        let mut found = Vec::new();
        let (size, segment_size) = (service.maglev_size as usize, MAGLEV_SEGMENT_SIZE);
        for segment in 0..size.div_ceil(segment_size) {
            let key = SlotKey { service: id, generation: service.maglev_generation, slot: segment as u32 };
            let Some(value) = self.maglev.get(&key) else {
                found.push(format!("service {id}: Maglev segment {key:?} is missing"));
                continue;
            };
            let used = segment_size.min(size - segment * segment_size);
            let missing = value.backends[..used].iter().filter(|id| !self.backend.contains_key(id));
            found.extend(
                missing.map(|backend| format!("Maglev segment {key:?}: backend {backend} is missing")),
            );
        }
        found
    }
}
