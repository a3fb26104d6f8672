//! Waits until applied objects are in effect: the pods run, the EndpointSlices
//! list them, and every agent has programmed both.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use beeline_api::{Call, Client as AgentClient, ClientError, ObjectVersion};
use beeline_apiserver::Applied;
use futures::future::join_all;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use kube::core::Selector;
use tokio::time::Instant;

use super::agents::Agent;
use super::endpoints;
use super::lab::Lab;
use super::rollout::{self, Progress};

/// Timeout for all applied objects.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Timeout for the agents of a new lab to program each other's nodes.
const NODES_TIMEOUT: Duration = Duration::from_secs(30);

/// Minimum and maximum polling interval.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(250));

/// Waits until the applied objects are programmed; the error lists what is
/// not, with the reason.
pub async fn objects(lab: &Lab, applied: &[Applied], report: &(dyn Fn(String) + Sync)) -> Result<()> {
    let deadline = Instant::now() + TIMEOUT;
    let mut problems = Vec::new();
    for workload in applied.iter().filter_map(Workload::of) {
        let ready = until(deadline, || workload.progress(lab)).await;
        let ready = ready.with_context(|| format!("{} is not ready", workload.name));
        problems.extend(ready.err().map(|error| format!("{error:#}")));
    }
    let namespaces: BTreeSet<&str> = applied.iter().map(|one| one.key.namespace.as_str()).collect();
    for namespace in namespaces.iter().filter(|name| !name.is_empty()) {
        let shown = until(deadline, || endpoints_of(lab, namespace)).await;
        problems.extend(shown.err().map(|error| format!("{error:#}")));
    }
    let programmed = agents(lab, &namespaces, deadline, report).await;
    problems.extend(programmed.err().map(|error| format!("{error:#}")));
    if problems.is_empty() { Ok(()) } else { bail!("{}", problems.join("\n")) }
}

/// Waits until every agent has programmed every node.
pub async fn nodes(lab: &Lab) -> Result<()> {
    let deadline = Instant::now() + NODES_TIMEOUT;
    agents(lab, &BTreeSet::new(), deadline, &|text| tracing::info!("{text}")).await
}

/// Polls until it is done, has failed or has timed out.
async fn until<F: Future<Output = Result<Progress>>>(
    deadline: Instant,
    mut look: impl FnMut() -> F,
) -> Result<()> {
    let mut pause = PAUSE.0;
    loop {
        match look().await? {
            Progress::Done => return Ok(()),
            Progress::Failed(why) => bail!(why),
            Progress::Pending(why) if Instant::now() > deadline => {
                bail!("{why} (after {} s)", TIMEOUT.as_secs())
            }
            Progress::Pending(_) => tokio::time::sleep(pause).await,
        }
        pause = (pause * 2).min(PAUSE.1);
    }
}

/// An applied object that creates pods.
struct Workload {
    /// Name in messages.
    name: String,
    kind: WorkloadKind,
    key: (String, String),
}

enum WorkloadKind {
    Deployment,
    ReplicaSet,
    DaemonSet,
    Pod,
}

impl Workload {
    fn of(applied: &Applied) -> Option<Workload> {
        let kind = match applied.kind.kind.as_ref() {
            "Deployment" => WorkloadKind::Deployment,
            "ReplicaSet" => WorkloadKind::ReplicaSet,
            "DaemonSet" => WorkloadKind::DaemonSet,
            "Pod" => WorkloadKind::Pod,
            _ => return None,
        };
        let key = (applied.key.namespace.clone(), applied.key.name.clone());
        Some(Workload { name: format!("{}/{}", applied.kind.resource(), applied.key.name), kind, key })
    }

    async fn progress(&self, lab: &Lab) -> Result<Progress> {
        let (namespace, name) = (&self.key.0, &self.key.1);
        let client = || lab.client.clone();
        Ok(match self.kind {
            WorkloadKind::Deployment => {
                let object = Api::<Deployment>::namespaced(client(), namespace).get(name).await?;
                let selector = object.spec.as_ref().map(|spec| &spec.selector);
                rollout::deployment(&object, &self.pods(lab, selector).await?)
            }
            WorkloadKind::ReplicaSet => {
                let object = Api::<ReplicaSet>::namespaced(client(), namespace).get(name).await?;
                let selector = object.spec.as_ref().map(|spec| &spec.selector);
                rollout::replica_set(&object, &self.pods(lab, selector).await?)
            }
            WorkloadKind::DaemonSet => {
                let object = Api::<DaemonSet>::namespaced(client(), namespace).get(name).await?;
                let selector = object.spec.as_ref().map(|spec| &spec.selector);
                rollout::daemon_set(&object, &self.pods(lab, selector).await?)
            }
            WorkloadKind::Pod => rollout::pod(&Api::<Pod>::namespaced(client(), namespace).get(name).await?),
        })
    }

    async fn pods(&self, lab: &Lab, selector: Option<&LabelSelector>) -> Result<Vec<Pod>> {
        let selector: Selector = selector.cloned().unwrap_or_default().try_into()?;
        let pods = Api::<Pod>::namespaced(lab.client.clone(), &self.key.0);
        Ok(pods.list(&ListParams::default().labels_from(&selector)).await?.items)
    }
}

/// Compares the EndpointSlices of a namespace with its pods.
async fn endpoints_of(lab: &Lab, namespace: &str) -> Result<Progress> {
    let all = ListParams::default();
    let services = Api::<Service>::namespaced(lab.client.clone(), namespace);
    let pods = Api::<Pod>::namespaced(lab.client.clone(), namespace);
    let slices = Api::<EndpointSlice>::namespaced(lab.client.clone(), namespace);
    let (services, pods, slices) = tokio::try_join!(services.list(&all), pods.list(&all), slices.list(&all))?;
    Ok(endpoints::progress(&services.items, &pods.items, &slices.items))
}

/// Waits until every agent has programmed the current objects of these
/// namespaces.
async fn agents(
    lab: &Lab,
    namespaces: &BTreeSet<&str>,
    deadline: Instant,
    report: &(dyn Fn(String) + Sync),
) -> Result<()> {
    let newest = Newest::of(lab, namespaces).await.context("cannot list the lab's objects")?;
    let all = lab.agents();
    let (running, stopped): (Vec<_>, Vec<_>) = all.iter().partition(|(_, agent)| agent.enabled());
    for (node, _) in stopped {
        report(format!(
            "the agent of {node} is stopped: changes are not programmed on the node until it is started"
        ));
    }
    let asked = running.into_iter().map(|(node, agent)| {
        let objects = newest.for_node(node);
        async move {
            let programmed = ask(agent, objects, deadline).await;
            programmed.with_context(|| format!("{node} has not programmed all objects"))
        }
    });
    let problems: Vec<String> = join_all(asked)
        .await
        .into_iter()
        .filter_map(|one| one.err().map(|error| format!("{error:#}")))
        .collect();
    if problems.is_empty() { Ok(()) } else { bail!("{}", problems.join("\n")) }
}

/// Asks one agent; retries if the agent exits meanwhile.
async fn ask(agent: &Agent, objects: Vec<ObjectVersion>, deadline: Instant) -> Result<()> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
        let client = AgentClient::new(agent.socket()).with_timeout(left + Duration::from_secs(1));
        let call = Call::WaitForSync { timeout_ms: left.as_millis() as u64, objects: objects.clone() };
        let answer = tokio::task::spawn_blocking(move || client.call(call)).await?;
        match answer {
            Ok(_) => return Ok(()),
            Err(ClientError::Unreachable { .. } | ClientError::Disconnected { .. })
                if Instant::now() < deadline =>
            {
                tokio::time::sleep(PAUSE.1).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// The newest object of each kind. Changes of a kind are delivered in order,
/// so an agent that has seen the newest has seen all of them.
struct Newest {
    everywhere: Vec<ObjectVersion>,
    pods: Vec<(String, ObjectVersion)>,
}

impl Newest {
    async fn of(lab: &Lab, namespaces: &BTreeSet<&str>) -> Result<Newest> {
        let all = ListParams::default();
        let mut everywhere = Vec::new();
        let nodes = Api::<Node>::all(lab.client.clone()).list(&all).await?;
        everywhere.extend(newest("Node", &nodes.items));
        let spaces = Api::<Namespace>::all(lab.client.clone()).list(&all).await?;
        everywhere.extend(newest("Namespace", &spaces.items));
        let mut pods = Vec::new();
        for namespace in namespaces.iter().filter(|name| !name.is_empty()) {
            let services = Api::<Service>::namespaced(lab.client.clone(), namespace).list(&all).await?;
            everywhere.extend(newest("Service", &services.items));
            let slices = Api::<EndpointSlice>::namespaced(lab.client.clone(), namespace).list(&all).await?;
            everywhere.extend(newest("EndpointSlice", &slices.items));
            let here = Api::<Pod>::namespaced(lab.client.clone(), namespace).list(&all).await?;
            pods.extend(here.items.iter().map(|pod| (node_of(pod), seen("Pod", pod))));
        }
        Ok(Newest { everywhere, pods })
    }

    /// The objects that the agent of a node must have seen. It does not watch
    /// the pods of other nodes.
    fn for_node(&self, node: &str) -> Vec<ObjectVersion> {
        let own = self.pods.iter().filter(|(pod_node, _)| pod_node == node).map(|(_, pod)| pod.clone());
        self.everywhere.iter().cloned().chain(own).collect()
    }
}

fn node_of(pod: &Pod) -> String {
    pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default()
}

fn newest<K: ResourceExt>(kind: &str, objects: &[K]) -> Option<ObjectVersion> {
    let version = |object: &&K| object.resource_version().and_then(|text| text.parse::<u64>().ok());
    objects.iter().max_by_key(version).map(|object| seen(kind, object))
}

fn seen<K: ResourceExt>(kind: &str, object: &K) -> ObjectVersion {
    ObjectVersion {
        kind: kind.into(),
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
        resource_version: object.resource_version().unwrap_or_default(),
    }
}
