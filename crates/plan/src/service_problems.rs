//! Problem messages for Services and hostPorts.

use std::net::IpAddr;

use beeline_abi::Ip;
use beeline_model::{Protocol, Reason, Service, ServiceType};

use crate::ServiceConfig;
use crate::frontend_address::{FrontendAddress, FrontendIp, FrontendKind, FrontendOwners, Owner};
use crate::node::Nodes;
use crate::problems::ProblemDetail;
use crate::service_frontends::{FrontendRequest, allowed_external_ips};
use crate::slice::why_no_unicast;

/// All problems of a Service.
pub(crate) fn problems(
    owner: &Owner,
    service: &Service,
    requests: &[FrontendRequest],
    config: &ServiceConfig,
    frontend_owners: &FrontendOwners,
    nodes: &Nodes,
) -> Vec<ProblemDetail> {
    if service.service_type == ServiceType::ExternalName || service.foreign {
        return Vec::new();
    }
    let mut problems = unusable_addresses(service);
    problems.extend(requests.iter().filter_map(|request| {
        frontend_conflict(owner, request.address, request.kind, frontend_owners, nodes)
    }));
    problems.extend(unusable_ports(service));
    problems.extend(unserved_external_ips(service, config));
    problems
}

/// The reason why a requested frontend address is not assigned to the owner;
/// none if it is.
pub(crate) fn frontend_conflict(
    owner: &Owner,
    address: FrontendAddress,
    kind: FrontendKind,
    frontend_owners: &FrontendOwners,
    nodes: &Nodes,
) -> Option<ProblemDetail> {
    let problem = |message| Some((Reason::FrontendCollision, message));
    let ip = match address.ip {
        FrontendIp::Exact(ip) => Some(ip),
        FrontendIp::AnyNode { .. } => None,
    };
    if let Some(node) = ip.filter(|ip| kind == FrontendKind::ClusterIp && frontend_owners.is_node(ip)) {
        let name = nodes.with_address(&node).unwrap_or("unknown");
        return problem(format!(
            "its ClusterIP {node} is the address of node {name}, which keeps it; {owner} is not reachable there; \
             give the API server a --service-cluster-ip-range without addresses of nodes"
        ));
    }
    let (_, other) = frontend_owners.conflict(address, &(kind, owner.clone()))?;
    let at = ip.map(|ip| format!(" {ip}")).unwrap_or_default();
    let (what, remedy) = match kind {
        FrontendKind::ClusterIp => (
            format!("ClusterIP{at} port {address}"),
            "recreate one of the two so that the API server gives it a free address",
        ),
        FrontendKind::LoadBalancer => (
            format!("LoadBalancer address{at} port {address}"),
            "give one of the two another address or another port",
        ),
        FrontendKind::ExternalIp => {
            (format!("externalIP{at} port {address}"), "give one of the two another address or another port")
        }
        FrontendKind::NodePort => (format!("nodePort {address}"), "give one of the two another nodePort"),
        FrontendKind::HostPort => (
            format!("hostPort {address} at{at}"),
            "give the pod another hostPort or hostIP, or the other another port",
        ),
    };
    problem(format!(
        "its {what} conflicts with {other}, which keeps it; {owner} is not reachable there; {remedy}"
    ))
}

fn unusable_addresses(service: &Service) -> Vec<ProblemDetail> {
    let of = |ips: &[IpAddr], what: &str, remedy: &str| -> Vec<ProblemDetail> {
        let bad = ips.iter().filter_map(|ip| Some((ip, why_no_unicast(*ip)?)));
        let messages = bad.map(|(ip, why)| format!("its {what} {ip} is {why} and is not served; {remedy}"));
        messages.map(|message| (Reason::AddressUnusable, message)).collect()
    };
    let recreate = "recreate the Service so that the API server gives it a free address";
    let mut problems = of(&service.cluster_ips, "ClusterIP", recreate);
    problems.extend(of(
        &service.load_balancer_ips,
        "LoadBalancer address",
        "correct what writes status.loadBalancer.ingress",
    ));
    problems.extend(of(&service.external_ips, "externalIP", "correct spec.externalIPs"));
    problems
}

fn unusable_ports(service: &Service) -> Vec<ProblemDetail> {
    let mut problems = Vec::new();
    let mut problem = |message| problems.push((Reason::PortInvalid, message));
    let mut seen: Vec<(u16, Protocol)> = Vec::new();
    for port in &service.ports {
        if port.port == 0 {
            problem(format!(
                "port {:?} has the number 0 and is not served; give it a number from 1 to 65535",
                port.name
            ));
        } else if seen.contains(&(port.port, port.protocol)) {
            problem(format!(
                "port {}/{} is listed twice; the first entry is served, {:?} is not; remove one of them",
                port.port,
                port.protocol.name(),
                port.name
            ));
        }
        seen.push((port.port, port.protocol));
    }
    problems
}

fn unserved_external_ips(service: &Service, config: &ServiceConfig) -> Vec<ProblemDetail> {
    let allowed = allowed_external_ips(service, config);
    let why = match config.external_ips {
        None => "externalIPs.enabled is off; use a LoadBalancer address instead",
        Some(_) => {
            "no range of externalIPs.allowedCIDRs contains it; add one if everyone who may write \
             Services may use that address"
        }
    };
    let unserved =
        service.external_ips.iter().filter(|ip| why_no_unicast(**ip).is_none() && !allowed.contains(ip));
    let messages = unserved.map(|ip| format!("its externalIP {ip} is not served: {why}"));
    messages.map(|message| (Reason::ExternalIpRefused, message)).collect()
}

/// The SCTP checksum covers the ports, so they cannot be rewritten.
pub(crate) fn sctp_port_mismatch(port: u16, number: u16, target: u16) -> Option<ProblemDetail> {
    (number != target).then(|| {
        let message = format!(
            "port {port}/SCTP: packets to {number} cannot be sent to targetPort {target}, because the checksum of \
             SCTP covers its ports and the kernel does not recompute it; make the two equal"
        );
        (Reason::SctpPortDiffers, message)
    })
}

/// Fields that are ignored because their feature is disabled.
pub(crate) fn disabled_features(service: &Service, config: &ServiceConfig) -> Vec<String> {
    if service.service_type == ServiceType::ExternalName || service.foreign {
        return Vec::new();
    }
    let mut notes = Vec::new();
    let mut note = |what: String, value: &str| notes.push(format!("{what} has no effect: {value} is off"));
    if !config.node_ports {
        for port in service.ports.iter().filter(|port| port.node_port != 0) {
            note(format!("nodePort {} (port {})", port.node_port, port.port), "nodePort.enabled");
        }
        if !service.load_balancer_ips.is_empty() {
            note(format!("LoadBalancer address {}", list(&service.load_balancer_ips)), "nodePort.enabled");
        }
    }
    if service.affinity_s.is_some() && !config.affinity {
        note("sessionAffinity ClientIP".to_owned(), "sessionAffinity");
    }
    notes
}

fn list(ips: &[IpAddr]) -> String {
    ips.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ")
}

/// True for loopback addresses of either family.
pub(crate) fn is_loopback(ip: Ip) -> bool {
    IpAddr::from(ip).is_loopback()
}
