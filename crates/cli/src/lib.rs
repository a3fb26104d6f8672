//! What people type: `beeline VERB`.
//!
//! Every verb finds the node or nodes it is about ([`place`]), reads the
//! pinned tables ([`live`]) and asks the agents, and prints text or JSON
//! ([`output`]). The tables are readable without an agent; then only the
//! names of pods and services are missing.

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
use clap::{Args, Parser, Subcommand};

use crate::output::Format;
use crate::target::{Target, TargetArguments};

/// Kubernetes networking with the abstraction tax removed.
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
    /// Output: text or json
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// A cluster of network namespaces on this machine (see `beeline lab --help`)
    #[command(disable_help_flag = true)]
    Lab {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// State of the agents: synchronised, connected, problems, fill of the tables
    Status,
    /// Packets that were refused: how many, why, and what to do about it
    Drops {
        /// Follow drops as they happen
        #[arg(short, long)]
        follow: bool,
    },
    /// Services as the packets see them
    #[command(subcommand)]
    Service(service::Verb),
    /// Pods of the node as the packets see them
    #[command(subcommand)]
    Endpoint(endpoint::Verb),
    /// Nodes as the packets see them
    #[command(subcommand)]
    Node(node::Verb),
    /// Connections
    #[command(subcommand)]
    Conntrack(conntrack::Verb),
    /// Sources that the node lends to pods and outside clients
    #[command(subcommand)]
    Nat(nat::Verb),
    /// What every hook did with its packets
    Counters,
    /// What would happen to a packet, step by step, by the live tables; nothing is sent
    Explain(explain::ExplainArguments),
    /// Pages of the documentation that the program itself knows
    #[command(subcommand)]
    Docs(docs::Verb),
}

/// Runs a command line; the first argument is the program's name.
pub fn run(arguments: Vec<OsString>) -> ExitCode {
    // A closed pipe (`beeline ... | head`) ends the program quietly.
    reset_sigpipe();
    let result = match arguments.get(1) {
        // Passed on as it is: `--` and options belong to the lab.
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

/// Asks every place; one that cannot answer is told and does not hide the others.
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
    use std::path::{Path, PathBuf};

    use clap::CommandFactory;

    use super::*;

    #[test]
    fn unit_the_command_line_is_valid() {
        Arguments::command().debug_assert();
    }

    /// `service list` of `./beeline service list`; what a lab does is the lab's.
    fn unknown_verb(words: &[&str]) -> Option<String> {
        let mut command = Arguments::command();
        for word in words {
            if *word == "lab" || !command.has_subcommands() {
                return None;
            }
            match command.find_subcommand(word) {
                Some(found) => command = found.clone(),
                None => return Some(words.join(" ")),
            }
        }
        None
    }

    fn pages() -> Vec<PathBuf> {
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let folders = [top.clone(), top.join("docs"), top.join("examples/hello")];
        let entries = folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap().flatten());
        entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "md")).collect()
    }

    #[test]
    fn unit_commands_in_the_documentation_exist() {
        let mut commands = 0;
        for page in pages() {
            let text = std::fs::read_to_string(&page).unwrap();
            for rest in text.split("./beeline ").skip(1) {
                let words = rest.split([' ', '`', '\n']).take(2);
                let words: Vec<&str> = words
                    .take_while(|word| word.chars().all(|c| c.is_ascii_lowercase() || c == '-'))
                    .collect();
                let words: Vec<&str> = words.into_iter().take_while(|word| !word.starts_with('-')).collect();
                commands += 1;
                assert_eq!(unknown_verb(&words), None, "{} names an unknown command", page.display());
            }
        }
        assert!(commands > 10, "only {commands} commands were found in the documentation");
    }
}
