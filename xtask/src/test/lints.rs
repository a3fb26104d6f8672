//! Formatting and lints, with the tools that the toolchain has.

use anyhow::Result;

use crate::process;
use crate::steps::Steps;

/// Tools and their arguments, for the workspace and for the eBPF crate. clippy
/// does not run for the latter: it would need that crate's toolchain. The
/// warnings of its compiler fail its build.
const CHECKS: [(&str, &[&str]); 3] = [
    ("fmt", &["--all", "--check"]),
    ("fmt", &["--manifest-path", "crates/ebpf/Cargo.toml", "--check"]),
    ("clippy", &["--locked", "--release", "--workspace", "--all-targets", "--", "-D", "warnings"]),
];

/// Runs every check whose tool is installed.
pub fn check(steps: &mut Steps) -> Result<()> {
    let (present, absent): (Vec<_>, Vec<_>) =
        CHECKS.into_iter().partition(|(tool, _)| process::has_cargo_command(tool));
    let result = steps.run("lints", |log| {
        present
            .iter()
            .try_for_each(|(tool, arguments)| process::run(process::cargo().arg(tool).args(*arguments), log))
    });
    let mut tools: Vec<&str> = absent.iter().map(|(tool, _)| *tool).collect();
    tools.dedup();
    tools.iter().for_each(|tool| println!("      skipped: cargo {tool} (the toolchain does not have it)"));
    result
}
