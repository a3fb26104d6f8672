//! Writes one event.

use beeline_model::{Kind, Problem};
use k8s_openapi::api::core::v1::{Event, EventSource, Namespace, Node, ObjectReference, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::Status;
use kube::{Api, Client, Error};
use ring::digest::{Context, SHA256};
use serde_json::json;

use super::queue::Outcome;

/// The reporting component.
const COMPONENT: &str = "beeline";
/// The namespace of events about cluster-scoped objects.
const CLUSTER_NAMESPACE: &str = "default";
/// Maximum length of an object name in Kubernetes, in bytes.
const NAME_BYTES_MAX: usize = 253;
/// Maximum length of the message, in bytes, as in Kubernetes' own components.
const MESSAGE_BYTES_MAX: usize = 1024;

/// Writes the event about the problem, or updates it if this node wrote it
/// `written` times before.
pub async fn write(client: &Client, node: &str, problem: &Problem, written: i32) -> Outcome {
    match try_write(client, node, problem, written).await {
        Ok(outcome) => outcome,
        Err(Error::Api(status)) => outcome_of_error(&status),
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

async fn try_write(client: &Client, node: &str, problem: &Problem, written: i32) -> Result<Outcome, Error> {
    let Some(uid) = uid(client, problem).await? else { return Ok(Outcome::ObjectDeleted) };
    let event = event(problem, &uid, problem.is_local().then_some(node), Timestamp::now());
    let namespace = event.metadata.namespace.as_deref().unwrap_or(CLUSTER_NAMESPACE);
    let events: Api<Event> = Api::namespaced(client.clone(), namespace);
    if written > 0 {
        let name = event.metadata.name.as_deref().unwrap_or_default();
        let patch = json!({"count": written + 1, "lastTimestamp": event.last_timestamp});
        match events.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            // The event has expired: create it again.
            Err(Error::Api(status)) if status.code == 404 => {}
            other => return other.map(|_| Outcome::Created(written + 1)),
        }
    }
    let event = Event { count: Some(written + 1), ..event };
    match events.create(&PostParams::default(), &event).await {
        Ok(_) => Ok(Outcome::Created(written + 1)),
        Err(Error::Api(status)) if status.code == 409 => Ok(Outcome::AlreadyExists),
        Err(error) => Err(error),
    }
}

/// The uid of the object with the problem. `None` if the object does not exist.
async fn uid(client: &Client, problem: &Problem) -> Result<Option<String>, Error> {
    let (kind, namespace) = (resource(problem.kind), problem.name.namespace.as_str());
    let objects: Api<DynamicObject> = match namespace {
        "" => Api::all_with(client.clone(), &kind),
        _ => Api::namespaced_with(client.clone(), namespace, &kind),
    };
    let object = objects.get_metadata_opt(&problem.name.name).await?;
    Ok(object.and_then(|object| object.metadata.uid))
}

fn resource(kind: Kind) -> ApiResource {
    match kind {
        Kind::Node => ApiResource::erase::<Node>(&()),
        Kind::Namespace => ApiResource::erase::<Namespace>(&()),
        Kind::Pod => ApiResource::erase::<Pod>(&()),
        Kind::Service => ApiResource::erase::<Service>(&()),
        Kind::EndpointSlice => ApiResource::erase::<EndpointSlice>(&()),
    }
}

/// Maps an error of the API server to an outcome.
fn outcome_of_error(status: &Status) -> Outcome {
    let mut causes = status.details.iter().flat_map(|details| &details.causes);
    let terminating = causes.any(|cause| cause.reason == "NamespaceTerminating")
        || status.message.contains("because it is being terminated");
    match status.code {
        404 => Outcome::ObjectDeleted,
        403 if terminating => Outcome::ObjectDeleted,
        401 | 403 => Outcome::Forbidden(status.message.clone()),
        400 | 405 | 413 | 422 => Outcome::Invalid(status.message.clone()),
        _ => Outcome::Failed(status.message.clone()),
    }
}

/// The event about a problem of the object with this uid. `host` is set for
/// problems that only this node sees.
fn event(problem: &Problem, uid: &str, host: Option<&str>, now: Timestamp) -> Event {
    let kind = resource(problem.kind);
    let of = |name: &str| Some(name.to_owned()).filter(|name| !name.is_empty());
    let namespace = of(&problem.name.namespace);
    // For Nodes, kubectl expects the Node name as uid, as the kubelet writes
    // it.
    let reference_uid = if problem.kind == Kind::Node { &problem.name.name } else { uid };
    Event {
        metadata: ObjectMeta {
            name: Some(event_name(problem, uid, host)),
            namespace: Some(namespace.clone().unwrap_or_else(|| CLUSTER_NAMESPACE.to_owned())),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some(kind.api_version),
            kind: Some(kind.kind),
            name: of(&problem.name.name),
            namespace,
            uid: Some(reference_uid.to_owned()),
            ..ObjectReference::default()
        },
        type_: Some("Warning".to_owned()),
        reason: Some(problem.reason.name().to_owned()),
        message: Some(truncate_message(&problem.message)),
        source: Some(EventSource { component: Some(COMPONENT.to_owned()), host: host.map(str::to_owned) }),
        reporting_component: Some(COMPONENT.to_owned()),
        reporting_instance: host.map(str::to_owned),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        count: Some(1),
        ..Event::default()
    }
}

/// The same on every node for the same content and object.
fn event_name(problem: &Problem, uid: &str, host: Option<&str>) -> String {
    let mut hash = Context::new(&SHA256);
    for part in [uid, problem.reason.name(), &problem.message, host.unwrap_or_default()] {
        hash.update(&(part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    let hash: String = hash.finish().as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let object = truncate(&problem.name.name, NAME_BYTES_MAX - 1 - hash.len()).trim_end_matches(['.', '-']);
    format!("{object}.{hash}")
}

fn truncate_message(message: &str) -> String {
    match message.len() <= MESSAGE_BYTES_MAX {
        true => message.to_owned(),
        false => format!("{}...", truncate(message, MESSAGE_BYTES_MAX - 3)),
    }
}

/// The beginning of the text, cut at a character boundary.
fn truncate(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests;
