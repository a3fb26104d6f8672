//! What tests leave on a machine when they go wrong: compared before and
//! after. Other tests, and people's labs, may come and go meanwhile.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process;

/// The last processes of a lab may still be on their way out.
const PATIENCE: Duration = Duration::from_secs(5);

/// Everything on the machine that a lab makes, one line each.
pub struct Snapshot {
    lines: BTreeSet<String>,
}

impl Snapshot {
    /// Looks now.
    pub fn take() -> Result<Self> {
        let mut lines = BTreeSet::new();
        for (what, folder) in [("network namespace", "/run/netns"), ("link", "/sys/class/net")] {
            lines.extend(names(folder).map(|name| format!("{what} {name}")));
        }
        lines.extend(labs()?.into_iter().map(|name| format!("lab state /run/beeline-lab/{name}")));
        lines.extend(mounts()?);
        lines.extend(processes());
        Ok(Self { lines })
    }

    /// What is there now, was not then, and is of the run with this number.
    pub fn leaks_since(&self, run: &str) -> Result<Vec<String>> {
        let leaks = self.new_lines(run)?;
        if leaks.is_empty() {
            return Ok(leaks);
        }
        thread::sleep(PATIENCE);
        self.new_lines(run)
    }

    fn new_lines(&self, run: &str) -> Result<Vec<String>> {
        let now = Self::take()?;
        let new = now.lines.difference(&self.lines);
        Ok(new.filter(|line| may_be_of(line, run)).cloned().collect())
    }
}

/// A lab's name, a cgroup's and the temporary folder hold the number of their
/// run. Links and named namespaces hold none, but nobody's test makes any in
/// the machine's own namespace.
fn may_be_of(line: &str, run: &str) -> bool {
    line.contains(run) || line.starts_with("link ") || line.starts_with("network namespace ")
}

fn names(folder: impl AsRef<Path>) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
}

/// Root's folder: looked into as root.
fn labs() -> Result<Vec<String>> {
    let mut find = process::as_root("find");
    find.args(["/run/beeline-lab", "-mindepth", "1", "-maxdepth", "1", "-printf", "%f\n"])
        .stderr(Stdio::null());
    let output = find.output().context("find cannot be started")?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}

/// Mounts that hold namespaces, pins and cgroups, and the cgroups themselves.
fn mounts() -> Result<Vec<String>> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("/proc/self/mountinfo cannot be read")?;
    let mut lines = Vec::new();
    for line in text.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let kind = right.split(' ').next().unwrap_or_default();
        let place = left.split(' ').nth(4).unwrap_or_default();
        if ["bpf", "nsfs", "cgroup2"].contains(&kind) {
            lines.push(format!("mount of {kind} at {place}"));
        }
        if kind == "cgroup2" {
            let groups = names(place).filter(|name| name.starts_with("beeline"));
            lines.extend(groups.map(|name| format!("cgroup {place}/{name}")));
        }
    }
    Ok(lines)
}

/// By name and command line: an agent that was restarted beside the tests is
/// the same one.
fn processes() -> BTreeSet<String> {
    names("/proc").filter_map(|id| beeline_process(&id)).collect()
}

fn beeline_process(id: &str) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{id}/comm")).ok()?;
    if !name.starts_with("beeline") {
        return None;
    }
    let command = fs::read(format!("/proc/{id}/cmdline")).ok()?;
    let command = String::from_utf8_lossy(&command).replace('\0', " ");
    Some(format!("process {}", command.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_what_others_leave_is_no_leak_of_this_run() {
        for mine in [
            "mount of nsfs at /run/beeline-lab/tab12cd-1-1-story/netns/client",
            "cgroup /sys/fs/cgroup/beeline-test-ab12cd-7",
            "link bee0123456789ab",
            "network namespace x",
            "process beeline-agent --state /tmp/beeline-run-ab12cd/tmp/x",
        ] {
            assert!(may_be_of(mine, "ab12cd"), "{mine}");
        }
        for theirs in [
            "lab state /run/beeline-lab/default",
            "mount of bpf at /run/beeline-lab/t000001-1-1-story/nodes/node-1/bpf",
            "process beeline-lab daemon --name t000001-1-1-story",
        ] {
            assert!(!may_be_of(theirs, "ab12cd"), "{theirs}");
        }
    }
}
