//! Frontend addresses, and which owner each is assigned to when several request
//! it. The result does not depend on the order of events.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use beeline_abi::Ip;
use beeline_abi::ip::proto;
use beeline_model::ObjectName;

/// A single address, or all node addresses of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FrontendIp {
    Exact(Ip),
    AnyNode { ipv6: bool },
}

impl FrontendIp {
    pub(crate) fn is_ipv6(self) -> bool {
        match self {
            FrontendIp::Exact(ip) => !ip.is_v4(),
            FrontendIp::AnyNode { ipv6 } => ipv6,
        }
    }
}

/// Address, port and protocol of a frontend; it has at most one owner. Ordered
/// by address first, so that all ports of an address are adjacent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FrontendAddress {
    pub(crate) ip: FrontendIp,
    pub(crate) port: u16,
    pub(crate) proto: u8,
}

impl FrontendAddress {
    /// The same port on all nodes.
    fn on_any_node(self) -> FrontendAddress {
        FrontendAddress { ip: FrontendIp::AnyNode { ipv6: self.ip.is_ipv6() }, ..self }
    }
}

impl fmt::Display for FrontendAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.port, protocol_name(self.proto))
    }
}

/// As Kubernetes spells it.
pub(crate) fn protocol_name(number: u8) -> &'static str {
    match number {
        proto::TCP => "TCP",
        proto::UDP => "UDP",
        _ => "SCTP",
    }
}

/// Kinds of frontend. If several owners request the same address, the kind that
/// is listed first here has precedence: a load balancer cannot take over a
/// ClusterIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FrontendKind {
    /// `spec.clusterIPs`.
    ClusterIp,
    /// `status.loadBalancer.ingress`.
    LoadBalancer,
    /// `spec.externalIPs`.
    ExternalIp,
    /// `nodePort`.
    NodePort,
    /// `hostPort` of a pod.
    HostPort,
}

impl FrontendKind {
    /// The name in messages.
    pub fn name(self) -> &'static str {
        match self {
            FrontendKind::ClusterIp => "ClusterIP",
            FrontendKind::LoadBalancer => "LoadBalancer",
            FrontendKind::ExternalIp => "ExternalIP",
            FrontendKind::NodePort => "NodePort",
            FrontendKind::HostPort => "HostPort",
        }
    }
}

/// The object that a frontend belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Owner {
    Service(Arc<ObjectName>),
    Pod(Arc<ObjectName>),
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Owner::Service(name) => write!(f, "Service {name}"),
            Owner::Pod(name) => write!(f, "Pod {name}"),
        }
    }
}

/// In order of precedence: the first eligible candidate is assigned the
/// address.
pub(crate) type Candidate = (FrontendKind, Owner);

/// The owners that request each frontend address.
#[derive(Debug, Default)]
pub(crate) struct FrontendOwners {
    candidates: BTreeMap<FrontendAddress, Vec<Candidate>>,
    /// Pods that request a hostPort. A NodePort with the same number has
    /// precedence.
    host_ports: BTreeMap<(u16, u8), Vec<Owner>>,
    /// Node addresses, which cannot be ClusterIPs.
    nodes: BTreeSet<Ip>,
}

impl FrontendOwners {
    /// Adds a candidate. Returns the owners whose assignment may have changed.
    pub(crate) fn add_candidate(&mut self, address: FrontendAddress, candidate: Candidate) -> Vec<Owner> {
        if candidate.0 == FrontendKind::HostPort {
            self.host_ports.entry((address.port, address.proto)).or_default().push(candidate.1.clone());
        }
        let candidates = self.candidates.entry(address).or_default();
        candidates.reserve_exact(1);
        candidates.push(candidate);
        candidates.sort();
        self.affected_owners(address)
    }

    /// Removes a candidate. Returns the owners whose assignment may have
    /// changed.
    pub(crate) fn remove_candidate(&mut self, address: FrontendAddress, candidate: &Candidate) -> Vec<Owner> {
        if candidate.0 == FrontendKind::HostPort {
            let owners = self.host_ports.entry((address.port, address.proto)).or_default();
            if let Some(at) = owners.iter().position(|owner| *owner == candidate.1) {
                owners.swap_remove(at);
            }
            if owners.is_empty() {
                self.host_ports.remove(&(address.port, address.proto));
            }
        }
        if let Some(candidates) = self.candidates.get_mut(&address) {
            candidates.retain(|known| known != candidate);
            if candidates.is_empty() {
                self.candidates.remove(&address);
            }
        }
        self.affected_owners(address)
    }

    fn affected_owners(&self, address: FrontendAddress) -> Vec<Owner> {
        let candidates = self.candidates.get(&address).into_iter().flatten();
        let mut owners: Vec<Owner> = candidates.map(|(_, owner)| owner.clone()).collect();
        if let FrontendIp::AnyNode { .. } = address.ip {
            owners.extend(self.host_ports.get(&(address.port, address.proto)).into_iter().flatten().cloned());
        }
        owners
    }

    /// The address became, or is no longer, a node address. Returns the owners
    /// that request a port of it.
    pub(crate) fn set_node(&mut self, ip: Ip, is_node: bool) -> Vec<Owner> {
        let changed = if is_node { self.nodes.insert(ip) } else { self.nodes.remove(&ip) };
        if !changed {
            return Vec::new();
        }
        let at = |port, proto| FrontendAddress { ip: FrontendIp::Exact(ip), port, proto };
        let candidates =
            self.candidates.range(at(0, 0)..=at(u16::MAX, u8::MAX)).flat_map(|(_, candidates)| candidates);
        candidates.map(|(_, owner)| owner.clone()).collect()
    }

    pub(crate) fn is_node(&self, ip: &Ip) -> bool {
        self.nodes.contains(ip)
    }

    /// The candidate that the address is assigned to.
    pub(crate) fn assigned(&self, address: FrontendAddress) -> Option<&Candidate> {
        let is_node = matches!(address.ip, FrontendIp::Exact(ip) if self.is_node(&ip));
        let is_eligible = |(kind, _): &&Candidate| match kind {
            FrontendKind::ClusterIp => !is_node,
            FrontendKind::HostPort => !self.candidates.contains_key(&address.on_any_node()),
            _ => true,
        };
        self.candidates.get(&address)?.iter().find(is_eligible)
    }

    /// The owner that prevents this candidate from getting the address, if any.
    pub(crate) fn conflict(&self, address: FrontendAddress, candidate: &Candidate) -> Option<&Candidate> {
        match self.assigned(address) {
            Some(assigned) if assigned == candidate => None,
            // Another request of the same owner.
            Some((_, owner)) if *owner == candidate.1 => None,
            Some(assigned) => Some(assigned),
            None => self.candidates.get(&address.on_any_node())?.first(),
        }
    }
}
