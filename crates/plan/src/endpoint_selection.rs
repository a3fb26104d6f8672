//! Selects the endpoints of a Service port, with the same rules as kube-proxy:
//! readiness, traffic policy, and topology hints.
//!
//! Sources: KEP-1669 (terminating endpoints), KEP-2433 (zone hints) and KEP-3015
//! (node hints).

use std::sync::Arc;

use beeline_abi::Ip;
use beeline_model::{Service, ServicePort};

use crate::maglev_permutation::WEIGHT_MAX;
use crate::slice::{Slice, SliceEndpoint};

/// An endpoint of a Service port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceEndpoint {
    pub(crate) ip: Ip,
    pub(crate) port: u16,
    pub(crate) node: Option<Arc<str>>,
    pub(crate) ready: bool,
    /// Serving and terminating: used only if no endpoint is ready.
    draining: bool,
    hints: Hints,
    /// 1..=[`WEIGHT_MAX`], or 0: gets no new connections.
    pub(crate) weight: u16,
}

/// Topology hints of the endpoint (`hints.forNodes`, `hints.forZones`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Hints {
    names_nodes: bool,
    names_own_node: bool,
    names_zones: bool,
    names_own_zone: bool,
}

/// This node, from which packets are sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalNode<'a> {
    pub(crate) node: &'a str,
    pub(crate) zone: Option<&'a str>,
}

/// The selected endpoints, by traffic policy.
#[derive(Debug)]
pub(crate) struct Selection {
    /// `Cluster`: indices in the list of endpoints.
    pub(crate) cluster: Vec<usize>,
    /// `Local`: endpoints on this node.
    pub(crate) local: Vec<usize>,
    /// At least one endpoint in the cluster is usable.
    pub(crate) any: bool,
}

/// All endpoints of the family that the slices list for the port, sorted and
/// without duplicate addresses and ports.
pub(crate) fn port_endpoints<'a>(
    service: &Service,
    port: &ServicePort,
    ipv6: bool,
    slices: impl Iterator<Item = &'a Slice>,
    local_node: LocalNode<'_>,
) -> Vec<ServiceEndpoint> {
    let listed = slices
        .filter(|slice| slice.ipv6 == ipv6)
        .flat_map(|slice| slice.ports.iter().map(move |port| (slice, port)))
        .filter(|(_, of)| *of.name == *port.name && of.protocol == port.protocol)
        .flat_map(|(slice, of)| slice.endpoints.iter().map(move |endpoint| (slice, endpoint, of.port)));
    let mut endpoints: Vec<ServiceEndpoint> = listed
        .map(|(slice, endpoint, port)| ServiceEndpoint {
            ip: endpoint.ip,
            port,
            node: endpoint.node.clone(),
            ready: endpoint.ready || service.publish_not_ready,
            draining: endpoint.draining,
            hints: hints(endpoint, local_node),
            weight: slice.weight.min(WEIGHT_MAX),
        })
        .collect();
    // If slices disagree about the node, the first node by name is used, so
    // that the order of the slices does not matter.
    endpoints.sort_by(|a, b| {
        (a.ip, a.port, a.node.is_none(), &a.node).cmp(&(b.ip, b.port, b.node.is_none(), &b.node))
    });
    endpoints.dedup_by(|other, first| {
        let same = (other.ip, other.port) == (first.ip, first.port);
        if same {
            first.merge(other);
        }
        same
    });
    endpoints
}

impl ServiceEndpoint {
    fn merge(&mut self, other: &ServiceEndpoint) {
        self.ready |= other.ready;
        self.draining |= other.draining;
        self.weight = self.weight.max(other.weight);
        self.hints.names_nodes |= other.hints.names_nodes;
        self.hints.names_own_node |= other.hints.names_own_node;
        self.hints.names_zones |= other.hints.names_zones;
        self.hints.names_own_zone |= other.hints.names_own_zone;
    }
}

fn hints(endpoint: &SliceEndpoint, local_node: LocalNode<'_>) -> Hints {
    let Some(hints) = &endpoint.hints else { return Hints::default() };
    Hints {
        names_nodes: !hints.nodes.is_empty(),
        names_own_node: hints.nodes.iter().any(|node| **node == *local_node.node),
        names_zones: !hints.zones.is_empty(),
        names_own_zone: hints.zones.iter().any(|zone| Some(&**zone) == local_node.zone),
    }
}

/// Ready endpoints are selected. If there is none, endpoints that are serving
/// and terminating are, separately for each policy. Hints apply to policy
/// `Cluster` only.
pub(crate) fn select(endpoints: &[ServiceEndpoint], local_node: LocalNode<'_>) -> Selection {
    let indices = |accept: fn(&ServiceEndpoint) -> bool| -> Vec<usize> {
        (0..endpoints.len()).filter(|at| accept(&endpoints[*at])).collect()
    };
    let ready = indices(|endpoint| endpoint.ready && endpoint.weight != 0);
    let draining = indices(|endpoint| !endpoint.ready && endpoint.draining && endpoint.weight != 0);
    let local = |of: &[usize]| -> Vec<usize> {
        of.iter().copied().filter(|at| endpoints[*at].node.as_deref() == Some(local_node.node)).collect()
    };
    let any = !ready.is_empty() || !draining.is_empty();
    let (local_ready, local_draining) = (local(&ready), local(&draining));
    Selection {
        cluster: if ready.is_empty() { draining } else { filter_by_hints(endpoints, ready) },
        local: if local_ready.is_empty() { local_draining } else { local_ready },
        any,
    }
}

/// Hints apply only if every ready endpoint has one and at least one of them is
/// for this node or zone. Node hints come before zone hints. Otherwise all
/// ready endpoints are selected.
fn filter_by_hints(endpoints: &[ServiceEndpoint], ready: Vec<usize>) -> Vec<usize> {
    let hints = |at: &usize| &endpoints[*at].hints;
    let hinted = |has: fn(&Hints) -> bool, own: fn(&Hints) -> bool| {
        ready.iter().all(|at| has(hints(at))) && ready.iter().any(|at| own(hints(at)))
    };
    let only = |own: fn(&Hints) -> bool| ready.iter().copied().filter(|at| own(hints(at))).collect();
    if hinted(|hints| hints.names_nodes, |hints| hints.names_own_node) {
        only(|hints| hints.names_own_node)
    } else if hinted(|hints| hints.names_zones, |hints| hints.names_own_zone) {
        only(|hints| hints.names_own_zone)
    } else {
        ready
    }
}
