//! Checks of single values.

use beeline_apiserver_objects::Cause;
use serde_json::{Value, json};

use crate::names::{NAME_RULE, is_label_1123};

pub(super) fn is_port(value: &Value) -> bool {
    value.as_i64().is_some_and(|port| (1..=65535).contains(&port))
}

pub(super) fn check_port_number(field: String, value: &Value, causes: &mut Vec<Cause>) {
    if !is_port(value) {
        causes.push(Cause::invalid(field, value, "must be between 1 and 65535, inclusive"));
    }
}

pub(super) fn check_one_of(field: String, value: &Value, known: &[&str], causes: &mut Vec<Cause>) {
    if !value.as_str().is_some_and(|value| known.contains(&value)) {
        causes.push(Cause::unsupported(field, value, known));
    }
}

pub(super) fn check_protocol(field: String, value: &Value, causes: &mut Vec<Cause>) {
    check_one_of(field, value, &["TCP", "UDP", "SCTP"], causes);
}

pub(super) fn check_label_1123(field: String, text: &str, causes: &mut Vec<Cause>) {
    if !is_label_1123(text) {
        causes.push(Cause::invalid(field, &json!(text), NAME_RULE));
    }
}

/// An IP address as Kubernetes accepts it: no zone, no leading zeros in IPv4.
pub(super) fn check_ip(field: String, text: &str, causes: &mut Vec<Cause>) -> Option<std::net::IpAddr> {
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
