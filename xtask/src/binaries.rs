//! The binaries in target/release.
//!
//! Product and lab are built by one invocation of cargo, since cargo chooses
//! the features of a dependency by all packages that an invocation builds. A
//! second one would compile kube and what it needs again. The benchmarks and
//! the tests add no feature (a test checks that).

use std::io::Write;

use anyhow::{Context, Result, bail};

use crate::budget::Costs;
use crate::steps::{Log, Steps};
use crate::{compile, ebpf, paths, process};

/// The packages of the product and of the lab, as options of cargo.
pub const WITHOUT_BENCHMARKS: &[&str] = &["--workspace", "--exclude", "xtask", "--exclude", "beeline-bench"];

/// Those and the benchmarks.
pub const ALL: &[&str] = &["--workspace", "--exclude", "xtask"];

/// `cargo xtask build`.
pub fn chore() -> Result<()> {
    let mut steps = Steps::new(2);
    self::steps(&mut steps, WITHOUT_BENCHMARKS)?;
    println!("Built: {}", paths::top().join("target/release").display());
    Ok(())
}

/// `cargo xtask bench`.
pub fn bench(arguments: &[String]) -> Result<()> {
    let mut steps = Steps::new(2);
    self::steps(&mut steps, ALL)?;
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

/// The first two steps of other chores; the second builds these packages. The sizes of the eBPF programs go to the
/// log; comparing them with their budget is left to the caller.
pub fn steps(steps: &mut Steps, packages: &[&str]) -> Result<Costs> {
    let mut costs = ebpf::step(steps)?;
    steps.run("binaries", |log| {
        build(packages, log)?;
        if process::may_become_root() {
            ebpf::load(&mut costs)?;
        }
        log.file()?.write_all(costs.table().as_bytes()).context("cannot write the step's log")
    })?;
    Ok(costs)
}

fn build(packages: &[&str], log: &Log) -> Result<()> {
    let total = compile::total(paths::top(), packages, compile::Kind::Binaries);
    let mut cargo = process::cargo();
    cargo.args(["build", "--locked", "--release", "--bins"]).args(packages);
    compile::run(&mut cargo, total, log).map(drop)
}
