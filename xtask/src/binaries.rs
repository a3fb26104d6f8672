//! The binaries in target/release.

use std::io::Write;

use anyhow::{Context, Result, bail};

use crate::budget::Costs;
use crate::steps::{Log, Steps};
use crate::{compile, ebpf, paths, process};

/// `cargo xtask build`.
pub fn chore() -> Result<()> {
    let mut steps = Steps::new(2);
    self::steps(&mut steps)?;
    println!("Built: {}", paths::top().join("target/release").display());
    Ok(())
}

/// `cargo xtask bench`.
pub fn bench(arguments: &[String]) -> Result<()> {
    let mut steps = Steps::new(2);
    self::steps(&mut steps)?;
    let program = paths::binary("beeline-bench");
    if !program.exists() {
        bail!("target/release/beeline-bench does not exist: no package of the workspace builds it");
    }
    let status = process::as_root(program).args(arguments).status().context("cannot start beeline-bench")?;
    process::restore_owner()?;
    if !status.success() {
        bail!("beeline-bench ended with {status}");
    }
    Ok(())
}

/// The first two steps of other chores. The sizes of the eBPF programs go to the
/// log; comparing them with their budget is left to the caller.
pub fn steps(steps: &mut Steps) -> Result<Costs> {
    let mut costs = ebpf::step(steps)?;
    steps.run("binaries", |log| {
        build(log)?;
        if process::may_become_root() {
            ebpf::load(&mut costs)?;
        }
        log.file()?.write_all(costs.table().as_bytes()).context("cannot write the step's log")
    })?;
    Ok(costs)
}

fn build(log: &Log) -> Result<()> {
    let selection = ["--workspace", "--exclude", "xtask"];
    let total = compile::total(paths::top(), &selection, compile::Kind::Binaries);
    let mut cargo = process::cargo();
    cargo.args(["build", "--locked", "--release", "--bins"]).args(selection);
    compile::run(&mut cargo, total, log).map(drop)
}
