//! State of the lab, for `status`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result};
use beeline_api::{Call, Client as AgentClient, Response};
use futures::future::join_all;
use k8s_openapi::api::core::v1::{ContainerStatus, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kube::api::{Api, ListParams};

use super::agents::Agent;
use super::lab::Lab;
use crate::protocol::{NodeStatus, PodStatus, ServiceStatus, Status};

/// Timeout of a status call to an agent.
const AGENT_TIMEOUT: Duration = Duration::from_secs(2);

/// Label of an EndpointSlice that names its Service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Queries the API server and the agents.
pub async fn status(lab: &Lab) -> Result<Status> {
    let all = ListParams::default();
    let (nodes, pods, services, slices) = (
        Api::<Node>::all(lab.client.clone()),
        Api::<Pod>::all(lab.client.clone()),
        Api::<Service>::all(lab.client.clone()),
        Api::<EndpointSlice>::all(lab.client.clone()),
    );
    let lists = tokio::try_join!(nodes.list(&all), pods.list(&all), services.list(&all), slices.list(&all));
    let (nodes, pods, services, slices) = lists.context("cannot list the lab's objects")?;
    let mut nodes: Vec<NodeStatus> = join_all(nodes.items.iter().map(|object| node(lab, object))).await;
    nodes.sort_by_key(|node| (node.name.len(), node.name.clone()));
    Ok(Status {
        name: lab.name.to_string(),
        kubeconfig: lab.paths.kubeconfig(),
        nodes,
        pods: pods.items.iter().map(pod).collect(),
        dns: lab.dns.status(),
        control_plane: lab.api.problems(),
        services: services.items.iter().map(|object| service(object, &slices.items)).collect(),
    })
}

async fn node(lab: &Lab, object: &Node) -> NodeStatus {
    let name = object.name_any();
    let spec = object.spec.clone().unwrap_or_default();
    let conditions = object.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let addresses = object.status.iter().flat_map(|status| status.addresses.iter().flatten());
    let (agents, record) = (lab.agents(), lab.record());
    let agent = agents.get(&name);
    let links = record.links.get(&name).cloned().unwrap_or_default();
    let reported = match agent {
        Some(agent) => ask(agent).await,
        None if record.nodes.contains_key(&name) => Err("the node is powered off".to_owned()),
        None => Err("there is no node of this lab for this Node object".to_owned()),
    };
    NodeStatus {
        addresses: addresses.filter_map(|address| address.address.parse().ok()).collect(),
        pod_cidrs: spec.pod_cidrs.unwrap_or_default(),
        ready: conditions.clone().any(|one| one.type_ == "Ready" && one.status == "True"),
        powered: agent.is_some(),
        link: links.first().copied().unwrap_or_default(),
        further_links: links.into_iter().skip(1).collect(),
        agent_pid: agent.and_then(|agent| agent.state().pid),
        agent_starts: agent.map_or(0, |agent| agent.state().starts),
        agent_ready: reported.as_ref().is_ok_and(|status| status.synced),
        not_built: reported.as_ref().map_or_else(|_| Vec::new(), |status| status.not_built.clone()),
        problems: reported.map_or_else(|error| vec![error], |status| status.problems),
        name,
    }
}

/// Status of an agent; the error is a message for the user.
async fn ask(agent: &Agent) -> Result<beeline_api::Status, String> {
    if !agent.enabled() {
        return Err("the agent is stopped".into());
    }
    let client = AgentClient::new(agent.socket()).with_timeout(AGENT_TIMEOUT);
    match tokio::task::spawn_blocking(move || client.call(Call::Status)).await {
        Ok(Ok(Response::Status(status))) => Ok(*status),
        Ok(Ok(other)) => Err(format!("unexpected response from the agent: {other:?}")),
        Ok(Err(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// Problems and not implemented settings reported by the agents that respond.
pub async fn notes(lab: &Lab) -> BTreeSet<String> {
    let agents = lab.agents();
    let reported = join_all(agents.values().map(|agent| ask(agent))).await;
    let notes = |status: beeline_api::Status| status.problems.into_iter().chain(status.not_built);
    reported.into_iter().flatten().flat_map(notes).collect()
}

fn pod(object: &Pod) -> PodStatus {
    let status = object.status.clone().unwrap_or_default();
    let ips = status.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect();
    PodStatus {
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
        node: object.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
        ips,
        ready: is_ready(object),
        restarts: status.container_statuses.iter().flatten().map(|one| one.restart_count).sum(),
        reason: reason(object).unwrap_or_default(),
        phase: match object.metadata.deletion_timestamp {
            Some(_) => "Terminating".into(),
            None => status.phase.unwrap_or_default(),
        },
    }
}

/// The Ready condition.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.clone().any(|one| one.type_ == "Ready" && one.status == "True")
}

/// Why a pod is not ready: the waiting or terminated state of its containers,
/// or why it is not scheduled.
pub fn reason(pod: &Pod) -> Option<String> {
    if is_ready(pod) {
        return None;
    }
    let status = pod.status.as_ref()?;
    let words = |reason: &Option<String>, message: &Option<String>| {
        let both = [reason.as_deref(), message.as_deref()];
        both.into_iter().flatten().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(": ")
    };
    let done = |container: &&ContainerStatus| {
        let ended = container.state.as_ref().and_then(|state| state.terminated.as_ref());
        container.started == Some(true) || ended.is_some_and(|state| state.exit_code == 0)
    };
    let init = status.init_container_statuses.iter().flatten().filter(|container| !done(container));
    let containers = init.chain(status.container_statuses.iter().flatten());
    let of_containers = containers.filter_map(|container| container.state.as_ref()).find_map(|state| {
        let waiting = state.waiting.as_ref().map(|state| words(&state.reason, &state.message));
        let ended = state.terminated.as_ref();
        let ended = ended.map(|state| format!("exited with code {}", state.exit_code));
        waiting.or(ended)
    });
    let conditions = status.conditions.iter().flatten();
    let unscheduled = conditions.clone().find(|one| one.type_ == "PodScheduled" && one.status == "False");
    of_containers.or_else(|| unscheduled.map(|one| words(&one.reason, &one.message)))
}

fn service(object: &Service, slices: &[EndpointSlice]) -> ServiceStatus {
    let spec = object.spec.clone().unwrap_or_default();
    let ports = spec.ports.iter().flatten();
    ServiceStatus {
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
        kind: spec.type_.clone().unwrap_or_default(),
        cluster_ips: spec.cluster_ips.clone().unwrap_or_default(),
        ports: ports
            .map(|port| format!("{}/{}", port.port, port.protocol.as_deref().unwrap_or("TCP")))
            .collect(),
        endpoints: ready_endpoints(object, slices),
    }
}

/// Addresses of the ready endpoints of a Service, by address type.
pub fn ready_endpoints(service: &Service, slices: &[EndpointSlice]) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for slice in slices.iter().filter(|slice| belongs(slice, service)) {
        // `ready` defaults to true.
        let ready = |conditions: &Option<k8s_openapi::api::discovery::v1::EndpointConditions>| {
            conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
        };
        let ready = slice.endpoints.iter().flatten().filter(|endpoint| ready(&endpoint.conditions));
        let addresses = ready.flat_map(|endpoint| endpoint.addresses.clone());
        found.entry(slice.address_type.clone()).or_default().extend(addresses);
    }
    for addresses in found.values_mut() {
        addresses.sort();
        addresses.dedup();
    }
    found
}

/// Whether the slice belongs to the Service.
pub fn belongs(slice: &EndpointSlice, service: &Service) -> bool {
    slice.namespace() == service.namespace() && slice.labels().get(SERVICE_NAME) == Some(&service.name_any())
}
