//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;

/// Beeline's node agent: keeps this node's eBPF maps synced with the Kubernetes
/// API and serves the CNI plugin and the CLI on a Unix socket.
#[derive(Clone, Debug, Parser)]
#[command(name = "beeline-agent", version)]
pub struct Options {
    /// Name of this node in the Kubernetes API.
    #[arg(long, env = "NODE_NAME", default_value = "", hide_default_value = true)]
    pub node_name: String,
    /// Kubeconfig file; default: the pod's service account.
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// Values file (YAML) with the value names of the Helm chart.
    #[arg(long)]
    pub values: Option<PathBuf>,
    /// Directory on a mounted BPF file system for pinned maps, programs and links.
    #[arg(long, default_value = "/sys/fs/bpf/beeline")]
    pub bpffs: PathBuf,
    /// Directory of the cgroup (version 2) to attach the socket hooks to; default:
    /// the root of the cgroup hierarchy.
    #[arg(long)]
    pub cgroup: Option<PathBuf>,
    /// Path of the Unix socket to listen on.
    #[arg(long, default_value = beeline_api::DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// Directory for persistent state: allocated pod addresses and the last known
    /// cluster state.
    #[arg(long, default_value = "/var/lib/beeline")]
    pub state_dir: PathBuf,
    /// Address and port to serve /metrics, /healthz and /readyz on; default: the
    /// value `prometheus.port` on the IPv4 loopback address.
    #[arg(long)]
    pub http: Option<SocketAddr>,
    /// Print docs/metrics.md and exit.
    #[arg(long, hide = true)]
    pub print_metrics_doc: bool,
}
