//! Containers: names, ports, environment and volume mounts.

use std::collections::HashSet;

use beeline_apiserver_objects::{
    Cause,
    object::{array_at, i64_at, str_at},
};
use serde_json::{Value, json};

use super::super::checks::{check_label_1123, check_one_of, check_port_number, check_protocol};
use super::probe;
use crate::names::is_port_name;

pub(super) fn check(
    field: &str,
    container: &Value,
    volumes: &HashSet<&str>,
    host_network: bool,
    causes: &mut Vec<Cause>,
) {
    match str_at(container, "/name") {
        "" => causes.push(Cause::required(format!("{field}.name"), "")),
        name => check_label_1123(format!("{field}.name"), name, causes),
    }
    let image = str_at(container, "/image");
    if image.is_empty() {
        causes.push(Cause::required(format!("{field}.image"), ""));
    } else if image.trim() != image {
        let why = "must not have leading or trailing whitespace";
        causes.push(Cause::invalid(format!("{field}.image"), &json!(image), why));
    }
    if !container["imagePullPolicy"].is_null() {
        let known = ["Always", "IfNotPresent", "Never"];
        check_one_of(format!("{field}.imagePullPolicy"), &container["imagePullPolicy"], &known, causes);
    }
    check_ports(field, container, host_network, causes);
    check_environment(field, container, causes);
    check_mounts(field, container, volumes, causes);
    probe::check_all(field, container, causes);
}

fn check_ports(field: &str, container: &Value, host_network: bool, causes: &mut Vec<Cause>) {
    let mut names = HashSet::new();
    for (index, port) in array_at(container, "/ports").iter().enumerate() {
        let field = |name: &str| format!("{field}.ports[{index}].{name}");
        let host_port = i64_at(port, "/hostPort").unwrap_or(0);
        if i64_at(port, "/containerPort").unwrap_or(0) == 0 {
            causes.push(Cause::required(field("containerPort"), ""));
        } else {
            check_port_number(field("containerPort"), &port["containerPort"], causes);
        }
        if host_port != 0 {
            check_port_number(field("hostPort"), &port["hostPort"], causes);
        }
        if host_network && host_port != 0 && port["hostPort"] != port["containerPort"] {
            let why = "must match `hostPort` when `hostNetwork` is true";
            causes.push(Cause::invalid(field("containerPort"), &port["containerPort"], why));
        }
        check_protocol(field("protocol"), &port["protocol"], causes);
        let name = str_at(port, "/name");
        if !name.is_empty() && !is_port_name(name) {
            let why = "must be at most 15 lower case letters, digits and '-', with at least one letter";
            causes.push(Cause::invalid(field("name"), &json!(name), why));
        }
        if !name.is_empty() && !names.insert(name) {
            causes.push(Cause::duplicate(field("name"), &json!(name)));
        }
    }
}

/// Each host port may be used once.
pub(super) fn check_host_ports(path: &str, spec: &Value, causes: &mut Vec<Cause>) {
    let mut seen = HashSet::new();
    for (outer, container) in array_at(spec, "/containers").iter().enumerate() {
        for (inner, port) in array_at(container, "/ports").iter().enumerate() {
            let Some(host_port) = i64_at(port, "/hostPort").filter(|port| *port != 0) else { continue };
            let key = format!("{}/{}/{host_port}", str_at(port, "/protocol"), str_at(port, "/hostIP"));
            if !seen.insert(key.clone()) {
                let field = format!("{path}.containers[{outer}].ports[{inner}].hostPort");
                causes.push(Cause::duplicate(field, &json!(key)));
            }
        }
    }
}

fn check_environment(field: &str, container: &Value, causes: &mut Vec<Cause>) {
    for (index, variable) in array_at(container, "/env").iter().enumerate() {
        let field = |name: &str| format!("{field}.env[{index}].{name}");
        let name = str_at(variable, "/name");
        if name.is_empty() {
            causes.push(Cause::required(field("name"), ""));
        } else if !name.bytes().all(|letter| (b' '..=b'~').contains(&letter) && letter != b'=') {
            let why = "a valid environment variable name must consist only of printable ASCII characters other than '='";
            causes.push(Cause::invalid(field("name"), &json!(name), why));
        }
        let Some(source) = variable["valueFrom"].as_object() else { continue };
        if !str_at(variable, "/value").is_empty() {
            causes.push(Cause::invalid(
                field("valueFrom"),
                &json!(""),
                "may not be specified when `value` is not empty",
            ));
        }
        check_source(&field("valueFrom"), source, causes);
    }
}

fn check_source(field: &str, source: &serde_json::Map<String, Value>, causes: &mut Vec<Cause>) {
    let given: Vec<(&String, &Value)> = source.iter().filter(|(_, value)| !value.is_null()).collect();
    let [(name, value)] = given.as_slice() else {
        let why = if given.is_empty() {
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
        } else {
            "may not have more than one field specified at a time"
        };
        return causes.push(Cause::invalid(field, &json!(""), why));
    };
    let required_field = match name.as_str() {
        "fieldRef" => "fieldPath",
        "resourceFieldRef" => "resource",
        _ => "key",
    };
    if str_at(value, &format!("/{required_field}")).is_empty() {
        causes.push(Cause::required(format!("{field}.{name}.{required_field}"), ""));
    }
}

fn check_mounts(field: &str, container: &Value, volumes: &HashSet<&str>, causes: &mut Vec<Cause>) {
    let mut paths = HashSet::new();
    for (index, mount) in array_at(container, "/volumeMounts").iter().enumerate() {
        let field = |name: &str| format!("{field}.volumeMounts[{index}].{name}");
        let (name, path) = (str_at(mount, "/name"), str_at(mount, "/mountPath"));
        if name.is_empty() {
            causes.push(Cause::required(field("name"), ""));
        } else if !volumes.contains(name) {
            causes.push(Cause::not_found(field("name"), &json!(name)));
        }
        if path.is_empty() {
            causes.push(Cause::required(field("mountPath"), ""));
        } else if !paths.insert(path) {
            causes.push(Cause::invalid(field("mountPath"), &json!(path), "must be unique"));
        }
        for inner in ["subPath", "subPathExpr"] {
            check_local_descending_path(field(inner), str_at(mount, &format!("/{inner}")), causes);
        }
        if !str_at(mount, "/subPath").is_empty() && !str_at(mount, "/subPathExpr").is_empty() {
            let why = "subPathExpr and subPath are mutually exclusive";
            causes.push(Cause::invalid(field("subPathExpr"), &mount["subPathExpr"], why));
        }
    }
}

/// Paths within a volume must be relative and must not contain `..`.
pub(super) fn check_local_descending_path(field: String, path: &str, causes: &mut Vec<Cause>) {
    if path.starts_with('/') {
        causes.push(Cause::invalid(field.clone(), &json!(path), "must be a relative path"));
    }
    if path.split('/').any(|part| part == "..") {
        causes.push(Cause::invalid(field, &json!(path), "must not contain '..'"));
    }
}
