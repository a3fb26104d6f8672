//! The table entries of one Service or pod: addresses, frontends, service
//! values, slots and Maglev tables. They are updated here from the desired
//! frontends ([`DesiredFrontend`]) and the selected backends
//! ([`PortBackends`]).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use beeline_abi::service::{
    CLASS_NODE, CLASS_NODE_IPV6, FrontendKey, FrontendValue, SLOT_BY_BACKEND, ServiceValue, SlotKey,
    SlotValue, service_flags,
};
use beeline_abi::{Ip, Port};
use beeline_model::{Protocol, SourceRanges};
use beeline_sync::{Contents, Delta};

use crate::backend::{Backend, Backends};
use crate::frontend_address::{FrontendAddress, FrontendIp, FrontendKind};
use crate::ids::Ids;
use crate::maglev_table::{MaglevConfig, MaglevTable};
use crate::service_address::ServiceAddresses;
use crate::slots::Slots;
use crate::source_ranges::SourceSets;

/// A port of a Service or pod with one selection of endpoints. Each has its own
/// id in the service table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PortKey {
    pub(crate) ipv6: bool,
    pub(crate) port: u16,
    pub(crate) proto: u8,
    /// Only endpoints on this node (traffic policy `Local`).
    pub(crate) local: bool,
}

/// A frontend that the owner has been assigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DesiredFrontend {
    pub(crate) address: FrontendAddress,
    pub(crate) kind: FrontendKind,
    pub(crate) scope: u8,
    pub(crate) port: PortKey,
    /// Only clients in the owner's source ranges are allowed.
    pub(crate) has_source_ranges: bool,
}

/// The backends of a port.
#[derive(Debug, Default)]
pub(crate) struct PortBackends {
    pub(crate) backends: Vec<Arc<Backend>>,
    /// The Service has endpoints, but none that this node may use.
    pub(crate) only_remote: bool,
    pub(crate) affinity_s: u32,
    /// Weights, one for each of `backends`.
    pub(crate) weights: Vec<u16>,
    /// Select backends by Maglev hashing.
    pub(crate) consistent: bool,
    /// Backends that keep their clients but get no new ones.
    pub(crate) quiescing: Vec<SlotValue>,
}

impl PortBackends {
    /// Backends with their weights, if a Maglev table is needed; otherwise
    /// empty.
    pub(crate) fn weighted_backends(&self) -> Vec<(Arc<Backend>, u16)> {
        let equal = self.weights.iter().min() == self.weights.iter().max();
        if equal && !self.consistent {
            return Vec::new();
        }
        let weights = self.weights.iter().copied().chain(std::iter::repeat(1));
        self.backends.iter().cloned().zip(weights).collect()
    }
}

#[derive(Debug)]
struct PortState {
    key: PortKey,
    slots: Slots,
    maglev: MaglevTable,
    value: Option<ServiceValue>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Frontend {
    address: FrontendAddress,
    kind: FrontendKind,
    key: FrontendKey,
    value: FrontendValue,
}

/// The table entries of one Service or pod.
#[derive(Debug, Default)]
pub(crate) struct OwnerEntries {
    ports: Vec<PortState>,
    frontends: Vec<Frontend>,
    addresses: Vec<(Ip, u32)>,
    /// Source-range sets, IPv4 and IPv6; 0 = none.
    sets: [u32; 2],
    /// All endpoints, selected or not, and whether each takes new connections.
    pub(crate) endpoint_backends: Vec<(Arc<Backend>, bool)>,
}

impl OwnerEntries {
    /// Service ids with their ports.
    pub(crate) fn services(&self) -> impl Iterator<Item = (u32, PortKey)> {
        self.ports.iter().map(|port| (port.slots.service, port.key))
    }

    /// Frontend addresses with their kind, without duplicates.
    pub(crate) fn frontend_addresses(&self) -> BTreeSet<(FrontendAddress, FrontendKind)> {
        self.frontends.iter().map(|frontend| (frontend.address, frontend.kind)).collect()
    }

    pub(crate) fn addresses(&self) -> impl Iterator<Item = Ip> {
        self.addresses.iter().map(|(ip, _)| *ip)
    }
}

/// State that was adopted from the tables of an earlier agent.
#[derive(Debug, Default)]
struct Adopted {
    frontends: HashMap<FrontendKey, u32>,
    /// Generation, and the backends in the order of the slots.
    services: HashMap<u32, (u32, Box<[u32]>)>,
    maglev: HashMap<u32, MaglevTable>,
}

/// Addresses, backends, source range sets and service ids, which all owners
/// share.
#[derive(Debug)]
pub(crate) struct Allocators {
    pub(crate) addresses: ServiceAddresses,
    pub(crate) backends: Backends,
    sets: SourceSets,
    ids: Ids,
    adopted: Adopted,
    maglev_config: MaglevConfig,
}

impl Allocators {
    pub(crate) fn new(maglev_config: MaglevConfig) -> Allocators {
        Allocators {
            addresses: ServiceAddresses::new(),
            backends: Backends::new(),
            sets: SourceSets::new(),
            ids: Ids::new(1),
            adopted: Adopted::default(),
            maglev_config,
        }
    }

    pub(crate) fn adopt(&mut self, actual: &Contents) {
        self.addresses.adopt(actual);
        self.backends.adopt(actual);
        self.sets.adopt(actual);
        self.ids.adopt(actual.service.keys().copied().chain(actual.slot.keys().map(|key| key.service)));
        self.adopted = Adopted {
            frontends: actual.frontend.iter().map(|(key, value)| (*key, value.service)).collect(),
            services: actual
                .service
                .iter()
                .map(|(id, value)| (*id, adopted_slots(*id, value, actual)))
                .collect(),
            maglev: actual
                .service
                .iter()
                .filter(|(_, value)| value.maglev_size != 0)
                .map(|(id, value)| (*id, MaglevTable::adopted(*id, value, actual)))
                .collect(),
        };
    }

    pub(crate) fn finish_adoption(&mut self) {
        self.addresses.finish_adoption();
        self.backends.finish_adoption();
        self.sets.finish_adoption();
        self.ids.finish_adoption();
        self.adopted = Adopted::default();
    }

    /// Removes the entries that the owner should no longer have.
    pub(crate) fn remove_stale(
        &mut self,
        entries: &mut OwnerEntries,
        desired_frontends: &[DesiredFrontend],
        is_service: bool,
        delta: &mut Delta,
    ) {
        let desired_keys: BTreeSet<(FrontendAddress, u8)> =
            desired_frontends.iter().map(|desired| (desired.address, desired.scope)).collect();
        let gone = |frontend: &mut Frontend| !desired_keys.contains(&(frontend.address, frontend.key.scope));
        for frontend in entries.frontends.extract_if(.., gone) {
            delta.frontend.insert(frontend.key, None);
        }
        let addresses: BTreeSet<Ip> =
            desired_frontends.iter().filter_map(|desired| exact(desired.address.ip)).collect();
        for (ip, _) in entries.addresses.extract_if(.., |(ip, _)| !addresses.contains(ip)) {
            self.addresses.release(ip, is_service);
        }
        let ports: BTreeSet<PortKey> = desired_frontends.iter().map(|desired| desired.port).collect();
        for port in entries.ports.extract_if(.., |port| !ports.contains(&port.key)) {
            delta.service.insert(port.slots.service, None);
            self.ids.free(port.slots.service);
            port.maglev.remove(port.slots.service, delta);
            port.slots.remove(&mut self.backends, delta);
        }
        if desired_frontends.is_empty() {
            self.set_endpoints(entries, Vec::new());
            std::mem::take(&mut entries.sets).into_iter().for_each(|set| self.sets.release(set));
        }
    }

    /// Adds the missing entries of the owner and updates its slots.
    pub(crate) fn update(
        &mut self,
        entries: &mut OwnerEntries,
        desired_frontends: &[DesiredFrontend],
        is_service: bool,
        ranges: &SourceRanges,
        port_backends: &mut BTreeMap<PortKey, PortBackends>,
        delta: &mut Delta,
    ) {
        let missing: BTreeSet<Ip> = desired_frontends
            .iter()
            .filter_map(|desired| exact(desired.address.ip))
            .filter(|ip| !entries.addresses.iter().any(|(known, _)| known == ip))
            .collect();
        for ip in missing {
            let class = self.addresses.acquire(ip, is_service);
            entries.addresses.push((ip, class));
        }
        self.update_source_sets(entries, desired_frontends, ranges, delta);
        for (key, port_backends) in std::mem::take(port_backends) {
            let at = match entries.ports.iter().position(|port| port.key == key) {
                Some(at) => at,
                None => {
                    let slots = self.new_slots(key, desired_frontends, &entries.addresses);
                    let maglev = self.adopted.maglev.remove(&slots.service).unwrap_or_default();
                    entries.ports.push(PortState { key, slots, maglev, value: None });
                    entries.ports.len() - 1
                }
            };
            self.update_port(&mut entries.ports[at], port_backends, delta);
        }
        for desired in desired_frontends {
            set_frontend(entries, desired, delta);
        }
        entries.frontends.shrink_to_fit();
    }

    /// Replaces the owner's list of endpoints.
    pub(crate) fn set_endpoints(
        &mut self,
        entries: &mut OwnerEntries,
        endpoint_backends: Vec<(Arc<Backend>, bool)>,
    ) {
        endpoint_backends.iter().for_each(|(backend, active)| self.backends.add_user(backend, *active));
        for (backend, active) in std::mem::replace(&mut entries.endpoint_backends, endpoint_backends) {
            self.backends.remove_user(backend, active);
        }
    }

    fn update_source_sets(
        &mut self,
        entries: &mut OwnerEntries,
        desired_frontends: &[DesiredFrontend],
        ranges: &SourceRanges,
        delta: &mut Delta,
    ) {
        let has_source_ranges = |ipv6| {
            desired_frontends.iter().any(|desired| desired.has_source_ranges && desired.port.ipv6 == ipv6)
        };
        let sets = [false, true].map(|ipv6| match has_source_ranges(ipv6) {
            true => self.sets.acquire(ranges, ipv6, delta),
            false => 0,
        });
        std::mem::replace(&mut entries.sets, sets).into_iter().for_each(|set| self.sets.release(set));
    }

    fn update_port(&mut self, port: &mut PortState, port_backends: PortBackends, delta: &mut Delta) {
        let indexed_by_backend = port_backends.affinity_s != 0 || port.key.proto == Protocol::Udp.number();
        port.maglev.update(
            port.slots.service,
            &port_backends.weighted_backends(),
            &self.maglev_config,
            delta,
        );
        let quiescing = indexed_by_backend.then(|| port_backends.quiescing.into_boxed_slice());
        let (maglev_generation, maglev_size) = port.maglev.generation_and_size();
        let consistent = port_backends.consistent && maglev_size != 0;
        port.slots.update(port_backends.backends, quiescing, &mut self.backends, delta);
        let slots = port.slots.len();
        let value = ServiceValue {
            generation: port.slots.generation,
            slots,
            affinity_s: port_backends.affinity_s,
            flags: if slots == 0 && port_backends.only_remote { service_flags::LOCAL } else { 0 }
                | if consistent { service_flags::MAGLEV } else { 0 }
                | if indexed_by_backend { service_flags::SLOTS_BY_BACKEND } else { 0 },
            maglev_generation: if maglev_size == 0 { 0 } else { maglev_generation },
            maglev_size,
        };
        if port.value.replace(value) != Some(value) {
            delta.service.insert(port.slots.service, Some(value));
        }
    }

    /// Slots with the service id that one of the frontends had before a
    /// restart, or with a new id.
    fn new_slots(
        &mut self,
        key: PortKey,
        desired_frontends: &[DesiredFrontend],
        addresses: &[(Ip, u32)],
    ) -> Slots {
        for desired in desired_frontends.iter().filter(|desired| desired.port == key) {
            let frontend = frontend_key(desired, addresses);
            let Some(id) = self.adopted.frontends.get(&frontend).copied() else { continue };
            if self.ids.take_adopted(id) {
                return match self.adopted.services.remove(&id) {
                    Some((generation, backends)) => Slots::adopted(id, generation, backends),
                    None => Slots::new(id),
                };
            }
        }
        Slots::new(self.ids.allocate())
    }

    /// Removes entries that no owner uses any more, and writes changed
    /// addresses and backends.
    pub(crate) fn write_changes(&mut self, nodes: &crate::node::Nodes, delta: &mut Delta) {
        self.addresses.write_changes(delta);
        self.sets.remove_unused(delta);
        self.backends.write_changes(nodes, delta);
    }
}

fn set_frontend(entries: &mut OwnerEntries, desired: &DesiredFrontend, delta: &mut Delta) {
    let Some(port) = entries.ports.iter().find(|port| port.key == desired.port) else { return };
    let source_ranges =
        if desired.has_source_ranges { entries.sets[usize::from(desired.port.ipv6)] } else { 0 };
    let value = FrontendValue { service: port.slots.service, flags: 0, source_ranges };
    let frontend = Frontend {
        address: desired.address,
        kind: desired.kind,
        key: frontend_key(desired, &entries.addresses),
        value,
    };
    delta.frontend.insert(frontend.key, Some(value));
    let same = |known: &&mut Frontend| (known.address, known.key.scope) == (desired.address, desired.scope);
    match entries.frontends.iter_mut().find(same) {
        Some(known) => *known = frontend,
        None => entries.frontends.push(frontend),
    }
}

fn exact(ip: FrontendIp) -> Option<Ip> {
    match ip {
        FrontendIp::Exact(ip) => Some(ip),
        FrontendIp::AnyNode { .. } => None,
    }
}

fn frontend_key(desired: &DesiredFrontend, addresses: &[(Ip, u32)]) -> FrontendKey {
    let class = match desired.address.ip {
        FrontendIp::AnyNode { ipv6: false } => CLASS_NODE,
        FrontendIp::AnyNode { ipv6: true } => CLASS_NODE_IPV6,
        FrontendIp::Exact(ip) => {
            addresses.iter().find(|(known, _)| *known == ip).map_or(0, |(_, class)| *class)
        }
    };
    FrontendKey {
        class,
        port: Port::new(desired.address.port),
        proto: desired.address.proto,
        scope: desired.scope,
    }
}

fn adopted_slots(id: u32, value: &ServiceValue, actual: &Contents) -> (u32, Box<[u32]>) {
    let of = |slot| SlotKey { service: id, generation: value.generation, slot };
    if value.generation == SLOT_BY_BACKEND {
        return (value.generation, Box::default());
    }
    let slots = actual.slot.range(of(0)..of(value.slots));
    (value.generation, slots.map(|(_, slot)| slot.backend).collect())
}
