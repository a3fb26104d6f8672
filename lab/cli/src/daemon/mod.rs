//! The daemon of a lab: the API server, the agents of the nodes, their pods,
//! and the socket for the verbs.

pub mod agents;
mod bring_up;
mod control_plane;
mod dns;
mod endpoints;
mod logs;
mod node_lifecycle;
mod node_operations;
mod nodes;
mod rollout;
mod server;
mod status;
mod wait_for_sync;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context, Result};
use beeline_lab_kubelet::shared::Shared;
use beeline_lab_net::paths::{LabName, LabPaths};
use beeline_lab_net::programs::Programs;
use beeline_lab_net::record::{LabRecord, LabSpec};
use kube::Client;
use tokio::net::UnixListener;

use crate::protocol::Line;
use agents::Agent;
use control_plane::ControlPlane;
use dns::ClusterDns;
use node_operations::NodeSet;

pub use control_plane::check_assets;

/// The running lab.
pub struct Lab {
    name: LabName,
    paths: LabPaths,
    api: ControlPlane,
    client: Client,
    programs: Programs,
    dns: Arc<ClusterDns>,
    /// Record of what exists.
    record: RwLock<LabRecord>,
    /// Agents of the nodes that are powered on.
    agents: RwLock<BTreeMap<String, Arc<Agent>>>,
    /// Serializes changes of nodes and links.
    node_set: tokio::sync::Mutex<NodeSet>,
    /// State shared by the kubelets.
    pods: Arc<Shared>,
}

impl Lab {
    /// Agents of the nodes that are powered on.
    fn agents(&self) -> BTreeMap<String, Arc<Agent>> {
        self.agents.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A copy of the record.
    fn record(&self) -> LabRecord {
        self.record.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the record, in memory and on disk.
    fn change_record(&self, change: impl FnOnce(&mut LabRecord)) -> Result<()> {
        let mut record = self.record.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut record);
        record.write(&self.paths)
    }
}

/// Runs a lab until it is killed. Writes progress and the result to standard
/// output, one [`Line`] each, until the lab is ready. `timeout` limits the
/// time for the agents to become ready.
pub fn run(name: &LabName, shape: LabSpec, timeout: Duration) -> Result<()> {
    // Many pods need many pipes. Without the privilege to raise the limit,
    // labs are limited in size.
    let _ = beeline_lab_net::process::raise_file_limit();
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    runtime.block_on(async {
        match begin(name, shape, timeout).await {
            Ok((lab, listener)) => {
                write_line(&Line::Done(format!("lab {name} is up")));
                server::serve(lab, listener).await
            }
            Err(error) => {
                write_line(&Line::Error(format!("{error:#}")));
                Err(error)
            }
        }
    })
}

async fn begin(name: &LabName, shape: LabSpec, timeout: Duration) -> Result<(Arc<Lab>, UnixListener)> {
    let lab = bring_up::bring_up(name, shape, timeout, &report_progress).await?;
    wait_for_sync::nodes(&lab).await?;
    let listener = server::listen(&lab.paths.socket())?;
    Ok((lab, listener))
}

fn report_progress(text: &str) {
    tracing::info!("{text}");
    write_line(&Line::Progress(text.to_owned()));
}

/// Writes a line to the process that started the daemon; it may have exited.
fn write_line(line: &Line) {
    use std::io::Write;
    let text = serde_json::to_string(line).unwrap_or_default();
    let _ = writeln!(std::io::stdout(), "{text}");
}
