//! Events about pods. They are written in the background, so that pods do not
//! wait for them; a repeated event increments its count.

use std::collections::HashMap;

use beeline_lab_net::record::PodRecord;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::mpsc;

/// Queue length of events; further events are dropped, as in Kubernetes.
const QUEUE_MAX: usize = 1024;

/// Number of events for which repetition is detected.
const REMEMBERED_MAX: usize = 1024;

/// An event that has not been written yet.
#[derive(Clone, Debug)]
struct PendingEvent {
    involved: InvolvedObject,
    field: Option<String>,
    warning: bool,
    reason: &'static str,
    message: String,
}

/// The pod that the event is about.
#[derive(Clone, Debug)]
struct InvolvedObject {
    namespace: String,
    name: String,
    uid: String,
    node: String,
}

/// Records events.
#[derive(Clone)]
pub struct Recorder {
    sender: mpsc::Sender<PendingEvent>,
}

impl Recorder {
    /// Starts the writer.
    pub fn start(client: Client) -> Recorder {
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(write_all(client, receiver));
        Recorder { sender }
    }

    /// Records a Normal event.
    pub fn normal(&self, pod: &PodRecord, field: Option<&str>, reason: &'static str, message: String) {
        self.record(pod, field, false, reason, message);
    }

    /// Records a Warning event.
    pub fn warning(&self, pod: &PodRecord, field: Option<&str>, reason: &'static str, message: String) {
        tracing::warn!("{}/{}: {reason}: {message}", pod.namespace, pod.name);
        self.record(pod, field, true, reason, message);
    }

    fn record(
        &self,
        pod: &PodRecord,
        field: Option<&str>,
        warning: bool,
        reason: &'static str,
        message: String,
    ) {
        let involved = InvolvedObject {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            node: pod.node.clone(),
        };
        let pending = PendingEvent { involved, field: field.map(str::to_owned), warning, reason, message };
        if self.sender.try_send(pending).is_err() {
            tracing::debug!("event queue full: dropped an event about {}/{}", pod.namespace, pod.name);
        }
    }
}

type Key = (String, Option<String>, &'static str, String);

async fn write_all(client: Client, mut receiver: mpsc::Receiver<PendingEvent>) {
    let mut written: HashMap<Key, (String, i32)> = HashMap::new();
    while let Some(pending) = receiver.recv().await {
        if written.len() >= REMEMBERED_MAX {
            written.clear();
        }
        let key =
            (pending.involved.uid.clone(), pending.field.clone(), pending.reason, pending.message.clone());
        let api: Api<Event> = Api::namespaced(client.clone(), &pending.involved.namespace);
        let result = match written.get_mut(&key) {
            Some((name, count)) => {
                *count += 1;
                let patch = json!({"count": *count, "lastTimestamp": Time(Timestamp::now())});
                api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await
            }
            None => api.create(&PostParams::default(), &event(&pending)).await,
        };
        match result {
            Ok(event) => {
                let name = event.metadata.name.unwrap_or_default();
                written.entry(key).or_insert((name, 1));
            }
            Err(error) => {
                written.remove(&key);
                tracing::debug!("cannot write an event about {}: {error}", pending.involved.name);
            }
        }
    }
}

fn event(pending: &PendingEvent) -> Event {
    let (involved, now) = (&pending.involved, Timestamp::now());
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{:x}", involved.name, now.as_nanosecond())),
            namespace: Some(involved.namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: Some(involved.name.clone()),
            namespace: Some(involved.namespace.clone()),
            uid: Some(involved.uid.clone()),
            field_path: pending.field.clone(),
            ..ObjectReference::default()
        },
        reason: Some(pending.reason.into()),
        message: Some(pending.message.clone()),
        type_: Some(if pending.warning { "Warning" } else { "Normal" }.into()),
        source: Some(EventSource { component: Some("kubelet".into()), host: Some(involved.node.clone()) }),
        reporting_component: Some("kubelet".into()),
        reporting_instance: Some(involved.node.clone()),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        count: Some(1),
        ..Event::default()
    }
}
