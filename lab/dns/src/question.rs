//! Parses the name of a query. Pure.

use std::net::IpAddr;

use hickory_server::proto::rr::{LowerName, Name};

use crate::names::DOMAIN;

/// What a name refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// The cluster domain itself.
    Domain,
    /// `dns-version`.
    Version,
    /// `svc` or `pod`: empty non-terminals.
    Branch,
    /// A namespace, below `svc` or `pod`.
    Namespace(String),
    /// A Service.
    Service {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
    },
    /// A protocol of a Service (`_tcp`).
    Protocol {
        /// Namespace.
        namespace: String,
        /// Service.
        service: String,
        /// `tcp`, `udp` or `sctp`.
        protocol: String,
    },
    /// A named port of a Service (`_http._tcp`).
    Port {
        /// Namespace.
        namespace: String,
        /// Service.
        service: String,
        /// The port's name.
        port: String,
        /// `tcp`, `udp` or `sctp`.
        protocol: String,
    },
    /// An endpoint of a Service.
    Endpoint {
        /// Namespace.
        namespace: String,
        /// Service.
        service: String,
        /// The endpoint's name.
        hostname: String,
    },
    /// A pod, by its address.
    Pod {
        /// Namespace.
        namespace: String,
        /// Its address.
        address: IpAddr,
    },
    /// Reverse lookup of an address.
    Address(IpAddr),
    /// A name in the cluster domain that cannot exist.
    Nothing,
    /// A name outside the cluster domain.
    Outside,
}

/// Parses a name, ignoring case.
pub fn question(name: &LowerName) -> Question {
    let name = Name::from(name.clone());
    let labels: Vec<String> = name.iter().map(|label| String::from_utf8_lossy(label).into_owned()).collect();
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    let domain: Vec<&str> = DOMAIN.split('.').collect();
    if let Some(below) = labels.strip_suffix(domain.as_slice()) {
        return in_domain(below);
    }
    match labels.as_slice() {
        [.., "in-addr" | "ip6", "arpa"] => reverse(&name),
        _ => Question::Outside,
    }
}

/// The labels before the domain.
fn in_domain(labels: &[&str]) -> Question {
    let text = |label: &&str| (*label).to_owned();
    match labels {
        [] => Question::Domain,
        ["dns-version"] => Question::Version,
        ["svc" | "pod"] => Question::Branch,
        [namespace, "svc" | "pod"] => Question::Namespace(text(namespace)),
        [address, namespace, "pod"] => match pod_address(address) {
            Some(address) => Question::Pod { namespace: text(namespace), address },
            None => Question::Nothing,
        },
        [below @ .., service, namespace, "svc"] => in_service(below, text(service), text(namespace)),
        _ => Question::Nothing,
    }
}

fn in_service(below: &[&str], service: String, namespace: String) -> Question {
    let name = |label: &str| label.strip_prefix('_').map(str::to_owned);
    match below {
        [] => Question::Service { namespace, name: service },
        [one] => match name(one) {
            Some(protocol) => Question::Protocol { namespace, service, protocol },
            None => Question::Endpoint { namespace, service, hostname: (*one).to_owned() },
        },
        [port, protocol] => match (name(port), name(protocol)) {
            (Some(port), Some(protocol)) => Question::Port { namespace, service, port, protocol },
            _ => Question::Nothing,
        },
        _ => Question::Nothing,
    }
}

/// `10-244-1-7` or `fd00-10-244-1--7`.
fn pod_address(label: &str) -> Option<IpAddr> {
    let ipv4 = label.replace('-', ".").parse().map(IpAddr::V4);
    ipv4.or_else(|_| label.replace('-', ":").parse().map(IpAddr::V6)).ok()
}

/// Parses a complete reverse name; partial ones do not match.
fn reverse(name: &Name) -> Question {
    let network = name.parse_arpa_name().ok();
    let whole = network.filter(|network| network.prefix_len() == network.max_prefix_len());
    whole.map_or(Question::Nothing, |network| Question::Address(network.addr()))
}
