//! `make demo`: a lab, examples/hello on it, and packets on every way that a
//! packet can take.

mod cast;
mod scene;
mod scenes;

use std::io::stdout;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::steps::{Log, Steps};
use crate::{binaries, paths, process};
use cast::Cast;

const EXAMPLE: &str = "examples/hello";
const NODES: &str = "3";

/// The lab that it is played in.
#[derive(Clone)]
struct Lab {
    name: String,
}

/// `cargo xtask demo`.
pub fn chore() -> Result<()> {
    let mut steps = Steps::new(4);
    binaries::steps(&mut steps)?;
    let lab = Lab { name: "default".to_owned() };
    let reused = steps.run("lab", |log| lab.up(log))?;
    if reused {
        println!("      a lab was up already; it is used as it is");
    }
    steps.run("examples/hello", |log| lab.apply(log))?;
    let cast = Cast::find(&lab.status()?)?;
    println!("\n$ ./beeline lab status");
    lab.run(&["status"]).status().context("beeline cannot be started")?;
    let failed = scenes::play(&lab, &cast, &mut stdout().lock())?;
    process::restore_owner()?;
    say_what_next(&cast);
    if failed > 0 {
        bail!(
            "{failed} of the ways above failed; start with ./beeline drops and ./beeline status, then the \
             agents' logs below /run/beeline-lab/default/nodes"
        );
    }
    Ok(())
}

/// Plays it for the tests, in a lab of its own that is gone afterwards.
pub fn check(name: &str, log: &Log) -> Result<()> {
    let lab = Lab { name: name.to_owned() };
    let played = lab.up(log).and_then(|_| {
        lab.apply(log)?;
        scenes::play(&lab, &Cast::find(&lab.status()?)?, &mut log.file()?)
    });
    let down = process::run(&mut lab.run(&["down"]), log);
    match played? {
        0 => down,
        failed => bail!("{failed} of the demo's ways failed"),
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
        command
    }

    /// Returns whether it was up already.
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
        let mut command = self.run(&["status", "-o", "json"]);
        let output = command.stdin(Stdio::null()).output().context("beeline cannot be started")?;
        if !output.status.success() {
            bail!("no lab is up: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        serde_json::from_slice(&output.stdout).context("`beeline lab status -o json` printed no JSON")
    }
}

fn say_what_next(cast: &Cast) {
    println!(
        "\nThe lab stays up. Try:\n\
         \x20   ./beeline lab status\n\
         \x20   ./beeline lab exec {} -- curl -s http://{}/\n\
         \x20   ./beeline lab node {} -- ip route\n\
         \x20   ./beeline lab agent {} kill      # packets go on without it\n\
         \x20   ./beeline lab down",
        cast.caller.name,
        cast.service.first().map_or("hello", String::as_str),
        cast.caller.node,
        cast.caller.node,
    );
}
