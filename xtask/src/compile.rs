//! cargo's builds, with their progress: crates done, of all.
//!
//! cargo reports each crate as a JSON message when it is done, also one that
//! needed no compiling. How many there will be is not part of any stable
//! interface: it is counted from `cargo tree` and `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::process;
use crate::steps::Log;

/// What a build compiles.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Libraries and binaries.
    Binaries,
    /// Those, and the executables of all tests.
    Tests,
}

/// Runs a build in the step of `log`, of `total` crates if that is known;
/// returns cargo's messages, one JSON object per line.
pub fn run(cargo: &mut Command, total: Option<usize>, log: &Log) -> Result<String> {
    cargo.arg("--message-format=json-render-diagnostics");
    cargo.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log.file()?);
    let mut child = cargo.spawn().context("cannot start cargo")?;
    let stdout = child.stdout.take().context("cargo has no standard output")?;
    let (mut done, mut messages) = (BTreeSet::new(), String::new());
    for line in BufReader::new(stdout).lines() {
        let line = line.context("cannot read cargo's messages")?;
        done.extend(serde_json::from_str(&line).ok().as_ref().and_then(crate_of));
        log.progress(progress(done.len(), total));
        messages.push_str(&line);
        messages.push('\n');
    }
    let status = child.wait().context("cannot wait for cargo")?;
    if !status.success() {
        bail!("{} ended with {status}", process::name(cargo));
    }
    Ok(messages)
}

/// How many crates a build of the workspace in `folder` has; none if cargo
/// does not say. `selection` holds options of `cargo tree`.
pub fn total(folder: &Path, selection: &[&str], kind: Kind) -> Option<usize> {
    let ask = |arguments: &[&str]| {
        let output = process::cargo().current_dir(folder).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let edges = if kind == Kind::Tests { "normal,build,dev" } else { "normal,build" };
    let tree = ["tree", "--locked", "--prefix", "none", "--format", "{p}", "--edges", edges];
    let tree = ask(&[&tree, selection].concat())?;
    let metadata = ask(&["metadata", "--locked", "--no-deps", "--format-version", "1"])?;
    Some(count(&tree, &serde_json::from_str(&metadata).ok()?, kind))
}

fn progress(done: usize, total: Option<usize>) -> String {
    match total {
        // The count is an estimate: never "9 of 8".
        Some(total) => format!("{done} of {} crates", total.max(done)),
        None => format!("{done} crates"),
    }
}

/// Identifies a finished crate; none for other messages and
/// for build scripts. A dependency that is compiled for two targets is one.
fn crate_of(message: &Value) -> Option<String> {
    let target = &message["target"];
    if message["reason"] != "compiler-artifact" || target["kind"][0] == "custom-build" {
        return None;
    }
    let test = &message["profile"]["test"];
    Some(format!("{} {} {} {test}", message["package_id"], target["kind"][0], target["name"]))
}

/// One crate for each package from elsewhere, and the targets of each package
/// of the workspace that the tree contains.
fn count(tree: &str, metadata: &Value, kind: Kind) -> usize {
    let lines = tree.lines().map(|line| line.trim_end_matches(" (*)")).filter(|line| !line.is_empty());
    // A package of the workspace is followed by its path.
    let (members, others): (BTreeSet<_>, BTreeSet<_>) = lines.partition(|line| line.contains(" (/"));
    let members: BTreeSet<_> = members.iter().filter_map(|line| line.split(' ').next()).collect();
    let packages: BTreeMap<_, _> = list(&metadata["packages"])
        .filter_map(|package| Some((package["name"].as_str()?, &package["targets"])))
        .collect();
    let targets = members.iter().filter_map(|name| packages.get(name));
    others.len() + targets.map(|targets| crates_of_package(targets, kind)).sum::<usize>()
}

fn crates_of_package(targets: &Value, kind: Kind) -> usize {
    let has_tests = list(targets).any(|target| target["kind"][0] == "test");
    let crates = |target: &Value| match (target["kind"][0].as_str(), kind) {
        (Some("lib" | "proc-macro" | "bin"), Kind::Binaries) => 1,
        (Some("lib" | "proc-macro"), Kind::Tests) => 1 + usize::from(target["test"] == true),
        // Integration tests may run the package's binaries.
        (Some("bin"), Kind::Tests) => usize::from(has_tests) + usize::from(target["test"] == true),
        (Some("test"), Kind::Tests) => 1,
        _ => 0,
    };
    list(targets).map(crates).sum()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const TREE: &str = "beeline-a v0.1.0 (/src/crates/a)\nserde v1.0.0\nserde_derive v1.0.0 (proc-macro)\n\
        serde v1.0.0 (*)\n\nbeeline-b v0.1.0 (/src/crates/b)\nbeeline-a v0.1.0 (/src/crates/a) (*)\n";

    fn target(kind: &str, name: &str) -> Value {
        json!({ "kind": [kind], "name": name, "test": kind != "custom-build" })
    }

    #[test]
    fn unit_the_crates_of_a_build_are_counted() {
        let a = json!({ "name": "beeline-a", "targets": [target("lib", "a"), target("custom-build", "s")] });
        let b = json!({ "name": "beeline-b", "targets": [target("bin", "b"), target("test", "t")] });
        let unused = json!({ "name": "xtask", "targets": [target("bin", "xtask")] });
        let metadata = json!({ "packages": [a, b, unused] });
        // serde, serde_derive, the library, the binary.
        assert_eq!(count(TREE, &metadata, Kind::Binaries), 4);
        // The library and the binary twice, the test.
        assert_eq!(count(TREE, &metadata, Kind::Tests), 7);
    }

    #[test]
    fn unit_a_finished_crate_counts_once_and_a_build_script_never() {
        let message = |kind: &str| json!({ "reason": "compiler-artifact", "package_id": "p 1", "target": target(kind, "p") });
        assert_eq!(crate_of(&message("lib")), crate_of(&message("lib")));
        assert!(crate_of(&message("lib")).is_some() && crate_of(&message("custom-build")).is_none());
        assert_eq!(crate_of(&json!({ "reason": "build-finished" })), None);
    }

    #[test]
    fn unit_progress_never_exceeds_its_total() {
        assert_eq!(progress(3, Some(8)), "3 of 8 crates");
        assert_eq!(progress(9, Some(8)), "9 of 9 crates");
        assert_eq!(progress(9, None), "9 crates");
    }
}
