//! The process behind a lab: the API, the nodes' agents, their pods, and the
//! socket for the verbs.

pub mod agents;
mod bring_up;
mod container;
mod endpoints;
mod kubelet;
mod nodes;
mod plugin;
mod pod;
mod pod_status;
mod rollout;
mod server;
mod settle;
mod status;
mod supervise;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use beeline_apiserver::ApiServer;
use kube::Client;
use tokio::net::UnixListener;

use crate::paths::{LabName, LabPaths};
use crate::protocol::Line;
use crate::record::Shape;
use agents::Agent;

pub use container::last_lines;

/// The running lab.
pub struct Lab {
    name: LabName,
    paths: LabPaths,
    api: ApiServer,
    client: Client,
    agents: BTreeMap<String, Arc<Agent>>,
}

/// Runs a lab until it is killed. Progress and the outcome go to standard
/// output, one [`Line`] each, until it is ready; its agents may take `timeout`
/// for that.
pub fn run(name: &LabName, shape: Shape, timeout: Duration) -> Result<()> {
    // A lab of many pods has many pipes; without the right to raise the limit
    // it is smaller.
    let _ = crate::process::raise_file_limit();
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    runtime.block_on(async {
        match begin(name, shape, timeout).await {
            Ok((lab, listener)) => {
                tell(&Line::Done(format!("lab {name} is up")));
                server::serve(lab, listener).await
            }
            Err(error) => {
                tell(&Line::Error(format!("{error:#}")));
                Err(error)
            }
        }
    })
}

async fn begin(name: &LabName, shape: Shape, timeout: Duration) -> Result<(Arc<Lab>, UnixListener)> {
    let lab = Arc::new(bring_up::bring_up(name, shape, timeout, &tell_progress).await?);
    for agent in lab.agents.values() {
        tokio::spawn(nodes::follow(lab.client.clone(), agent.clone()));
    }
    settle::nodes(&lab).await?;
    let listener = server::listen(&lab.paths.socket())?;
    Ok((lab, listener))
}

fn tell_progress(text: &str) {
    tracing::info!("{text}");
    tell(&Line::Progress(text.to_owned()));
}

/// Writes a line to whoever started the daemon; that process may be gone.
fn tell(line: &Line) {
    use std::io::Write;
    let text = serde_json::to_string(line).unwrap_or_default();
    let _ = writeln!(std::io::stdout(), "{text}");
}
