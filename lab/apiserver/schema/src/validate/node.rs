//! Nodes.

use std::collections::HashSet;

use beeline_apiserver_objects::{
    Cause,
    object::{array_at, str_at, strs_at},
};
use ipnet::IpNet;
use serde_json::{Value, json};

use super::checks::{check_ip, check_one_of};
use crate::names::{is_label_value, is_qualified_name, is_subdomain_1123};

pub(super) fn check(node: &Value, before: Option<&Value>, causes: &mut Vec<Cause>) {
    let ranges = strs_at(node, "/spec/podCIDRs");
    check_cidrs(&ranges, str_at(node, "/spec/podCIDR"), causes);
    check_taints(node, causes);
    let Some(before) = before else { return };
    let had = strs_at(before, "/spec/podCIDRs");
    if !had.is_empty() && had != ranges {
        let why = "node updates may not change podCIDR except from \"\" to valid";
        causes.push(Cause::forbidden("spec.podCIDRs", why));
    }
    let had = str_at(before, "/spec/providerID");
    if !had.is_empty() && had != str_at(node, "/spec/providerID") {
        let why = "node updates may not change providerID except from \"\" to valid";
        causes.push(Cause::forbidden("spec.providerID", why));
    }
}

fn check_cidrs(ranges: &[&str], single: &str, causes: &mut Vec<Cause>) {
    let mut families = HashSet::new();
    let mut twice = false;
    for (index, range) in ranges.iter().enumerate() {
        match range.parse::<IpNet>() {
            Ok(range) => twice |= !families.insert(range.addr().is_ipv6()),
            Err(_) => {
                let why = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
                causes.push(Cause::invalid(format!("spec.podCIDRs[{index}]"), &json!(range), why));
            }
        }
    }
    if twice {
        let why = "may specify no more than one CIDR for each IP family";
        causes.push(Cause::invalid("spec.podCIDRs", &json!(ranges), why));
    }
    if let Some(first) = ranges.first().filter(|first| !single.is_empty() && **first != single) {
        causes.push(Cause::invalid("spec.podCIDRs[0]", &json!(first), "must match `podCIDR`"));
    }
}

fn check_taints(node: &Value, causes: &mut Vec<Cause>) {
    let mut seen = HashSet::new();
    for (index, taint) in array_at(node, "/spec/taints").iter().enumerate() {
        let field = |name: &str| format!("spec.taints[{index}].{name}");
        let (key, value, effect) = (str_at(taint, "/key"), str_at(taint, "/value"), str_at(taint, "/effect"));
        if !is_qualified_name(key) {
            let why = "name part must consist of alphanumeric characters, '-', '_' or '.'";
            causes.push(Cause::invalid(field("key"), &json!(key), why));
        }
        if !is_label_value(value) {
            let why = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.'";
            causes.push(Cause::invalid(field("value"), &json!(value), why));
        }
        if effect.is_empty() {
            causes.push(Cause::required(field("effect"), ""));
        } else {
            let known = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
            check_one_of(field("effect"), &taint["effect"], &known, causes);
        }
        if !seen.insert((key, effect)) {
            causes.push(Cause::duplicate(format!("spec.taints[{index}]"), taint));
        }
    }
}

pub(super) fn check_status(node: &Value, causes: &mut Vec<Cause>) {
    for (index, address) in array_at(node, "/status/addresses").iter().enumerate() {
        let (field, text) = (format!("status.addresses[{index}].address"), str_at(address, "/address"));
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
