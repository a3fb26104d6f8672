//! Validation of built-in kinds: the parts that matter for networking and common mistakes.

mod endpoint_slice;
mod metadata;
mod node;
mod pod;
mod rbac;
mod service;
mod service_update;
mod workload;

use serde_json::{Value, json};

use crate::{Cause, Kind};

/// All errors of an object.
pub(crate) fn object(kind: &Kind, object: &Value, before: Option<&Value>) -> Vec<Cause> {
    let mut causes = metadata::check(kind, object, before);
    if let Some(custom) = &kind.custom {
        causes.extend(custom.check(object));
    }
    match kind.built_in_plural() {
        "services" => service::check(object, before, &mut causes),
        "endpointslices" => endpoint_slice::check(object, before, &mut causes),
        "pods" => pod::check(object, before, &mut causes),
        "nodes" => node::check(object, before, &mut causes),
        "customresourcedefinitions" => crate::custom::check_definition(object, before, &mut causes),
        "deployments" | "replicasets" | "daemonsets" => workload::check(object, before, &mut causes),
        "roles" | "clusterroles" => rbac::check_role(kind, object, &mut causes),
        "rolebindings" | "clusterrolebindings" => rbac::check_binding(kind, object, before, &mut causes),
        _ => {}
    }
    causes
}

/// All errors of a status.
pub(crate) fn status(kind: &Kind, object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    if let Some(custom) = &kind.custom {
        causes.extend(custom.check(object));
    }
    match kind.built_in_plural() {
        "pods" => pod::check_status(object, &mut causes),
        "services" => service::check_status(object, &mut causes),
        "nodes" => node::check_status(object, &mut causes),
        _ => {}
    }
    causes
}

const NAME_RULE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
                         start and end with an alphanumeric character";

const SUBDOMAIN_RULE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', \
                              and must start and end with an alphanumeric character";

fn is_label_1123(text: &str) -> bool {
    let inside = |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inside)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

pub(crate) fn is_subdomain_1123(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label_1123)
}

pub(crate) fn is_label_1035(text: &str) -> bool {
    is_label_1123(text) && text.starts_with(|letter: char| letter.is_ascii_lowercase())
}

/// IANA service names (RFC 6335), for named ports.
fn is_port_name(text: &str) -> bool {
    is_label_1123(text)
        && text.len() <= 15
        && text.bytes().any(|letter| letter.is_ascii_lowercase())
        && !text.contains("--")
}

fn is_port(value: &Value) -> bool {
    value.as_i64().is_some_and(|port| (1..=65535).contains(&port))
}

fn check_port_number(field: String, value: &Value, causes: &mut Vec<Cause>) {
    if !is_port(value) {
        causes.push(Cause::invalid(field, value, "must be between 1 and 65535, inclusive"));
    }
}

fn check_one_of(field: String, value: &Value, known: &[&str], causes: &mut Vec<Cause>) {
    if !value.as_str().is_some_and(|value| known.contains(&value)) {
        causes.push(Cause::unsupported(field, value, known));
    }
}

fn check_protocol(field: String, value: &Value, causes: &mut Vec<Cause>) {
    check_one_of(field, value, &["TCP", "UDP", "SCTP"], causes);
}

fn check_label_1123(field: String, text: &str, causes: &mut Vec<Cause>) {
    if !is_label_1123(text) {
        causes.push(Cause::invalid(field, &json!(text), NAME_RULE));
    }
}

/// An IP address as Kubernetes accepts it: no zone, no leading zeros in IPv4.
fn check_ip(field: String, text: &str, causes: &mut Vec<Cause>) -> Option<std::net::IpAddr> {
    let parsed = text.parse().ok();
    if parsed.is_none() {
        causes.push(Cause::invalid(
            field,
            &json!(text),
            "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ));
    }
    parsed
}

#[cfg(test)]
mod tests;
