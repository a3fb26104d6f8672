//! `beeline lab logs`: reads the log files, so it works without the daemon.

use anyhow::{Context, Result, bail};
use beeline_lab_kubelet::cri_log::{self, LogOptions};
use beeline_lab_net::enter::{find_container, find_pod, require_lab};
use beeline_lab_net::paths::{LabName, LabPaths};
use beeline_lab_net::record::pod_records;
use clap::Args;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

/// Options of `logs`, as in kubectl.
#[derive(Debug, Args)]
pub struct Request {
    /// Namespace of the pod
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Container; default: the first container of the pod
    #[arg(short, long)]
    container: Option<String>,
    /// Stream the log until the container exits
    #[arg(short, long)]
    follow: bool,
    /// Number of most recent lines to show
    #[arg(long, value_name = "N")]
    tail: Option<usize>,
    /// Show only lines newer than this duration, for example 30s or 5m
    #[arg(long, value_name = "DURATION")]
    since: Option<SignedDuration>,
    /// Show the log of the previous instance of the container
    #[arg(short, long)]
    previous: bool,
    /// Prefix each line with its timestamp
    #[arg(long)]
    timestamps: bool,
    /// Name of the pod
    pod: String,
}

/// Prints the log of a container.
pub fn run(name: &LabName, request: &Request) -> Result<()> {
    let paths = LabPaths::new(name);
    require_lab(name, &paths)?;
    let pods = pod_records(&paths);
    let pod = find_pod(&pods, &request.namespace, &request.pod)?;
    let container = match &request.container {
        Some(name) => find_container(pod, name)?,
        None => pod.containers.first().context("the pod has no container")?,
    };
    let files = paths.pod(&pod.namespace, &pod.name).container(container);
    let Some(path) = cri_log::find(&files, request.previous) else {
        let run = if request.previous { "has no previous instance" } else { "has not been started yet" };
        bail!("container {container} of pod {}/{} {run}", pod.namespace, pod.name);
    };
    let since = request.since.map(|since| Timestamp::now().checked_sub(since)).transpose();
    let options = LogOptions {
        tail: request.tail,
        since: since.context("--since is too large")?,
        timestamps: request.timestamps,
        limit_bytes: None,
    };
    cri_log::print(&path, options, request.follow).with_context(|| format!("cannot read {}", path.display()))
}
