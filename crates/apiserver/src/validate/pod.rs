//! Pods, alone and as templates.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{
    check_ip, check_label_1123, check_one_of, check_port_number, check_protocol, is_port_name,
    is_subdomain_1123,
};
use crate::Cause;
use crate::object::{items, number, text};

pub(super) fn check(pod: &Value, before: Option<&Value>, causes: &mut Vec<Cause>) {
    check_spec("spec", &pod["spec"], causes);
    if before.is_some_and(|before| fixed(&before["spec"]) != fixed(&pod["spec"])) {
        let why = "pod updates may not change fields other than `spec.containers[*].image`, \
                   `spec.initContainers[*].image`, `spec.activeDeadlineSeconds`, `spec.tolerations` or \
                   `spec.terminationGracePeriodSeconds`";
        causes.push(Cause::forbidden("spec", why));
    }
}

pub(super) fn check_spec(path: &str, spec: &Value, causes: &mut Vec<Cause>) {
    if items(spec, "/containers").is_empty() {
        causes.push(Cause::required(format!("{path}.containers"), ""));
    }
    let known = ["Always", "OnFailure", "Never"];
    check_one_of(format!("{path}.restartPolicy"), &spec["restartPolicy"], &known, causes);
    let known = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    check_one_of(format!("{path}.dnsPolicy"), &spec["dnsPolicy"], &known, causes);
    let grace = number(spec, "/terminationGracePeriodSeconds").unwrap_or(0);
    if grace < 0 {
        let field = format!("{path}.terminationGracePeriodSeconds");
        causes.push(Cause::invalid(field, &json!(grace), "must be greater than or equal to 0"));
    }
    let node = text(spec, "/nodeName");
    if !node.is_empty() && !is_subdomain_1123(node) {
        causes.push(Cause::invalid(format!("{path}.nodeName"), &json!(node), "must be a node's name"));
    }
    let mut names = HashSet::new();
    for list in ["initContainers", "containers"] {
        for (index, container) in items(spec, &format!("/{list}")).iter().enumerate() {
            let field = format!("{path}.{list}[{index}]");
            check_container(&field, container, causes);
            if !names.insert(text(container, "/name")) {
                causes.push(Cause::duplicate(format!("{field}.name"), &container["name"]));
            }
        }
    }
    check_host_ports(path, spec, causes);
}

fn check_container(field: &str, container: &Value, causes: &mut Vec<Cause>) {
    match text(container, "/name") {
        "" => causes.push(Cause::required(format!("{field}.name"), "")),
        name => check_label_1123(format!("{field}.name"), name, causes),
    }
    if text(container, "/image").trim().is_empty() {
        causes.push(Cause::required(format!("{field}.image"), ""));
    }
    let mut names = HashSet::new();
    for (index, port) in items(container, "/ports").iter().enumerate() {
        let field = |name: &str| format!("{field}.ports[{index}].{name}");
        check_port_number(field("containerPort"), &port["containerPort"], causes);
        check_protocol(field("protocol"), &port["protocol"], causes);
        if !port["hostPort"].is_null() {
            check_port_number(field("hostPort"), &port["hostPort"], causes);
        }
        let name = text(port, "/name");
        if !name.is_empty() && !is_port_name(name) {
            let why = "must be at most 15 lower case letters, digits and '-', with at least one letter";
            causes.push(Cause::invalid(field("name"), &json!(name), why));
        }
        if !name.is_empty() && !names.insert(name) {
            causes.push(Cause::duplicate(field("name"), &json!(name)));
        }
    }
}

fn check_host_ports(path: &str, spec: &Value, causes: &mut Vec<Cause>) {
    let mut seen = HashSet::new();
    for (outer, container) in items(spec, "/containers").iter().enumerate() {
        for (inner, port) in items(container, "/ports").iter().enumerate() {
            let Some(host_port) = number(port, "/hostPort") else { continue };
            if !seen.insert((host_port, text(port, "/protocol"), text(port, "/hostIP"))) {
                let field = format!("{path}.containers[{outer}].ports[{inner}].hostPort");
                causes.push(Cause::duplicate(field, &json!(host_port)));
            }
        }
    }
}

/// The part of a pod's spec that stays as it is for the pod's life.
fn fixed(spec: &Value) -> Value {
    let mut spec = spec.clone();
    if let Some(fields) = spec.as_object_mut() {
        for field in
            ["activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds", "schedulingGates"]
        {
            fields.remove(field);
        }
        for list in ["containers", "initContainers"] {
            for container in fields.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                if let Some(container) = container.as_object_mut() {
                    container.remove("image");
                }
            }
        }
    }
    spec
}

pub(super) fn check_status(pod: &Value, causes: &mut Vec<Cause>) {
    let known = ["Pending", "Running", "Succeeded", "Failed", "Unknown"];
    if !pod["status"]["phase"].is_null() {
        check_one_of("status.phase".to_owned(), &pod["status"]["phase"], &known, causes);
    }
    let mut families = HashSet::new();
    for (index, address) in items(pod, "/status/podIPs").iter().enumerate() {
        let field = format!("status.podIPs[{index}]");
        if let Some(ip) = check_ip(field.clone(), text(address, "/ip"), causes)
            && !families.insert(ip.is_ipv6())
        {
            causes.push(Cause::invalid(
                field,
                &address["ip"],
                "may specify no more than one IP for each IP family",
            ));
        }
    }
    let (single, first) = (text(pod, "/status/podIP"), text(pod, "/status/podIPs/0/ip"));
    if !single.is_empty() && !items(pod, "/status/podIPs").is_empty() && single != first {
        causes.push(Cause::invalid("status.podIP", &json!(single), "must match status.podIPs[0].ip"));
    }
}
