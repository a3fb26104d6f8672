//! `make test-kernels`: the kernel tests in Debian's stock kernels, booted in
//! QEMU without KVM. Kernels, QEMU and busybox are unpacked in target/kernels
//! and not installed. It needs no root.

mod initramfs;
mod machine;
mod packages;

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};

use crate::steps::{Log, Steps};
use crate::test::{Needs, Outcome, Program};
use crate::{compile, ebpf, process};
use machine::{Machine, Report};

/// The minimum kernel version, and one with TCX links (6.6 or newer).
const SERIES: [&str; 2] = ["6.1", "6.12"];

/// Packages with kernel tests.
const PACKAGES: [&str; 1] = ["beeline-kernel"];

/// `cargo xtask test-kernels`.
pub fn chore() -> Result<()> {
    let mut steps = Steps::new(3 + SERIES.len());
    ebpf::step(&mut steps)?;
    let programs = steps.run("kernel tests built", build)?;
    let machines = steps.run("kernels and QEMU", |log| fetch(&programs, log))?;
    let mut failed = Vec::new();
    for machine in &machines {
        // A failure does not keep the other kernels from running.
        match steps.run(&format!("Linux {}", machine.series), |log| machine.run(&programs, log)) {
            Ok(report) => print(machine, &report),
            Err(error) => failed.push(format!("{error:#}")),
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("{}", failed.join("\n")) }
}

fn build(log: &Log) -> Result<Vec<Program>> {
    let mut cargo = process::cargo();
    cargo.args(["test", "--locked", "--release", "--no-run"]);
    for package in PACKAGES {
        cargo.args(["--package", package]);
    }
    let mut programs = Program::read_all(&compile::run(&mut cargo, None, log)?)?;
    for program in &mut programs {
        program.tests.retain(|test| Needs::of(test) == Some(Needs::Kernel));
    }
    programs.retain(|program| !program.tests.is_empty());
    Ok(programs)
}

fn fetch(programs: &[Program], log: &Log) -> Result<Vec<Machine>> {
    let busybox = packages::busybox(log)?;
    let qemu = packages::qemu(log)?;
    let machine = |series: &&'static str| {
        let kernel = packages::kernel(series, log)?;
        let initramfs = initramfs::build(&kernel, &busybox, programs, log)
            .with_context(|| format!("cannot build the initramfs for Linux {series}"))?;
        Ok(Machine { series, qemu: qemu.clone(), image: kernel.image, initramfs })
    };
    SERIES.iter().map(machine).collect()
}

/// One line for the kernel; below it what the tests skipped there.
fn print(machine: &Machine, report: &Report) {
    let each: Vec<String> =
        report.outcomes.iter().map(|one| format!("{} {}", one.name, one.count("passed"))).collect();
    let (series, release, passed) = (machine.series, &report.release, report.passed());
    println!("      Linux {series} ({release}): {passed} passed: {}", each.join(", "));
    let skipped: BTreeSet<&str> = report.outcomes.iter().flat_map(Outcome::skipped).collect();
    skipped.iter().for_each(|line| println!("      {line}"));
}
