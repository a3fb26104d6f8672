//! What one Service or pod has in the tables: addresses, frontends, service
//! values and their slots. Both are brought up to date here, from what they
//! should have ([`Want`]) and who serves them ([`Serving`]).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use beeline_abi::service::{
    CLASS_NODE, CLASS_NODE_IPV6, FrontendKey, FrontendValue, SLOT_BY_BACKEND, ServiceValue, SlotKey,
    SlotValue, service_flags,
};
use beeline_abi::{Ip, Port};
use beeline_model::{Protocol, SourceRanges};
use beeline_sync::{Contents, Delta};

use crate::address::Addresses;
use crate::backend::{Backend, Backends};
use crate::ids::Ids;
use crate::ranges::SourceSets;
use crate::shares::{ShareConfig, Shares};
use crate::slots::Slots;
use crate::spot::{FrontendKind, Place, Spot};

/// A port of a Service (or of a pod) with one choice of endpoints: one id in
/// the service table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PortKey {
    pub(crate) ipv6: bool,
    pub(crate) port: u16,
    pub(crate) proto: u8,
    /// Only endpoints of this node.
    pub(crate) local: bool,
}

/// A frontend that its owner should have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Want {
    pub(crate) spot: Spot,
    pub(crate) kind: FrontendKind,
    pub(crate) scope: u8,
    pub(crate) port: PortKey,
    /// Only for clients in the owner's source ranges.
    pub(crate) limited: bool,
}

/// Who serves a port.
#[derive(Debug, Default)]
pub(crate) struct Serving {
    pub(crate) backends: Vec<Arc<Backend>>,
    /// There are endpoints, though none that may be used here.
    pub(crate) elsewhere: bool,
    pub(crate) affinity_s: u32,
    /// Weights, as long as `backends`.
    pub(crate) weights: Vec<u16>,
    /// Choose by consistent hashing.
    pub(crate) consistent: bool,
    /// Backends that clients may keep though they are not chosen.
    pub(crate) kept: Vec<SlotValue>,
}

impl Serving {
    /// Backends with their weights, where one is not like another.
    pub(crate) fn shares(&self) -> Vec<(Arc<Backend>, u16)> {
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
    shares: Shares,
    value: Option<ServiceValue>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Frontend {
    spot: Spot,
    kind: FrontendKind,
    key: FrontendKey,
    value: FrontendValue,
}

/// What is programmed for one owner.
#[derive(Debug, Default)]
pub(crate) struct Program {
    ports: Vec<PortState>,
    frontends: Vec<Frontend>,
    addresses: Vec<(Ip, u32)>,
    /// Source-range sets, IPv4 and IPv6; 0 = none.
    sets: [u32; 2],
    /// Every endpoint, chosen or not, and whether it takes new connections.
    pub(crate) listed: Vec<(Arc<Backend>, bool)>,
}

impl Program {
    /// Service ids, their ports and whether they are for `Local`.
    pub(crate) fn services(&self) -> impl Iterator<Item = (u32, PortKey)> {
        self.ports.iter().map(|port| (port.slots.service, port.key))
    }

    /// Addresses and ports with the kind of frontend, each once.
    pub(crate) fn spots(&self) -> BTreeSet<(Spot, FrontendKind)> {
        self.frontends.iter().map(|frontend| (frontend.spot, frontend.kind)).collect()
    }

    pub(crate) fn addresses(&self) -> impl Iterator<Item = Ip> {
        self.addresses.iter().map(|(ip, _)| *ip)
    }
}

/// What an earlier agent left.
#[derive(Debug, Default)]
struct Adopted {
    frontends: HashMap<FrontendKey, u32>,
    /// Generation, and the backends in the order of the slots.
    services: HashMap<u32, (u32, Box<[u32]>)>,
    shares: HashMap<u32, Shares>,
}

/// What all owners share.
#[derive(Debug)]
pub(crate) struct Workshop {
    pub(crate) addresses: Addresses,
    pub(crate) backends: Backends,
    sets: SourceSets,
    ids: Ids,
    adopted: Adopted,
    share_config: ShareConfig,
}

impl Workshop {
    pub(crate) fn new(share_config: ShareConfig) -> Workshop {
        Workshop {
            addresses: Addresses::new(),
            backends: Backends::new(),
            sets: SourceSets::new(),
            ids: Ids::new(1),
            adopted: Adopted::default(),
            share_config,
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
            shares: actual
                .service
                .iter()
                .filter(|(_, value)| value.maglev_size != 0)
                .map(|(id, value)| (*id, Shares::adopted(*id, value, actual)))
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

    /// Removes what the owner should no longer have.
    pub(crate) fn take_down(
        &mut self,
        program: &mut Program,
        wants: &[Want],
        is_service: bool,
        delta: &mut Delta,
    ) {
        let wanted: BTreeSet<(Spot, u8)> = wants.iter().map(|want| (want.spot, want.scope)).collect();
        let gone = |frontend: &mut Frontend| !wanted.contains(&(frontend.spot, frontend.key.scope));
        for frontend in program.frontends.extract_if(.., gone) {
            delta.frontend.insert(frontend.key, None);
        }
        let addresses: BTreeSet<Ip> = wants.iter().filter_map(|want| exact(want.spot.place)).collect();
        for (ip, _) in program.addresses.extract_if(.., |(ip, _)| !addresses.contains(ip)) {
            self.addresses.release(ip, is_service);
        }
        let ports: BTreeSet<PortKey> = wants.iter().map(|want| want.port).collect();
        for port in program.ports.extract_if(.., |port| !ports.contains(&port.key)) {
            delta.service.insert(port.slots.service, None);
            self.ids.free(port.slots.service);
            port.shares.remove(port.slots.service, delta);
            port.slots.remove(&mut self.backends, delta);
        }
        if wants.is_empty() {
            self.list(program, Vec::new());
            std::mem::take(&mut program.sets).into_iter().for_each(|set| self.sets.release(set));
        }
    }

    /// Adds what the owner should have, and brings its slots up to date.
    pub(crate) fn build_up(
        &mut self,
        program: &mut Program,
        wants: &[Want],
        is_service: bool,
        ranges: &SourceRanges,
        serving: &mut BTreeMap<PortKey, Serving>,
        delta: &mut Delta,
    ) {
        let missing: BTreeSet<Ip> = wants
            .iter()
            .filter_map(|want| exact(want.spot.place))
            .filter(|ip| !program.addresses.iter().any(|(known, _)| known == ip))
            .collect();
        for ip in missing {
            let class = self.addresses.hold(ip, is_service);
            program.addresses.push((ip, class));
        }
        self.hold_sets(program, wants, ranges, delta);
        for (key, serving) in std::mem::take(serving) {
            let at = match program.ports.iter().position(|port| port.key == key) {
                Some(at) => at,
                None => {
                    let slots = self.new_slots(key, wants, &program.addresses);
                    let shares = self.adopted.shares.remove(&slots.service).unwrap_or_default();
                    program.ports.push(PortState { key, slots, shares, value: None });
                    program.ports.len() - 1
                }
            };
            self.update_port(&mut program.ports[at], serving, delta);
        }
        for want in wants {
            set_frontend(program, want, delta);
        }
        program.frontends.shrink_to_fit();
    }

    /// Replaces what is known of the owner's endpoints.
    pub(crate) fn list(&mut self, program: &mut Program, listed: Vec<(Arc<Backend>, bool)>) {
        listed.iter().for_each(|(backend, active)| self.backends.hold(backend, *active));
        for (backend, active) in std::mem::replace(&mut program.listed, listed) {
            self.backends.let_go(backend, active);
        }
    }

    fn hold_sets(&mut self, program: &mut Program, wants: &[Want], ranges: &SourceRanges, delta: &mut Delta) {
        let limited = |ipv6| wants.iter().any(|want| want.limited && want.port.ipv6 == ipv6);
        let sets = [false, true].map(|ipv6| match limited(ipv6) {
            true => self.sets.hold(ranges, ipv6, delta),
            false => 0,
        });
        std::mem::replace(&mut program.sets, sets).into_iter().for_each(|set| self.sets.release(set));
    }

    fn update_port(&mut self, port: &mut PortState, serving: Serving, delta: &mut Delta) {
        let has_members = serving.affinity_s != 0 || port.key.proto == Protocol::Udp.number();
        port.shares.update(port.slots.service, &serving.shares(), &self.share_config, delta);
        let kept = has_members.then(|| serving.kept.into_boxed_slice());
        let (maglev_generation, shares) = port.shares.published();
        let consistent = serving.consistent && shares != 0;
        port.slots.update(serving.backends, kept, &mut self.backends, delta);
        let slots = port.slots.len();
        let value = ServiceValue {
            generation: port.slots.generation,
            slots,
            affinity_s: serving.affinity_s,
            flags: if slots == 0 && serving.elsewhere { service_flags::LOCAL } else { 0 }
                | if consistent { service_flags::MAGLEV } else { 0 }
                | if has_members { service_flags::SLOTS_BY_BACKEND } else { 0 },
            maglev_generation: if shares == 0 { 0 } else { maglev_generation },
            maglev_size: shares,
        };
        if port.value.replace(value) != Some(value) {
            delta.service.insert(port.slots.service, Some(value));
        }
    }

    /// Slots under the service id that one of the frontends had before a
    /// restart, or under a new one.
    fn new_slots(&mut self, key: PortKey, wants: &[Want], addresses: &[(Ip, u32)]) -> Slots {
        for want in wants.iter().filter(|want| want.port == key) {
            let frontend = frontend_key(want, addresses);
            let Some(id) = self.adopted.frontends.get(&frontend).copied() else { continue };
            if self.ids.claim(id) {
                return match self.adopted.services.remove(&id) {
                    Some((generation, backends)) => Slots::adopted(id, generation, backends),
                    None => Slots::new(id),
                };
            }
        }
        Slots::new(self.ids.allocate())
    }

    /// Removes what nobody has any more.
    pub(crate) fn sweep(&mut self, nodes: &crate::node::Nodes, delta: &mut Delta) {
        self.addresses.sweep(delta);
        self.sets.sweep(delta);
        self.backends.sweep(nodes, delta);
    }
}

fn set_frontend(program: &mut Program, want: &Want, delta: &mut Delta) {
    let Some(port) = program.ports.iter().find(|port| port.key == want.port) else { return };
    let source_ranges = if want.limited { program.sets[usize::from(want.port.ipv6)] } else { 0 };
    let value = FrontendValue { service: port.slots.service, flags: 0, source_ranges };
    let frontend =
        Frontend { spot: want.spot, kind: want.kind, key: frontend_key(want, &program.addresses), value };
    delta.frontend.insert(frontend.key, Some(value));
    let same = |known: &&mut Frontend| (known.spot, known.key.scope) == (want.spot, want.scope);
    match program.frontends.iter_mut().find(same) {
        Some(known) => *known = frontend,
        None => program.frontends.push(frontend),
    }
}

fn exact(place: Place) -> Option<Ip> {
    match place {
        Place::Address(ip) => Some(ip),
        Place::Node { .. } => None,
    }
}

fn frontend_key(want: &Want, addresses: &[(Ip, u32)]) -> FrontendKey {
    let class = match want.spot.place {
        Place::Node { ipv6: false } => CLASS_NODE,
        Place::Node { ipv6: true } => CLASS_NODE_IPV6,
        Place::Address(ip) => addresses.iter().find(|(known, _)| *known == ip).map_or(0, |(_, class)| *class),
    };
    FrontendKey { class, port: Port::new(want.spot.port), proto: want.spot.proto, scope: want.scope }
}

fn adopted_slots(id: u32, value: &ServiceValue, actual: &Contents) -> (u32, Box<[u32]>) {
    let of = |slot| SlotKey { service: id, generation: value.generation, slot };
    if value.generation == SLOT_BY_BACKEND {
        return (value.generation, Box::default());
    }
    let slots = actual.slot.range(of(0)..of(value.slots));
    (value.generation, slots.map(|(_, slot)| slot.backend).collect())
}
