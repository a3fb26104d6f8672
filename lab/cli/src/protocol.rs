//! Protocol between the verbs and the lab's daemon: one JSON object per line.
//! A response is any number of progress lines followed by one final line.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use beeline_lab_net::enter;
use beeline_lab_net::link::{self, Link};
use beeline_lab_net::paths::{LabName, LabPaths};
use beeline_lab_net::programs::typed;
use serde::{Deserialize, Serialize};

/// A manifest file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// Name in messages: the path of its file.
    pub source: String,
    /// YAML or JSON.
    pub text: String,
}

/// A request.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "kebab-case")]
pub enum Call {
    /// Apply manifests and wait until they are programmed.
    Apply {
        /// The manifests, in order.
        manifests: Vec<Manifest>,
    },
    /// Stop, start or kill a node's agent.
    Agent {
        /// The node.
        node: String,
        /// Action.
        action: AgentAction,
    },
    /// Change a node's link.
    Link {
        /// The node.
        node: String,
        /// Device of the uplink.
        uplink: String,
        /// Changes.
        change: link::Change,
    },
    /// Stop, start, add or remove a node.
    Node {
        /// The node.
        node: String,
        /// Action.
        action: NodeAction,
    },
    /// The state of everything.
    Status,
}

/// Actions on an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum AgentAction {
    /// Stop it (SIGTERM) and do not restart it.
    Stop,
    /// Start it.
    Start,
    /// Kill it (SIGKILL); the supervisor restarts it.
    Kill,
}

/// Actions on nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeAction {
    /// Power off without a shutdown.
    Stop,
    /// Power on.
    Start,
    /// Create a node and add it to the cluster.
    Add,
    /// Remove it from the cluster.
    Remove,
}

/// A line of a response.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Line {
    /// Progress; more lines follow.
    Progress(String),
    /// Success of a call without a result.
    Done(String),
    /// Result of [`Call::Status`].
    Status(Box<Status>),
    /// Failure.
    Error(String),
}

/// State of a lab.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// The kubeconfig, which works on this host and inside the lab.
    pub kubeconfig: PathBuf,
    /// Nodes.
    pub nodes: Vec<NodeStatus>,
    /// Pods.
    pub pods: Vec<PodStatus>,
    /// Services.
    pub services: Vec<ServiceStatus>,
    /// The cluster's DNS.
    #[serde(default)]
    pub dns: DnsStatus,
    /// Programs of the control plane that are not running, with the reason.
    #[serde(default)]
    pub control_plane: Vec<String>,
}

/// State of the cluster's DNS.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct DnsStatus {
    /// The cluster IPs of its Service.
    pub addresses: Vec<IpAddr>,
    /// Why it is not serving; empty if it is.
    pub problem: String,
}

/// State of a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Name.
    pub name: String,
    /// Addresses on the underlay.
    pub addresses: Vec<IpAddr>,
    /// Pod CIDRs.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<String>,
    /// The Ready condition.
    pub ready: bool,
    /// Whether it is powered on.
    pub powered: bool,
    /// Its link.
    pub link: Link,
    /// Its additional links, from `eth1` on.
    #[serde(default)]
    pub further_links: Vec<Link>,
    /// Process ID of the agent, if it is running.
    pub agent_pid: Option<u32>,
    /// Number of agent starts.
    pub agent_starts: u32,
    /// Whether the agent has completed its initial sync.
    pub agent_ready: bool,
    /// Problems that the agent reports, or why it is not responding.
    pub problems: Vec<String>,
    /// Settings that are accepted but not implemented.
    pub not_built: Vec<String>,
}

/// State of a pod.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PodStatus {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Node, once scheduled.
    pub node: String,
    /// Addresses.
    pub ips: Vec<String>,
    /// Phase.
    pub phase: String,
    /// The Ready condition.
    pub ready: bool,
    /// Number of container restarts.
    pub restarts: i32,
    /// Why it is not ready, if known.
    pub reason: String,
}

/// State of a Service.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceStatus {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// `spec.type`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Cluster IPs.
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: Vec<String>,
    /// Ports, `80/TCP`.
    pub ports: Vec<String>,
    /// Ready endpoints, by address family.
    pub endpoints: BTreeMap<String, Vec<String>>,
}

/// Sends a call to the lab's daemon; `progress` gets the progress lines.
pub fn ask(name: &LabName, call: &Call, mut progress: impl FnMut(&str)) -> Result<Line> {
    let paths = LabPaths::new(name);
    enter::require_lab(name, &paths)?;
    let stream = UnixStream::connect(paths.socket()).with_context(|| {
        format!(
            "the daemon of lab {name} is not responding: it is still starting, or it has exited (log: {}); \
             `{}` removes the remains of a lab without a daemon",
            paths.daemon_log().display(),
            typed("down", name)
        )
    })?;
    let mut text = serde_json::to_string(call).context("cannot encode the request")?;
    text.push('\n');
    (&stream).write_all(text.as_bytes()).context("cannot write to the lab's daemon")?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        let read = reader.read_line(&mut line).context("cannot read from the lab's daemon")?;
        if read == 0 {
            bail!("the lab's daemon exited before it responded; log: {}", paths.daemon_log().display());
        }
        match serde_json::from_str(&line).context("invalid response from the lab's daemon")? {
            Line::Progress(text) => progress(&text),
            Line::Error(message) => bail!(message),
            last => return Ok(last),
        }
    }
}
