//! Services.

use std::collections::HashSet;

use beeline_apiserver_objects::{
    Cause,
    object::{array_at, i64_at, str_at, strs_at},
    service::{has_health_check_port, is_external, is_load_balancer},
};
use serde_json::{Value, json};

use super::checks::{check_ip, check_label_1123, check_one_of, check_port_number, check_protocol};
use super::endpoint_slice::special_address;
use super::metadata::check_labels;
use super::service_update;
use crate::names::{SUBDOMAIN_RULE, is_port_name, is_qualified_name, is_subdomain_1123};

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
        check_cluster_ips(spec, causes);
    }
    check_ports(spec, causes);
    check_external(service, causes);
    if let Some(before) = before {
        service_update::check(service, before, causes);
    }
    for (index, address) in strs_at(spec, "/externalIPs").into_iter().enumerate() {
        let field = format!("spec.externalIPs[{index}]");
        if let Some(why) = check_ip(field.clone(), address, causes).and_then(special_address) {
            causes.push(Cause::invalid(field, &json!(address), why));
        }
    }
    for (index, range) in strs_at(spec, "/loadBalancerSourceRanges").into_iter().enumerate() {
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

/// Fields that depend on the type.
fn check_external(service: &Value, causes: &mut Vec<Cause>) {
    let spec = &service["spec"];
    let balanced = is_load_balancer(service);
    for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass", "loadBalancerSourceRanges"] {
        let empty = spec[field].is_null() || spec[field].as_array().is_some_and(Vec::is_empty);
        if !empty && !balanced {
            let why = "may only be used when `type` is 'LoadBalancer'";
            causes.push(Cause::forbidden(format!("spec.{field}"), why));
        }
    }
    let class = str_at(spec, "/loadBalancerClass");
    if balanced && !spec["loadBalancerClass"].is_null() && !is_qualified_name(class) {
        let why = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end \
                   with an alphanumeric character";
        causes.push(Cause::invalid("spec.loadBalancerClass", &json!(class), why));
    }
    if !spec["externalTrafficPolicy"].is_null() && !is_external(service) {
        let why = "may only be set for externally-accessible services";
        causes.push(Cause::invalid("spec.externalTrafficPolicy", &spec["externalTrafficPolicy"], why));
    }
    if i64_at(spec, "/healthCheckNodePort").is_some_and(|port| port != 0) && !has_health_check_port(service) {
        let why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        causes.push(Cause::invalid("spec.healthCheckNodePort", &spec["healthCheckNodePort"], why));
    }
}

/// Checks the load balancer status.
pub(super) fn check_status(service: &Value, causes: &mut Vec<Cause>) {
    let ingress = array_at(service, "/status/loadBalancer/ingress");
    if !ingress.is_empty() && !is_load_balancer(service) {
        let why = "may only be used when `spec.type` is 'LoadBalancer'";
        causes.push(Cause::forbidden("status.loadBalancer.ingress", why));
    }
    for (index, one) in ingress.iter().enumerate() {
        let field = |name: &str| format!("status.loadBalancer.ingress[{index}].{name}");
        let (ip, name) = (str_at(one, "/ip"), str_at(one, "/hostname"));
        if !ip.is_empty() {
            check_ip(field("ip"), ip, causes);
            check_one_of(field("ipMode"), &one["ipMode"], &["Proxy", "VIP"], causes);
        } else if !one["ipMode"].is_null() {
            causes.push(Cause::forbidden(field("ipMode"), "may not be specified when `ip` is not set"));
        }
        if name.parse::<std::net::IpAddr>().is_ok() {
            let why = "must be a DNS name, not an IP address";
            causes.push(Cause::invalid(field("hostname"), &json!(name), why));
        } else if !name.is_empty() && !is_subdomain_1123(name) {
            causes.push(Cause::invalid(field("hostname"), &json!(name), SUBDOMAIN_RULE));
        }
    }
}

fn check_affinity(spec: &Value, causes: &mut Vec<Cause>) {
    check_one_of("spec.sessionAffinity".to_owned(), &spec["sessionAffinity"], &["ClientIP", "None"], causes);
    if spec["sessionAffinity"] == "None" && !spec["sessionAffinityConfig"].is_null() {
        let why = "must not be set when session affinity is None";
        causes.push(Cause::forbidden("spec.sessionAffinityConfig", why));
    }
    if let Some(seconds) = i64_at(spec, "/sessionAffinityConfig/clientIP/timeoutSeconds")
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
    for (index, family) in array_at(spec, "/ipFamilies").iter().enumerate() {
        check_one_of(format!("spec.ipFamilies[{index}]"), family, &["IPv4", "IPv6"], causes);
        if !seen.insert(family.to_string()) {
            causes.push(Cause::duplicate(format!("spec.ipFamilies[{index}]"), family));
        }
    }
}

fn check_external_name(spec: &Value, causes: &mut Vec<Cause>) {
    let name = str_at(spec, "/externalName");
    if name.is_empty() {
        causes.push(Cause::required("spec.externalName", ""));
    } else if !is_subdomain_1123(name.trim_end_matches('.')) {
        causes.push(Cause::invalid("spec.externalName", &json!(name), SUBDOMAIN_RULE));
    }
    let why = "may not be set when `type` is 'ExternalName'";
    let has_ip = !str_at(spec, "/clusterIP").is_empty() || !array_at(spec, "/clusterIPs").is_empty();
    let given = [
        ("clusterIPs", has_ip),
        ("ipFamilies", !array_at(spec, "/ipFamilies").is_empty()),
        ("ipFamilyPolicy", !spec["ipFamilyPolicy"].is_null()),
    ];
    for (field, _) in given.iter().filter(|(_, given)| *given) {
        causes.push(Cause::forbidden(format!("spec.{field}"), why));
    }
}

fn check_cluster_ips(spec: &Value, causes: &mut Vec<Cause>) {
    let (single, list) = (str_at(spec, "/clusterIP"), strs_at(spec, "/clusterIPs"));
    if let Some(first) = list.first()
        && !single.is_empty()
        && *first != single
    {
        causes.push(Cause::invalid("spec.clusterIPs[0]", &json!(first), "must match `clusterIP`"));
    }
    let headless = single == "None" || list.first() == Some(&"None");
    if headless && matches!(str_at(spec, "/type"), "NodePort" | "LoadBalancer") {
        let why = format!("may not be set to 'None' for {} services", str_at(spec, "/type"));
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
}

fn check_families_match(spec: &Value, addresses: &[std::net::IpAddr], causes: &mut Vec<Cause>) {
    let families = strs_at(spec, "/ipFamilies");
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

fn check_ports(spec: &Value, causes: &mut Vec<Cause>) {
    let ports = array_at(spec, "/ports");
    let headless =
        str_at(spec, "/clusterIP") == "None" || strs_at(spec, "/clusterIPs").first() == Some(&"None");
    if ports.is_empty() && !headless && spec["type"] != "ExternalName" {
        causes.push(Cause::required("spec.ports", ""));
    }
    let (mut names, mut numbers, mut node_ports) = (HashSet::new(), HashSet::new(), HashSet::new());
    for (index, port) in ports.iter().enumerate() {
        let field = |name: &str| format!("spec.ports[{index}]{name}");
        let name = str_at(port, "/name");
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
        if port["port"] == 10250 && spec["type"] == "LoadBalancer" {
            let why = "may not expose port 10250 externally since it is used by kubelet";
            causes.push(Cause::invalid(field(".port"), &port["port"], why));
        }
        let application = str_at(port, "/appProtocol");
        if !application.is_empty() && !is_qualified_name(application) {
            let why = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end \
                       with an alphanumeric character";
            causes.push(Cause::invalid(field(".appProtocol"), &port["appProtocol"], why));
        }
        check_protocol(field(".protocol"), &port["protocol"], causes);
        check_target(field(".targetPort"), &port["targetPort"], causes);
        if !numbers.insert((port["port"].as_i64(), str_at(port, "/protocol"))) {
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
    // The allocator decides whether a service without node ports may set one.
    let has_ports = matches!(str_at(spec, "/type"), "NodePort" | "LoadBalancer");
    let Some(node_port) = i64_at(port, "/nodePort").filter(|port| *port != 0 && has_ports) else { return };
    if !seen.insert((node_port, str_at(port, "/protocol"))) {
        causes.push(Cause::duplicate(field, &port["nodePort"]));
    }
}
