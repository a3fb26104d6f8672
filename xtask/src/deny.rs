//! cargo-deny over both lock files, as deny.toml configures it: licences,
//! duplicates and sources; advisories only where their database can be fetched.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{paths, process};

const MANIFESTS: [&str; 2] = ["Cargo.toml", "crates/ebpf/Cargo.toml"];
/// Checks that need no network.
const OFFLINE: [&str; 3] = ["licenses", "bans", "sources"];
const ABSENT: &str = "cargo-deny is not installed; cargo install cargo-deny --locked installs it";

/// `cargo xtask deny`: every check.
pub fn chore() -> Result<()> {
    if !process::has_cargo_command("deny") {
        bail!(ABSENT);
    }
    run(&OFFLINE, true)?;
    run(&["advisories"], false)
}

/// The checks that need no network, as part of `cargo xtask test`.
pub fn check() -> Result<()> {
    if !process::has_cargo_command("deny") {
        println!("      skipped: cargo deny ({ABSENT})");
        return Ok(());
    }
    run(&OFFLINE, true)
}

fn run(checks: &[&str], offline: bool) -> Result<()> {
    for manifest in MANIFESTS {
        let output = deny(checks, offline, manifest)?.output().context("cannot start cargo deny")?;
        if !output.status.success() {
            bail!("cargo deny, {manifest}:\n{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        println!("      cargo deny: {manifest}: {} passed", checks.join(", "));
    }
    Ok(())
}

/// cargo-deny asks cargo for the packages of every platform, which a build has
/// not downloaded; it gets those of this one.
fn deny(checks: &[&str], offline: bool, manifest: &str) -> Result<Command> {
    let metadata = metadata(manifest)?;
    let mut cargo = process::cargo();
    cargo.args(["deny", "--config", "deny.toml", "--metadata-path"]).arg(metadata);
    if offline {
        cargo.arg("--offline");
    }
    // Exceptions that only the other lock file needs.
    let allowed = ["--allow", "license-not-encountered", "--allow", "unmatched-skip"];
    cargo.args(["check", "--hide-inclusion-graph"]).args(allowed).args(checks);
    Ok(cargo)
}

fn metadata(manifest: &str) -> Result<PathBuf> {
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut cargo = process::cargo();
    cargo.args(["metadata", "--locked", "--format-version", "1", "--manifest-path", manifest]);
    let output = cargo.args(["--filter-platform", &platform]).output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!("cargo metadata, {manifest}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let path = paths::top().join("target/deny-metadata.json");
    fs::write(&path, output.stdout).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}
