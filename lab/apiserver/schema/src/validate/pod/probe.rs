//! Probes: one handler, and valid numbers.

use beeline_apiserver_objects::{
    Cause,
    object::{array_at, i64_at, str_at},
};
use serde_json::{Value, json};

use super::super::checks::{check_one_of, check_port_number};
use crate::names::is_port_name;

const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];
const HANDLERS: [&str; 4] = ["exec", "httpGet", "tcpSocket", "grpc"];

/// Init containers that are not sidecars cannot have probes.
pub(super) fn forbid_all(field: &str, container: &Value, causes: &mut Vec<Cause>) {
    for name in PROBES.into_iter().chain(["lifecycle"]).filter(|name| !container[*name].is_null()) {
        let why = "may not be set for init containers without restartPolicy=Always";
        causes.push(Cause::forbidden(format!("{field}.{name}"), why));
    }
}

pub(super) fn check_all(field: &str, container: &Value, causes: &mut Vec<Cause>) {
    for name in PROBES.into_iter().filter(|name| !container[*name].is_null()) {
        check(&format!("{field}.{name}"), name, &container[name], causes);
    }
}

fn check(field: &str, name: &str, probe: &Value, causes: &mut Vec<Cause>) {
    check_handler(field, probe, causes);
    let numbers =
        ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"];
    for name in numbers {
        if let Some(value) = i64_at(probe, &format!("/{name}")).filter(|value| *value < 0) {
            let why = "must be greater than or equal to 0";
            causes.push(Cause::invalid(format!("{field}.{name}"), &json!(value), why));
        }
    }
    let successes = i64_at(probe, "/successThreshold").unwrap_or(1);
    if name != "readinessProbe" && successes != 1 {
        causes.push(Cause::invalid(format!("{field}.successThreshold"), &json!(successes), "must be 1"));
    }
    let grace = i64_at(probe, "/terminationGracePeriodSeconds");
    let why = match grace {
        Some(_) if name == "readinessProbe" => "must not be set for readinessProbes",
        Some(seconds) if seconds <= 0 => "must be greater than 0",
        _ => return,
    };
    causes.push(Cause::invalid(format!("{field}.terminationGracePeriodSeconds"), &json!(grace), why));
}

fn check_handler(field: &str, probe: &Value, causes: &mut Vec<Cause>) {
    let ways: Vec<&str> = HANDLERS.into_iter().filter(|way| !probe[*way].is_null()).collect();
    let Some((way, more)) = ways.split_first() else {
        return causes.push(Cause::required(field, "must specify a handler type"));
    };
    for way in more {
        causes.push(Cause::forbidden(format!("{field}.{way}"), "may not specify more than 1 handler type"));
    }
    let (field, asked) = (format!("{field}.{way}"), &probe[*way]);
    match *way {
        "exec" if array_at(asked, "/command").is_empty() => {
            causes.push(Cause::required(format!("{field}.command"), ""));
        }
        "exec" => {}
        "grpc" => check_port_number(format!("{field}.port"), &asked["port"], causes),
        _ => check_port(format!("{field}.port"), &asked["port"], causes),
    }
    if *way == "httpGet" {
        if str_at(asked, "/path").is_empty() {
            causes.push(Cause::required(format!("{field}.path"), ""));
        }
        check_one_of(format!("{field}.scheme"), &asked["scheme"], &["HTTP", "HTTPS"], causes);
    }
}

/// A port number, or the name of a container port.
fn check_port(field: String, port: &Value, causes: &mut Vec<Cause>) {
    match port.as_str() {
        None => check_port_number(field, port, causes),
        Some(name) if !is_port_name(name) => {
            let why = "must be at most 15 lower case letters, digits and '-', with at least one letter";
            causes.push(Cause::invalid(field, port, why));
        }
        Some(_) => {}
    }
}
