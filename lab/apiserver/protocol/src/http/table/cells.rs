//! Cell values of the tables of built-in kinds.

use beeline_apiserver_objects::object::{self, array_at, bool_at, i64_at, str_at, strs_at};
use serde_json::{Value, json};

pub(super) fn or_none(text: &str) -> Value {
    json!(if text.is_empty() { "<none>" } else { text })
}

pub(super) fn or_unknown(text: &str) -> Value {
    json!(if text.is_empty() { "<unknown>" } else { text })
}

/// The first of these fields that is not empty.
pub(super) fn first<'a>(object: &'a Value, pointers: &[&str]) -> &'a str {
    pointers.iter().map(|pointer| str_at(object, pointer)).find(|text| !text.is_empty()).unwrap_or_default()
}

pub(super) fn entries(object: &Value, field: &str) -> usize {
    object[field].as_object().map_or(0, serde_json::Map::len)
}

pub(super) fn labels(map: &Value) -> String {
    let pairs: Vec<String> = map
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    if pairs.is_empty() { "<none>".to_owned() } else { pairs.join(",") }
}

/// A `LabelSelector` in kubectl's notation.
pub(super) fn selector(selector: &Value) -> String {
    let mut parts = Vec::new();
    if entries(selector, "matchLabels") > 0 {
        parts.push(labels(&selector["matchLabels"]));
    }
    for one in array_at(selector, "/matchExpressions") {
        let (key, values) = (str_at(one, "/key"), joined(one, "/values"));
        parts.push(match str_at(one, "/operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        });
    }
    if parts.is_empty() { "<none>".to_owned() } else { parts.join(",") }
}

pub(super) fn containers(workload: &Value, field: &str) -> String {
    let containers = array_at(workload, "/spec/template/spec/containers").iter();
    containers.map(|one| str_at(one, field)).collect::<Vec<_>>().join(",")
}

pub(super) fn ready_replicas(object: &Value) -> Value {
    let ready = i64_at(object, "/status/readyReplicas").unwrap_or(0);
    json!(format!("{ready}/{}", i64_at(object, "/spec/replicas").unwrap_or(0)))
}

pub(super) fn ready_containers(pod: &Value) -> Value {
    let ready =
        array_at(pod, "/status/containerStatuses").iter().filter(|status| bool_at(status, "/ready")).count();
    json!(format!("{ready}/{}", array_at(pod, "/spec/containers").len()))
}

/// The STATUS column of a pod.
pub(super) fn pod_status(pod: &Value) -> String {
    if object::is_deleting(pod) {
        return if str_at(pod, "/status/reason") == "NodeLost" { "Unknown" } else { "Terminating" }
            .to_owned();
    }
    if let Some(status_text) = init_status(pod) {
        return status_text;
    }
    let phase = first(pod, &["/status/reason", "/status/phase"]).to_owned();
    let statuses = array_at(pod, "/status/containerStatuses");
    let status_text = statuses
        .iter()
        .rev()
        .fold(phase, |status_text, status| container_reason(status).unwrap_or(status_text));
    let runs =
        statuses.iter().any(|status| bool_at(status, "/ready") && status.pointer("/state/running").is_some());
    match (status_text.as_str(), runs) {
        ("Completed", true) => "Running".to_owned(),
        _ => status_text,
    }
}

fn init_status(pod: &Value) -> Option<String> {
    let statuses = array_at(pod, "/status/initContainerStatuses");
    let of = array_at(pod, "/spec/initContainers").len();
    for (index, status) in statuses.iter().enumerate() {
        if i64_at(status, "/state/terminated/exitCode") == Some(0)
            || bool_at(status, "/started") && bool_at(status, "/ready")
        {
            continue;
        }
        let status_text = container_reason(status).filter(|status_text| status_text != "PodInitializing");
        return Some(
            status_text.map_or(format!("Init:{index}/{of}"), |status_text| format!("Init:{status_text}")),
        );
    }
    None
}

fn container_reason(status: &Value) -> Option<String> {
    let waiting = str_at(status, "/state/waiting/reason");
    if !waiting.is_empty() {
        return Some(waiting.to_owned());
    }
    let ended = status.pointer("/state/terminated")?;
    Some(match (str_at(ended, "/reason"), i64_at(ended, "/signal").unwrap_or(0)) {
        ("", 0) => format!("ExitCode:{}", i64_at(ended, "/exitCode").unwrap_or(0)),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    })
}

pub(super) fn restarts(pod: &Value) -> String {
    let statuses = array_at(pod, "/status/containerStatuses");
    let count: i64 = statuses.iter().filter_map(|status| i64_at(status, "/restartCount")).sum();
    let last = statuses
        .iter()
        .map(|status| str_at(status, "/lastState/terminated/finishedAt"))
        .max()
        .unwrap_or_default();
    if count == 0 || last.is_empty() {
        return count.to_string();
    }
    format!("{count} ({} ago)", object::age_of(last))
}

pub(super) fn external_addresses(service: &Value) -> String {
    let mut addresses: Vec<&str> = array_at(service, "/status/loadBalancer/ingress")
        .iter()
        .map(|ingress| first(ingress, &["/ip", "/hostname"]))
        .collect();
    addresses.extend(strs_at(service, "/spec/externalIPs"));
    match str_at(service, "/spec/type") {
        "ExternalName" => str_at(service, "/spec/externalName").to_owned(),
        "LoadBalancer" if addresses.is_empty() => "<pending>".to_owned(),
        _ if addresses.is_empty() => "<none>".to_owned(),
        _ => addresses.join(","),
    }
}

pub(super) fn service_ports(service: &Value) -> Value {
    let port = |port: &Value| match i64_at(port, "/nodePort").filter(|node_port| *node_port > 0) {
        Some(node_port) => format!("{}:{node_port}/{}", port["port"], str_at(port, "/protocol")),
        None => format!("{}/{}", port["port"], str_at(port, "/protocol")),
    };
    let ports: Vec<String> = array_at(service, "/spec/ports").iter().map(port).collect();
    or_none(&ports.join(","))
}

pub(super) fn slice_ports(slice: &Value) -> Value {
    let ports: Vec<String> = array_at(slice, "/ports").iter().map(|port| port["port"].to_string()).collect();
    if ports.is_empty() { json!("<unset>") } else { first_few(ports) }
}

pub(super) fn endpoints(slice: &Value) -> Value {
    let endpoints = array_at(slice, "/endpoints").iter();
    let addresses: Vec<String> =
        endpoints.flat_map(|one| strs_at(one, "/addresses")).map(str::to_owned).collect();
    if addresses.is_empty() { json!("<unset>") } else { first_few(addresses) }
}

/// Addresses and ports of an Endpoints object.
pub(super) fn ready_addresses(endpoints: &Value) -> Value {
    let mut all = Vec::new();
    for subset in array_at(endpoints, "/subsets") {
        let addresses = array_at(subset, "/addresses").iter().map(|one| str_at(one, "/ip"));
        let ports = array_at(subset, "/ports");
        for address in addresses {
            let shown = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
            match ports {
                [] => all.push(address.to_owned()),
                ports => all.extend(ports.iter().map(|port| format!("{shown}:{}", port["port"]))),
            }
        }
    }
    if all.is_empty() { json!("<none>") } else { first_few(all) }
}

fn first_few(values: Vec<String>) -> Value {
    match values.len() {
        0..=3 => json!(values.join(",")),
        more => json!(format!("{} + {} more...", values[..3].join(","), more - 3)),
    }
}

pub(super) fn node_status(node: &Value) -> Value {
    let ready = array_at(node, "/status/conditions").iter().find(|one| one["type"] == "Ready");
    let status_text = match ready.map(|one| str_at(one, "/status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    let cordoned = if bool_at(node, "/spec/unschedulable") { ",SchedulingDisabled" } else { "" };
    json!(format!("{status_text}{cordoned}"))
}

pub(super) fn roles(node: &Value) -> String {
    let labels = node["metadata"]["labels"].as_object().into_iter().flatten();
    let roles: Vec<&str> = labels
        .filter_map(|(key, _)| key.strip_prefix("node-role.kubernetes.io/"))
        .filter(|role| !role.is_empty())
        .collect();
    if roles.is_empty() { "<none>".to_owned() } else { roles.join(",") }
}

pub(super) fn address<'a>(node: &'a Value, kind: &str) -> &'a str {
    let found = array_at(node, "/status/addresses").iter().find(|one| one["type"] == kind);
    found.map(|one| str_at(one, "/address")).unwrap_or_default()
}

pub(super) fn last_seen(event: &Value) -> String {
    let times = ["/series/lastObservedTime", "/lastTimestamp", "/deprecatedLastTimestamp", "/eventTime"];
    object::age_of(first(event, &times))
}

pub(super) fn first_seen(event: &Value) -> String {
    object::age_of(first(event, &["/firstTimestamp", "/deprecatedFirstTimestamp", "/eventTime"]))
}

pub(super) fn event_count(event: &Value) -> i64 {
    let counts = ["/series/count", "/count", "/deprecatedCount"];
    counts.iter().find_map(|pointer| i64_at(event, pointer).filter(|count| *count > 0)).unwrap_or(1)
}

pub(super) fn involved(event: &Value) -> String {
    let kind = first(event, &["/involvedObject/kind", "/regarding/kind"]).to_lowercase();
    format!("{kind}/{}", first(event, &["/involvedObject/name", "/regarding/name"]))
}

pub(super) fn event_source(event: &Value) -> String {
    let component = first(
        event,
        &["/source/component", "/deprecatedSource/component", "/reportingController", "/reportingComponent"],
    );
    let host = first(event, &["/source/host", "/deprecatedSource/host", "/reportingInstance"]);
    if host.is_empty() { component.to_owned() } else { format!("{component}, {host}") }
}

/// The strings at a JSON pointer, joined.
pub(super) fn joined(object: &Value, pointer: &str) -> String {
    strs_at(object, pointer).join(",")
}
