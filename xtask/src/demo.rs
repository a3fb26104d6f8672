//! `make demo`: a lab, examples/hello on it, and packets on every way that a
//! packet can take.

mod cast;
mod scene;
mod scenes;

use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::steps::{Log, Steps};
use crate::{binaries, paths, process};
use cast::Cast;

const EXAMPLE: &str = "examples/hello";

/// `cargo xtask demo`.
pub fn chore() -> Result<()> {
    let mut steps = Steps::new(4);
    binaries::step(&mut steps)?;
    let reused = steps.run("lab", lab_up)?;
    if reused {
        println!("      a lab was up already; it is used as it is");
    }
    steps.run("examples/hello", |log| process::run(&mut lab(&["apply", "-f", EXAMPLE]), log))?;
    let cast = Cast::find(&status()?)?;
    show(&["status"])?;
    let failed = scenes::play(&cast)?;
    process::give_tree_back()?;
    say_what_next(&cast);
    if failed > 0 {
        bail!(
            "{failed} of the ways above failed; start with ./beeline drops and ./beeline status, then the \
             agents' logs below /run/beeline-lab/default/nodes"
        );
    }
    Ok(())
}

/// `beeline lab ...` as root.
fn lab(arguments: &[&str]) -> Command {
    let mut command = process::as_root(paths::binary("beeline"));
    command.current_dir(paths::top()).arg("lab").args(arguments);
    command
}

/// Returns whether one was up already.
fn lab_up(log: &Log) -> Result<bool> {
    if status().is_ok() {
        return Ok(true);
    }
    process::run(&mut lab(&["up", "--nodes", "3"]), log)?;
    Ok(false)
}

fn status() -> Result<Value> {
    let output = lab(&["status", "-o", "json"]).output().context("beeline cannot be started")?;
    if !output.status.success() {
        bail!("no lab is up: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    serde_json::from_slice(&output.stdout).context("`beeline lab status -o json` printed no JSON")
}

/// Runs it in front of the reader.
fn show(arguments: &[&str]) -> Result<bool> {
    println!("\n$ ./beeline lab {}", arguments.join(" "));
    let status = lab(arguments).status().context("beeline cannot be started")?;
    Ok(status.success())
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
