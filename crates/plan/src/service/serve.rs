//! Brings what an owner has in step with what it wants: who serves each of
//! its ports, and what it is told about the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use beeline_abi::service::{SCOPE_EXTERNAL, SlotValue};
use beeline_model::{Algorithm, Kind, Protocol, Service, SourceRanges};
use beeline_sync::Delta;

use super::{Name, ServiceState, Services};
use crate::backend::Backend;
use crate::explain;
use crate::health::{self, HealthCheck};
use crate::node::Nodes;
use crate::problems::{Book, Complaint};
use crate::program::{PortKey, Serving, Want};
use crate::select::{Here, Target, choose, targets};
use crate::shares;
use crate::spot::{FrontendKind, Owner};
use crate::wish::{usable_ports, wishes};

impl Services {
    pub(super) fn build_up_service(
        &mut self,
        owner: &Owner,
        name: &Name,
        nodes: &Nodes,
        delta: &mut Delta,
        book: &mut Book,
    ) {
        let wants = self.wants(owner);
        let (mut problems, mut notes, mut strays) = (Vec::new(), Vec::new(), Vec::new());
        if let Some(mut state) = self.services.remove(name) {
            if let Some(spec) = state.spec.take() {
                let wishes = wishes(&spec, &self.config);
                problems = explain::problems(owner, &spec, &wishes, &self.config, &self.spots, nodes);
                notes = explain::switched_off(&spec, &self.config);
                self.serve(&mut state, &spec, &wants, nodes, delta, &mut problems);
                state.spec = Some(spec);
            } else {
                strays = state.slices.iter().map(|(slice, _)| slice.clone()).collect();
                strays.sort();
            }
            self.services.insert(name.clone(), state);
        }
        book.set_problems(Kind::Service, name, problems);
        book.set_not_built(Kind::Service, name, notes);
        book.set_strays(name, strays);
    }

    /// Brings frontends and slots of a Service up to date.
    fn serve(
        &mut self,
        state: &mut ServiceState,
        spec: &Service,
        wants: &[Want],
        nodes: &Nodes,
        delta: &mut Delta,
        problems: &mut Vec<Complaint>,
    ) {
        let node = self.own_node.clone();
        let here = Here { node: &node, zone: nodes.own_zone() };
        let keys: BTreeSet<PortKey> = wants.iter().map(|want| want.port).collect();
        let mut serving: BTreeMap<PortKey, Serving> = BTreeMap::new();
        let mut listed: Vec<(Arc<Backend>, bool)> = Vec::new();
        let mut local = health::Count::default();
        for port in usable_ports(spec) {
            for ipv6 in [false, true] {
                let key = |local| PortKey { ipv6, port: port.port, proto: port.protocol.number(), local };
                let keys = [key(false), key(true)].map(|key| keys.contains(&key).then_some(key));
                if keys == [None, None] {
                    continue;
                }
                let slices = state.slices.iter().map(|(_, slice)| slice);
                let targets = targets(spec, port, ipv6, slices, here);
                local.add(&targets, &node);
                if port.protocol == Protocol::Sctp {
                    problems.extend(sctp_problem(port.port, wants, ipv6, &targets));
                }
                let mut found = self.choose(keys, &targets, here, nodes, delta);
                for (key, serving) in &mut found.serving {
                    serving.affinity_s = if self.config.affinity { spec.affinity_s.unwrap_or(0) } else { 0 };
                    serving.consistent = self.is_consistent(spec, *key, wants);
                    problems.extend(shares::problem(port.port, &serving.shares()));
                }
                serving.append(&mut found.serving);
                listed.append(&mut found.listed);
            }
        }
        self.workshop.build_up(&mut state.program, wants, true, &spec.source_ranges, &mut serving, delta);
        listed.shrink_to_fit();
        self.workshop.list(&mut state.program, listed);
        let asked = health::port(spec).filter(|_| self.config.node_ports);
        let local_endpoints = local.total();
        let check = asked.map(|port| HealthCheck { service: spec.name.clone(), port, local_endpoints });
        self.set_health(&spec.name, check);
    }

    /// A Service says how it chooses, or the configuration does for what is
    /// served to the outside: other nodes have to choose the same.
    fn is_consistent(&self, spec: &Service, key: PortKey, wants: &[Want]) -> bool {
        let is_external = || wants.iter().any(|want| want.port == key && want.scope == SCOPE_EXTERNAL);
        match spec.algorithm {
            Some(algorithm) => algorithm == Algorithm::Maglev,
            None => self.config.shares.maglev && is_external(),
        }
    }

    /// Who serves one port of one family, for each policy that is in use.
    fn choose(
        &mut self,
        keys: [Option<PortKey>; 2],
        targets: &[Target],
        here: Here<'_>,
        nodes: &Nodes,
        delta: &mut Delta,
    ) -> Found {
        let choice = choose(targets, here);
        let mut found = Found::default();
        let proto = keys.iter().flatten().next().map_or(0, |key| key.proto);
        let listed: Vec<Arc<Backend>> = targets
            .iter()
            .map(|target| {
                let node = target.node.clone();
                self.workshop.backends.get(target.ip, target.port, proto, node, nodes, delta)
            })
            .collect();
        let mut active: Vec<bool> = targets.iter().map(|target| target.ready).collect();
        for (key, chosen) in keys.into_iter().zip([&choice.cluster, &choice.local]) {
            let Some(key) = key else { continue };
            chosen.iter().for_each(|at| active[*at] = true);
            let backends = chosen.iter().map(|at| listed[*at].clone()).collect();
            let weights = chosen.iter().map(|at| targets[*at].weight).collect();
            let elsewhere = key.local && choice.any;
            let is_datagrams = proto == Protocol::Udp.number();
            let may_serve = |target: &Target| !key.local || target.node.as_deref() == Some(here.node);
            let kept = match is_datagrams {
                true => kept(chosen, targets, &listed, may_serve),
                false => Vec::new(),
            };
            found.serving.insert(key, Serving { backends, weights, elsewhere, kept, ..Serving::default() });
        }
        found.listed = listed.into_iter().zip(active).collect();
        found
    }

    pub(super) fn build_up_pod(
        &mut self,
        owner: &Owner,
        name: &Name,
        nodes: &Nodes,
        delta: &mut Delta,
        book: &mut Book,
    ) {
        let wants = self.wants(owner);
        let Some(mut state) = self.host_ports.pods.remove(name) else { return };
        let node = Some(self.interner.get(&self.own_node));
        let mut serving: BTreeMap<PortKey, Serving> = BTreeMap::new();
        let mut listed = Vec::new();
        let keys: BTreeSet<PortKey> = wants.iter().map(|want| want.port).collect();
        for key in keys {
            let Some(ip) = state.ip(key.ipv6) else { continue };
            let backend = self.workshop.backends.get(ip, key.port, key.proto, node.clone(), nodes, delta);
            listed.push((backend.clone(), true));
            serving.insert(key, Serving { backends: vec![backend], ..Serving::default() });
        }
        let nobody = SourceRanges::default();
        self.workshop.build_up(&mut state.program, &wants, false, &nobody, &mut serving, delta);
        self.workshop.list(&mut state.program, listed);
        let lost = state
            .wishes
            .iter()
            .filter_map(|wish| explain::lost(owner, wish.spot, FrontendKind::HostPort, &self.spots, nodes));
        book.set_problems(Kind::Pod, name, lost.collect());
        if !state.wishes.is_empty() || state.ip(false).is_some() || state.ip(true).is_some() {
            self.host_ports.pods.insert(name.clone(), state);
        }
    }
}

#[derive(Default)]
struct Found {
    serving: BTreeMap<PortKey, Serving>,
    listed: Vec<(Arc<Backend>, bool)>,
}

/// Ready, but not `chosen` (places in order): hints or a weight of 0 keep new
/// clients away, and those that are there may stay.
fn kept(
    chosen: &[usize],
    targets: &[Target],
    listed: &[Arc<Backend>],
    may_serve: impl Fn(&Target) -> bool,
) -> Vec<SlotValue> {
    let is_ready = |at: &usize| targets[*at].ready && may_serve(&targets[*at]);
    let rest = (0..targets.len()).filter(|at| is_ready(at) && chosen.binary_search(at).is_err());
    rest.map(|at| listed[at].slot()).collect()
}

/// A frontend whose port SCTP would have to be translated from: the same one on every node.
fn sctp_problem(port: u16, wants: &[Want], ipv6: bool, targets: &[Target]) -> Option<Complaint> {
    let of_port = |want: &&Want| {
        (want.port.port, want.port.ipv6, want.port.proto) == (port, ipv6, Protocol::Sctp.number())
    };
    let numbers: BTreeSet<u16> = wants.iter().filter(of_port).map(|want| want.spot.port).collect();
    let pairs =
        numbers.into_iter().flat_map(|number| targets.iter().map(move |target| (number, target.port)));
    pairs.filter_map(|(number, target)| explain::sctp(port, number, target)).min()
}
