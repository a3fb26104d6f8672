//! Pods and pod templates.

mod container;
mod dns;
mod probe;
mod update;
mod volume;

use std::collections::HashSet;

use beeline_apiserver_objects::{
    Cause,
    object::{array_at, bool_at, i64_at, str_at},
};
use serde_json::{Value, json};

use super::checks::{check_ip, check_label_1123, check_one_of};
use super::metadata::check_labels;
use crate::names::{SUBDOMAIN_RULE, is_qualified_name, is_subdomain_1123};

pub(super) fn check(pod: &Value, before: Option<&Value>, causes: &mut Vec<Cause>) {
    check_spec("spec", &pod["spec"], causes);
    if let Some(before) = before {
        update::check(&before["spec"], &pod["spec"], causes);
    }
}

pub(super) fn check_spec(path: &str, spec: &Value, causes: &mut Vec<Cause>) {
    let volumes = volume::check(path, spec, causes);
    if array_at(spec, "/containers").is_empty() {
        causes.push(Cause::required(format!("{path}.containers"), ""));
    }
    let mut names = HashSet::new();
    for list in ["initContainers", "containers"] {
        for (index, container) in array_at(spec, &format!("/{list}")).iter().enumerate() {
            let field = format!("{path}.{list}[{index}]");
            container::check(&field, container, &volumes, bool_at(spec, "/hostNetwork"), causes);
            if !names.insert(str_at(container, "/name")) {
                causes.push(Cause::duplicate(format!("{field}.name"), &container["name"]));
            }
            if list == "initContainers" && str_at(container, "/restartPolicy") != "Always" {
                probe::forbid_all(&field, container, causes);
            }
        }
    }
    container::check_host_ports(path, spec, causes);
    let known = ["Always", "OnFailure", "Never"];
    check_one_of(format!("{path}.restartPolicy"), &spec["restartPolicy"], &known, causes);
    dns::check(path, spec, causes);
    check_seconds(path, spec, causes);
    check_names(path, spec, causes);
    check_labels(&format!("{path}.nodeSelector"), &spec["nodeSelector"], causes);
    check_tolerations(path, spec, causes);
}

fn check_seconds(path: &str, spec: &Value, causes: &mut Vec<Cause>) {
    let grace = i64_at(spec, "/terminationGracePeriodSeconds").unwrap_or(0);
    if grace < 0 {
        let field = format!("{path}.terminationGracePeriodSeconds");
        causes.push(Cause::invalid(field, &json!(grace), "must be greater than or equal to 0"));
    }
    let deadline = i64_at(spec, "/activeDeadlineSeconds");
    if deadline.is_some_and(|seconds| !(1..=i64::from(i32::MAX)).contains(&seconds)) {
        let why = format!("must be between 1 and {}, inclusive", i32::MAX);
        causes.push(Cause::invalid(format!("{path}.activeDeadlineSeconds"), &json!(deadline), why));
    }
}

fn check_names(path: &str, spec: &Value, causes: &mut Vec<Cause>) {
    for field in ["nodeName", "serviceAccountName", "priorityClassName", "runtimeClassName"] {
        let name = str_at(spec, &format!("/{field}"));
        if !name.is_empty() && !is_subdomain_1123(name) {
            causes.push(Cause::invalid(format!("{path}.{field}"), &json!(name), SUBDOMAIN_RULE));
        }
    }
    for field in ["hostname", "subdomain"] {
        let name = str_at(spec, &format!("/{field}"));
        if !name.is_empty() {
            check_label_1123(format!("{path}.{field}"), name, causes);
        }
    }
    for (index, alias) in array_at(spec, "/hostAliases").iter().enumerate() {
        let field = format!("{path}.hostAliases[{index}]");
        check_ip(format!("{field}.ip"), str_at(alias, "/ip"), causes);
        for (index, name) in array_at(alias, "/hostnames").iter().enumerate() {
            if !name.as_str().is_some_and(is_subdomain_1123) {
                causes.push(Cause::invalid(format!("{field}.hostnames[{index}]"), name, SUBDOMAIN_RULE));
            }
        }
    }
}

fn check_tolerations(path: &str, spec: &Value, causes: &mut Vec<Cause>) {
    for (index, toleration) in array_at(spec, "/tolerations").iter().enumerate() {
        let field = |name: &str| format!("{path}.tolerations[{index}].{name}");
        let (key, operator) = (str_at(toleration, "/key"), str_at(toleration, "/operator"));
        let (value, effect) = (str_at(toleration, "/value"), str_at(toleration, "/effect"));
        if !key.is_empty() && !is_qualified_name(key) {
            let why = "name part must consist of alphanumeric characters, '-', '_' or '.'";
            causes.push(Cause::invalid(field("key"), &json!(key), why));
        }
        if key.is_empty() && operator != "Exists" {
            let why =
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            causes.push(Cause::invalid(field("operator"), &json!(operator), why));
        }
        match operator {
            "" | "Equal" => {}
            "Exists" if !value.is_empty() => {
                let why = "value must be empty when `operator` is 'Exists'";
                causes.push(Cause::invalid(field("operator"), toleration, why));
            }
            "Exists" => {}
            _ => check_one_of(field("operator"), &toleration["operator"], &["Equal", "Exists"], causes),
        }
        if !effect.is_empty() {
            let known = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
            check_one_of(field("effect"), &toleration["effect"], &known, causes);
        }
        if i64_at(toleration, "/tolerationSeconds").is_some() && effect != "NoExecute" {
            let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            causes.push(Cause::invalid(field("effect"), &json!(effect), why));
        }
    }
}

pub(super) fn check_status(pod: &Value, causes: &mut Vec<Cause>) {
    let known = ["Pending", "Running", "Succeeded", "Failed", "Unknown"];
    if !pod["status"]["phase"].is_null() {
        check_one_of("status.phase".to_owned(), &pod["status"]["phase"], &known, causes);
    }
    let mut families = HashSet::new();
    for (index, address) in array_at(pod, "/status/podIPs").iter().enumerate() {
        let field = format!("status.podIPs[{index}]");
        if let Some(ip) = check_ip(field.clone(), str_at(address, "/ip"), causes)
            && !families.insert(ip.is_ipv6())
        {
            causes.push(Cause::invalid(
                field,
                &address["ip"],
                "may specify no more than one IP for each IP family",
            ));
        }
    }
    let (single, first) = (str_at(pod, "/status/podIP"), str_at(pod, "/status/podIPs/0/ip"));
    if !single.is_empty() && !array_at(pod, "/status/podIPs").is_empty() && single != first {
        causes.push(Cause::invalid("status.podIP", &json!(single), "must match status.podIPs[0].ip"));
    }
}
