//! `beeline lab logs`: reads the files, so that it works without the daemon.

use anyhow::{Context, Result, bail};
use clap::Args;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::enter::{find_container, find_pod, require};
use crate::log::{self, Wanted};
use crate::paths::{LabName, LabPaths};
use crate::record::pod_records;

/// Which log, and how much of it; as kubectl has it.
#[derive(Debug, Args)]
pub struct Request {
    /// The pod's namespace
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// The container; the pod's first one if none is named
    #[arg(short, long)]
    container: Option<String>,
    /// Go on until the container ends
    #[arg(short, long)]
    follow: bool,
    /// The last so many lines
    #[arg(long, value_name = "N")]
    tail: Option<usize>,
    /// Nothing older, such as 30s or 5m
    #[arg(long, value_name = "DURATION")]
    since: Option<SignedDuration>,
    /// The run before the last
    #[arg(short, long)]
    previous: bool,
    /// The time before each line
    #[arg(long)]
    timestamps: bool,
    /// The pod
    pod: String,
}

/// Prints a log.
pub fn run(name: &LabName, request: &Request) -> Result<()> {
    let paths = LabPaths::new(name);
    require(name, &paths)?;
    let pods = pod_records(&paths);
    let pod = find_pod(&pods, &request.namespace, &request.pod)?;
    let container = match &request.container {
        Some(name) => find_container(pod, name)?,
        None => pod.containers.first().context("the pod has no container")?,
    };
    let files = paths.pod(&pod.namespace, &pod.name).container(container);
    let Some(path) = log::find(&files, request.previous) else {
        let run = if request.previous { "has not run before" } else { "has not been started yet" };
        bail!("the container {container} of pod {}/{} {run}", pod.namespace, pod.name);
    };
    let since = request.since.map(|since| Timestamp::now().checked_sub(since)).transpose();
    let wanted = Wanted {
        tail: request.tail,
        since: since.context("--since reaches too far back")?,
        timestamps: request.timestamps,
        limit_bytes: None,
    };
    log::print(&path, wanted, request.follow).with_context(|| format!("cannot read {}", path.display()))
}
