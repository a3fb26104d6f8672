//! The binaries under target/release.

use anyhow::{Context, Result, bail};

use crate::budget::Costs;
use crate::steps::{Log, Steps};
use crate::{ebpf, paths, process};

/// `cargo xtask build`.
pub fn chore() -> Result<()> {
    let mut steps = Steps::new(2);
    step(&mut steps)?;
    println!("Built: {}", paths::top().join("target/release").display());
    Ok(())
}

/// `cargo xtask bench`.
pub fn bench(arguments: &[String]) -> Result<()> {
    let mut steps = Steps::new(2);
    step(&mut steps)?;
    let program = paths::binary("beeline-bench");
    if !program.exists() {
        bail!("the benchmarks are not built yet: no package makes target/release/beeline-bench");
    }
    let status =
        process::as_root(program).args(arguments).status().context("beeline-bench cannot be started")?;
    process::give_tree_back()?;
    if !status.success() {
        bail!("beeline-bench ended with {status}");
    }
    Ok(())
}

/// The two steps that other chores begin with; then the costs of the eBPF
/// programs are told. Who only wants to use them is not held up by a budget.
pub fn step(steps: &mut Steps) -> Result<Costs> {
    let mut costs = ebpf::step(steps)?;
    steps.run("binaries", build)?;
    if process::may_become_root() {
        ebpf::load(&mut costs)?;
    }
    costs.tell();
    Ok(costs)
}

fn build(log: &Log) -> Result<()> {
    process::run(
        process::cargo().args([
            "build",
            "--locked",
            "--release",
            "--workspace",
            "--exclude",
            "xtask",
            "--bins",
        ]),
        log,
    )
}
