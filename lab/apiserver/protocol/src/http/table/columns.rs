//! Columns of the built-in kinds. Columns of priority 1 are shown with `-o wide`.

use beeline_apiserver_objects::object::{self, array_at, i64_at, str_at};
use beeline_apiserver_schema::Kind;
use serde_json::{Value, json};

use super::cells;

/// One column and the function that gives its cells.
pub(super) struct Column {
    name: &'static str,
    kind: &'static str,
    priority: u8,
    pub cell: fn(&Value) -> Value,
}

impl Column {
    pub fn new(name: &'static str, kind: &'static str, cell: fn(&Value) -> Value) -> Self {
        Self { name, kind, priority: 0, cell }
    }

    pub fn definition(&self) -> Value {
        let format = if self.name == "Name" { "name" } else { "" };
        json!({
            "name": self.name, "type": self.kind, "format": format, "description": "", "priority": self.priority,
        })
    }
}

fn text_column(name: &'static str, cell: fn(&Value) -> Value) -> Column {
    Column::new(name, "string", cell)
}

fn wide(name: &'static str, cell: fn(&Value) -> Value) -> Column {
    Column { priority: 1, ..text_column(name, cell) }
}

fn count(name: &'static str, cell: fn(&Value) -> Value) -> Column {
    Column::new(name, "integer", cell)
}

fn number_at(object: &Value, pointer: &str) -> Value {
    json!(i64_at(object, pointer).unwrap_or(0))
}

fn name() -> Column {
    text_column("Name", |object| json!(object::name(object)))
}

fn age() -> Column {
    text_column("Age", |object| json!(object::age_of(str_at(object, "/metadata/creationTimestamp"))))
}

/// Name, these columns, and age.
fn with_name_and_age(between: Vec<Column>) -> Vec<Column> {
    std::iter::once(name()).chain(between).chain([age()]).collect()
}

pub(super) fn of(kind: &Kind) -> Vec<Column> {
    match (kind.group.as_ref(), kind.kind.as_ref()) {
        ("", "Pod") => pod(),
        ("", "Service") => service(),
        ("", "Node") => node(),
        ("", "Namespace") => {
            with_name_and_age(vec![text_column("Status", |one| json!(str_at(one, "/status/phase")))])
        }
        ("", "ConfigMap") => with_name_and_age(vec![count("Data", |one| {
            json!(cells::entries(one, "data") + cells::entries(one, "binaryData"))
        })]),
        ("", "Secret") => with_name_and_age(vec![
            text_column("Type", |one| json!(str_at(one, "/type"))),
            count("Data", |one| json!(cells::entries(one, "data"))),
        ]),
        ("", "ServiceAccount") => {
            with_name_and_age(vec![count("Secrets", |one| json!(array_at(one, "/secrets").len()))])
        }
        ("" | "events.k8s.io", "Event") => event(),
        ("", "Endpoints") => with_name_and_age(vec![text_column("Endpoints", cells::ready_addresses)]),
        ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => {
            vec![name(), text_column("Created At", |one| json!(str_at(one, "/metadata/creationTimestamp")))]
        }
        ("rbac.authorization.k8s.io", _) => with_name_and_age(vec![text_column("Role", |one| {
            json!(format!("{}/{}", str_at(one, "/roleRef/kind"), str_at(one, "/roleRef/name")))
        })]),
        ("apps", "Deployment") => with_template(with_name_and_age(vec![
            text_column("Ready", cells::ready_replicas),
            count("Up-to-date", |one| number_at(one, "/status/updatedReplicas")),
            count("Available", |one| number_at(one, "/status/availableReplicas")),
        ])),
        ("apps", "ReplicaSet") => with_template(with_name_and_age(vec![
            count("Desired", |one| number_at(one, "/spec/replicas")),
            count("Current", |one| number_at(one, "/status/replicas")),
            count("Ready", |one| number_at(one, "/status/readyReplicas")),
        ])),
        ("apps", "DaemonSet") => with_template(with_name_and_age(vec![
            count("Desired", |one| number_at(one, "/status/desiredNumberScheduled")),
            count("Current", |one| number_at(one, "/status/currentNumberScheduled")),
            count("Ready", |one| number_at(one, "/status/numberReady")),
            count("Up-to-date", |one| number_at(one, "/status/updatedNumberScheduled")),
            count("Available", |one| number_at(one, "/status/numberAvailable")),
            text_column("Node Selector", |one| {
                json!(cells::labels(&one["spec"]["template"]["spec"]["nodeSelector"]))
            }),
        ])),
        ("discovery.k8s.io", "EndpointSlice") => with_name_and_age(vec![
            text_column("AddressType", |one| json!(str_at(one, "/addressType"))),
            text_column("Ports", cells::slice_ports),
            text_column("Endpoints", cells::endpoints),
        ]),
        ("coordination.k8s.io", "Lease") => {
            with_name_and_age(vec![text_column("Holder", |one| json!(str_at(one, "/spec/holderIdentity")))])
        }
        ("apiextensions.k8s.io", "CustomResourceDefinition") => {
            vec![name(), text_column("Created At", |one| json!(str_at(one, "/metadata/creationTimestamp")))]
        }
        _ => with_name_and_age(Vec::new()),
    }
}

fn with_template(mut columns: Vec<Column>) -> Vec<Column> {
    columns.push(wide("Containers", |one| json!(cells::containers(one, "/name"))));
    columns.push(wide("Images", |one| json!(cells::containers(one, "/image"))));
    columns.push(wide("Selector", |one| json!(cells::selector(&one["spec"]["selector"]))));
    columns
}

fn pod() -> Vec<Column> {
    let mut columns = with_name_and_age(vec![
        text_column("Ready", cells::ready_containers),
        text_column("Status", |pod| json!(cells::pod_status(pod))),
        text_column("Restarts", |pod| json!(cells::restarts(pod))),
    ]);
    columns.extend([
        wide("IP", |pod| cells::or_none(str_at(pod, "/status/podIP"))),
        wide("Node", |pod| cells::or_none(str_at(pod, "/spec/nodeName"))),
        wide("Nominated Node", |pod| cells::or_none(str_at(pod, "/status/nominatedNodeName"))),
        wide("Readiness Gates", |_| json!("<none>")),
    ]);
    columns
}

fn service() -> Vec<Column> {
    let mut columns = with_name_and_age(vec![
        text_column("Type", |service| json!(str_at(service, "/spec/type"))),
        text_column("Cluster-IP", |service| cells::or_none(str_at(service, "/spec/clusterIP"))),
        text_column("External-IP", |service| json!(cells::external_addresses(service))),
        text_column("Port(s)", cells::service_ports),
    ]);
    columns.push(wide("Selector", |service| json!(cells::labels(&service["spec"]["selector"]))));
    columns
}

fn node() -> Vec<Column> {
    let mut columns = vec![
        name(),
        text_column("Status", cells::node_status),
        text_column("Roles", |node| json!(cells::roles(node))),
        age(),
        text_column("Version", |node| json!(str_at(node, "/status/nodeInfo/kubeletVersion"))),
    ];
    columns.extend([
        wide("Internal-IP", |node| cells::or_none(cells::address(node, "InternalIP"))),
        wide("External-IP", |node| cells::or_none(cells::address(node, "ExternalIP"))),
        wide("OS-Image", |node| cells::or_unknown(str_at(node, "/status/nodeInfo/osImage"))),
        wide("Kernel-Version", |node| cells::or_unknown(str_at(node, "/status/nodeInfo/kernelVersion"))),
        wide("Container-Runtime", |node| {
            cells::or_unknown(str_at(node, "/status/nodeInfo/containerRuntimeVersion"))
        }),
    ]);
    columns
}

fn event() -> Vec<Column> {
    vec![
        text_column("Last Seen", |event| json!(cells::last_seen(event))),
        text_column("Type", |event| json!(str_at(event, "/type"))),
        text_column("Reason", |event| json!(str_at(event, "/reason"))),
        text_column("Object", |event| json!(cells::involved(event))),
        wide("Subobject", |event| {
            json!(cells::first(event, &["/involvedObject/fieldPath", "/regarding/fieldPath"]))
        }),
        wide("Source", |event| json!(cells::event_source(event))),
        text_column("Message", |event| json!(cells::first(event, &["/message", "/note"]).trim())),
        wide("First Seen", |event| json!(cells::first_seen(event))),
        Column { priority: 1, ..count("Count", |event| json!(cells::event_count(event))) },
        Column { priority: 1, ..name() },
    ]
}
