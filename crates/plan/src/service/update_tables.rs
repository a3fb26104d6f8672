//! Rebuilds the table entries of a Service or pod: selects the backends of each
//! of its ports, and collects its problems.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use beeline_abi::service::{SCOPE_EXTERNAL, SlotValue};
use beeline_model::{Algorithm, Kind, Protocol, Service, SourceRanges};
use beeline_sync::Delta;

use super::{Name, ServiceState, Services};
use crate::backend::Backend;
use crate::endpoint_selection::{LocalNode, ServiceEndpoint, port_endpoints, select};
use crate::frontend_address::{FrontendKind, Owner};
use crate::health_check_node_port::{self, HealthCheck};
use crate::maglev_table;
use crate::node::Nodes;
use crate::problems::{ProblemDetail, ProblemStore};
use crate::service_frontends::{requested_frontends, usable_ports};
use crate::service_problems;
use crate::service_tables::{DesiredFrontend, PortBackends, PortKey};

impl Services {
    pub(super) fn update_service(
        &mut self,
        owner: &Owner,
        name: &Name,
        nodes: &Nodes,
        delta: &mut Delta,
        problem_store: &mut ProblemStore,
    ) {
        let desired_frontends = self.desired_frontends(owner);
        let (mut problems, mut ignored_fields, mut orphaned_slices) = (Vec::new(), Vec::new(), Vec::new());
        if let Some(mut state) = self.services.remove(name) {
            if let Some(spec) = state.spec.take() {
                let requests = requested_frontends(&spec, &self.config);
                problems = service_problems::problems(
                    owner,
                    &spec,
                    &requests,
                    &self.config,
                    &self.frontend_owners,
                    nodes,
                );
                ignored_fields = service_problems::disabled_features(&spec, &self.config);
                self.update_entries(&mut state, &spec, &desired_frontends, nodes, delta, &mut problems);
                state.spec = Some(spec);
            } else {
                orphaned_slices = state.slices.iter().map(|(slice, _)| slice.clone()).collect();
                orphaned_slices.sort();
            }
            self.services.insert(name.clone(), state);
        }
        problem_store.set_problems(Kind::Service, name, problems);
        problem_store.set_ignored_fields(Kind::Service, name, ignored_fields);
        problem_store.set_orphaned_slices(name, orphaned_slices);
    }

    /// Updates the frontends and slots of a Service.
    fn update_entries(
        &mut self,
        state: &mut ServiceState,
        spec: &Service,
        desired_frontends: &[DesiredFrontend],
        nodes: &Nodes,
        delta: &mut Delta,
        problems: &mut Vec<ProblemDetail>,
    ) {
        let node = self.own_node.clone();
        let local_node = LocalNode { node: &node, zone: nodes.own_zone() };
        let keys: BTreeSet<PortKey> = desired_frontends.iter().map(|desired| desired.port).collect();
        let mut port_backends: BTreeMap<PortKey, PortBackends> = BTreeMap::new();
        let mut endpoint_backends: Vec<(Arc<Backend>, bool)> = Vec::new();
        let mut local = health_check_node_port::LocalEndpoints::default();
        for port in usable_ports(spec) {
            for ipv6 in [false, true] {
                let key = |local| PortKey { ipv6, port: port.port, proto: port.protocol.number(), local };
                let keys = [key(false), key(true)].map(|key| keys.contains(&key).then_some(key));
                if keys == [None, None] {
                    continue;
                }
                let slices = state.slices.iter().map(|(_, slice)| slice);
                let endpoints = port_endpoints(spec, port, ipv6, slices, local_node);
                local.add(&endpoints, &node);
                if port.protocol == Protocol::Sctp {
                    problems.extend(sctp_problem(port.port, desired_frontends, ipv6, &endpoints));
                }
                let mut selected = self.select_backends(keys, &endpoints, local_node, nodes, delta);
                for (key, port_backends) in &mut selected.port_backends {
                    port_backends.affinity_s =
                        if self.config.affinity { spec.affinity_s.unwrap_or(0) } else { 0 };
                    port_backends.consistent = self.is_consistent(spec, *key, desired_frontends);
                    problems.extend(maglev_table::problem(port.port, &port_backends.weighted_backends()));
                }
                port_backends.append(&mut selected.port_backends);
                endpoint_backends.append(&mut selected.endpoint_backends);
            }
        }
        self.allocators.update(
            &mut state.entries,
            desired_frontends,
            true,
            &spec.source_ranges,
            &mut port_backends,
            delta,
        );
        endpoint_backends.shrink_to_fit();
        self.allocators.set_endpoints(&mut state.entries, endpoint_backends);
        let health_port = health_check_node_port::port(spec).filter(|_| self.config.node_ports);
        let local_endpoints = local.total();
        let check = health_port.map(|port| HealthCheck { service: spec.name.clone(), port, local_endpoints });
        self.set_health(&spec.name, check);
    }

    /// The Service's annotation decides. Without one, the configured default
    /// applies to external frontends, because all nodes must select the same
    /// backend there.
    fn is_consistent(&self, spec: &Service, key: PortKey, desired_frontends: &[DesiredFrontend]) -> bool {
        let is_external =
            || desired_frontends.iter().any(|desired| desired.port == key && desired.scope == SCOPE_EXTERNAL);
        match spec.algorithm {
            Some(algorithm) => algorithm == Algorithm::Maglev,
            None => self.config.maglev.external_default && is_external(),
        }
    }

    /// Selects the backends of one port and family, for each traffic policy in
    /// use.
    fn select_backends(
        &mut self,
        keys: [Option<PortKey>; 2],
        endpoints: &[ServiceEndpoint],
        local_node: LocalNode<'_>,
        nodes: &Nodes,
        delta: &mut Delta,
    ) -> SelectedBackends {
        let selection = select(endpoints, local_node);
        let mut selected = SelectedBackends::default();
        let proto = keys.iter().flatten().next().map_or(0, |key| key.proto);
        let endpoint_backends: Vec<Arc<Backend>> = endpoints
            .iter()
            .map(|endpoint| {
                let node = endpoint.node.clone();
                self.allocators.backends.get(endpoint.ip, endpoint.port, proto, node, nodes, delta)
            })
            .collect();
        let mut active: Vec<bool> = endpoints.iter().map(|endpoint| endpoint.ready).collect();
        for (key, chosen) in keys.into_iter().zip([&selection.cluster, &selection.local]) {
            let Some(key) = key else { continue };
            chosen.iter().for_each(|at| active[*at] = true);
            let backends = chosen.iter().map(|at| endpoint_backends[*at].clone()).collect();
            let weights = chosen.iter().map(|at| endpoints[*at].weight).collect();
            let only_remote = key.local && selection.any;
            let is_udp = proto == Protocol::Udp.number();
            let may_serve =
                |endpoint: &ServiceEndpoint| !key.local || endpoint.node.as_deref() == Some(local_node.node);
            let quiescing = match is_udp {
                true => quiescing(chosen, endpoints, &endpoint_backends, may_serve),
                false => Vec::new(),
            };
            selected.port_backends.insert(
                key,
                PortBackends { backends, weights, only_remote, quiescing, ..PortBackends::default() },
            );
        }
        selected.endpoint_backends = endpoint_backends.into_iter().zip(active).collect();
        selected
    }

    pub(super) fn update_pod(
        &mut self,
        owner: &Owner,
        name: &Name,
        nodes: &Nodes,
        delta: &mut Delta,
        problem_store: &mut ProblemStore,
    ) {
        let desired_frontends = self.desired_frontends(owner);
        let Some(mut state) = self.host_ports.pods.remove(name) else { return };
        let node = Some(self.interner.get(&self.own_node));
        let mut port_backends: BTreeMap<PortKey, PortBackends> = BTreeMap::new();
        let mut endpoint_backends = Vec::new();
        let keys: BTreeSet<PortKey> = desired_frontends.iter().map(|desired| desired.port).collect();
        for key in keys {
            let Some(ip) = state.ip(key.ipv6) else { continue };
            let backend = self.allocators.backends.get(ip, key.port, key.proto, node.clone(), nodes, delta);
            endpoint_backends.push((backend.clone(), true));
            port_backends.insert(key, PortBackends { backends: vec![backend], ..PortBackends::default() });
        }
        let no_ranges = SourceRanges::default();
        self.allocators.update(
            &mut state.entries,
            &desired_frontends,
            false,
            &no_ranges,
            &mut port_backends,
            delta,
        );
        self.allocators.set_endpoints(&mut state.entries, endpoint_backends);
        let lost = state.requests.iter().filter_map(|request| {
            service_problems::frontend_conflict(
                owner,
                request.address,
                FrontendKind::HostPort,
                &self.frontend_owners,
                nodes,
            )
        });
        problem_store.set_problems(Kind::Pod, name, lost.collect());
        if !state.requests.is_empty() || state.ip(false).is_some() || state.ip(true).is_some() {
            self.host_ports.pods.insert(name.clone(), state);
        }
    }
}

#[derive(Default)]
struct SelectedBackends {
    port_backends: BTreeMap<PortKey, PortBackends>,
    endpoint_backends: Vec<(Arc<Backend>, bool)>,
}

/// Ready backends that are not in `chosen` (sorted indices). Hints or a weight
/// of 0 keep new clients away from them; existing clients stay.
fn quiescing(
    chosen: &[usize],
    endpoints: &[ServiceEndpoint],
    endpoint_backends: &[Arc<Backend>],
    may_serve: impl Fn(&ServiceEndpoint) -> bool,
) -> Vec<SlotValue> {
    let is_ready = |at: &usize| endpoints[*at].ready && may_serve(&endpoints[*at]);
    let rest = (0..endpoints.len()).filter(|at| is_ready(at) && chosen.binary_search(at).is_err());
    rest.map(|at| endpoint_backends[at].slot()).collect()
}

/// SCTP needs equal ports, on every node: reports a frontend port that differs
/// from its target port.
fn sctp_problem(
    port: u16,
    desired_frontends: &[DesiredFrontend],
    ipv6: bool,
    endpoints: &[ServiceEndpoint],
) -> Option<ProblemDetail> {
    let of_port = |desired: &&DesiredFrontend| {
        (desired.port.port, desired.port.ipv6, desired.port.proto) == (port, ipv6, Protocol::Sctp.number())
    };
    let numbers: BTreeSet<u16> =
        desired_frontends.iter().filter(of_port).map(|desired| desired.address.port).collect();
    let pairs =
        numbers.into_iter().flat_map(|number| endpoints.iter().map(move |endpoint| (number, endpoint.port)));
    pairs.filter_map(|(number, endpoint)| service_problems::sctp_port_mismatch(port, number, endpoint)).min()
}
