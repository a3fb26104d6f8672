//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;

/// Beeline's node agent: keeps this node's eBPF tables as the Kubernetes API
/// says, and serves the CNI plugin and the CLI on a local socket.
#[derive(Clone, Debug, Parser)]
#[command(name = "beeline-agent", version)]
pub struct Options {
    /// Name of this node, as the Kubernetes API knows it.
    #[arg(long, env = "NODE_NAME", default_value = "", hide_default_value = true)]
    pub node_name: String,
    /// Kubeconfig; without it the pod's service account is used.
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// Values file (YAML), with the names of the chart.
    #[arg(long)]
    pub values: Option<PathBuf>,
    /// Mounted BPF file system below which everything is pinned.
    #[arg(long, default_value = "/sys/fs/bpf/beeline")]
    pub bpffs: PathBuf,
    /// Folder of the cgroup (version 2) whose sockets the socket hooks
    /// translate; not given = the root of the hierarchy, wherever it is
    /// mounted.
    #[arg(long)]
    pub cgroup: Option<PathBuf>,
    /// Unix socket to serve.
    #[arg(long, default_value = beeline_api::DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// Directory of what outlives the agent: addresses handed out, the last
    /// good cluster state.
    #[arg(long, default_value = "/var/lib/beeline")]
    pub state_dir: PathBuf,
    /// Address of /metrics, /healthz and /readyz; not given = the value
    /// `prometheus.port` on the IPv4 loopback.
    #[arg(long)]
    pub http: Option<SocketAddr>,
    /// Print docs/metrics.md and exit.
    #[arg(long, hide = true)]
    pub print_metrics_doc: bool,
}
