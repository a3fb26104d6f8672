//! Names of addresses and ids, from the agent. Without an agent only addresses
//! are shown.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use beeline_api::{Call, Names, Response};

use crate::target::Target;

/// Names by address, id and device.
#[derive(Debug, Default)]
pub struct Directory {
    pods: HashMap<IpAddr, String>,
    services: HashMap<u32, String>,
    nodes: HashMap<IpAddr, String>,
    service_addresses: HashMap<IpAddr, String>,
    devices: HashMap<u32, String>,
    local_services: HashSet<u32>,
    frontends: HashMap<(IpAddr, u16, u8), String>,
}

impl Directory {
    /// Fetches the names from the node's agent. If that fails, prints a warning
    /// and returns an empty directory.
    pub fn fetch(target: &Target) -> Directory {
        match target.client().call(Call::Names) {
            Ok(Response::Names(names)) => Directory::new(names),
            Ok(_) => Directory::default(),
            Err(error) => {
                eprintln!("beeline: {}: pod and Service names are not available: {error}", target.label);
                Directory::default()
            }
        }
    }

    /// From the agent's response.
    pub fn new(names: Names) -> Directory {
        Directory {
            pods: names.pods.into_iter().collect(),
            services: names.services.into_iter().collect(),
            nodes: names.nodes.into_iter().collect(),
            service_addresses: names.service_addresses.into_iter().collect(),
            devices: names.devices.into_iter().collect(),
            local_services: names.local_services.into_iter().collect(),
            frontends: names.frontends.into_iter().map(|of| ((of.ip, of.port, of.proto), of.kind)).collect(),
        }
    }

    /// The pod with this address.
    pub fn pod(&self, ip: IpAddr) -> Option<&str> {
        self.pods.get(&ip).map(String::as_str)
    }

    /// An address of the pod with this name (`namespace/name`).
    pub fn address_of(&self, pod: &str, accept: impl Fn(&IpAddr) -> bool) -> Option<IpAddr> {
        self.pods.iter().find(|(ip, name)| *name == pod && accept(ip)).map(|(ip, _)| *ip)
    }

    /// Does a pod with this name (`namespace/name`) have an address?
    pub fn has_pod(&self, pod: &str) -> bool {
        self.pods.values().any(|name| name == pod)
    }

    /// The names of all service ports.
    pub fn services(&self) -> impl Iterator<Item = &str> {
        self.services.values().map(String::as_str)
    }

    /// The pod that uses this host-side device.
    pub fn pod_of_device(&self, ifindex: u32) -> Option<&str> {
        self.devices.get(&ifindex).map(String::as_str)
    }

    /// The Service port with this id.
    pub fn service(&self, id: u32) -> Option<&str> {
        self.services.get(&id).map(String::as_str)
    }

    /// Whether the traffic policy of the Service with this id is `Local`.
    pub fn is_local(&self, id: u32) -> bool {
        self.local_services.contains(&id)
    }

    /// `LoadBalancer`, `ExternalIP` or `HostPort`, if the frontend is one.
    pub fn frontend(&self, ip: IpAddr, port: u16, proto: u8) -> Option<&str> {
        self.frontends.get(&(ip, port, proto)).map(String::as_str)
    }

    /// The service that has this address.
    pub fn service_of_address(&self, ip: IpAddr) -> Option<&str> {
        self.service_addresses.get(&ip).map(String::as_str)
    }

    /// The node with this address.
    pub fn node(&self, ip: IpAddr) -> Option<&str> {
        self.nodes.get(&ip).map(String::as_str)
    }

    /// Pod or node with this address.
    pub fn pod_or_node(&self, ip: IpAddr) -> Option<&str> {
        self.pod(ip).or_else(|| self.node(ip))
    }
}

/// `10.0.0.1:80` or `[fd00::1]:80`; only the address if the port is 0.
pub fn socket_address(ip: IpAddr, port: u16) -> String {
    match port {
        0 => ip.to_string(),
        port => std::net::SocketAddr::new(ip, port).to_string(),
    }
}

/// Name of an IP protocol.
pub fn protocol(number: u8) -> String {
    match number {
        0 => "any".into(),
        1 => "ICMP".into(),
        6 => "TCP".into(),
        17 => "UDP".into(),
        58 => "ICMPv6".into(),
        132 => "SCTP".into(),
        other => format!("protocol {other}"),
    }
}
