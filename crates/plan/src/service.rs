//! Services with their EndpointSlices, and pods with hostPorts, which need the
//! same table entries. Marks what a change affects; `update_tables` rebuilds
//! it.

mod update_tables;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use beeline_abi::Ip;
use beeline_model::{EndpointSlice, Kind, ObjectName, Pod, Service};
use beeline_sync::{Contents, Delta};
use ipnet::IpNet;

use crate::ServiceConfig;
use crate::frontend_address::{FrontendAddress, FrontendIp, FrontendKind, FrontendOwners, Owner};
use crate::health_check_node_port::HealthCheck;
use crate::host_port::HostPorts;
use crate::names::{FrontendName, ServiceName};
use crate::node::{NodeChanges, Nodes};
use crate::problems::ProblemStore;
use crate::service_frontends::requested_frontends;
use crate::service_problems;
use crate::service_tables::{Allocators, DesiredFrontend, OwnerEntries};
use crate::slice::{Interner, Slice};

/// A name that is shared instead of copied.
type Name = Arc<ObjectName>;

#[derive(Debug, Default)]
struct ServiceState {
    /// None: deleted, or only its slices have been seen so far.
    spec: Option<Box<Service>>,
    epoch: u32,
    slices: Vec<(Box<str>, Slice)>,
    entries: OwnerEntries,
}

#[derive(Debug)]
struct SliceOwner {
    service: Name,
    epoch: u32,
}

#[derive(Debug)]
pub(crate) struct Services {
    own_node: Arc<str>,
    config: ServiceConfig,
    services: HashMap<Name, ServiceState>,
    slice_owners: HashMap<ObjectName, SliceOwner>,
    host_ports: HostPorts,
    frontend_owners: FrontendOwners,
    allocators: Allocators,
    interner: Interner,
    health: BTreeMap<ObjectName, HealthCheck>,
    health_changes: BTreeMap<ObjectName, Option<HealthCheck>>,
    /// Services with hints, which depend on this node's zone.
    hinted: BTreeSet<Name>,
    dirty: BTreeSet<Owner>,
}

impl Services {
    pub(crate) fn new(own_node: &str, config: ServiceConfig) -> Services {
        Services {
            own_node: own_node.into(),
            services: HashMap::new(),
            slice_owners: HashMap::new(),
            host_ports: HostPorts::new(own_node, config.host_ports),
            frontend_owners: FrontendOwners::default(),
            allocators: Allocators::new(config.maglev.clone()),
            interner: Interner::default(),
            health: BTreeMap::new(),
            health_changes: BTreeMap::new(),
            hinted: BTreeSet::new(),
            dirty: BTreeSet::new(),
            config,
        }
    }

    pub(crate) fn serves_host_ports(&self) -> bool {
        self.config.host_ports
    }

    pub(crate) fn adopt(&mut self, actual: &Contents) {
        self.allocators.adopt(actual);
    }

    pub(crate) fn finish_adoption(&mut self) {
        self.allocators.finish_adoption();
    }

    pub(crate) fn apply(&mut self, service: Service, epoch: u32) {
        let name = self.name(&service.name);
        let state = self.services.entry(name.clone()).or_default();
        state.epoch = epoch;
        if state.spec.as_deref() == Some(&service) {
            return;
        }
        let old = state.spec.replace(Box::new(service.clone()));
        self.update_candidates(&name, old.as_deref(), Some(&service));
        self.dirty.insert(Owner::Service(name));
    }

    pub(crate) fn delete(&mut self, name: &ObjectName) {
        let Some(old) = self.services.get_mut(name).and_then(|state| state.spec.take()) else { return };
        let name = self.name(name);
        self.update_candidates(&name, Some(&old), None);
        self.dirty.insert(Owner::Service(name));
    }

    pub(crate) fn apply_pod(&mut self, pod: &Pod) {
        self.dirty.extend(self.host_ports.apply(pod, &mut self.frontend_owners));
    }

    pub(crate) fn delete_pod(&mut self, name: &ObjectName) {
        self.dirty.extend(self.host_ports.delete(name, &mut self.frontend_owners));
    }

    pub(crate) fn apply_slice(&mut self, slice: EndpointSlice, epoch: u32, problem_store: &mut ProblemStore) {
        let name = slice.name.clone();
        let service = self.name(&ObjectName::new(&name.namespace, &slice.service));
        if self.slice_owners.get(&name).is_some_and(|owner| owner.service != service) {
            self.delete_slice(&name, problem_store);
        }
        let (slice, problems) = Slice::compact(slice, &mut self.interner);
        problem_store.set_problems(Kind::EndpointSlice, &name, problems);
        if slice.endpoints.iter().any(|endpoint| endpoint.hints.is_some()) {
            self.hinted.insert(service.clone());
        }
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
            self.dirty.insert(Owner::Service(service.clone()));
        }
        self.slice_owners.insert(name, SliceOwner { service, epoch });
    }

    pub(crate) fn delete_slice(&mut self, name: &ObjectName, problem_store: &mut ProblemStore) {
        let Some(owner) = self.slice_owners.remove(name) else { return };
        problem_store.set_problems(Kind::EndpointSlice, name, Vec::new());
        if let Some(state) = self.services.get_mut(&owner.service) {
            state.slices.retain(|(known, _)| **known != *name.name);
        }
        self.dirty.insert(Owner::Service(owner.service));
    }

    pub(crate) fn older_than(&self, epoch: u32) -> Vec<ObjectName> {
        let old = self.services.iter().filter(|(_, state)| state.spec.is_some() && state.epoch != epoch);
        old.map(|(name, _)| ObjectName::clone(name)).collect()
    }

    pub(crate) fn slices_older_than(&self, epoch: u32) -> Vec<ObjectName> {
        let old = self.slice_owners.iter().filter(|(_, owner)| owner.epoch != epoch);
        old.map(|(name, _)| name.clone()).collect()
    }

    /// Pods by address, as far as they are endpoints of a Service.
    pub(crate) fn pods(&self) -> impl Iterator<Item = (IpAddr, &Arc<str>)> {
        let slices = self.services.values().flat_map(|state| &state.slices);
        let endpoints = slices.flat_map(|(_, slice)| &slice.endpoints);
        endpoints.filter_map(|endpoint| Some((endpoint.ip.into(), endpoint.pod.as_ref()?)))
    }

    /// Services (and pods with hostPorts) by service id.
    pub(crate) fn names(&self) -> Vec<ServiceName> {
        let mut names: Vec<ServiceName> = self
            .owner_entries()
            .flat_map(|(name, entries)| {
                entries.services().map(move |(id, key)| ServiceName::of(id, name, key))
            })
            .collect();
        names.sort();
        names
    }

    /// Services and pods by frontend address.
    pub(crate) fn address_names(&self) -> Vec<(IpAddr, String)> {
        let mut names: BTreeMap<IpAddr, String> = BTreeMap::new();
        for (name, entries) in self.owner_entries() {
            for ip in entries
                .addresses()
                .filter(|ip| !self.frontend_owners.is_node(ip) && !service_problems::is_loopback(*ip))
            {
                let known = names.entry(ip.into()).or_insert_with(|| name.to_string());
                *known = known.clone().min(name.to_string());
            }
        }
        names.into_iter().collect()
    }

    /// Frontends other than ClusterIPs.
    pub(crate) fn frontend_names(&self) -> Vec<FrontendName> {
        let addresses = self.owner_entries().flat_map(|(_, entries)| entries.frontend_addresses());
        let mut names: Vec<FrontendName> = addresses.filter_map(FrontendName::of).collect();
        names.sort();
        names
    }

    fn owner_entries(&self) -> impl Iterator<Item = (&Name, &OwnerEntries)> {
        let services = self.services.iter().map(|(name, state)| (name, &state.entries));
        services.chain(self.host_ports.pods.iter().map(|(name, state)| (name, &state.entries)))
    }

    pub(crate) fn take_health_changes(&mut self) -> BTreeMap<ObjectName, Option<HealthCheck>> {
        std::mem::take(&mut self.health_changes)
    }

    fn set_health(&mut self, name: &ObjectName, check: Option<HealthCheck>) {
        if self.health.get(name) == check.as_ref() {
            return;
        }
        match &check {
            Some(check) => drop(self.health.insert(name.clone(), check.clone())),
            None => drop(self.health.remove(name)),
        }
        self.health_changes.insert(name.clone(), check);
    }

    /// Rebuilds the marked owners: first all removals, then all additions, so
    /// that an entry that moves from one owner to another ends up with the new
    /// one.
    pub(crate) fn drain(
        &mut self,
        changes: NodeChanges,
        nodes: &Nodes,
        delta: &mut Delta,
        problem_store: &mut ProblemStore,
    ) {
        self.apply_node_changes(changes, nodes, delta);
        let dirty = std::mem::take(&mut self.dirty);
        for owner in &dirty {
            self.remove_stale_entries(owner, delta);
        }
        for owner in &dirty {
            match owner {
                Owner::Service(name) => self.update_service(owner, name, nodes, delta, problem_store),
                Owner::Pod(name) => self.update_pod(owner, name, nodes, delta, problem_store),
            }
        }
        self.allocators.write_changes(nodes, delta);
    }

    fn apply_node_changes(&mut self, changes: NodeChanges, nodes: &Nodes, delta: &mut Delta) {
        for node in &changes.renumbered {
            self.allocators.backends.renumber(node, nodes, delta);
        }
        for ip in changes.addresses {
            let is_node = nodes.with_address(&ip).is_some();
            let has_node_ports = is_node && self.config.serves_node_ports_at(ip.into());
            self.allocators.addresses.set_node(ip, is_node, has_node_ports);
            self.dirty.extend(self.frontend_owners.set_node(ip, is_node));
        }
        if changes.own_addresses {
            self.dirty
                .extend(self.host_ports.set_own_addresses(nodes.own_addresses(), &mut self.frontend_owners));
        }
        if changes.own_zone {
            self.dirty.extend(self.hinted.iter().cloned().map(Owner::Service));
        }
    }

    fn name(&self, name: &ObjectName) -> Name {
        match self.services.get_key_value(name) {
            Some((known, _)) => known.clone(),
            None => Arc::new(name.clone()),
        }
    }

    /// Updates the frontends that the Service requests, and marks the owners
    /// whose assignment may have changed.
    fn update_candidates(&mut self, name: &Name, old: Option<&Service>, new: Option<&Service>) {
        let of = |service: Option<&Service>| -> BTreeSet<(FrontendAddress, FrontendKind)> {
            let requests =
                service.map(|service| requested_frontends(service, &self.config)).unwrap_or_default();
            requests.into_iter().map(|request| (request.address, request.kind)).collect()
        };
        let (old, new) = (of(old), of(new));
        let owner = Owner::Service(name.clone());
        for (address, kind) in old.difference(&new) {
            self.dirty.extend(self.frontend_owners.remove_candidate(*address, &(*kind, owner.clone())));
        }
        for (address, kind) in new.difference(&old) {
            self.dirty.extend(self.frontend_owners.add_candidate(*address, (*kind, owner.clone())));
        }
    }

    /// The frontends that the owner should have.
    fn desired_frontends(&self, owner: &Owner) -> Vec<DesiredFrontend> {
        match owner {
            Owner::Service(name) => {
                let spec = self.services.get(name).and_then(|state| state.spec.as_deref());
                let Some(spec) = spec else { return Vec::new() };
                let requests = requested_frontends(spec, &self.config).into_iter();
                let assigned =
                    requests.filter(|request| self.is_assigned(owner, request.address, request.kind));
                assigned.flat_map(|request| request.desired_frontends(spec, &self.config)).collect()
            }
            Owner::Pod(name) => {
                let requests = self.host_ports.pods.get(name).map(|state| state.requests.as_slice());
                let requests = requests.unwrap_or_default().iter();
                let assigned = requests
                    .filter(|request| self.is_assigned(owner, request.address, FrontendKind::HostPort));
                assigned.flat_map(|request| request.desired_frontends()).collect()
            }
        }
    }

    fn is_assigned(&self, owner: &Owner, address: FrontendAddress, kind: FrontendKind) -> bool {
        self.frontend_owners.assigned(address).is_some_and(|(of, by)| *of == kind && by == owner)
    }

    /// Removes the entries that the owner should no longer have.
    fn remove_stale_entries(&mut self, owner: &Owner, delta: &mut Delta) {
        let desired_frontends = self.desired_frontends(owner);
        match owner {
            Owner::Service(name) => {
                let Some(state) = self.services.get_mut(name) else { return };
                self.allocators.remove_stale(&mut state.entries, &desired_frontends, true, delta);
                if state.spec.is_none() {
                    if state.slices.is_empty() {
                        self.services.remove(name);
                        self.hinted.remove(name);
                    }
                    self.set_health(name, None);
                }
            }
            Owner::Pod(name) => {
                let Some(state) = self.host_ports.pods.get_mut(name) else { return };
                self.allocators.remove_stale(&mut state.entries, &desired_frontends, false, delta);
            }
        }
    }
}

impl ServiceConfig {
    fn serves_node_ports_at(&self, ip: IpAddr) -> bool {
        let ranges: &[IpNet] = &self.node_port_addresses;
        self.node_ports && (ranges.is_empty() || ranges.iter().any(|range| range.contains(&ip)))
    }
}

impl FrontendName {
    fn of((address, kind): (FrontendAddress, FrontendKind)) -> Option<FrontendName> {
        match address.ip {
            FrontendIp::Exact(ip) if kind != FrontendKind::ClusterIp => {
                Some(FrontendName { ip: Ip::into(ip), port: address.port, proto: address.proto, kind })
            }
            _ => None,
        }
    }
}
