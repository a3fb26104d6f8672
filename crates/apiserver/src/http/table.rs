//! Tables, as kubectl prints them: name and age, and a few columns for the kinds people look at.

use std::sync::Arc;

use http::HeaderMap;
use http::header::ACCEPT;
use serde_json::{Value, json};

use crate::object::{self, items, number, strings, text};
use crate::{Kind, Kinds, Page};

/// Whether the client prefers a table.
pub(super) fn is_wanted(headers: &HeaderMap) -> bool {
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let first = accept.split(',').next().unwrap_or_default();
    first.contains("as=Table") && first.contains("application/json") && first.contains("g=meta.k8s.io")
}

/// One object as a table; itself where its kind is not served.
pub(super) fn of_object(kinds: &Kinds, object: &Value) -> Value {
    match kinds.by_type(text(object, "/apiVersion"), text(object, "/kind")) {
        Some(kind) => of_one(kind, object),
        None => object.clone(),
    }
}

/// One object of this kind as a table.
pub(super) fn of_one(kind: &Kind, object: &Value) -> Value {
    of_objects(kind, [object], json!({"resourceVersion": object["metadata"]["resourceVersion"]}))
}

/// A list as a table.
pub(super) fn of_page(kind: &Kind, page: &Page) -> Value {
    of_objects(kind, page.items.iter().map(Arc::as_ref), super::page::metadata(page))
}

fn of_objects<'a>(kind: &Kind, objects: impl IntoIterator<Item = &'a Value>, metadata: Value) -> Value {
    let columns = columns(&kind.kind);
    let rows: Vec<Value> = objects.into_iter().map(|object| row(&columns, object)).collect();
    let definitions: Vec<Value> = columns.iter().map(|column| definition(column.name)).collect();
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": definitions, "rows": rows,
    })
}

struct Column {
    name: &'static str,
    cell: fn(&Value) -> Value,
}

fn definition(name: &str) -> Value {
    let format = if name == "Name" { "name" } else { "" };
    json!({"name": name, "type": "string", "format": format, "description": "", "priority": 0})
}

fn row(columns: &[Column], object: &Value) -> Value {
    let cells: Vec<Value> = columns.iter().map(|column| (column.cell)(object)).collect();
    let partial = json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"],
    });
    json!({"cells": cells, "object": partial})
}

fn columns(kind: &str) -> Vec<Column> {
    let column = |name, cell| Column { name, cell };
    let mut columns: Vec<Column> = vec![column("Name", |object| json!(object::name(object)))];
    match kind {
        "Pod" => {
            columns.push(column("Ready", ready_containers));
            columns.push(column("Status", pod_status));
            columns.push(column("IP", |pod| json!(text(pod, "/status/podIP"))));
            columns.push(column("Node", |pod| json!(text(pod, "/spec/nodeName"))));
        }
        "Service" => {
            columns.push(column("Type", |service| json!(text(service, "/spec/type"))));
            columns
                .push(column("Cluster-IP", |service| json!(strings(service, "/spec/clusterIPs").join(","))));
            columns.push(column("Port(s)", service_ports));
        }
        "Node" => columns.push(column("Status", node_status)),
        "Namespace" => columns.push(column("Status", |namespace| json!(text(namespace, "/status/phase")))),
        "Deployment" | "ReplicaSet" => {
            columns.push(column("Ready", ready_replicas));
            columns.push(column("Available", |object| json!(count(object, "/status/availableReplicas"))));
        }
        "DaemonSet" => {
            columns.push(column("Desired", |object| json!(count(object, "/status/desiredNumberScheduled"))));
            columns.push(column("Ready", |object| json!(count(object, "/status/numberReady"))));
        }
        "EndpointSlice" => {
            columns.push(column("AddressType", |slice| json!(text(slice, "/addressType"))));
            columns.push(column("Endpoints", endpoints));
        }
        "Event" => {
            columns.push(column("Type", |event| json!(text(event, "/type"))));
            columns.push(column("Reason", |event| json!(text(event, "/reason"))));
            columns.push(column("Message", |event| {
                json!(format!("{}{}", text(event, "/message"), text(event, "/note")))
            }));
        }
        _ => {}
    }
    columns.push(column("Age", age));
    columns
}

fn count(object: &Value, pointer: &str) -> String {
    number(object, pointer).unwrap_or(0).to_string()
}

fn ready_containers(pod: &Value) -> Value {
    let ready = items(pod, "/status/containerStatuses")
        .iter()
        .filter(|status| object::truth(status, "/ready"))
        .count();
    json!(format!("{ready}/{}", items(pod, "/spec/containers").len()))
}

fn pod_status(pod: &Value) -> Value {
    json!(if object::is_deleting(pod) { "Terminating" } else { text(pod, "/status/phase") })
}

fn node_status(node: &Value) -> Value {
    let ready =
        items(node, "/status/conditions").iter().any(|one| one["type"] == "Ready" && one["status"] == "True");
    let cordoned = if object::truth(node, "/spec/unschedulable") { ",SchedulingDisabled" } else { "" };
    json!(format!("{}{cordoned}", if ready { "Ready" } else { "NotReady" }))
}

fn service_ports(service: &Value) -> Value {
    let port = |port: &Value| match number(port, "/nodePort") {
        Some(node_port) => format!("{}:{node_port}/{}", port["port"], text(port, "/protocol")),
        None => format!("{}/{}", port["port"], text(port, "/protocol")),
    };
    json!(items(service, "/spec/ports").iter().map(port).collect::<Vec<_>>().join(","))
}

fn ready_replicas(object: &Value) -> Value {
    json!(format!("{}/{}", count(object, "/status/readyReplicas"), count(object, "/spec/replicas")))
}

fn endpoints(slice: &Value) -> Value {
    let addresses: Vec<&str> =
        items(slice, "/endpoints").iter().flat_map(|one| strings(one, "/addresses")).collect();
    match addresses.len() {
        0..=3 => json!(addresses.join(",")),
        more => json!(format!("{} + {} more...", addresses[..3].join(","), more - 3)),
    }
}

fn age(object: &Value) -> Value {
    let Some(created) = object::parse_seconds(text(object, "/metadata/creationTimestamp")) else {
        return json!("<unknown>");
    };
    let seconds = (object::seconds_since_epoch() - created).max(0);
    json!(match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7199 => format!("{}m", seconds / 60),
        7200..=172_799 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    })
}
