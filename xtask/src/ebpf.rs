//! The eBPF programs: built for the kernel, put where `kernel` embeds them
//! from, measured, and held against their budget.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::budget::{Budget, Costs, Loaded};
use crate::steps::{Log, Steps};
use crate::toolchain::Toolchain;
use crate::{elf, paths, process};

/// Of the `kernel` crate: loads the embedded programs and prints what the
/// kernel made of them.
pub const LOADER: &str = "beeline-programs";

/// `cargo xtask ebpf`.
pub fn chore(accept: bool) -> Result<()> {
    let mut steps = Steps::new(2);
    let mut costs = step(&mut steps)?;
    steps.run("verifier", |log| {
        if process::may_become_root() {
            process::run(
                process::cargo().args([
                    "build",
                    "--locked",
                    "--release",
                    "--package",
                    "beeline-kernel",
                    "--bin",
                    LOADER,
                ]),
                log,
            )?;
            load(&mut costs)?;
        }
        Ok(())
    })?;
    costs.tell();
    if accept {
        return Budget::read()?.accept(&costs);
    }
    check(&costs)
}

/// Builds the programs and measures the object.
pub fn step(steps: &mut Steps) -> Result<Costs> {
    steps.run("eBPF programs", build)
}

/// Asks the kernel, as root, what it makes of the programs in the loader,
/// which is built.
pub fn load(costs: &mut Costs) -> Result<()> {
    let loader = paths::binary(LOADER);
    let output = process::as_root(loader).output().context("the loader of the programs cannot be started")?;
    if !output.status.success() {
        bail!("the kernel refused the programs: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    costs.loaded = parse(&String::from_utf8_lossy(&output.stdout))?;
    costs.kernel = kernel()?;
    Ok(())
}

/// Fails when a program is over its budget.
pub fn check(costs: &Costs) -> Result<()> {
    let complaints = Budget::read()?.complaints(costs);
    if complaints.is_empty() {
        return Ok(());
    }
    bail!(
        "the eBPF programs are over their budget: {}. If that is meant, record it: cargo xtask ebpf --accept",
        complaints.join("; ")
    )
}

fn parse(lines: &str) -> Result<BTreeMap<String, Loaded>> {
    let program = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, verified, machine_bytes] = words[..] else { bail!("the loader printed {line:?}") };
        let loaded = Loaded { verified: verified.parse()?, machine_bytes: machine_bytes.parse()? };
        Ok((name.to_owned(), loaded))
    };
    lines.lines().map(program).collect()
}

/// `6.1`, as far as it matters to the verifier.
fn kernel() -> Result<String> {
    let output = Command::new("uname").arg("-r").output().context("uname cannot be started")?;
    let release = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(release.trim().splitn(3, '.').take(2).collect::<Vec<_>>().join("."))
}

fn build(log: &Log) -> Result<Costs> {
    let toolchain = Toolchain::find()?;
    let mut cargo = toolchain.cargo_build();
    cargo.args(["--locked", "--message-format=json-render-diagnostics"]);
    let messages = process::output(&mut cargo, log)?;
    process::refuse_warnings(log)?;
    let object = executable(&messages).context("the eBPF crate built no program")?;
    let bytes = fs::read(&object).with_context(|| format!("{} cannot be read", object.display()))?;
    let sizes =
        elf::program_sizes(&bytes).with_context(|| format!("{} cannot be measured", object.display()))?;
    process::write_if_changed(&paths::ebpf_object(), &bytes)?;
    Ok(Costs { compiler: toolchain.version, sizes, ..Costs::default() })
}

fn executable(messages: &str) -> Option<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    messages.filter_map(|message| message["executable"].as_str().map(PathBuf::from)).next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_the_loaders_lines_are_read() {
        let loaded = parse("from_pod 183423 27252\nto_pod 5 0\n").expect("it parses");
        assert_eq!(loaded["from_pod"], Loaded { verified: 183_423, machine_bytes: 27_252 });
        assert!(parse("from_pod 5\n").is_err());
    }
}
