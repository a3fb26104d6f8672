//! `make demo`: a lab with examples/hello, and its traffic explained: an HTTP
//! request, every kind of flow, a refused connection, a killed agent.

mod agent;
mod counters;
mod devices;
mod flow;
mod http;
mod objects;
mod sections;

use std::io::stdout;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::steps::{Log, Steps};
use crate::{binaries, paths, process};
use objects::Objects;

const EXAMPLE: &str = "examples/hello";
const NODES: &str = "3";

/// A lab.
#[derive(Clone)]
struct Lab {
    name: String,
}

/// `cargo xtask demo`.
pub fn chore() -> Result<()> {
    let mut steps = Steps::new(4);
    binaries::steps(&mut steps, binaries::WITHOUT_BENCHMARKS)?;
    let lab = Lab { name: "default".to_owned() };
    let reused = steps.run("lab", |log| lab.up(log))?;
    if reused {
        println!("      the lab `default` is up already and is used as it is");
    }
    steps.run(EXAMPLE, |log| lab.apply(log))?;
    let objects = Objects::find(&lab.status()?)?;
    println!("\n$ ./beeline lab status");
    lab.run(&["status"]).status().context("cannot start beeline")?;
    let failed = sections::show(&lab, &objects, &mut stdout().lock())?;
    process::restore_owner()?;
    print_next_steps(&objects);
    if failed > 0 {
        bail!(
            "{failed} of the sections above failed. See ./beeline status, ./beeline drops and the agents' logs \
             (/run/beeline-lab/default/nodes/NODE/agent.log)"
        );
    }
    Ok(())
}

/// The same in a lab of its own, which is removed at the end, as a test.
pub fn check(name: &str, log: &Log) -> Result<()> {
    let lab = Lab { name: name.to_owned() };
    let shown = lab.up(log).and_then(|_| {
        lab.apply(log)?;
        sections::show(&lab, &Objects::find(&lab.status()?)?, &mut log.file()?)
    });
    let down = process::run(&mut lab.run(&["down"]), log);
    match shown? {
        0 => down,
        failed => bail!("{failed} of the demo's sections failed"),
    }
}

impl Lab {
    /// `beeline lab VERB ...` as root.
    fn run(&self, arguments: &[&str]) -> Command {
        let mut command = self.beeline(&["lab", arguments[0]]);
        command.args(&arguments[1..]);
        command
    }

    /// `beeline ... --name LAB` as root.
    fn beeline(&self, verbs: &[&str]) -> Command {
        let mut command = process::as_root(paths::binary("beeline"));
        command.current_dir(paths::top()).args(verbs).args(["--name", &self.name]);
        command.stdin(Stdio::null());
        command
    }

    /// Starts the lab; returns whether it was up already.
    fn up(&self, log: &Log) -> Result<bool> {
        if self.status().is_ok() {
            return Ok(true);
        }
        process::run(&mut self.run(&["up", "--nodes", NODES]), log)?;
        Ok(false)
    }

    fn apply(&self, log: &Log) -> Result<()> {
        process::run(&mut self.run(&["apply", "-f", EXAMPLE]), log)
    }

    fn status(&self) -> Result<Value> {
        json(&mut self.run(&["status", "-o", "json"]))
    }
}

/// Runs a command that prints JSON.
fn json(command: &mut Command) -> Result<Value> {
    let output = command.output().with_context(|| format!("cannot start {}", process::name(command)))?;
    if !output.status.success() {
        bail!("{}: {}", process::name(command), String::from_utf8_lossy(&output.stderr).trim());
    }
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("the output of {} is not JSON", process::name(command)))
}

/// The elements of an array; of any other value, none.
fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A string; of any other value, `-`.
fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

fn print_next_steps(objects: &Objects) {
    let pod = &objects.client.name;
    let service = objects.service.first().map_or("ADDRESS", String::as_str);
    let rows = [
        ("./beeline status".to_owned(), "agents, tables, problems"),
        (format!("./beeline explain --from default/{pod} --to {service} --port 80"), "the path of a packet"),
        ("./beeline drops".to_owned(), "dropped packets, with cause and remedy; -f follows"),
        ("./beeline service list".to_owned(), "Services as the datapath has them"),
        (format!("./beeline lab exec {pod} -- curl -s http://hello/"), "a command in a pod"),
        (kubectl(), "the lab's Kubernetes API"),
        ("./beeline lab down".to_owned(), "removes the lab"),
    ];
    println!("\nThe lab stays up. Look around:");
    rows.iter().for_each(|(command, purpose)| println!("    {command:<66}  # {purpose}"));
    if !is_installed("kubectl") {
        println!(
            "kubectl is not installed here; any release works, also Debian's package kubernetes-client."
        );
    }
}

/// The kubeconfig contains a token, so only root can read it.
fn kubectl() -> String {
    let sudo = if process::am_root() { "" } else { "sudo " };
    format!("{sudo}KUBECONFIG=$(./beeline lab kubeconfig) kubectl get pods -o wide")
        .replace("sudo K", "sudo env K")
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}
