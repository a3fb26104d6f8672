//! Node objects: the part of a kubelet that reports its node.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use beeline_lab_net::address::Pair;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::json;
use tokio::time::Instant;

use super::agents::Agent;

/// Timeout for the allocation of podCIDRs.
const POD_CIDRS_TIMEOUT: Duration = Duration::from_secs(10);

/// Interval of readiness checks of an agent.
const READY_PAUSE: Duration = Duration::from_millis(250);

/// Time without a ready agent after which a node becomes NotReady.
pub const NOT_READY_AFTER: Duration = Duration::from_secs(2);

/// Creates the Node object; `addresses` is indexed by uplink.
pub async fn register(client: &Client, name: &str, addresses: Vec<Pair>) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let node: Node = serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": architecture(),
        }},
    }))?;
    nodes.create(&PostParams::default(), &node).await.with_context(|| format!("cannot register {name}"))?;
    let quantity = json!({"cpu": "64", "memory": "64Gi", "pods": "250"});
    let status = json!({
        "addresses": shown_addresses(name, &addresses),
        "capacity": quantity,
        "allocatable": quantity,
        "conditions": [ready_condition("False", "NetworkPluginNotReady", "the agent is starting")],
        "nodeInfo": {
            "architecture": architecture(), "operatingSystem": "linux", "osImage": "beeline-lab",
            "kernelVersion": kernel_version(), "kubeletVersion": concat!("v", env!("CARGO_PKG_VERSION")),
            "kubeProxyVersion": "", "containerRuntimeVersion": "beeline-lab://1", "machineID": "",
            "systemUUID": "", "bootID": "",
        },
    });
    patch_status(client, name, status).await
}

/// Updates the addresses in the node's status.
pub async fn write_addresses(client: &Client, name: &str, addresses: &[Pair]) -> Result<()> {
    patch_status(client, name, json!({"addresses": shown_addresses(name, addresses)})).await
}

/// Sets the Ready condition.
pub async fn write_ready(client: &Client, name: &str, ready: Result<(), &str>) -> Result<()> {
    let condition = match ready {
        Ok(()) => ready_condition("True", "KubeletReady", "the agent is ready"),
        Err(message) => ready_condition("False", "NetworkPluginNotReady", message),
    };
    patch_status(client, name, json!({"conditions": [condition]})).await
}

/// Sets the Ready condition to Unknown, as the node lifecycle controller does.
pub async fn write_unknown(client: &Client, name: &str) -> Result<()> {
    let condition = ready_condition("Unknown", "NodeStatusUnknown", "Kubelet stopped posting node status.");
    patch_status(client, name, json!({"conditions": [condition]})).await
}

/// Peers and the API server use InternalIPs, one per family. Addresses of
/// additional networks are listed as ExternalIP, as a cloud's node controller
/// does.
fn shown_addresses(name: &str, addresses: &[Pair]) -> Vec<serde_json::Value> {
    let shown = addresses.iter().enumerate().flat_map(|(uplink, pair)| {
        let kind = if uplink == 0 { "InternalIP" } else { "ExternalIP" };
        pair.addresses().map(|ip| json!({"type": kind, "address": ip}))
    });
    shown.chain([json!({"type": "Hostname", "address": name})]).collect()
}

fn ready_condition(status: &str, reason: &str, message: &str) -> serde_json::Value {
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    json!({
        "type": "Ready", "status": status, "reason": reason, "message": message,
        "lastHeartbeatTime": now, "lastTransitionTime": now,
    })
}

async fn patch_status(client: &Client, name: &str, status: serde_json::Value) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    nodes
        .patch_status(name, &PatchParams::default(), &Patch::Merge(&json!({"status": status})))
        .await
        .with_context(|| format!("cannot write the status of {name}"))?;
    Ok(())
}

/// Updates a node's Ready condition from its agent's readiness for as long as
/// the daemon runs. Restarts of the agent shorter than [`NOT_READY_AFTER`] are
/// ignored. `reported` is the current value of the condition.
pub async fn follow(client: Client, agent: Arc<Agent>, mut reported: bool) {
    let mut last_ready = Instant::now();
    loop {
        tokio::time::sleep(READY_PAUSE).await;
        let ready = agent.ready().await;
        if ready.is_ok() {
            last_ready = Instant::now();
        }
        let shown = ready.is_ok() || last_ready.elapsed() < NOT_READY_AFTER && reported;
        if shown == reported {
            continue;
        }
        let words = ready.map_err(|error| format!("{error:#}"));
        let written =
            write_ready(&client, agent.node(), words.as_ref().map_err(String::as_str).copied()).await;
        match written {
            Ok(()) => reported = shown,
            Err(error) => tracing::warn!("{error:#}"),
        }
    }
}

/// Waits until all these nodes have podCIDRs.
pub async fn pod_cidrs(client: &Client, names: &[String]) -> Result<BTreeMap<String, Vec<IpNet>>> {
    let nodes: Api<Node> = Api::all(client.clone());
    let deadline = tokio::time::Instant::now() + POD_CIDRS_TIMEOUT;
    loop {
        let list = nodes.list(&Default::default()).await.context("cannot list the nodes")?;
        let ranges: BTreeMap<String, Vec<IpNet>> =
            list.items.iter().map(|node| (node.name_any(), cidrs(node))).collect();
        if names.iter().all(|name| ranges.get(name).is_some_and(|ranges| !ranges.is_empty())) {
            return Ok(ranges);
        }
        if tokio::time::Instant::now() > deadline {
            bail!("some nodes have no podCIDRs: {ranges:?}");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The podCIDRs of a node.
pub fn cidrs(node: &Node) -> Vec<IpNet> {
    let texts = node.spec.as_ref().and_then(|spec| spec.pod_cidrs.clone()).unwrap_or_default();
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn kernel_version() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}
