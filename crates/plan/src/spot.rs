//! Where a Service or a pod can be reached, and who has it when several want
//! it: any order of events gives the same answer.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use beeline_abi::Ip;
use beeline_abi::ip::proto;
use beeline_model::ObjectName;

/// An address, or all addresses of nodes of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    Address(Ip),
    Node { ipv6: bool },
}

impl Place {
    pub(crate) fn ipv6(self) -> bool {
        match self {
            Place::Address(ip) => !ip.is_v4(),
            Place::Node { ipv6 } => ipv6,
        }
    }
}

/// What only one can have: a port of a place. The place comes first, so that
/// all ports of an address stand together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Spot {
    pub(crate) place: Place,
    pub(crate) port: u16,
    pub(crate) proto: u8,
}

impl Spot {
    /// The same port of all nodes.
    fn on_nodes(self) -> Spot {
        Spot { place: Place::Node { ipv6: self.place.ipv6() }, ..self }
    }
}

impl fmt::Display for Spot {
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

/// Kinds of frontend. Where two claim one spot, the kind that comes first
/// here has it: nobody's load balancer takes a ClusterIP away.
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
    /// As users know it.
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

/// Who has frontends.
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

/// Sorted: the first has the spot.
pub(crate) type Claim = (FrontendKind, Owner);

/// Who claims which spot.
#[derive(Debug, Default)]
pub(crate) struct Spots {
    claims: BTreeMap<Spot, Vec<Claim>>,
    /// Pods that want a port of this node: NodePorts keep them from it.
    host_ports: BTreeMap<(u16, u8), Vec<Owner>>,
    /// Addresses of nodes: no ClusterIP can have one.
    nodes: BTreeSet<Ip>,
}

impl Spots {
    /// Adds a claim. Returns everybody whose right may have changed.
    pub(crate) fn claim(&mut self, spot: Spot, claim: Claim) -> Vec<Owner> {
        if claim.0 == FrontendKind::HostPort {
            self.host_ports.entry((spot.port, spot.proto)).or_default().push(claim.1.clone());
        }
        let claims = self.claims.entry(spot).or_default();
        claims.reserve_exact(1);
        claims.push(claim);
        claims.sort();
        self.touched(spot)
    }

    /// Takes a claim back. Returns everybody whose right may have changed.
    pub(crate) fn unclaim(&mut self, spot: Spot, claim: &Claim) -> Vec<Owner> {
        if claim.0 == FrontendKind::HostPort {
            let owners = self.host_ports.entry((spot.port, spot.proto)).or_default();
            if let Some(at) = owners.iter().position(|owner| *owner == claim.1) {
                owners.swap_remove(at);
            }
            if owners.is_empty() {
                self.host_ports.remove(&(spot.port, spot.proto));
            }
        }
        if let Some(claims) = self.claims.get_mut(&spot) {
            claims.retain(|known| known != claim);
            if claims.is_empty() {
                self.claims.remove(&spot);
            }
        }
        self.touched(spot)
    }

    fn touched(&self, spot: Spot) -> Vec<Owner> {
        let claims = self.claims.get(&spot).into_iter().flatten();
        let mut owners: Vec<Owner> = claims.map(|(_, owner)| owner.clone()).collect();
        if let Place::Node { .. } = spot.place {
            owners.extend(self.host_ports.get(&(spot.port, spot.proto)).into_iter().flatten().cloned());
        }
        owners
    }

    /// The address has become, or is no longer, a node's. Returns everybody
    /// who claims a port of it.
    pub(crate) fn set_node(&mut self, ip: Ip, is_node: bool) -> Vec<Owner> {
        let changed = if is_node { self.nodes.insert(ip) } else { self.nodes.remove(&ip) };
        if !changed {
            return Vec::new();
        }
        let at = |port, proto| Spot { place: Place::Address(ip), port, proto };
        let claims = self.claims.range(at(0, 0)..=at(u16::MAX, u8::MAX)).flat_map(|(_, claims)| claims);
        claims.map(|(_, owner)| owner.clone()).collect()
    }

    pub(crate) fn is_node(&self, ip: &Ip) -> bool {
        self.nodes.contains(ip)
    }

    /// Who has the spot.
    pub(crate) fn winner(&self, spot: Spot) -> Option<&Claim> {
        let is_node = matches!(spot.place, Place::Address(ip) if self.is_node(&ip));
        let has_a_right = |(kind, _): &&Claim| match kind {
            FrontendKind::ClusterIp => !is_node,
            FrontendKind::HostPort => !self.claims.contains_key(&spot.on_nodes()),
            _ => true,
        };
        self.claims.get(&spot)?.iter().find(has_a_right)
    }

    /// Who keeps this claim from the spot; none: nobody.
    pub(crate) fn rival(&self, spot: Spot, claim: &Claim) -> Option<&Claim> {
        match self.winner(spot) {
            Some(winner) if winner == claim => None,
            // Another wish of the same owner.
            Some((_, owner)) if *owner == claim.1 => None,
            Some(winner) => Some(winner),
            None => self.claims.get(&spot.on_nodes())?.first(),
        }
    }
}
