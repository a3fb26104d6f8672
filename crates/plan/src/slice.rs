//! EndpointSlices, reduced to what endpoint selection needs.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use beeline_abi::Ip;
use beeline_model::{Endpoint, EndpointSlice, Protocol, Reason};

use crate::problems::ProblemDetail;

/// A compact EndpointSlice.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Slice {
    pub(crate) ipv6: bool,
    /// The weight of each of its endpoints.
    pub(crate) weight: u16,
    pub(crate) ports: Box<[SlicePort]>,
    pub(crate) endpoints: Box<[SliceEndpoint]>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SlicePort {
    pub(crate) name: Box<str>,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SliceEndpoint {
    pub(crate) ip: Ip,
    pub(crate) node: Option<Arc<str>>,
    /// `namespace/name`, for display.
    pub(crate) pod: Option<Arc<str>>,
    pub(crate) ready: bool,
    /// Serving and terminating: used only if no endpoint is ready.
    pub(crate) draining: bool,
    /// Topology hints; most endpoints have none.
    pub(crate) hints: Option<Box<SliceHints>>,
}

/// Nodes and zones that should use an endpoint.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SliceHints {
    pub(crate) nodes: Box<[Arc<str>]>,
    pub(crate) zones: Box<[Arc<str>]>,
}

/// Shares one copy of each node and pod name.
#[derive(Debug, Default)]
pub(crate) struct Interner {
    names: HashSet<Arc<str>>,
    sweep_at: usize,
}

impl Interner {
    pub(crate) fn get(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.names.get(name) {
            return known.clone();
        }
        if self.names.len() >= self.sweep_at {
            self.names.retain(|name| Arc::strong_count(name) > 1);
            self.sweep_at = (self.names.len() * 2).max(64);
        }
        let name: Arc<str> = name.into();
        self.names.insert(name.clone());
        name
    }
}

impl Slice {
    /// The usable part of the slice, and the problems of the rest.
    pub(crate) fn compact(slice: EndpointSlice, interner: &mut Interner) -> (Slice, Vec<ProblemDetail>) {
        let mut problems = Vec::new();
        let mut ports = Vec::with_capacity(slice.ports.len());
        for port in slice.ports {
            match port.port {
                Some(0) => {
                    let message = format!(
                        "port {:?} is 0 and is left out; correct the port in the EndpointSlice or its \
                         Service's targetPort",
                        port.name
                    );
                    problems.push((Reason::PortInvalid, message));
                }
                // No port means all ports, which a Service port cannot use.
                None => {}
                Some(number) => {
                    ports.push(SlicePort { name: port.name.into(), protocol: port.protocol, port: number })
                }
            }
        }
        let mut endpoints = Vec::with_capacity(slice.endpoints.len());
        let mut refused: Vec<String> = Vec::new();
        for endpoint in slice.endpoints {
            match why_unusable(endpoint.ip, slice.ipv6) {
                Some(why) => refused.push(format!("{} ({why})", endpoint.ip)),
                None => endpoints.push(compact_endpoint(&endpoint, interner)),
            }
        }
        if let Some(first) = refused.first() {
            let message = format!(
                "{} of its endpoint addresses cannot be used and are left out, the first is {first}; correct \
                 the EndpointSlice or what writes it",
                refused.len()
            );
            problems.push((Reason::AddressUnusable, message));
        }
        (
            Slice {
                ipv6: slice.ipv6,
                weight: slice.weight,
                ports: ports.into(),
                endpoints: endpoints.into(),
            },
            problems,
        )
    }
}

fn compact_endpoint(endpoint: &Endpoint, interner: &mut Interner) -> SliceEndpoint {
    SliceEndpoint {
        ip: endpoint.ip.into(),
        node: endpoint.node.as_deref().filter(|node| !node.is_empty()).map(|node| interner.get(node)),
        pod: endpoint.pod.as_ref().map(|pod| interner.get(&pod.to_string())),
        ready: endpoint.ready,
        draining: endpoint.serving && endpoint.terminating,
        hints: compact_hints(endpoint, interner),
    }
}

fn compact_hints(endpoint: &Endpoint, interner: &mut Interner) -> Option<Box<SliceHints>> {
    if endpoint.node_hints.is_empty() && endpoint.zone_hints.is_empty() {
        return None;
    }
    let mut all = |names: &[String]| names.iter().map(|name| interner.get(name)).collect();
    Some(Box::new(SliceHints { nodes: all(&endpoint.node_hints), zones: all(&endpoint.zone_hints) }))
}

/// The reason why the endpoint address is unusable, if it is.
fn why_unusable(ip: IpAddr, ipv6: bool) -> Option<&'static str> {
    match (ip, ipv6) {
        (IpAddr::V4(_), true) => Some("IPv4 in a slice of IPv6"),
        (IpAddr::V6(_), false) => Some("IPv6 in a slice of IPv4"),
        _ => why_no_unicast(ip),
    }
}

/// The reason why the address is not a usable unicast address, if it is not.
pub(crate) fn why_no_unicast(ip: IpAddr) -> Option<&'static str> {
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    match ip {
        _ if ip.is_unspecified() => Some("the unspecified address"),
        _ if ip.is_loopback() => Some("a loopback address"),
        _ if ip.is_multicast() => Some("a multicast address"),
        _ if link_local => Some("a link-local address"),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("the broadcast address"),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Some("an IPv4-mapped IPv6 address"),
        _ => None,
    }
}
