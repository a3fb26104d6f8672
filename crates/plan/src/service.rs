//! Services: addresses, frontends, service values and their slots.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use beeline_abi::service::{
    CLASS_FIRST_EXACT, FrontendKey, FrontendValue, SCOPE_INTERNAL, ServiceAddressValue, ServiceValue,
    SlotKey, address_flags,
};
use beeline_abi::{Ip, Port};
use beeline_model::{EndpointSlice, Kind, ObjectName, Protocol, Service, ServicePort, ServiceType};
use beeline_sync::{Contents, Delta};

use crate::backend::Backends;
use crate::ids::Ids;
use crate::node::Nodes;
use crate::problems::Book;
use crate::select::select;
use crate::slice::{Interner, Slice, why_no_unicast};
use crate::slots::Slots;

/// Services by name; the name is kept once.
type Name = Arc<ObjectName>;

#[derive(Debug, Default)]
struct ServiceState {
    /// None: deleted, or not seen yet while its slices are.
    spec: Option<Box<Service>>,
    epoch: u32,
    slices: Vec<(Box<str>, Slice)>,
    /// What is programmed.
    ports: Vec<PortState>,
    addresses: Vec<(Ip, u32)>,
}

/// One programmed (port, family) of a Service.
#[derive(Debug)]
struct PortState {
    key: PortKey,
    slots: Slots,
    value: Option<ServiceValue>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PortKey {
    ipv6: bool,
    port: u16,
    protocol: Protocol,
}

/// A ClusterIP and who claims it; the first by name has it.
#[derive(Debug, Default)]
struct Address {
    claimants: Vec<Name>,
    /// 0 while nothing is programmed for it.
    class: u32,
}

#[derive(Debug)]
struct SliceOwner {
    service: Name,
    epoch: u32,
}

/// What an earlier agent left.
#[derive(Debug, Default)]
struct Adopted {
    classes: HashMap<Ip, u32>,
    frontends: HashMap<FrontendKey, u32>,
    /// Generation, and the backends in the order of the slots.
    services: HashMap<u32, (u32, Box<[u32]>)>,
}

#[derive(Debug)]
pub(crate) struct Services {
    own_node: String,
    services: HashMap<Name, ServiceState>,
    slice_owners: HashMap<ObjectName, SliceOwner>,
    addresses: HashMap<Ip, Address>,
    backends: Backends,
    ids: Ids,
    classes: Ids,
    adopted: Adopted,
    interner: Interner,
    dirty: BTreeSet<Name>,
}

impl Services {
    pub(crate) fn new(own_node: &str) -> Services {
        Services {
            own_node: own_node.to_owned(),
            services: HashMap::new(),
            slice_owners: HashMap::new(),
            addresses: HashMap::new(),
            backends: Backends::new(),
            ids: Ids::new(1),
            classes: Ids::new(CLASS_FIRST_EXACT),
            adopted: Adopted::default(),
            interner: Interner::default(),
            dirty: BTreeSet::new(),
        }
    }

    pub(crate) fn adopt(&mut self, actual: &Contents) {
        self.backends.adopt(actual);
        self.ids.adopt(actual.service.keys().copied().chain(actual.slot.keys().map(|key| key.service)));
        let classes = actual.service_address.values().map(|value| value.class);
        self.classes.adopt(classes.chain(actual.frontend.keys().map(|key| key.class)));
        self.adopted = Adopted {
            classes: actual.service_address.iter().map(|(ip, value)| (*ip, value.class)).collect(),
            frontends: actual.frontend.iter().map(|(key, value)| (*key, value.service)).collect(),
            services: actual
                .service
                .iter()
                .map(|(id, value)| (*id, adopted_slots(*id, value, actual)))
                .collect(),
        };
    }

    pub(crate) fn finish_adoption(&mut self) {
        self.backends.finish_adoption();
        self.ids.finish_adoption();
        self.classes.finish_adoption();
        self.adopted = Adopted::default();
    }

    pub(crate) fn apply(&mut self, service: Service, epoch: u32) {
        let name = self.name(&service.name);
        let state = self.services.entry(name.clone()).or_default();
        state.epoch = epoch;
        if state.spec.as_deref() == Some(&service) {
            return;
        }
        let addresses = cluster_ips(&service);
        let old = state.spec.replace(Box::new(service));
        self.move_claims(&name, old.as_deref().map(cluster_ips).unwrap_or_default(), addresses);
        self.dirty.insert(name);
    }

    pub(crate) fn delete(&mut self, name: &ObjectName) {
        let Some(old) = self.services.get_mut(name).and_then(|state| state.spec.take()) else { return };
        let name = self.name(name);
        self.move_claims(&name, cluster_ips(&old), Vec::new());
        self.dirty.insert(name);
    }

    pub(crate) fn apply_slice(&mut self, slice: EndpointSlice, epoch: u32, book: &mut Book) {
        let name = slice.name.clone();
        let service = self.name(&ObjectName::new(&name.namespace, &slice.service));
        if self.slice_owners.get(&name).is_some_and(|owner| owner.service != service) {
            self.delete_slice(&name, book);
        }
        let (slice, problems) = Slice::compact(slice, &mut self.interner);
        book.set_problems(Kind::EndpointSlice, &name, problems);
        let slices = &mut self.services.entry(service.clone()).or_default().slices;
        let changed = match slices.iter_mut().find(|(known, _)| **known == *name.name) {
            Some((_, known)) if *known == slice => false,
            Some((_, known)) => {
                *known = slice;
                true
            }
            None => {
                slices.reserve_exact(1);
                slices.push((name.name.as_str().into(), slice));
                true
            }
        };
        if changed {
            self.dirty.insert(service.clone());
        }
        self.slice_owners.insert(name, SliceOwner { service, epoch });
    }

    pub(crate) fn delete_slice(&mut self, name: &ObjectName, book: &mut Book) {
        let Some(owner) = self.slice_owners.remove(name) else { return };
        book.set_problems(Kind::EndpointSlice, name, Vec::new());
        if let Some(state) = self.services.get_mut(&owner.service) {
            state.slices.retain(|(known, _)| **known != *name.name);
        }
        self.dirty.insert(owner.service);
    }

    pub(crate) fn older_than(&self, epoch: u32) -> Vec<ObjectName> {
        let old = self.services.iter().filter(|(_, state)| state.spec.is_some() && state.epoch != epoch);
        old.map(|(name, _)| ObjectName::clone(name)).collect()
    }

    pub(crate) fn slices_older_than(&self, epoch: u32) -> Vec<ObjectName> {
        let old = self.slice_owners.iter().filter(|(_, owner)| owner.epoch != epoch);
        old.map(|(name, _)| name.clone()).collect()
    }

    /// Pods by address, as far as they serve somebody.
    pub(crate) fn pods(&self) -> impl Iterator<Item = (IpAddr, &Arc<str>)> {
        let slices = self.services.values().flat_map(|state| &state.slices);
        let endpoints = slices.flat_map(|(_, slice)| &slice.endpoints);
        endpoints.filter_map(|endpoint| Some((endpoint.ip.into(), endpoint.pod.as_ref()?)))
    }

    pub(crate) fn names(&self) -> Vec<(u32, String)> {
        let mut names: Vec<(u32, String)> = self
            .services
            .iter()
            .flat_map(|(name, state)| {
                state.ports.iter().map(move |port| (port.slots.service, name, port.key))
            })
            .map(|(id, name, key)| match key.protocol {
                Protocol::Tcp => (id, format!("{name}:{}", key.port)),
                other => (id, format!("{name}:{}/{}", key.port, other.name())),
            })
            .collect();
        names.sort();
        names
    }

    /// Who has which address.
    pub(crate) fn address_names(&self) -> Vec<(IpAddr, String)> {
        let owner = |address: &Address| address.claimants.first().map(|name| name.to_string());
        self.addresses.iter().filter_map(|(ip, address)| Some(((*ip).into(), owner(address)?))).collect()
    }

    /// Computes what is marked: first everything that goes, then everything
    /// that comes, so that what moves from one Service to another ends up
    /// with the new one.
    pub(crate) fn drain(&mut self, renumbered: &[String], nodes: &Nodes, delta: &mut Delta, book: &mut Book) {
        for node in renumbered {
            self.backends.renumber(node, nodes, delta);
        }
        let dirty = std::mem::take(&mut self.dirty);
        for name in &dirty {
            self.take_down(name, delta);
        }
        for name in &dirty {
            self.build_up(name, nodes, delta);
            self.explain(name, book);
        }
        self.backends.sweep(delta);
    }

    fn name(&self, name: &ObjectName) -> Name {
        match self.services.get_key_value(name) {
            Some((known, _)) => known.clone(),
            None => Arc::new(name.clone()),
        }
    }

    /// Changes which addresses the Service claims, and marks everybody whose
    /// right to one of them may have changed.
    fn move_claims(&mut self, name: &Name, old: Vec<Ip>, new: Vec<Ip>) {
        for ip in old.iter().filter(|ip| !new.contains(ip)) {
            let address = self.addresses.entry(*ip).or_default();
            address.claimants.retain(|claimant| claimant != name);
            self.dirty.extend(address.claimants.iter().cloned());
            if address.claimants.is_empty() && address.class == 0 {
                self.addresses.remove(ip);
            }
        }
        for ip in new.iter().filter(|ip| !old.contains(ip)) {
            let claimants = &mut self.addresses.entry(*ip).or_default().claimants;
            claimants.reserve_exact(1);
            claimants.push(name.clone());
            claimants.sort();
            self.dirty.extend(claimants.iter().cloned());
        }
    }

    fn owns(&self, name: &Name, ip: &Ip) -> bool {
        self.addresses.get(ip).is_some_and(|address| address.claimants.first() == Some(name))
    }

    /// The addresses and ports that the Service should have.
    fn wanted(&self, name: &Name) -> (Vec<Ip>, Vec<PortKey>) {
        let spec = self.services.get(name).and_then(|state| state.spec.as_deref());
        let Some(spec) = spec else { return (Vec::new(), Vec::new()) };
        let mut addresses = cluster_ips(spec);
        addresses.retain(|ip| self.owns(name, ip));
        let ports = usable_ports(spec);
        let families =
            [false, true].into_iter().filter(|ipv6| addresses.iter().any(|ip| ip.is_v4() != *ipv6));
        let keys: Vec<PortKey> =
            families.flat_map(|ipv6| ports.iter().map(move |port| PortKey::of(port, ipv6))).collect();
        if keys.is_empty() { (Vec::new(), keys) } else { (addresses, keys) }
    }

    /// Removes what the Service should no longer have.
    fn take_down(&mut self, name: &Name, delta: &mut Delta) {
        let (addresses, ports) = self.wanted(name);
        let Some(state) = self.services.get_mut(name) else { return };
        for (ip, class) in &state.addresses {
            for port in state.ports.iter().filter(|port| port.key.ipv6 != ip.is_v4()) {
                if !addresses.contains(ip) || !ports.contains(&port.key) {
                    delta.frontend.insert(port.key.frontend(*class), None);
                }
            }
        }
        for (ip, class) in state.addresses.extract_if(.., |(ip, _)| !addresses.contains(ip)) {
            release_address(&mut self.addresses, &mut self.classes, ip, class, delta);
        }
        for port in state.ports.extract_if(.., |port| !ports.contains(&port.key)) {
            delta.service.insert(port.slots.service, None);
            self.ids.free(port.slots.service);
            port.slots.remove(&mut self.backends, delta);
        }
        if state.spec.is_none() && state.slices.is_empty() {
            self.services.remove(name);
        }
    }

    /// Adds what the Service should have, and brings its slots up to date.
    fn build_up(&mut self, name: &Name, nodes: &Nodes, delta: &mut Delta) {
        let (addresses, ports) = self.wanted(name);
        let Some(mut state) = self.services.remove(name) else { return };
        if let Some(spec) = state.spec.take() {
            let missing =
                addresses.iter().filter(|ip| !state.addresses.iter().any(|(known, _)| known == *ip));
            for ip in missing.copied().collect::<Vec<Ip>>() {
                let class = self.class_of(ip, delta);
                state.addresses.push((ip, class));
            }
            for key in ports {
                if !state.ports.iter().any(|port| port.key == key) {
                    let slots = self.new_slots(key, &state.addresses);
                    state.ports.push(PortState { key, slots, value: None });
                }
            }
            for port in &mut state.ports {
                self.update_port(port, &spec, &state.slices, nodes, delta);
            }
            for (ip, class) in &state.addresses {
                for port in state.ports.iter().filter(|port| port.key.ipv6 != ip.is_v4()) {
                    let value = FrontendValue { service: port.slots.service, ..FrontendValue::default() };
                    delta.frontend.insert(port.key.frontend(*class), Some(value));
                }
            }
            state.spec = Some(spec);
        }
        self.services.insert(name.clone(), state);
    }

    fn update_port(
        &mut self,
        port: &mut PortState,
        spec: &Service,
        slices: &[(Box<str>, Slice)],
        nodes: &Nodes,
        delta: &mut Delta,
    ) {
        let of = usable_ports(spec).into_iter().find(|of| PortKey::of(of, port.key.ipv6) == port.key);
        let Some(of) = of else { return };
        let slices = slices.iter().map(|(_, slice)| slice);
        let proto = port.key.protocol.number();
        let wanted = select(spec, of, port.key.ipv6, slices, &self.own_node)
            .into_iter()
            .map(|target| self.backends.get(target.ip, target.port, proto, target.node, nodes, delta))
            .collect();
        port.slots.update(wanted, &mut self.backends, delta);
        let value = ServiceValue {
            generation: port.slots.generation,
            slots: port.slots.len(),
            affinity_s: spec.affinity_s.unwrap_or(0),
            ..ServiceValue::default()
        };
        if port.value.replace(value) != Some(value) {
            delta.service.insert(port.slots.service, Some(value));
        }
    }

    /// The class of an address, made and written if it is new.
    fn class_of(&mut self, ip: Ip, delta: &mut Delta) -> u32 {
        let address = self.addresses.entry(ip).or_default();
        if address.class == 0 {
            let adopted = self.adopted.classes.get(&ip).copied();
            address.class = match adopted {
                Some(class) if self.classes.claim(class) => class,
                _ => self.classes.allocate(),
            };
        }
        let value = ServiceAddressValue { class: address.class, flags: address_flags::EXCLUSIVE };
        delta.service_address.insert(ip, Some(value));
        address.class
    }

    /// Slots under the service id that the frontend had before a restart, or
    /// under a new one.
    fn new_slots(&mut self, key: PortKey, addresses: &[(Ip, u32)]) -> Slots {
        let of_family = addresses.iter().filter(|(ip, _)| ip.is_v4() != key.ipv6);
        for (_, class) in of_family {
            let Some(id) = self.adopted.frontends.get(&key.frontend(*class)).copied() else { continue };
            if self.ids.claim(id) {
                return match self.adopted.services.remove(&id) {
                    Some((generation, backends)) => Slots::adopted(id, generation, backends),
                    None => Slots::new(id),
                };
            }
        }
        Slots::new(self.ids.allocate())
    }

    fn explain(&self, name: &Name, book: &mut Book) {
        let spec = self.services.get(name).and_then(|state| state.spec.as_deref());
        let (problems, not_built) = match spec {
            Some(spec) => (self.problems_of(name, spec), not_built(spec)),
            None => (Vec::new(), Vec::new()),
        };
        book.set_problems(Kind::Service, name, problems);
        book.set_not_built(Kind::Service, name, not_built);
    }

    fn problems_of(&self, name: &Name, spec: &Service) -> Vec<String> {
        if spec.service_type == ServiceType::ExternalName {
            return Vec::new();
        }
        let mut problems = Vec::new();
        for ip in &spec.cluster_ips {
            if let Some(why) = why_no_unicast(*ip) {
                problems.push(format!(
                    "its ClusterIP {ip} is {why} and is not served; recreate the Service so that the API \
                     server gives it a free address"
                ));
            }
        }
        for ip in cluster_ips(spec) {
            let first = self.addresses.get(&ip).and_then(|address| address.claimants.first());
            if let Some(first) = first.filter(|first| *first != name) {
                problems.push(format!(
                    "its ClusterIP {ip} is Service {first}'s too, which keeps it; Service {name} is not \
                     reachable there; recreate one of the two so that the API server gives it a free address"
                ));
            }
        }
        let mut seen: Vec<(u16, Protocol)> = Vec::new();
        for port in &spec.ports {
            if port.port == 0 {
                problems.push(format!(
                    "port {:?} has the number 0 and is not served; give it a number from 1 to 65535",
                    port.name
                ));
            } else if seen.contains(&(port.port, port.protocol)) {
                problems.push(format!(
                    "port {}/{} is listed twice; the first entry is served, {:?} is not; remove one of them",
                    port.port,
                    port.protocol.name(),
                    port.name
                ));
            }
            seen.push((port.port, port.protocol));
        }
        problems
    }
}

impl PortKey {
    fn of(port: &ServicePort, ipv6: bool) -> PortKey {
        PortKey { ipv6, port: port.port, protocol: port.protocol }
    }

    fn frontend(self, class: u32) -> FrontendKey {
        let port = Port::new(self.port);
        FrontendKey { class, port, proto: self.protocol.number(), scope: SCOPE_INTERNAL }
    }
}

/// The Service has lost the address; if nobody else has it, it goes.
fn release_address(
    addresses: &mut HashMap<Ip, Address>,
    classes: &mut Ids,
    ip: Ip,
    class: u32,
    delta: &mut Delta,
) {
    let claimed = addresses.get(&ip).is_some_and(|address| !address.claimants.is_empty());
    if !claimed {
        addresses.remove(&ip);
    } else if let Some(address) = addresses.get_mut(&ip) {
        // Who has it now writes it again, under a class of its own.
        address.class = 0;
    }
    classes.free(class);
    delta.service_address.insert(ip, None);
}

fn adopted_slots(id: u32, value: &ServiceValue, actual: &Contents) -> (u32, Box<[u32]>) {
    let of = |slot| SlotKey { service: id, generation: value.generation, slot };
    let slots = actual.slot.range(of(0)..of(value.slots));
    (value.generation, slots.map(|(_, slot)| slot.backend).collect())
}

/// The ClusterIPs that can be served, each once.
fn cluster_ips(service: &Service) -> Vec<Ip> {
    if service.service_type == ServiceType::ExternalName {
        return Vec::new();
    }
    let usable = |ip: &&IpAddr| why_no_unicast(**ip).is_none();
    let mut ips: Vec<Ip> = service.cluster_ips.iter().filter(usable).map(|ip| Ip::from(*ip)).collect();
    ips.sort();
    ips.dedup();
    ips
}

/// The ports that can be served: each number and protocol once, the first.
fn usable_ports(service: &Service) -> Vec<&ServicePort> {
    let mut ports: Vec<&ServicePort> = Vec::with_capacity(service.ports.len());
    for port in &service.ports {
        let known = ports.iter().any(|known| (known.port, known.protocol) == (port.port, port.protocol));
        if port.port != 0 && port.protocol != Protocol::Sctp && !known {
            ports.push(port);
        }
    }
    ports
}

fn not_built(service: &Service) -> Vec<String> {
    let mut notes = Vec::new();
    let mut note = |what: String| notes.push(format!("{what} is not built yet and has no effect"));
    if service.service_type == ServiceType::ExternalName {
        return notes;
    }
    for port in &service.ports {
        if port.protocol == Protocol::Sctp {
            note(format!("port {}/SCTP", port.port));
        }
        if port.node_port != 0 {
            note(format!("nodePort {} (port {})", port.node_port, port.port));
        }
    }
    if !service.load_balancer_ips.is_empty() {
        note(format!("LoadBalancer address {}", list(&service.load_balancer_ips)));
    }
    if !service.external_ips.is_empty() {
        note(format!("externalIPs {}", list(&service.external_ips)));
    }
    if service.affinity_s.is_some() {
        note("sessionAffinity ClientIP".to_owned());
    }
    notes
}

fn list(ips: &[IpAddr]) -> String {
    ips.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ")
}
