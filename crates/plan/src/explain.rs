//! What is wrong with a Service or a hostPort, in words.

use std::net::IpAddr;

use beeline_abi::Ip;
use beeline_model::{Protocol, Reason, Service, ServiceType};

use crate::ServiceConfig;
use crate::node::Nodes;
use crate::problems::Complaint;
use crate::slice::why_no_unicast;
use crate::spot::{FrontendKind, Owner, Place, Spot, Spots};
use crate::wish::{Wish, allowed_external_ips};

/// Everything about a Service that cannot be used.
pub(crate) fn problems(
    owner: &Owner,
    service: &Service,
    wishes: &[Wish],
    config: &ServiceConfig,
    spots: &Spots,
    nodes: &Nodes,
) -> Vec<Complaint> {
    if service.service_type == ServiceType::ExternalName || service.foreign {
        return Vec::new();
    }
    let mut problems = unusable_addresses(service);
    problems.extend(wishes.iter().filter_map(|wish| lost(owner, wish.spot, wish.kind, spots, nodes)));
    problems.extend(unusable_ports(service));
    problems.extend(unserved_external_ips(service, config));
    problems
}

/// Why the owner does not have the spot that it claims; none: it has it.
pub(crate) fn lost(
    owner: &Owner,
    spot: Spot,
    kind: FrontendKind,
    spots: &Spots,
    nodes: &Nodes,
) -> Option<Complaint> {
    let said = |message| Some((Reason::FrontendCollision, message));
    let ip = match spot.place {
        Place::Address(ip) => Some(ip),
        Place::Node { .. } => None,
    };
    if let Some(node) = ip.filter(|ip| kind == FrontendKind::ClusterIp && spots.is_node(ip)) {
        let name = nodes.with_address(&node).unwrap_or("unknown");
        return said(format!(
            "its ClusterIP {node} is the address of node {name}, which keeps it; {owner} is not reachable there; \
             give the API server a --service-cluster-ip-range without addresses of nodes"
        ));
    }
    let (_, winner) = spots.rival(spot, &(kind, owner.clone()))?;
    let place = ip.map(|ip| format!(" {ip}")).unwrap_or_default();
    let (what, cure) = match kind {
        FrontendKind::ClusterIp => (
            format!("ClusterIP{place} port {spot}"),
            "recreate one of the two so that the API server gives it a free address",
        ),
        FrontendKind::LoadBalancer => (
            format!("LoadBalancer address{place} port {spot}"),
            "give one of the two another address or another port",
        ),
        FrontendKind::ExternalIp => {
            (format!("externalIP{place} port {spot}"), "give one of the two another address or another port")
        }
        FrontendKind::NodePort => (format!("nodePort {spot}"), "give one of the two another nodePort"),
        FrontendKind::HostPort => (
            format!("hostPort {spot} at{place}"),
            "give the pod another hostPort or hostIP, or the other another port",
        ),
    };
    said(format!("its {what} is {winner}'s too, which keeps it; {owner} is not reachable there; {cure}"))
}

fn unusable_addresses(service: &Service) -> Vec<Complaint> {
    let of = |ips: &[IpAddr], what: &str, cure: &str| -> Vec<Complaint> {
        let bad = ips.iter().filter_map(|ip| Some((ip, why_no_unicast(*ip)?)));
        let said = bad.map(|(ip, why)| format!("its {what} {ip} is {why} and is not served; {cure}"));
        said.map(|message| (Reason::AddressUnusable, message)).collect()
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

fn unusable_ports(service: &Service) -> Vec<Complaint> {
    let mut problems = Vec::new();
    let mut said = |message| problems.push((Reason::PortInvalid, message));
    let mut seen: Vec<(u16, Protocol)> = Vec::new();
    for port in &service.ports {
        if port.port == 0 {
            said(format!(
                "port {:?} has the number 0 and is not served; give it a number from 1 to 65535",
                port.name
            ));
        } else if seen.contains(&(port.port, port.protocol)) {
            said(format!(
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

fn unserved_external_ips(service: &Service, config: &ServiceConfig) -> Vec<Complaint> {
    let allowed = allowed_external_ips(service, config);
    let why = match config.external_ips {
        None => "externalIPs.enabled is off; a LoadBalancer address does the same",
        Some(_) => {
            "no range of externalIPs.allowedCIDRs contains it; add one if whoever may write Services may take \
             that address"
        }
    };
    let unserved =
        service.external_ips.iter().filter(|ip| why_no_unicast(**ip).is_none() && !allowed.contains(ip));
    let said = unserved.map(|ip| format!("its externalIP {ip} is not served: {why}"));
    said.map(|message| (Reason::ExternalIpRefused, message)).collect()
}

/// SCTP whose port would have to be rewritten: its checksum covers the port.
pub(crate) fn sctp(port: u16, number: u16, target: u16) -> Option<Complaint> {
    (number != target).then(|| {
        let message = format!(
            "port {port}/SCTP: packets to {number} cannot be sent to targetPort {target}, because the checksum of \
             SCTP covers its ports and the kernel does not recompute it; make the two equal"
        );
        (Reason::SctpPortDiffers, message)
    })
}

/// Parts that are switched off, by name.
pub(crate) fn switched_off(service: &Service, config: &ServiceConfig) -> Vec<String> {
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

/// An address as people write it.
pub(crate) fn is_loopback(ip: Ip) -> bool {
    IpAddr::from(ip).is_loopback()
}
