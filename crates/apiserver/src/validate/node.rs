//! Nodes.

use serde_json::{Value, json};

use super::{check_ip, is_subdomain_1123};
use crate::Cause;
use crate::object::{items, strings, text};

pub(super) fn check(node: &Value, before: Option<&Value>, causes: &mut Vec<Cause>) {
    let ranges = strings(node, "/spec/podCIDRs");
    for (index, range) in ranges.iter().enumerate() {
        if range.parse::<ipnet::IpNet>().is_err() {
            let why = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            causes.push(Cause::invalid(format!("spec.podCIDRs[{index}]"), &json!(range), why));
        }
    }
    let single = text(node, "/spec/podCIDR");
    if let Some(first) = ranges.first().filter(|first| !single.is_empty() && **first != single) {
        causes.push(Cause::invalid("spec.podCIDRs[0]", &json!(first), "must match `podCIDR`"));
    }
    let had = before.map(|before| strings(before, "/spec/podCIDRs")).unwrap_or_default();
    if !had.is_empty() && had != ranges {
        causes.push(Cause::forbidden(
            "spec.podCIDRs",
            "node updates may not change podCIDR except from \"\" to valid",
        ));
    }
}

pub(super) fn check_status(node: &Value, causes: &mut Vec<Cause>) {
    for (index, address) in items(node, "/status/addresses").iter().enumerate() {
        let (field, text) = (format!("status.addresses[{index}].address"), text(address, "/address"));
        match address["type"].as_str() {
            Some("InternalIP" | "ExternalIP") => {
                check_ip(field, text, causes);
            }
            _ if !is_subdomain_1123(text) => {
                causes.push(Cause::invalid(field, &json!(text), "must be a DNS name"))
            }
            _ => {}
        }
    }
}
