//! The command line: `beeline-lab VERB`, which people type as
//! `beeline lab VERB`.

use std::ffi::OsString;
use std::io::Read;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::address::UPLINK;
use crate::daemon::agents::AgentAction;
use crate::echo::EchoPort;
use crate::enter::{self, CannotRun};
use crate::paths::{LabName, LabPaths};
use crate::protocol::{Call, Line, MachineAction, ask};
use crate::record::{LabRecord, Shape};
use crate::up::Request;
use crate::{DEFAULT_NAME, daemon, down, echo, link, logs, manifests, round_trip, show, standalone, up};

/// What a verb that runs a command returns when it is not the command that
/// failed; as container runtimes have it.
const EXIT_OWN_FAILURE: u8 = 125;

/// What the daemon logs unless BEELINE_LAB_LOG says otherwise: not every
/// question of DNS.
const LOG: &str = "info,hickory_server=warn";

/// A cluster of network namespaces on this machine: for trying, testing and
/// measuring, not for production. Needs root.
#[derive(Debug, Parser)]
#[command(name = "beeline-lab", bin_name = "beeline lab", version, disable_help_subcommand = true)]
struct Arguments {
    /// Name of the lab; several may stand side by side
    #[arg(long, global = true, default_value = DEFAULT_NAME, value_parser = LabName::parse)]
    name: LabName,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Bring a lab up; returns when every node is Ready and what was applied is programmed
    Up(Request),
    /// Apply manifests, as kubectl does, and wait until they are programmed
    Apply {
        /// A file, a folder or - (standard input); may be given again
        #[arg(short, long = "filename", value_name = "FILE_OR_DIR", required = true)]
        filename: Vec<PathBuf>,
    },
    /// Print the path of a kubeconfig that works here, on the client and on the nodes
    Kubeconfig,
    /// Run a command inside a pod
    Exec {
        /// The pod's namespace
        #[arg(short, long, default_value = "default")]
        namespace: String,
        /// The container whose files the command sees; the first one that runs if none is named
        #[arg(short, long)]
        container: Option<String>,
        /// Taken for kubectl's sake: standard input is always passed on
        #[arg(short = 'i', long = "stdin", hide = true)]
        _stdin: bool,
        /// Taken for kubectl's sake: a terminal is always passed on
        #[arg(short = 't', long = "tty", hide = true)]
        _tty: bool,
        /// The pod
        pod: String,
        #[command(flatten)]
        command: CommandLine,
    },
    /// Print what a container printed
    Logs(logs::Request),
    /// Run a command inside a node
    Node {
        /// The node
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
    /// Change a node's link: MTU, carrier, loss, network
    Link {
        /// The node
        node: String,
        /// Which of its uplinks
        #[arg(long, value_name = "DEVICE", default_value = UPLINK)]
        uplink: String,
        #[command(flatten)]
        change: link::Change,
    },
    /// Cut a node's power: its namespaces, pins and processes vanish at once
    NodeStop {
        /// The node
        node: String,
    },
    /// Start a node that was stopped: what is on its disk is there, the rest begins anew
    NodeStart {
        /// The node
        node: String,
    },
    /// Make a new node, which joins the cluster
    NodeAdd {
        /// The node: node-N, a number that is free
        node: String,
    },
    /// Take a node away for good, with its Node object
    NodeRemove {
        /// The node
        node: String,
    },
    /// Stop, start or kill a node's agent
    Agent {
        /// The node
        node: String,
        /// What to do
        action: AgentAction,
    },
    /// Show nodes, pods with their addresses, and services
    Status {
        /// How to print
        #[arg(short, long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// Remove the lab, also one whose daemon has died
    Down,
    /// The process behind a lab
    #[command(hide = true)]
    Daemon {
        /// How long the agents may take, in seconds
        #[arg(long)]
        timeout: u64,
    },
    /// The program behind the image beeline/echo
    #[command(hide = true)]
    Echo {
        /// A port to serve, such as 80/TCP
        #[arg(long = "port")]
        ports: Vec<EchoPort>,
    },
    /// The embedded API as a process of its own, under kube-apiserver's flags
    #[command(hide = true)]
    KubeApiserver {
        /// Flags, as kube-apiserver takes them
        #[arg(last = true)]
        flags: Vec<String>,
    },
    /// Measure round trips from where it runs (a pod, the client)
    #[command(hide = true)]
    RoundTrip(round_trip::Question),
}

#[derive(Debug, Args)]
struct CommandLine {
    /// The command; it gets standard input and signals, and its exit status is returned
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    Text,
    Json,
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
            Verb::Client { command } => enter::other(name, "client", &command.command),
            Verb::Router { command } => enter::other(name, "router", &command.command),
            Verb::Link { node, uplink, change } => {
                finish(ask(name, &Call::Link { node, uplink, change }, say)?)
            }
            Verb::NodeStop { node } => machine(name, node, MachineAction::Stop),
            Verb::NodeStart { node } => machine(name, node, MachineAction::Start),
            Verb::NodeAdd { node } => machine(name, node, MachineAction::Add),
            Verb::NodeRemove { node } => machine(name, node, MachineAction::Remove),
            Verb::Agent { node, action } => finish(ask(name, &Call::Agent { node, action }, say)?),
            Verb::Status { output } => status(name, output),
            Verb::Down => take_down(name),
            Verb::Daemon { timeout } => run_daemon(name, Duration::from_secs(timeout)),
            Verb::Echo { ports } => echo::run(&ports),
            Verb::KubeApiserver { flags } => standalone::run(&flags),
            Verb::RoundTrip(question) => round_trip::run(&question),
        }
    }
}

fn machine(name: &LabName, node: String, action: MachineAction) -> Result<()> {
    finish(ask(name, &Call::Machine { node, action }, say)?)
}

/// Applies every file that parses; what is wrong with the others is told last.
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
            "needs root: it makes network namespaces, mounts bpf file systems and loads eBPF programs; \
             run it with sudo"
        );
    }
    Ok(())
}

fn say(line: &str) {
    // Whoever has stopped reading (`| head`) need not be told anything.
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn finish(answer: Line) -> Result<()> {
    match answer {
        Line::Done(text) => say(&text),
        other => bail!("the lab's daemon answered {other:?}"),
    }
    Ok(())
}

fn kubeconfig(name: &LabName) -> Result<()> {
    let paths = LabPaths::new(name);
    enter::require(name, &paths)?;
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
        other => bail!("the lab's daemon answered {other:?}"),
    }
}

fn take_down(name: &LabName) -> Result<()> {
    match down::down(name)? {
        Some(removed) => say(&format!("removed the lab {name}: {removed}")),
        None => say(&format!("there is no lab named {name}: nothing to remove{}", enter::others())),
    }
    Ok(())
}

/// Reads its order from standard input, as `up` writes it.
fn run_daemon(name: &LabName, timeout: Duration) -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_env("BEELINE_LAB_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(LOG));
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr).init();
    let mut order = String::new();
    std::io::stdin().read_to_string(&mut order).context("cannot read the order")?;
    let shape: Shape = serde_json::from_str(&order).context("the order is damaged; start labs with `up`")?;
    if LabRecord::read(&LabPaths::new(name))?.is_some() {
        bail!("the lab {name} has a daemon already; start labs with `up`");
    }
    daemon::run(name, shape, timeout)
}
