//! The eBPF programs: builds the object that the `kernel` crate embeds, measures
//! its programs and compares them with their budget.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::budget::{Budget, Costs, Loaded};
use crate::steps::{Log, Steps};
use crate::toolchain::{TARGET, Toolchain};
use crate::{compile, elf, paths, process};

/// Binary of the `kernel` crate that loads the embedded programs and prints
/// their sizes in the kernel.
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
    print!("{}", costs.table());
    if accept {
        return Budget::read()?.accept(&costs);
    }
    check(&costs)
}

/// Builds the programs and measures the object.
pub fn step(steps: &mut Steps) -> Result<Costs> {
    steps.run("eBPF programs", build)
}

/// Loads the programs, which needs root and the built loader, and adds their
/// sizes in the kernel.
pub fn load(costs: &mut Costs) -> Result<()> {
    let loader = paths::binary(LOADER);
    let output = process::as_root(loader)
        .output()
        .context("cannot start beeline-programs, which loads the eBPF programs")?;
    if !output.status.success() {
        bail!("the kernel refused the programs: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    costs.loaded = parse(&String::from_utf8_lossy(&output.stdout))?;
    costs.kernel = kernel()?;
    Ok(())
}

/// Fails when a program exceeds its budget.
pub fn check(costs: &Costs) -> Result<()> {
    let problems = Budget::read()?.problems(costs);
    if problems.is_empty() {
        return Ok(());
    }
    bail!(
        "the eBPF programs are over their budget: {}. If that is intended, record it: cargo xtask ebpf --accept",
        problems.join("; ")
    )
}

fn parse(lines: &str) -> Result<BTreeMap<String, Loaded>> {
    let program = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, verified, machine_bytes] = words[..] else {
            bail!("the output of beeline-programs has an unexpected line {line:?}")
        };
        let loaded = Loaded { verified: verified.parse()?, machine_bytes: machine_bytes.parse()? };
        Ok((name.to_owned(), loaded))
    };
    lines.lines().map(program).collect()
}

/// Major and minor version of the running kernel: `6.1`.
fn kernel() -> Result<String> {
    let output = Command::new("uname").arg("-r").output().context("cannot start uname")?;
    let release = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(release.trim().splitn(3, '.').take(2).collect::<Vec<_>>().join("."))
}

fn build(log: &Log) -> Result<Costs> {
    let toolchain = Toolchain::find()?;
    let mut cargo = toolchain.cargo_build();
    let total = compile::total(&paths::ebpf_crate(), &["--target", TARGET], compile::Kind::Binaries);
    let messages = compile::run(cargo.arg("--locked"), total, log)?;
    process::refuse_warnings(log)?;
    let object = executable(&messages).context("the build of the eBPF crate has no executable")?;
    let bytes = fs::read(&object).with_context(|| format!("cannot read {}", object.display()))?;
    let sizes = elf::program_sizes(&bytes).with_context(|| format!("cannot measure {}", object.display()))?;
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
    fn unit_the_output_of_the_loader_is_parsed() {
        let loaded = parse("from_pod 183423 27252\nto_pod 5 0\n").expect("it parses");
        assert_eq!(loaded["from_pod"], Loaded { verified: 183_423, machine_bytes: 27_252 });
        assert!(parse("from_pod 5\n").is_err());
    }
}
