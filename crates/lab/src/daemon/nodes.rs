//! The Node objects: what a kubelet tells the API about its machine.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::json;
use tokio::time::Instant;

use super::agents::Agent;
use crate::address;

/// How long the API may take to give a node its pod ranges.
const POD_CIDRS_TIMEOUT: Duration = Duration::from_secs(10);

/// How often an agent is asked whether it is ready.
const READY_PAUSE: Duration = Duration::from_millis(250);

/// How long an agent may be away until its node is not Ready.
const NOT_READY_AFTER: Duration = Duration::from_secs(2);

/// Creates the Node object of this number.
pub async fn register(client: &Client, number: u32) -> Result<()> {
    let name = address::node_name(number);
    let nodes: Api<Node> = Api::all(client.clone());
    let node: Node = serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": architecture(),
        }},
    }))?;
    nodes.create(&PostParams::default(), &node).await.with_context(|| format!("cannot register {name}"))?;
    write_status(client, number, Err("the agent is starting")).await
}

/// Writes the status: addresses, and whether pods can run.
pub async fn write_status(client: &Client, number: u32, ready: Result<(), &str>) -> Result<()> {
    let name = address::node_name(number);
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let mut addresses: Vec<_> = address::node(number)
        .addresses()
        .iter()
        .map(|ip| json!({"type": "InternalIP", "address": ip}))
        .collect();
    addresses.push(json!({"type": "Hostname", "address": name}));
    let (status, reason, message) = match ready {
        Ok(()) => ("True", "KubeletReady", "the agent is ready"),
        Err(message) => ("False", "NetworkPluginNotReady", message),
    };
    let quantity = json!({"cpu": "64", "memory": "64Gi", "pods": "250"});
    let patch = json!({"status": {
        "addresses": addresses,
        "capacity": quantity,
        "allocatable": quantity,
        "conditions": [{
            "type": "Ready", "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": now, "lastTransitionTime": now,
        }],
        "nodeInfo": {
            "architecture": architecture(), "operatingSystem": "linux", "osImage": "beeline-lab",
            "kernelVersion": kernel_version(), "kubeletVersion": concat!("v", env!("CARGO_PKG_VERSION")),
            "kubeProxyVersion": "", "containerRuntimeVersion": "beeline-lab://1", "machineID": "",
            "systemUUID": "", "bootID": "",
        },
    }});
    let nodes: Api<Node> = Api::all(client.clone());
    nodes
        .patch_status(&name, &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .with_context(|| format!("cannot write the status of {name}"))?;
    Ok(())
}

/// Keeps a node's Ready condition as its agent's readiness, for as long as
/// the daemon lives. A restart of the agent that is over within
/// [`NOT_READY_AFTER`] does not show.
pub async fn follow(client: Client, agent: Arc<Agent>) {
    let (mut told, mut last_ready) = (true, Instant::now());
    loop {
        tokio::time::sleep(READY_PAUSE).await;
        let ready = agent.ready().await;
        if ready.is_ok() {
            last_ready = Instant::now();
        }
        let shown = ready.is_ok() || last_ready.elapsed() < NOT_READY_AFTER && told;
        if shown == told {
            continue;
        }
        let words = ready.map_err(|error| format!("{error:#}"));
        let written =
            write_status(&client, agent.number(), words.as_ref().map_err(String::as_str).copied()).await;
        match written {
            Ok(()) => told = shown,
            Err(error) => tracing::warn!("{error:#}"),
        }
    }
}

/// Waits until every node has its pod ranges.
pub async fn pod_cidrs(client: &Client, count: u32) -> Result<BTreeMap<String, Vec<IpNet>>> {
    let nodes: Api<Node> = Api::all(client.clone());
    let deadline = tokio::time::Instant::now() + POD_CIDRS_TIMEOUT;
    loop {
        let list = nodes.list(&Default::default()).await.context("cannot list the nodes")?;
        let ranges: BTreeMap<String, Vec<IpNet>> =
            list.items.iter().map(|node| (node.name_any(), cidrs(node))).collect();
        if ranges.values().filter(|ranges| !ranges.is_empty()).count() == count as usize {
            return Ok(ranges);
        }
        if tokio::time::Instant::now() > deadline {
            bail!("the API gave no pod ranges to some nodes: {ranges:?}");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn cidrs(node: &Node) -> Vec<IpNet> {
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
