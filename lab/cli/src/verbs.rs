//! The command line: `beeline-lab VERB`, usually called as `beeline lab VERB`.

use std::ffi::OsString;
use std::io::Read;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use beeline_lab_net::address::UPLINK;
use beeline_lab_net::enter::{self, CannotRun};
use beeline_lab_net::link;
use beeline_lab_net::paths::{DEFAULT_NAME, LabName, LabPaths};
use beeline_lab_net::record::{LabRecord, LabSpec};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::echo::EchoPort;
use crate::protocol::{AgentAction, Call, Line, NodeAction, ask};
use crate::up::Request;
use crate::{daemon, down, echo, logs, manifests, round_trip, show, standalone, up};

/// Exit status when the verb itself fails, as in container runtimes.
const EXIT_OWN_FAILURE: u8 = 125;

/// Default log filter of the daemon, without DNS queries (see
/// BEELINE_LAB_LOG).
const LOG: &str = "info,hickory_server=warn";

/// A Kubernetes cluster in network namespaces on this host, for evaluation, tests and
/// benchmarks, not for production. Requires root.
#[derive(Debug, Parser)]
#[command(name = "beeline-lab", bin_name = "beeline lab", version, disable_help_subcommand = true)]
struct Arguments {
    /// Name of the lab; several labs can run at the same time
    #[arg(long, global = true, default_value = DEFAULT_NAME, value_parser = LabName::parse)]
    name: LabName,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Start a lab; returns when every node is Ready and every applied object is programmed
    Up(Request),
    /// Apply manifests like kubectl apply, and wait until they are programmed
    Apply {
        /// File, directory, or - for standard input; can be repeated
        #[arg(short, long = "filename", value_name = "FILE_OR_DIR", required = true)]
        filename: Vec<PathBuf>,
    },
    /// Print the path of a kubeconfig that works on this host, the client and the nodes
    Kubeconfig,
    /// Run a command inside a pod
    Exec {
        /// Namespace of the pod
        #[arg(short, long, default_value = "default")]
        namespace: String,
        /// Container whose file system the command sees; default: the first running container
        #[arg(short, long)]
        container: Option<String>,
        /// Accepted for compatibility with kubectl: standard input is always passed through
        #[arg(short = 'i', long = "stdin", hide = true)]
        _stdin: bool,
        /// Accepted for compatibility with kubectl: the terminal is always passed through
        #[arg(short = 't', long = "tty", hide = true)]
        _tty: bool,
        /// Name of the pod
        pod: String,
        #[command(flatten)]
        command: CommandLine,
    },
    /// Print the logs of a container
    Logs(logs::Request),
    /// Run a command inside a node
    Node {
        /// Name of the node
        node: String,
        #[command(flatten)]
        command: CommandLine,
    },
    /// Run a command on a host outside the cluster, on the same network
    Client {
        #[command(flatten)]
        command: CommandLine,
    },
    /// Run a command on the router
    Router {
        #[command(flatten)]
        command: CommandLine,
    },
    /// Change a node's link: MTU, carrier, packet loss, network
    Link {
        /// Name of the node
        node: String,
        /// Uplink of the node
        #[arg(long, value_name = "DEVICE", default_value = UPLINK)]
        uplink: String,
        #[command(flatten)]
        change: link::Change,
    },
    /// Power a node off: its namespaces, pins and processes are removed without a shutdown
    NodeStop {
        /// Name of the node
        node: String,
    },
    /// Power a stopped node on: its disk is kept, everything else starts from scratch
    NodeStart {
        /// Name of the node
        node: String,
    },
    /// Add a node to the cluster
    NodeAdd {
        /// Name of the new node: node-N, where N is not in use
        node: String,
    },
    /// Remove a node and its Node object
    NodeRemove {
        /// Name of the node
        node: String,
    },
    /// Stop, start or kill a node's agent
    Agent {
        /// Name of the node
        node: String,
        /// Action
        action: AgentAction,
    },
    /// Show nodes, pods and Services with their addresses
    Status {
        /// Output format
        #[arg(short, long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// Remove the lab, even if its daemon is no longer running
    Down,
    /// Run the daemon of a lab
    #[command(hide = true)]
    Daemon {
        /// Timeout for the agents to become ready, in seconds
        #[arg(long)]
        timeout: u64,
    },
    /// Run the program of the image beeline/echo
    #[command(hide = true)]
    Echo {
        /// Port to listen on, for example 80/TCP
        #[arg(long = "port")]
        ports: Vec<EchoPort>,
    },
    /// Run the embedded API server as a separate process with kube-apiserver's flags
    #[command(hide = true)]
    KubeApiserver {
        /// Flags of kube-apiserver
        #[arg(last = true)]
        flags: Vec<String>,
    },
    /// Measure round-trip times from the network namespace that it runs in (a pod, the client)
    #[command(hide = true)]
    RoundTrip(round_trip::RoundTripOptions),
}

#[derive(Debug, Args)]
struct CommandLine {
    /// Command to run; standard input and signals are passed to it, and its exit status is returned
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// The command line; tests parse what the documentation says with it.
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Runs the command line of this process.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    let runs_a_command = arguments.verb.runs_a_command();
    let Err(error) = arguments.run() else { return ExitCode::SUCCESS };
    eprintln!("beeline lab: {error:#}");
    match error.downcast_ref::<CannotRun>() {
        Some(cannot) => ExitCode::from(cannot.exit_status()),
        None if runs_a_command => ExitCode::from(EXIT_OWN_FAILURE),
        None => ExitCode::FAILURE,
    }
}

impl Verb {
    fn runs_a_command(&self) -> bool {
        matches!(self, Verb::Exec { .. } | Verb::Node { .. } | Verb::Client { .. } | Verb::Router { .. })
    }
}

impl Arguments {
    fn run(self) -> Result<()> {
        if !matches!(self.verb, Verb::Echo { .. }) {
            require_root()?;
        }
        let name = &self.name;
        match self.verb {
            Verb::Up(request) => up::up(name, &request),
            Verb::Apply { filename } => apply(name, &filename),
            Verb::Kubeconfig => kubeconfig(name),
            Verb::Exec { namespace, container, pod, command, .. } => {
                enter::pod(name, &namespace, &pod, container.as_deref(), &command.command)
            }
            Verb::Logs(request) => logs::run(name, &request),
            Verb::Node { node, command } => enter::node(name, &node, &command.command),
            Verb::Client { command } => enter::outside_host(name, "client", &command.command),
            Verb::Router { command } => enter::outside_host(name, "router", &command.command),
            Verb::Link { node, uplink, change } => {
                finish(ask(name, &Call::Link { node, uplink, change }, say)?)
            }
            Verb::NodeStop { node } => node_action(name, node, NodeAction::Stop),
            Verb::NodeStart { node } => node_action(name, node, NodeAction::Start),
            Verb::NodeAdd { node } => node_action(name, node, NodeAction::Add),
            Verb::NodeRemove { node } => node_action(name, node, NodeAction::Remove),
            Verb::Agent { node, action } => finish(ask(name, &Call::Agent { node, action }, say)?),
            Verb::Status { output } => status(name, output),
            Verb::Down => remove_lab(name),
            Verb::Daemon { timeout } => run_daemon(name, Duration::from_secs(timeout)),
            Verb::Echo { ports } => echo::run(&ports),
            Verb::KubeApiserver { flags } => standalone::run(&flags),
            Verb::RoundTrip(question) => round_trip::run(&question),
        }
    }
}

fn node_action(name: &LabName, node: String, action: NodeAction) -> Result<()> {
    finish(ask(name, &Call::Node { node, action }, say)?)
}

/// Applies every file without syntax errors; the errors of the others are
/// reported last.
fn apply(name: &LabName, paths: &[PathBuf]) -> Result<()> {
    let (manifests, mut problems) = manifests::load_good(paths)?;
    if manifests.is_empty() {
        bail!("nothing was applied:\n{}", problems.join("\n"));
    }
    let applied = ask(name, &Call::Apply { manifests }, say).and_then(finish);
    if problems.is_empty() {
        return applied;
    }
    problems.extend(applied.err().map(|error| format!("{error:#}")));
    bail!("not everything was applied:\n{}", problems.join("\n"))
}

fn require_root() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "must run as root: it creates network namespaces, mounts BPF file systems and loads eBPF programs; \
             run it with sudo"
        );
    }
    Ok(())
}

fn say(line: &str) {
    // The reader may have closed the pipe (`| head`).
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn finish(answer: Line) -> Result<()> {
    match answer {
        Line::Done(text) => say(&text),
        other => bail!("unexpected response from the lab's daemon: {other:?}"),
    }
    Ok(())
}

fn kubeconfig(name: &LabName) -> Result<()> {
    let paths = LabPaths::new(name);
    enter::require_lab(name, &paths)?;
    say(&paths.kubeconfig().display().to_string());
    Ok(())
}

fn status(name: &LabName, output: Output) -> Result<()> {
    match ask(name, &Call::Status, say)? {
        Line::Status(status) => {
            say(&match output {
                Output::Text => show::status(&status),
                Output::Json => serde_json::to_string_pretty(&status).context("cannot encode the status")?,
            });
            Ok(())
        }
        other => bail!("unexpected response from the lab's daemon: {other:?}"),
    }
}

fn remove_lab(name: &LabName) -> Result<()> {
    match down::down(name)? {
        Some(removed) => say(&format!("removed the lab {name}: {removed}")),
        None => say(&format!("there is no lab named {name}: nothing to remove{}", enter::existing_labs())),
    }
    Ok(())
}

/// Reads the configuration from standard input, as `up` writes it.
fn run_daemon(name: &LabName, timeout: Duration) -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_env("BEELINE_LAB_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(LOG));
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr).init();
    let mut order = String::new();
    std::io::stdin()
        .read_to_string(&mut order)
        .context("cannot read the lab's configuration from standard input")?;
    let shape: LabSpec = serde_json::from_str(&order)
        .context("the lab's configuration on standard input is invalid; start labs with `up`")?;
    if LabRecord::read(&LabPaths::new(name))?.is_some() {
        bail!("the daemon of lab {name} is already running; start labs with `up`");
    }
    daemon::run(name, shape, timeout)
}
