//! The daemon of a lab: the API server, the agents of the nodes, their pods,
//! and the socket for the verbs.

mod agents;
mod bring_up;
mod control_plane;
mod dns;
mod endpoints;
mod lab;
mod logs;
mod node_lifecycle;
mod node_operations;
mod node_set;
mod nodes;
mod rollout;
mod server;
mod status;
mod wait_for_sync;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use beeline_lab_net::paths::LabName;
use beeline_lab_net::record::LabSpec;
use tokio::net::UnixListener;

use crate::protocol::Line;
use lab::Lab;

pub use control_plane::check_assets;

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
