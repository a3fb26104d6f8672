//! The node lifecycle controller for nodes that are down, faster than that of
//! Kubernetes: the node becomes NotReady (Kubernetes: after 40 s), its pods
//! become not ready, and are then evicted (Kubernetes: after the default
//! toleration of 300 s). Tolerations are ignored; pods of DaemonSets are not
//! evicted.

use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::json;

use super::nodes;

/// Time between NotReady and the eviction of the node's pods.
pub const EVICT_AFTER: Duration = Duration::from_secs(5);

/// Taint of an unreachable node.
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// Marks a node unreachable and evicts its pods, each after a delay. Aborted
/// when the node is started again.
pub async fn mark_unreachable(client: Client, node: String) {
    tokio::time::sleep(nodes::NOT_READY_AFTER).await;
    log_error(set_unreachable(&client, &node).await);
    tokio::time::sleep(EVICT_AFTER).await;
    log_error(evict(&client, &node).await);
}

/// Reverts [`mark_unreachable`].
pub async fn mark_reachable(client: &Client, node: &str) -> Result<()> {
    taint(client, node, false).await
}

/// Deletes a Node object and force-deletes the pods bound to it, whose kubelet
/// can no longer confirm their termination.
pub async fn delete_node(client: &Client, node: &str) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    ignore_not_found(nodes.delete(node, &DeleteParams::default()).await.map(|_| ()))
        .with_context(|| format!("cannot delete the Node object of {node}"))?;
    delete(client, &on_node(client, node).await?, &DeleteParams::default().grace_period(0)).await
}

/// The pods bound to a node: namespace and name.
pub async fn pods_of(client: &Client, node: &str) -> Result<Vec<(String, String)>> {
    let pods = on_node(client, node).await?;
    Ok(pods.iter().map(|pod| (pod.namespace().unwrap_or_default(), pod.name_any())).collect())
}

async fn on_node(client: &Client, node: &str) -> Result<Vec<Pod>> {
    let bound = ListParams::default().fields(&format!("spec.nodeName={node}"));
    let pods = Api::<Pod>::all(client.clone()).list(&bound).await;
    Ok(pods.with_context(|| format!("cannot list the pods of {node}"))?.items)
}

fn log_error(result: Result<()>) {
    if let Err(error) = result {
        tracing::warn!("{error:#}");
    }
}

async fn set_unreachable(client: &Client, node: &str) -> Result<()> {
    nodes::write_unknown(client, node).await?;
    taint(client, node, true).await?;
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    for pod in on_node(client, node).await? {
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let conditions: Vec<_> = conditions
            .map(|condition| match condition.type_.as_str() {
                "Ready" => json!({
                    "type": "Ready", "status": "False", "reason": "NodeNotReady",
                    "message": format!("node {node} is unreachable"), "lastTransitionTime": now,
                }),
                _ => json!(condition),
            })
            .collect();
        let patch = json!({"status": {"conditions": conditions}});
        let pods: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
        let patched =
            pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await;
        ignore_not_found(patched.map(|_| ())).context("cannot write a pod's status")?;
    }
    Ok(())
}

async fn taint(client: &Client, node: &str, set: bool) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let object = nodes.get(node).await.with_context(|| format!("cannot read the Node object of {node}"))?;
    let taints = object.spec.and_then(|spec| spec.taints).unwrap_or_default();
    let others = taints.into_iter().filter(|taint| taint.key != UNREACHABLE).map(|taint| json!(taint));
    let own = ["NoSchedule", "NoExecute"].map(|effect| json!({"key": UNREACHABLE, "effect": effect}));
    let taints: Vec<_> = others.chain(own.into_iter().filter(|_| set)).collect();
    let patch = Patch::Merge(json!({"spec": {"taints": taints}}));
    let patched = nodes.patch(node, &PatchParams::default(), &patch).await;
    patched.map(|_| ()).with_context(|| format!("cannot write the taints of {node}"))
}

async fn evict(client: &Client, node: &str) -> Result<()> {
    let of_daemon_set = |pod: &Pod| pod.owner_references().iter().any(|owner| owner.kind == "DaemonSet");
    let mut pods = on_node(client, node).await?;
    pods.retain(|pod| !of_daemon_set(pod));
    delete(client, &pods, &DeleteParams::default()).await
}

async fn delete(client: &Client, pods: &[Pod], how: &DeleteParams) -> Result<()> {
    for pod in pods {
        let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
        ignore_not_found(api.delete(&pod.name_any(), how).await.map(|_| ()))
            .with_context(|| format!("cannot delete the pod {}", pod.name_any()))?;
    }
    Ok(())
}

fn ignore_not_found(result: kube::Result<()>) -> Result<()> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other.map_err(Into::into),
    }
}
