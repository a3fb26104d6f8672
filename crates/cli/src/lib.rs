//! The command line tool `beeline`: inspect and troubleshoot Beeline.
//!
//! Each verb selects its nodes ([`target`]), reads their pinned eBPF maps
//! ([`live`]), queries their agents, and prints text or JSON ([`output`]). The
//! maps are readable without an agent; only pod and Service names are missing
//! then.

mod conntrack;
mod counters;
mod docs;
mod drops;
mod endpoint;
mod explain;
mod lab;
mod live;
mod names;
mod nat;
mod node;
mod output;
mod service;
mod status;
mod target;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::output::Format;
use crate::target::{Target, TargetArguments};

/// Inspect and troubleshoot Beeline
#[derive(Debug, Parser)]
#[command(name = "beeline", version, about, disable_help_subcommand = true)]
struct Arguments {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Args)]
struct Common {
    #[command(flatten)]
    target: TargetArguments,
    /// Output format
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run a lab cluster in network namespaces on this machine (see `beeline lab --help`)
    #[command(disable_help_flag = true)]
    Lab {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Show the state of the agents: sync, API server connection, problems, map utilisation
    Status,
    /// Show dropped and rejected packets with reason, cause and resolution
    Drops {
        /// Stream drops as they occur
        #[arg(short, long)]
        follow: bool,
    },
    /// Show Services as programmed in the datapath
    #[command(subcommand)]
    Service(service::Verb),
    /// Show local pod endpoints as programmed in the datapath
    #[command(subcommand)]
    Endpoint(endpoint::Verb),
    /// Show nodes as programmed in the datapath
    #[command(subcommand)]
    Node(node::Verb),
    /// Show the connection tracking table
    #[command(subcommand)]
    Conntrack(conntrack::Verb),
    /// Show source NAT mappings and port utilisation
    #[command(subcommand)]
    Nat(nat::Verb),
    /// Show packet and byte counters by hook and outcome
    Counters,
    /// Trace a simulated packet through the datapath; no packet is sent
    Explain(explain::ExplainArguments),
    /// Print generated documentation
    #[command(subcommand)]
    Docs(docs::Verb),
}

/// The command line; tests parse what the documentation says with it.
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Runs a command line; the first argument is the program's name.
pub fn run(arguments: Vec<OsString>) -> ExitCode {
    // A closed pipe (`beeline ... | head`) terminates the program without an error message.
    reset_sigpipe();
    let result = match arguments.get(1) {
        // Passed through unparsed: `--` and all options belong to the lab.
        Some(verb) if verb == "lab" => lab::execute(&arguments[2..], None),
        _ => Arguments::parse_from(arguments).run(),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("beeline: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Arguments {
    fn run(self) -> Result<ExitCode> {
        let format = self.common.output;
        let targets = || self.common.target.targets();
        match self.verb {
            Verb::Lab { arguments } => lab::execute(&arguments, self.common.target.name.as_deref()),
            Verb::Docs(verb) => docs::run(&verb),
            Verb::Status => status::run(&targets()?, format),
            Verb::Drops { follow: false } => drops::summary(&targets()?, format),
            Verb::Drops { follow: true } => drops::follow(&targets()?, format),
            Verb::Service(verb) => service::run(&verb, &targets()?, format),
            Verb::Endpoint(endpoint::Verb::List) => endpoint::list(&targets()?, format),
            Verb::Node(node::Verb::List) => node::list(&targets()?, format),
            Verb::Conntrack(verb) => conntrack::run(&verb, &targets()?, format),
            Verb::Nat(verb) => nat::run(&verb, &targets()?, format),
            Verb::Counters => counters::list(&targets()?, format),
            Verb::Explain(arguments) => explain::run(&arguments, &targets()?, format),
        }
    }
}

/// Reads rows from every target. A target that fails is reported on stderr and
/// does not prevent the others from being shown; the exit status is then 1.
fn gather<T>(targets: &[Target], mut read: impl FnMut(&Target) -> Result<Vec<T>>) -> (Vec<T>, ExitCode) {
    let (mut rows, mut code) = (Vec::new(), ExitCode::SUCCESS);
    for target in targets {
        match read(target) {
            Ok(mut more) => rows.append(&mut more),
            Err(error) => {
                eprintln!("beeline: {}: {error:#}", target.label);
                code = ExitCode::FAILURE;
            }
        }
    }
    (rows, code)
}

fn reset_sigpipe() {
    // SAFETY: called before any thread is started; SIG_DFL is a valid disposition.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_the_command_line_is_valid() {
        Arguments::command().debug_assert();
    }
}
