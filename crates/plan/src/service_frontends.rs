//! The frontends that a Service requests, from its object and this node's
//! configuration alone. Conflicts with other owners are resolved in
//! `frontend_address`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use beeline_abi::Ip;
use beeline_abi::service::{SCOPE_EXTERNAL, SCOPE_INTERNAL};
use beeline_model::{Protocol, Service, ServicePort, ServiceType};

use crate::ServiceConfig;
use crate::frontend_address::{FrontendAddress, FrontendIp, FrontendKind};
use crate::service_tables::{DesiredFrontend, PortKey};
use crate::slice::why_no_unicast;

/// A frontend address that a Service requests, and its Service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrontendRequest {
    pub(crate) address: FrontendAddress,
    pub(crate) kind: FrontendKind,
    /// `port` and protocol of the Service port.
    pub(crate) port: (u16, Protocol),
}

/// All frontends that the Service requests, each address once.
pub(crate) fn requested_frontends(service: &Service, config: &ServiceConfig) -> Vec<FrontendRequest> {
    if service.service_type == ServiceType::ExternalName || service.foreign {
        return Vec::new();
    }
    let cluster_ips = usable(&service.cluster_ips);
    let has_family = |ipv6: bool| cluster_ips.iter().any(|ip| ip.is_v4() != ipv6);
    let mut ips_by_kind: Vec<(FrontendKind, FrontendIp)> = Vec::new();
    let mut add = |kind, ips: Vec<Ip>| {
        let served = ips.into_iter().filter(|ip| has_family(!ip.is_v4()));
        ips_by_kind.extend(served.map(|ip| (kind, FrontendIp::Exact(ip))));
    };
    add(FrontendKind::ClusterIp, cluster_ips.clone());
    if config.node_ports && service.service_type == ServiceType::LoadBalancer {
        add(FrontendKind::LoadBalancer, usable(&service.load_balancer_ips));
    }
    add(FrontendKind::ExternalIp, usable(&allowed_external_ips(service, config)));
    let mut requests: BTreeMap<FrontendAddress, FrontendRequest> = BTreeMap::new();
    for port in usable_ports(service) {
        let mut request = |kind, ip, number| {
            let address = FrontendAddress { ip, port: number, proto: port.protocol.number() };
            requests.entry(address).or_insert(FrontendRequest {
                address,
                kind,
                port: (port.port, port.protocol),
            });
        };
        ips_by_kind.iter().for_each(|(kind, ip)| request(*kind, *ip, port.port));
        if config.node_ports && port.node_port != 0 {
            let families = [false, true].into_iter().filter(|ipv6| has_family(*ipv6));
            families.for_each(|ipv6| {
                request(FrontendKind::NodePort, FrontendIp::AnyNode { ipv6 }, port.node_port)
            });
        }
    }
    requests.into_values().collect()
}

impl FrontendRequest {
    /// The table entries for this frontend. Clients in the cluster use all
    /// endpoints regardless of `externalTrafficPolicy`. A ClusterIP is internal
    /// only and follows `internalTrafficPolicy`.
    pub(crate) fn desired_frontends(self, service: &Service, config: &ServiceConfig) -> Vec<DesiredFrontend> {
        let (port, protocol) = self.port;
        let ipv6 = self.address.ip.is_ipv6();
        let is_load_balancer = self.kind == FrontendKind::LoadBalancer;
        let desired = |scope, local, has_source_ranges| DesiredFrontend {
            address: self.address,
            kind: self.kind,
            scope,
            port: PortKey { ipv6, port, proto: protocol.number(), local },
            has_source_ranges,
        };
        if self.kind == FrontendKind::ClusterIp {
            return vec![desired(SCOPE_INTERNAL, service.internal_local, false)];
        }
        vec![
            desired(SCOPE_INTERNAL, false, is_load_balancer),
            desired(
                SCOPE_EXTERNAL,
                service.external_local,
                is_load_balancer || config.source_ranges_all_types,
            ),
        ]
    }
}

/// The externalIPs that `externalIPs.allowedCIDRs` permits.
pub(crate) fn allowed_external_ips(service: &Service, config: &ServiceConfig) -> Vec<IpAddr> {
    let allowed = |ip: &&IpAddr| config.external_ips.iter().flatten().any(|range| range.contains(*ip));
    service.external_ips.iter().filter(allowed).copied().collect()
}

/// The usable addresses, without duplicates.
pub(crate) fn usable(ips: &[IpAddr]) -> Vec<Ip> {
    let usable = ips.iter().filter(|ip| why_no_unicast(**ip).is_none());
    let mut ips: Vec<Ip> = usable.map(|ip| Ip::from(*ip)).collect();
    ips.sort();
    ips.dedup();
    ips
}

/// The usable ports. Of ports with the same number and protocol, the first.
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
