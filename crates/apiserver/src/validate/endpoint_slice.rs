//! EndpointSlices.

use std::collections::HashSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::{check_label_1123, check_one_of, check_port_number, check_protocol, is_subdomain_1123};
use crate::Cause;
use crate::object::{items, strings, text};

const ENDPOINTS_MAX: usize = 1000;
const PORTS_MAX: usize = 20000;
const ADDRESSES_MAX: usize = 100;

pub(super) fn check(slice: &Value, before: Option<&Value>, causes: &mut Vec<Cause>) {
    check_one_of("addressType".to_owned(), &slice["addressType"], &["FQDN", "IPv4", "IPv6"], causes);
    if before.is_some_and(|before| before["addressType"] != slice["addressType"]) {
        causes.push(Cause::invalid("addressType", &slice["addressType"], "field is immutable"));
    }
    let endpoints = items(slice, "/endpoints");
    if endpoints.len() > ENDPOINTS_MAX {
        let why = format!("Too many: must have at most {ENDPOINTS_MAX} items");
        causes.push(Cause::invalid("endpoints", &json!(endpoints.len()), why));
    }
    for (index, endpoint) in endpoints.iter().enumerate() {
        check_endpoint(&format!("endpoints[{index}]"), text(slice, "/addressType"), endpoint, causes);
    }
    check_ports(slice, causes);
}

fn check_endpoint(field: &str, address_type: &str, endpoint: &Value, causes: &mut Vec<Cause>) {
    let addresses = strings(endpoint, "/addresses");
    if addresses.is_empty() {
        causes.push(Cause::required(format!("{field}.addresses"), "must contain at least 1 address"));
    }
    if addresses.len() > ADDRESSES_MAX {
        let why = format!("Too many: must have at most {ADDRESSES_MAX} items");
        causes.push(Cause::invalid(format!("{field}.addresses"), &json!(addresses.len()), why));
    }
    for (index, address) in addresses.into_iter().enumerate() {
        check_address(format!("{field}.addresses[{index}]"), address_type, address, causes);
    }
    for name in ["nodeName", "hostname"] {
        let value = text(endpoint, &format!("/{name}"));
        if name == "nodeName" && !value.is_empty() && !is_subdomain_1123(value) {
            causes.push(Cause::invalid(format!("{field}.nodeName"), &json!(value), "must be a node's name"));
        } else if name == "hostname" && !value.is_empty() {
            check_label_1123(format!("{field}.hostname"), value, causes);
        }
    }
}

fn check_address(field: String, address_type: &str, address: &str, causes: &mut Vec<Cause>) {
    let parsed = address.parse::<IpAddr>().ok();
    let why = match address_type {
        "IPv4" if !parsed.is_some_and(|ip| ip.is_ipv4()) => Some("must be a valid IPv4 address"),
        "IPv6" if !parsed.is_some_and(|ip| ip.is_ipv6()) => Some("must be a valid IPv6 address"),
        "FQDN" if !is_subdomain_1123(address.trim_end_matches('.')) => Some("must be a DNS name"),
        _ => parsed.and_then(special_address),
    };
    if let Some(why) = why {
        causes.push(Cause::invalid(field, &json!(address), why));
    }
}

/// Addresses that no endpoint can have.
pub(super) fn special_address(address: IpAddr) -> Option<&'static str> {
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    let multicast_here = match address {
        IpAddr::V4(address) => address.octets()[..3] == [224, 0, 0],
        IpAddr::V6(address) => address.segments()[0] == 0xff02,
    };
    match address {
        _ if address.is_unspecified() => Some("may not be unspecified (0.0.0.0 or ::)"),
        _ if address.is_loopback() => Some("may not be in the loopback range (127.0.0.0/8, ::1/128)"),
        _ if link_local => Some("may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
        _ if multicast_here => Some("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"),
        _ => None,
    }
}

fn check_ports(slice: &Value, causes: &mut Vec<Cause>) {
    let ports = items(slice, "/ports");
    if ports.len() > PORTS_MAX {
        let why = format!("Too many: must have at most {PORTS_MAX} items");
        causes.push(Cause::invalid("ports", &json!(ports.len()), why));
    }
    let mut names = HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        let field = |name: &str| format!("ports[{index}].{name}");
        let name = text(port, "/name");
        if !name.is_empty() {
            check_label_1123(field("name"), name, causes);
        }
        if !names.insert(name) {
            causes.push(Cause::duplicate(field("name"), &json!(name)));
        }
        check_protocol(field("protocol"), &port["protocol"], causes);
        // No number means every port.
        if !port["port"].is_null() {
            check_port_number(field("port"), &port["port"], causes);
        }
    }
}
