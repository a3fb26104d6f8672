//! EndpointSlices.

use std::collections::HashSet;
use std::net::IpAddr;

use beeline_apiserver_objects::{
    Cause,
    object::{array_at, str_at, strs_at},
};
use serde_json::{Value, json};

use super::checks::{check_label_1123, check_one_of, check_port_number, check_protocol};
use crate::names::{SUBDOMAIN_RULE, is_label_value, is_qualified_name, is_subdomain_1123};

const ENDPOINTS_MAX: usize = 1000;
const PORTS_MAX: usize = 20000;
const ADDRESSES_MAX: usize = 100;
/// Maximum number of zone hints, and of node hints, of an endpoint.
const HINTS_MAX: usize = 8;

pub(super) fn check(slice: &Value, before: Option<&Value>, causes: &mut Vec<Cause>) {
    if str_at(slice, "/addressType").is_empty() {
        causes.push(Cause::required("addressType", ""));
    } else {
        check_one_of("addressType".to_owned(), &slice["addressType"], &["FQDN", "IPv4", "IPv6"], causes);
    }
    if before.is_some_and(|before| before["addressType"] != slice["addressType"]) {
        causes.push(Cause::invalid("addressType", &slice["addressType"], "field is immutable"));
    }
    let endpoints = array_at(slice, "/endpoints");
    if endpoints.len() > ENDPOINTS_MAX {
        causes.push(Cause::too_many("endpoints", endpoints.len(), ENDPOINTS_MAX as u64));
    }
    for (index, endpoint) in endpoints.iter().enumerate() {
        check_endpoint(&format!("endpoints[{index}]"), str_at(slice, "/addressType"), endpoint, causes);
    }
    check_ports(slice, causes);
}

fn check_endpoint(field: &str, address_type: &str, endpoint: &Value, causes: &mut Vec<Cause>) {
    let addresses = strs_at(endpoint, "/addresses");
    if addresses.is_empty() {
        causes.push(Cause::required(format!("{field}.addresses"), "must contain at least 1 address"));
    }
    if addresses.len() > ADDRESSES_MAX {
        let field = format!("{field}.addresses");
        causes.push(Cause::too_many(&field, addresses.len(), ADDRESSES_MAX as u64));
    }
    for (index, address) in addresses.into_iter().enumerate() {
        check_address(format!("{field}.addresses[{index}]"), address_type, address, causes);
    }
    let (node, host) = (str_at(endpoint, "/nodeName"), str_at(endpoint, "/hostname"));
    if !endpoint["nodeName"].is_null() && !is_subdomain_1123(node) {
        causes.push(Cause::invalid(format!("{field}.nodeName"), &json!(node), SUBDOMAIN_RULE));
    }
    if !host.is_empty() {
        check_label_1123(format!("{field}.hostname"), host, causes);
    }
    check_hints(
        &format!("{field}.hints.forZones"),
        array_at(endpoint, "/hints/forZones"),
        is_label_value,
        causes,
    );
    check_hints(
        &format!("{field}.hints.forNodes"),
        array_at(endpoint, "/hints/forNodes"),
        is_subdomain_1123,
        causes,
    );
}

fn check_hints(field: &str, hints: &[Value], is_valid: fn(&str) -> bool, causes: &mut Vec<Cause>) {
    if hints.len() > HINTS_MAX {
        causes.push(Cause::too_many(field, hints.len(), HINTS_MAX as u64));
    }
    let mut names = HashSet::new();
    for (index, hint) in hints.iter().enumerate() {
        let (field, name) = (format!("{field}[{index}].name"), str_at(hint, "/name"));
        if name.is_empty() || !is_valid(name) {
            causes.push(Cause::invalid(field, &json!(name), "must be the name of a zone or node"));
        } else if !names.insert(name) {
            causes.push(Cause::duplicate(field, &json!(name)));
        }
    }
}

fn check_address(field: String, address_type: &str, address: &str, causes: &mut Vec<Cause>) {
    let parsed = address.parse::<IpAddr>().ok();
    let why = match address_type {
        "IPv4" if !parsed.is_some_and(|ip| ip.is_ipv4()) => Some("must be a valid IPv4 address"),
        "IPv6" if !parsed.is_some_and(|ip| ip.is_ipv6()) => Some("must be a valid IPv6 address"),
        "FQDN" if !is_subdomain_1123(address.trim_end_matches('.')) => Some(SUBDOMAIN_RULE),
        "FQDN" if !address.trim_end_matches('.').contains('.') => {
            Some("should be a domain with at least two segments separated by dots")
        }
        _ => parsed.and_then(special_address),
    };
    if let Some(why) = why {
        causes.push(Cause::invalid(field, &json!(address), why));
    }
}

/// Why no endpoint can have this address.
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
    let ports = array_at(slice, "/ports");
    if ports.len() > PORTS_MAX {
        causes.push(Cause::too_many("ports", ports.len(), PORTS_MAX as u64));
    }
    let mut names = HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        let field = |name: &str| format!("ports[{index}].{name}");
        let name = str_at(port, "/name");
        if !name.is_empty() {
            check_label_1123(field("name"), name, causes);
        }
        if !names.insert(name) {
            causes.push(Cause::duplicate(field("name"), &json!(name)));
        }
        check_protocol(field("protocol"), &port["protocol"], causes);
        let protocol = str_at(port, "/appProtocol");
        if !port["appProtocol"].is_null() && !is_qualified_name(protocol) {
            let why = "must be a name such as http or example.com/hive";
            causes.push(Cause::invalid(field("appProtocol"), &json!(protocol), why));
        }
        // No port number means all ports.
        if !port["port"].is_null() {
            check_port_number(field("port"), &port["port"], causes);
        }
    }
}
