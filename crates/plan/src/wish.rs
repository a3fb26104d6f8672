//! What a Service asks for, by its object and this node's configuration
//! alone: whether it gets it is decided elsewhere.

use std::collections::BTreeMap;
use std::net::IpAddr;

use beeline_abi::Ip;
use beeline_abi::service::{SCOPE_EXTERNAL, SCOPE_INTERNAL};
use beeline_model::{Protocol, Service, ServicePort, ServiceType};

use crate::ServiceConfig;
use crate::program::{PortKey, Want};
use crate::slice::why_no_unicast;
use crate::spot::{FrontendKind, Place, Spot};

/// One spot that a Service asks for, and the port that it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) spot: Spot,
    pub(crate) kind: FrontendKind,
    /// `port` and protocol of the Service port.
    pub(crate) port: (u16, Protocol),
}

/// Everything that the Service asks for, each spot once.
pub(crate) fn wishes(service: &Service, config: &ServiceConfig) -> Vec<Wish> {
    if service.service_type == ServiceType::ExternalName || service.foreign {
        return Vec::new();
    }
    let cluster_ips = usable(&service.cluster_ips);
    let has_family = |ipv6: bool| cluster_ips.iter().any(|ip| ip.is_v4() != ipv6);
    let mut places: Vec<(FrontendKind, Place)> = Vec::new();
    let mut add = |kind, ips: Vec<Ip>| {
        let served = ips.into_iter().filter(|ip| has_family(!ip.is_v4()));
        places.extend(served.map(|ip| (kind, Place::Address(ip))));
    };
    add(FrontendKind::ClusterIp, cluster_ips.clone());
    if config.node_ports && service.service_type == ServiceType::LoadBalancer {
        add(FrontendKind::LoadBalancer, usable(&service.load_balancer_ips));
    }
    add(FrontendKind::ExternalIp, usable(&allowed_external_ips(service, config)));
    let mut wishes: BTreeMap<Spot, Wish> = BTreeMap::new();
    for port in usable_ports(service) {
        let mut wish = |kind, place, number| {
            let spot = Spot { place, port: number, proto: port.protocol.number() };
            wishes.entry(spot).or_insert(Wish { spot, kind, port: (port.port, port.protocol) });
        };
        places.iter().for_each(|(kind, place)| wish(*kind, *place, port.port));
        if config.node_ports && port.node_port != 0 {
            let families = [false, true].into_iter().filter(|ipv6| has_family(*ipv6));
            families.for_each(|ipv6| wish(FrontendKind::NodePort, Place::Node { ipv6 }, port.node_port));
        }
    }
    wishes.into_values().collect()
}

impl Wish {
    /// The frontends of the spot. Clients inside the cluster get every
    /// endpoint whatever the policy for outside traffic is; a ClusterIP is
    /// for them alone and has a policy of its own.
    pub(crate) fn wants(self, service: &Service, config: &ServiceConfig) -> Vec<Want> {
        let (port, protocol) = self.port;
        let ipv6 = self.spot.place.ipv6();
        let is_ranged = self.kind == FrontendKind::LoadBalancer;
        let want = |scope, local, limited| Want {
            spot: self.spot,
            kind: self.kind,
            scope,
            port: PortKey { ipv6, port, proto: protocol.number(), local },
            limited,
        };
        if self.kind == FrontendKind::ClusterIp {
            return vec![want(SCOPE_INTERNAL, service.internal_local, false)];
        }
        vec![
            want(SCOPE_INTERNAL, false, is_ranged),
            want(SCOPE_EXTERNAL, service.external_local, is_ranged || config.limit_all_types),
        ]
    }
}

/// The externalIPs that the allow-list names.
pub(crate) fn allowed_external_ips(service: &Service, config: &ServiceConfig) -> Vec<IpAddr> {
    let allowed = |ip: &&IpAddr| config.external_ips.iter().flatten().any(|range| range.contains(*ip));
    service.external_ips.iter().filter(allowed).copied().collect()
}

/// The addresses that can be served, each once.
pub(crate) fn usable(ips: &[IpAddr]) -> Vec<Ip> {
    let usable = ips.iter().filter(|ip| why_no_unicast(**ip).is_none());
    let mut ips: Vec<Ip> = usable.map(|ip| Ip::from(*ip)).collect();
    ips.sort();
    ips.dedup();
    ips
}

/// The ports that can be served: each number and protocol once, the first.
pub(crate) fn usable_ports(service: &Service) -> Vec<&ServicePort> {
    let mut ports: Vec<&ServicePort> = Vec::with_capacity(service.ports.len());
    for port in &service.ports {
        let known = ports.iter().any(|known| (known.port, known.protocol) == (port.port, port.protocol));
        if port.port != 0 && !known {
            ports.push(port);
        }
    }
    ports
}
