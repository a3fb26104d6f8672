//! Formatting and lints, each where the toolchain has the tool.

use anyhow::Result;

use crate::process;
use crate::steps::Steps;

/// Of the workspace, and of the eBPF crate beside it. Its lints want its own
/// toolchain; rustc's warnings about it stop its build.
const CHECKS: [(&str, &[&str]); 3] = [
    ("fmt", &["--all", "--check"]),
    ("fmt", &["--manifest-path", "crates/ebpf/Cargo.toml", "--check"]),
    ("clippy", &["--locked", "--release", "--workspace", "--all-targets", "--", "-D", "warnings"]),
];

/// What failed; the tests run nevertheless.
pub fn check(steps: &mut Steps) -> Result<()> {
    let (present, absent): (Vec<_>, Vec<_>) = CHECKS.into_iter().partition(|(tool, _)| has(tool));
    let result = steps.run("lints", |log| {
        present
            .iter()
            .try_for_each(|(tool, arguments)| process::run(process::cargo().arg(tool).args(*arguments), log))
    });
    let mut tools: Vec<&str> = absent.iter().map(|(tool, _)| *tool).collect();
    tools.dedup();
    tools.iter().for_each(|tool| println!("      cargo {tool} did not run: this toolchain does not have it"));
    result
}

fn has(tool: &str) -> bool {
    process::cargo().args([tool, "--version"]).output().is_ok_and(|output| output.status.success())
}
