//! Which endpoints serve a Service port: as kube-proxy chooses them.

use std::sync::Arc;

use beeline_abi::Ip;
use beeline_model::{Service, ServicePort};

use crate::slice::{Slice, SliceEndpoint};

/// An endpoint that serves.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Target {
    pub(crate) ip: Ip,
    pub(crate) port: u16,
    pub(crate) node: Option<Arc<str>>,
}

/// The ready endpoints of the family; if there is none, those that terminate
/// but still serve. Sorted, each address and port once.
pub(crate) fn select<'a>(
    service: &Service,
    port: &ServicePort,
    ipv6: bool,
    slices: impl Iterator<Item = &'a Slice> + Clone,
    own_node: &str,
) -> Vec<Target> {
    let candidates = move || {
        slices
            .clone()
            .filter(move |slice| slice.ipv6 == ipv6)
            .flat_map(|slice| slice.ports.iter().map(move |port| (slice, port)))
            .filter(|(_, of)| *of.name == *port.name && of.protocol == port.protocol)
            .flat_map(|(slice, of)| slice.endpoints.iter().map(move |endpoint| (endpoint, of.port)))
            .filter(|(endpoint, _)| !service.internal_local || endpoint.node.as_deref() == Some(own_node))
    };
    let ready = |endpoint: &SliceEndpoint| endpoint.ready || service.publish_not_ready;
    let ready_targets = targets(candidates().filter(|(endpoint, _)| ready(endpoint)));
    if ready_targets.is_empty() {
        return targets(candidates().filter(|(endpoint, _)| endpoint.draining));
    }
    ready_targets
}

fn targets<'a>(endpoints: impl Iterator<Item = (&'a SliceEndpoint, u16)>) -> Vec<Target> {
    let mut targets: Vec<Target> = endpoints
        .map(|(endpoint, port)| Target { ip: endpoint.ip, port, node: endpoint.node.clone() })
        .collect();
    // Where slices disagree about the node, one that names a node wins, the
    // first by name: any order of the slices gives the same.
    targets.sort_by(|a, b| {
        (a.ip, a.port, a.node.is_none(), &a.node).cmp(&(b.ip, b.port, b.node.is_none(), &b.node))
    });
    targets.dedup_by_key(|target| (target.ip, target.port));
    targets
}
