//! Notes on the last commit: what a clone of it would lack. Uncommitted work is
//! no error, so these are printed and do not fail the tests.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{paths, process};

/// Of the workspace and of the eBPF crate.
const LOCK_FILES: [&str; 2] = ["Cargo.lock", "crates/ebpf/Cargo.lock"];

/// Maximum file names in one sentence.
const NAMES_MAX: usize = 5;

/// What a clone of the last commit would lack, one sentence each. Empty
/// without git or without a commit.
pub fn notes() -> Vec<String> {
    let mut notes = Vec::new();
    notes.extend(uncommitted().and_then(|files| sentence(&files)));
    if let Err(error) = lock_files_fit() {
        notes.push(format!("{error:#}"));
    }
    notes
}

fn sentence(files: &[String]) -> Option<String> {
    let shown = files.iter().take(NAMES_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = match files.len().saturating_sub(NAMES_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (!files.is_empty()).then(|| format!("the tests ran with uncommitted changes: {shown}{more}"))
}

/// Files that differ from the last commit, and untracked files.
fn uncommitted() -> Option<Vec<String>> {
    let text = git(&["status", "--porcelain", "--untracked-files=normal"])?;
    Some(text.lines().filter_map(|line| line.get(3..)).map(str::to_owned).collect())
}

/// Every build is `--locked`: a commit whose lock file lacks a dependency of
/// its manifests cannot be built.
fn lock_files_fit() -> Result<()> {
    let Some(commit) = git(&["rev-parse", "--verify", "--quiet", "HEAD"]) else { return Ok(()) };
    let copy = paths::top().join("target/committed");
    let exported = export(commit.trim(), &copy);
    let fit = exported.and_then(|()| LOCK_FILES.iter().try_for_each(|lock| fits(&copy, lock)));
    let removed = fs::remove_dir_all(&copy).with_context(|| format!("cannot remove {}", copy.display()));
    fit.and(removed)
}

fn export(commit: &str, copy: &Path) -> Result<()> {
    if copy.exists() {
        fs::remove_dir_all(copy).with_context(|| format!("cannot remove {}", copy.display()))?;
    }
    fs::create_dir_all(copy).with_context(|| format!("cannot create {}", copy.display()))?;
    let archive = copy.join("tree.tar");
    let top = paths::top();
    let mut git = Command::new("git");
    run(git.current_dir(top).args(["archive", "--output"]).arg(&archive).arg(commit))?;
    run(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(copy))
}

/// Asks cargo whether the lock file satisfies the manifests, without network.
fn fits(copy: &Path, lock: &str) -> Result<()> {
    let manifest = copy.join(lock).with_file_name("Cargo.toml");
    let mut cargo = process::cargo();
    cargo
        .args(["update", "--quiet", "--workspace", "--locked", "--offline", "--manifest-path"])
        .arg(manifest);
    let output = cargo.output().context("cannot start cargo")?;
    if String::from_utf8_lossy(&output.stderr).contains("cannot update the lock file") {
        bail!(
            "the committed {lock} does not match the committed Cargo.toml files, so a clone cannot be built: \
             commit them together"
        );
    }
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// The output of git; none without git or outside of a checkout.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").current_dir(paths::top()).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_many_files_make_one_sentence() {
        let files: Vec<String> = (1..=7).map(|n| format!("f{n}")).collect();
        let said = sentence(&files).expect("there are some");
        assert!(said.ends_with("f1, f2, f3, f4, f5 and 2 more"), "{said}");
        assert_eq!(sentence(&[]), None);
    }
}
