//! The fuzz targets of fuzz/, where cargo-fuzz and a nightly compiler are
//! present: nobody has to install them.

use anyhow::{Context, Result, bail};

use crate::process;
use crate::steps::{Log, Steps};

/// Bytes of one input at most: several frames, one of them large.
const INPUT_BYTES_MAX: u32 = 4096;
/// How long every target runs among the other tests, seconds.
const BRIEFLY: u64 = 5;

/// `cargo xtask fuzz`.
pub fn chore(seconds: u64) -> Result<()> {
    if !is_present() {
        bail!(
            "the fuzzer is not here: install a nightly Rust (`rustup toolchain install nightly`) and cargo-fuzz \
             (`cargo install cargo-fuzz`)"
        );
    }
    let mut steps = Steps::new(1);
    steps.run("fuzz targets", |log| run_all(seconds, log))?.iter().for_each(|line| println!("      {line}"));
    Ok(())
}

/// A short run, as one of the tests.
pub fn check(steps: &mut Steps) -> Result<()> {
    let lines = steps.run("fuzz targets", |log| run_all(BRIEFLY, log))?;
    lines.iter().for_each(|line| println!("      {line}"));
    Ok(())
}

/// Whether this machine has what fuzzing needs.
pub fn is_present() -> bool {
    nightly().args(["fuzz", "--version"]).output().is_ok_and(|output| output.status.success())
}

/// One line for each target.
fn run_all(seconds: u64, log: &Log) -> Result<Vec<String>> {
    let listed = process::output(nightly().args(["fuzz", "list"]), log)?;
    let run = |target: &str| {
        let mut command = nightly();
        command.args(["fuzz", "run", target, "--", "-print_final_stats=1"]);
        command.arg(format!("-max_total_time={seconds}")).arg(format!("-max_len={INPUT_BYTES_MAX}"));
        command.arg(format!("-dict={}", crate::paths::top().join("fuzz/packets.dict").display()));
        process::run(&mut command, log).with_context(|| {
            format!("the fuzz target {target} found an input that breaks it; it is kept below fuzz/artifacts")
        })?;
        Ok(format!("{target}: nothing found in {seconds} s"))
    };
    listed.lines().map(run).collect()
}

/// The proxy of rustup takes the toolchain as its first argument.
fn nightly() -> std::process::Command {
    let mut command = std::process::Command::new("cargo");
    command.arg("+nightly").current_dir(crate::paths::top());
    // What this process was started by must not decide about the compiler.
    ["RUSTUP_TOOLCHAIN", "RUSTC", "CARGO", "RUSTFLAGS"].iter().for_each(|name| {
        command.env_remove(name);
    });
    command
}
