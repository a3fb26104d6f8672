//! `beeline status`: the health of the agents.

use std::process::ExitCode;

use anyhow::Result;
use beeline_api::{Call, Response, Status};
use serde::Serialize;

use crate::live::Live;
use crate::output::{self, Format, grouped};
use crate::target::Target;

/// Utilisation from which a map is listed.
const UTILISATION_WARN_PERCENT: u64 = 75;

/// State of a node, as far as it is known without the agent.
#[derive(Debug, Serialize)]
struct NodeStatus {
    node: String,
    /// Synced, connected to the API server, and the maps are readable.
    healthy: bool,
    /// Why the agent could not be queried.
    error: Option<String>,
    tables: PinnedTables,
    agent: Option<Status>,
}

/// The pinned maps, which forward packets without the agent.
#[derive(Debug, Default, Serialize)]
struct PinnedTables {
    /// The maps exist and can be read.
    readable: bool,
    /// Why they cannot be read.
    error: Option<String>,
    /// Kernel memory of all maps, in bytes.
    bytes: Option<u64>,
}

/// `beeline status`; exits with 1 if a node is not healthy.
pub fn run(targets: &[Target], format: Format) -> Result<ExitCode> {
    let nodes: Vec<NodeStatus> = targets.iter().map(node_status).collect();
    match format {
        Format::Json => output::json(&nodes)?,
        Format::Text => nodes.iter().try_for_each(|node| output::line(&text(node)))?,
    }
    let healthy = nodes.iter().all(|node| node.healthy);
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn node_status(target: &Target) -> NodeStatus {
    let response = match target.client().call(Call::Status) {
        Ok(Response::Status(status)) => Ok(*status),
        Ok(other) => Err(format!("unexpected response {other:?}")),
        Err(error) => Err(error.to_string()),
    };
    let tables = PinnedTables::of(target);
    let node = target.label.clone();
    match response {
        Ok(agent) => NodeStatus {
            node,
            healthy: agent.synced && agent.api_connected && tables.readable,
            error: None,
            tables,
            agent: Some(agent),
        },
        Err(error) => NodeStatus { node, healthy: false, error: Some(error), tables, agent: None },
    }
}

impl PinnedTables {
    fn of(target: &Target) -> PinnedTables {
        match Live::open(target) {
            Ok(live) => PinnedTables { readable: true, error: None, bytes: live.memory_bytes().ok() },
            Err(error) => PinnedTables { readable: false, error: Some(format!("{error:#}")), bytes: None },
        }
    }

    fn text(&self, agent_is_running: bool) -> String {
        match &self.error {
            Some(error) => error.clone(),
            None => {
                let memory = self.bytes.map(|bytes| format!(", {} KiB", grouped(bytes / 1024)));
                let suffix = if agent_is_running {
                    ""
                } else {
                    "; packets are forwarded with the last programmed state"
                };
                format!("pinned{}{suffix}", memory.unwrap_or_default())
            }
        }
    }
}

fn text(node: &NodeStatus) -> String {
    let mut lines = Vec::new();
    let health = if node.healthy { "healthy" } else { "not healthy" };
    lines.push(format!("{}: {health}", node.node));
    if let Some(error) = &node.error {
        lines.push(format!("  Agent:            {error}"));
    }
    lines.push(format!("  eBPF maps:        {}", node.tables.text(node.agent.is_some())));
    if let Some(agent) = &node.agent {
        lines.extend(agent_lines(agent));
    }
    lines.join("\n")
}

fn agent_lines(agent: &Status) -> Vec<String> {
    let yes_or_no =
        |value: bool, reason: &str| if value { "yes".to_owned() } else { format!("no ({reason})") };
    let list = |items: Vec<String>| if items.is_empty() { "none".into() } else { items.join(", ") };
    let mut lines = vec![
        format!("  Agent:            {} (ABI version {})", agent.version, agent.abi_version),
        format!(
            "  Synced:           {}",
            yes_or_no(agent.synced, "the initial state is not programmed yet; see the agent's log")
        ),
        format!(
            "  API connected:    {}",
            yes_or_no(agent.api_connected, "API server unreachable; the last known state stays in effect")
        ),
        format!("  Uplinks:          {}", list(agent.uplinks.clone())),
        format!("  Pod CIDRs:        {}", list(agent.pod_cidrs.iter().map(ToString::to_string).collect())),
        format!("  Pods:             {}", agent.endpoints.len()),
    ];
    for table in &agent.tables {
        let percent = (table.entries * 100).checked_div(table.capacity).unwrap_or_default();
        if percent >= UTILISATION_WARN_PERCENT {
            lines.push(format!(
                "  Map utilisation:  {} {percent} % ({} of {} entries)",
                table.name,
                grouped(table.entries),
                grouped(table.capacity)
            ));
        }
    }
    lines.extend(agent.problems.iter().map(|problem| format!("  Problem:          {problem}")));
    lines.extend(agent.not_built.iter().map(|option| format!("  No effect:        {option}")));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use beeline_api::TableStatus;

    #[test]
    fn unit_an_unhealthy_node_is_explained() {
        let agent = Status {
            version: "0.1.0".into(),
            abi_version: 1,
            synced: true,
            tables: vec![TableStatus { name: "BACKEND".into(), entries: 900, capacity: 1000 }],
            problems: vec!["EndpointSlice a/b: broken".into()],
            ..Default::default()
        };
        let node = NodeStatus {
            node: "node-1".into(),
            healthy: false,
            error: None,
            tables: PinnedTables { readable: true, error: None, bytes: Some(2_048_000) },
            agent: Some(agent),
        };
        let text = text(&node);
        for part in [
            "eBPF maps:        pinned, 2,000 KiB\n",
            "node-1: not healthy",
            "no (API server unreachable",
            "BACKEND 90 % (900 of 1,000 entries)",
            "Problem:          EndpointSlice a/b",
        ] {
            assert!(text.contains(part), "{part} missing in:\n{text}");
        }
    }
}
