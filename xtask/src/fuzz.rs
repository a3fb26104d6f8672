//! The fuzz targets of fuzz/. They run only where cargo-fuzz and a nightly
//! compiler are installed.

use anyhow::{Context, Result, bail};

use crate::process;
use crate::steps::{Log, Steps};

/// Maximum bytes of one input: several frames, one of them large.
const INPUT_BYTES_MAX: u32 = 4096;
/// How long each target runs as part of `cargo xtask test`, seconds.
const TEST_SECONDS: u64 = 5;

/// `cargo xtask fuzz`.
pub fn chore(seconds: u64) -> Result<()> {
    if !is_present() {
        bail!(
            "cargo-fuzz or a nightly Rust is missing: rustup toolchain install nightly, then cargo install cargo-fuzz"
        );
    }
    let mut steps = Steps::new(1);
    steps.run("fuzz targets", |log| run_all(seconds, log))?.iter().for_each(|line| println!("      {line}"));
    Ok(())
}

/// A short run, as part of `cargo xtask test`.
pub fn check(steps: &mut Steps) -> Result<()> {
    let lines = steps.run("fuzz targets", |log| run_all(TEST_SECONDS, log))?;
    lines.iter().for_each(|line| println!("      {line}"));
    Ok(())
}

/// Whether cargo-fuzz and a nightly toolchain are installed.
pub fn is_present() -> bool {
    nightly().args(["fuzz", "--version"]).output().is_ok_and(|output| output.status.success())
}

/// Runs every target; returns one line for each.
fn run_all(seconds: u64, log: &Log) -> Result<Vec<String>> {
    let listed = process::output(nightly().args(["fuzz", "list"]), log)?;
    let run = |target: &str| {
        let mut command = nightly();
        command.args(["fuzz", "run", target, "--", "-print_final_stats=1"]);
        command.arg(format!("-max_total_time={seconds}")).arg(format!("-max_len={INPUT_BYTES_MAX}"));
        command.arg(format!("-dict={}", crate::paths::top().join("fuzz/packets.dict").display()));
        process::run(&mut command, log)
            .with_context(|| format!("the fuzz target {target} failed; its input is in fuzz/artifacts"))?;
        Ok(format!("{target}: no failure in {seconds} s"))
    };
    listed.lines().map(run).collect()
}

/// cargo of the nightly toolchain: rustup's proxy takes the toolchain as its first argument.
fn nightly() -> std::process::Command {
    let mut command = std::process::Command::new("cargo");
    command.arg("+nightly").current_dir(crate::paths::top());
    // Set by the cargo that started this process; they would override `+nightly`.
    ["RUSTUP_TOOLCHAIN", "RUSTC", "CARGO", "RUSTFLAGS"].iter().for_each(|name| {
        command.env_remove(name);
    });
    command
}
