//! Services.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::metadata::check_labels;
use super::{
    check_ip, check_label_1123, check_one_of, check_port_number, check_protocol, is_port_name,
    is_subdomain_1123,
};
use crate::Cause;
use crate::object::{items, number, strings, text};

pub(super) fn check(service: &Value, before: Option<&Value>, causes: &mut Vec<Cause>) {
    let spec = &service["spec"];
    let known = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    check_one_of("spec.type".to_owned(), &spec["type"], &known, causes);
    check_labels("spec.selector", &spec["selector"], causes);
    check_affinity(spec, causes);
    check_policies(spec, causes);
    check_families(spec, causes);
    if spec["type"] == "ExternalName" {
        check_external_name(spec, causes);
    } else {
        check_cluster_ips(spec, before, causes);
    }
    check_ports(spec, causes);
    for (index, address) in strings(spec, "/externalIPs").into_iter().enumerate() {
        check_ip(format!("spec.externalIPs[{index}]"), address, causes);
    }
    for (index, range) in strings(spec, "/loadBalancerSourceRanges").into_iter().enumerate() {
        if range.trim().parse::<ipnet::IpNet>().is_err() {
            let why = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            causes.push(Cause::invalid(
                format!("spec.loadBalancerSourceRanges[{index}]"),
                &json!(range),
                why,
            ));
        }
    }
}

fn check_affinity(spec: &Value, causes: &mut Vec<Cause>) {
    check_one_of("spec.sessionAffinity".to_owned(), &spec["sessionAffinity"], &["ClientIP", "None"], causes);
    if let Some(seconds) = number(spec, "/sessionAffinityConfig/clientIP/timeoutSeconds")
        && !(1..=86400).contains(&seconds)
    {
        let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
        causes.push(Cause::invalid(
            field,
            &json!(seconds),
            "must be greater than 0 and less than or equal to 86400",
        ));
    }
}

fn check_policies(spec: &Value, causes: &mut Vec<Cause>) {
    for field in ["internalTrafficPolicy", "externalTrafficPolicy"] {
        if !spec[field].is_null() {
            check_one_of(format!("spec.{field}"), &spec[field], &["Cluster", "Local"], causes);
        }
    }
    if !spec["trafficDistribution"].is_null() {
        let known = ["PreferClose", "PreferSameZone", "PreferSameNode"];
        check_one_of("spec.trafficDistribution".to_owned(), &spec["trafficDistribution"], &known, causes);
    }
}

fn check_families(spec: &Value, causes: &mut Vec<Cause>) {
    if !spec["ipFamilyPolicy"].is_null() {
        let known = ["SingleStack", "PreferDualStack", "RequireDualStack"];
        check_one_of("spec.ipFamilyPolicy".to_owned(), &spec["ipFamilyPolicy"], &known, causes);
    }
    let mut seen = HashSet::new();
    for (index, family) in items(spec, "/ipFamilies").iter().enumerate() {
        check_one_of(format!("spec.ipFamilies[{index}]"), family, &["IPv4", "IPv6"], causes);
        if !seen.insert(family.to_string()) {
            causes.push(Cause::duplicate(format!("spec.ipFamilies[{index}]"), family));
        }
    }
}

fn check_external_name(spec: &Value, causes: &mut Vec<Cause>) {
    let name = text(spec, "/externalName");
    if name.is_empty() {
        causes.push(Cause::required("spec.externalName", ""));
    } else if !is_subdomain_1123(name.trim_end_matches('.')) {
        causes.push(Cause::invalid("spec.externalName", &json!(name), "must be a DNS name"));
    }
    if !text(spec, "/clusterIP").is_empty() {
        causes.push(Cause::forbidden("spec.clusterIPs", "may not be set when `type` is 'ExternalName'"));
    }
}

fn check_cluster_ips(spec: &Value, before: Option<&Value>, causes: &mut Vec<Cause>) {
    let (single, list) = (text(spec, "/clusterIP"), strings(spec, "/clusterIPs"));
    if let Some(first) = list.first()
        && !single.is_empty()
        && *first != single
    {
        causes.push(Cause::invalid("spec.clusterIPs[0]", &json!(first), "must match `clusterIP`"));
    }
    let headless = single == "None" || list.first() == Some(&"None");
    if headless && matches!(text(spec, "/type"), "NodePort" | "LoadBalancer") {
        let why = format!("may not be set to 'None' for {} services", text(spec, "/type"));
        causes.push(Cause::invalid("spec.clusterIPs[0]", &json!("None"), why));
    }
    if list.len() > 2 {
        causes.push(Cause::invalid("spec.clusterIPs", &json!(list), "may only hold up to 2 values"));
    }
    let mut addresses = Vec::new();
    for (index, address) in list.iter().enumerate().filter(|(_, address)| **address != "None") {
        addresses.extend(check_ip(format!("spec.clusterIPs[{index}]"), address, causes));
    }
    if list.is_empty() && !single.is_empty() && single != "None" {
        check_ip("spec.clusterIP".to_owned(), single, causes);
    }
    if let [first, second] = addresses.as_slice()
        && first.is_ipv6() == second.is_ipv6()
    {
        causes.push(Cause::invalid(
            "spec.clusterIPs",
            &json!(list),
            "may specify no more than one IP for each IP family",
        ));
    }
    check_families_match(spec, &addresses, causes);
    check_unchanged(single, before, causes);
}

fn check_families_match(spec: &Value, addresses: &[std::net::IpAddr], causes: &mut Vec<Cause>) {
    let families = strings(spec, "/ipFamilies");
    for (index, (address, family)) in addresses.iter().zip(families).enumerate() {
        if address.is_ipv6() != (family == "IPv6") {
            let why = format!("expected an {family} value as indicated by `ipFamilies[{index}]`");
            causes.push(Cause::invalid(
                format!("spec.clusterIPs[{index}]"),
                &json!(address.to_string()),
                why,
            ));
        }
    }
}

/// The first cluster IP stays as long as the service has one.
fn check_unchanged(single: &str, before: Option<&Value>, causes: &mut Vec<Cause>) {
    let had = before.map(|before| text(before, "/spec/clusterIP")).unwrap_or_default();
    if !had.is_empty() && !single.is_empty() && had != single {
        causes.push(Cause::invalid("spec.clusterIPs[0]", &json!(single), "may not change once set"));
    }
}

fn check_ports(spec: &Value, causes: &mut Vec<Cause>) {
    let ports = items(spec, "/ports");
    let headless =
        text(spec, "/clusterIP") == "None" || strings(spec, "/clusterIPs").first() == Some(&"None");
    if ports.is_empty() && !headless && spec["type"] != "ExternalName" {
        causes.push(Cause::required("spec.ports", ""));
    }
    let (mut names, mut numbers, mut node_ports) = (HashSet::new(), HashSet::new(), HashSet::new());
    for (index, port) in ports.iter().enumerate() {
        let field = |name: &str| format!("spec.ports[{index}]{name}");
        let name = text(port, "/name");
        if name.is_empty() {
            if ports.len() > 1 {
                causes.push(Cause::required(field(".name"), ""));
            }
        } else {
            check_label_1123(field(".name"), name, causes);
            if !names.insert(name) {
                causes.push(Cause::duplicate(field(".name"), &json!(name)));
            }
        }
        check_port_number(field(".port"), &port["port"], causes);
        check_protocol(field(".protocol"), &port["protocol"], causes);
        check_target(field(".targetPort"), &port["targetPort"], causes);
        if !numbers.insert((port["port"].as_i64(), text(port, "/protocol"))) {
            causes.push(Cause::duplicate(
                field(""),
                &json!({"port": port["port"], "protocol": port["protocol"]}),
            ));
        }
        check_node_port(field(".nodePort"), spec, port, &mut node_ports, causes);
    }
}

fn check_target(field: String, target: &Value, causes: &mut Vec<Cause>) {
    match target {
        Value::Null => {}
        Value::String(name) if is_port_name(name) => {}
        Value::String(_) => causes.push(Cause::invalid(
            field,
            target,
            "must be a port's name: at most 15 lower case letters, digits and '-', with at least one letter",
        )),
        number => check_port_number(field, number, causes),
    }
}

fn check_node_port<'a>(
    field: String,
    spec: &Value,
    port: &'a Value,
    seen: &mut HashSet<(i64, &'a str)>,
    causes: &mut Vec<Cause>,
) {
    // Whether a service without node ports may name one is decided where they are allocated.
    let has_ports = matches!(text(spec, "/type"), "NodePort" | "LoadBalancer");
    let Some(node_port) = number(port, "/nodePort").filter(|port| *port != 0 && has_ports) else { return };
    if !seen.insert((node_port, text(port, "/protocol"))) {
        causes.push(Cause::duplicate(field, &port["nodePort"]));
    }
}
