//! `beeline status`: are the agents well?

use std::process::ExitCode;

use anyhow::Result;
use beeline_api::{Call, Response, Status};
use serde::Serialize;

use crate::live::Live;
use crate::output::{self, Format, grouped};
use crate::place::Place;

/// A table that is fuller than this is worth a line.
const FILL_WARN_PERCENT: u64 = 75;

/// A node's state; without an agent, what can still be said.
#[derive(Debug, Serialize)]
struct NodeStatus {
    node: String,
    /// Everything is programmed and the API server answers.
    healthy: bool,
    /// Why the agent gave no answer.
    error: Option<String>,
    tables: PinnedTables,
    agent: Option<Status>,
}

/// What is pinned: packets need nothing else.
#[derive(Debug, Default, Serialize)]
struct PinnedTables {
    /// The tables are there and can be read.
    readable: bool,
    /// Why not.
    error: Option<String>,
    /// Kernel memory of all tables.
    bytes: Option<u64>,
}

/// `beeline status`; fails if a node is not healthy.
pub fn run(places: &[Place], format: Format) -> Result<ExitCode> {
    let nodes: Vec<NodeStatus> = places.iter().map(ask).collect();
    match format {
        Format::Json => output::json(&nodes)?,
        Format::Text => nodes.iter().try_for_each(|node| output::line(&text(node)))?,
    }
    let healthy = nodes.iter().all(|node| node.healthy);
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn ask(place: &Place) -> NodeStatus {
    let answer = match place.client().call(Call::Status) {
        Ok(Response::Status(status)) => Ok(*status),
        Ok(other) => Err(format!("unexpected answer {other:?}")),
        Err(error) => Err(error.to_string()),
    };
    let tables = PinnedTables::of(place);
    let node = place.label.clone();
    match answer {
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
    fn of(place: &Place) -> PinnedTables {
        match Live::open(place) {
            Ok(live) => PinnedTables { readable: true, error: None, bytes: live.memory_bytes().ok() },
            Err(error) => PinnedTables { readable: false, error: Some(format!("{error:#}")), bytes: None },
        }
    }

    fn text(&self, agent_runs: bool) -> String {
        match &self.error {
            Some(error) => error.clone(),
            None => {
                let memory = self.bytes.map(|bytes| format!(", {} KB", grouped(bytes / 1024)));
                let without = if agent_runs { "" } else { ": packets flow as the agent left them" };
                format!("pinned{}{without}", memory.unwrap_or_default())
            }
        }
    }
}

fn text(node: &NodeStatus) -> String {
    let mut lines = Vec::new();
    let word = if node.healthy { "healthy" } else { "NOT healthy" };
    lines.push(format!("{}: {word}", node.node));
    if let Some(error) = &node.error {
        lines.push(format!("  agent       {error}"));
    }
    lines.push(format!("  tables      {}", node.tables.text(node.agent.is_some())));
    if let Some(agent) = &node.agent {
        lines.extend(agent_lines(agent));
    }
    lines.join("\n")
}

fn agent_lines(agent: &Status) -> Vec<String> {
    let yes = |yes: bool, no: &str| if yes { "yes".to_owned() } else { format!("NO ({no})") };
    let list = |items: Vec<String>| if items.is_empty() { "none".into() } else { items.join(", ") };
    let mut lines = vec![
        format!("  agent       {} (tables version {})", agent.version, agent.abi_version),
        format!(
            "  synced      {}",
            yes(agent.synced, "the first listing is not programmed yet; see its log")
        ),
        format!(
            "  API server  {}",
            yes(agent.api_connected, "out of reach; the last good state is in force")
        ),
        format!("  uplinks     {}", list(agent.uplinks.clone())),
        format!("  pod ranges  {}", list(agent.pod_cidrs.iter().map(ToString::to_string).collect())),
        format!("  pods        {}", agent.endpoints.len()),
    ];
    for table in &agent.tables {
        let percent = (table.entries * 100).checked_div(table.capacity).unwrap_or_default();
        if percent >= FILL_WARN_PERCENT {
            lines.push(format!(
                "  table       {} is {percent} % full ({} of {})",
                table.name,
                grouped(table.entries),
                grouped(table.capacity)
            ));
        }
    }
    lines.extend(agent.problems.iter().map(|problem| format!("  problem     {problem}")));
    lines.extend(agent.not_built.iter().map(|option| format!("  not built   {option}")));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use beeline_api::TableStatus;

    #[test]
    fn unit_an_unhealthy_node_says_why() {
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
            "tables      pinned, 2,000 KB\n",
            "node-1: NOT healthy",
            "NO (out of reach",
            "BACKEND is 90 % full",
            "problem     EndpointSlice a/b",
        ] {
            assert!(text.contains(part), "{part} missing in:\n{text}");
        }
    }
}
