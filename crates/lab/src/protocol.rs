//! What the verbs say to the lab's daemon: one JSON object per line; the
//! answer is any number of progress lines and then one last line.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::daemon::agents::AgentAction;
use crate::enter;
use crate::link::{self, Link};
use crate::paths::{LabName, LabPaths};
use crate::programs::typed;

/// A manifest, as its file holds it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// How messages call it: its file.
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
    /// Do something to a node's agent.
    Agent {
        /// The node.
        node: String,
        /// What.
        action: AgentAction,
    },
    /// Change a node's link.
    Link {
        /// The node.
        node: String,
        /// Its device.
        uplink: String,
        /// What.
        change: link::Change,
    },
    /// Do something to a node as a machine.
    Node {
        /// The node.
        node: String,
        /// What.
        action: NodeAction,
    },
    /// The state of everything.
    Status,
}

/// What can be done to a node as a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeAction {
    /// Cut its power.
    Stop,
    /// Give it power again.
    Start,
    /// Make a new one and let it join.
    Add,
    /// Take it away for good.
    Remove,
}

/// A line of an answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Line {
    /// Something has been done; more comes.
    Progress(String),
    /// All is done. Answer to a call that asks for nothing back.
    Done(String),
    /// Answer to [`Call::Status`].
    Status(Box<Status>),
    /// It failed.
    Error(String),
}

/// State of a lab.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// The kubeconfig that works on this machine and inside the lab.
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
    /// Programs of the control plane that do not run, and why.
    #[serde(default)]
    pub control_plane: Vec<String>,
}

/// State of the cluster's DNS.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct DnsStatus {
    /// The addresses of its Service.
    pub addresses: Vec<IpAddr>,
    /// Why it does not answer; empty if it does.
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
    /// Ranges of its pods.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<String>,
    /// The Ready condition.
    pub ready: bool,
    /// Does it have power?
    pub powered: bool,
    /// Its link.
    pub link: Link,
    /// Its further links, from `eth1` on.
    #[serde(default)]
    pub further_links: Vec<Link>,
    /// Process of the agent, if it runs.
    pub agent_pid: Option<u32>,
    /// How often the agent was started.
    pub agent_starts: u32,
    /// Has the agent programmed what it found at its start?
    pub agent_ready: bool,
    /// Objects that the agent cannot use, and why; or why it does not answer.
    pub problems: Vec<String>,
    /// What is set and accepted but not built yet.
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
    /// How often its containers were started again.
    pub restarts: i32,
    /// Why it is not ready, as far as known.
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
    /// Cluster addresses.
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: Vec<String>,
    /// Ports, `80/TCP`.
    pub ports: Vec<String>,
    /// Ready endpoints, by address family.
    pub endpoints: BTreeMap<String, Vec<String>>,
}

/// Asks a lab's daemon; `progress` hears the lines before the last.
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
