//! The leak check: compares what a lab creates on the machine before and after
//! the tests. Other runs and labs may start and end in between.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process;

/// How long the last processes of a lab may take to exit.
const EXIT_TIMEOUT: Duration = Duration::from_secs(5);

/// The objects on the machine of the kinds that a lab creates, one line each.
pub struct Snapshot {
    lines: BTreeSet<String>,
}

impl Snapshot {
    /// Takes a snapshot of the machine.
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

    /// Objects that appeared since the snapshot and belong to the run with this ID.
    pub fn leaks_since(&self, run: &str) -> Result<Vec<String>> {
        let leaks = self.new_lines(run)?;
        if leaks.is_empty() {
            return Ok(leaks);
        }
        thread::sleep(EXIT_TIMEOUT);
        self.new_lines(run)
    }

    fn new_lines(&self, run: &str) -> Result<Vec<String>> {
        let now = Self::take()?;
        let new = now.lines.difference(&self.lines);
        Ok(new.filter(|line| may_be_of(line, run)).cloned().collect())
    }
}

/// The names of labs, cgroups and temporary folders contain the ID of their
/// run. Those of links and named namespaces do not, but no test creates any in
/// the machine's own namespace.
fn may_be_of(line: &str, run: &str) -> bool {
    line.contains(run) || line.starts_with("link ") || line.starts_with("network namespace ")
}

fn names(folder: impl AsRef<Path>) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
}

/// Names of labs; their folder is readable by root only.
fn labs() -> Result<Vec<String>> {
    let mut find = process::as_root("find");
    find.args(["/run/beeline-lab", "-mindepth", "1", "-maxdepth", "1", "-printf", "%f\n"])
        .stderr(Stdio::null());
    let output = find.output().context("cannot start find")?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}

/// Mounts of namespaces, pins and cgroups, and the cgroups themselves.
fn mounts() -> Result<Vec<String>> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    let mut lines = Vec::new();
    for line in text.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let kind = right.split(' ').next().unwrap_or_default();
        let mount_point = left.split(' ').nth(4).unwrap_or_default();
        if ["bpf", "nsfs", "cgroup2"].contains(&kind) {
            lines.push(format!("mount of {kind} at {mount_point}"));
        }
        if kind == "cgroup2" {
            let groups = names(mount_point).filter(|name| name.starts_with("beeline"));
            lines.extend(groups.map(|name| format!("cgroup {mount_point}/{name}")));
        }
    }
    Ok(lines)
}

/// Identified by command line, not by PID: an agent of another lab that was
/// restarted in the meantime is the same process.
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
    fn unit_objects_of_other_runs_are_no_leaks() {
        for own in [
            "mount of nsfs at /run/beeline-lab/tab12cd-1-1-story/netns/client",
            "cgroup /sys/fs/cgroup/beeline-test-ab12cd-7",
            "link bee0123456789ab",
            "network namespace x",
            "process beeline-agent --state /tmp/beeline-run-ab12cd/tmp/x",
        ] {
            assert!(may_be_of(own, "ab12cd"), "{own}");
        }
        for other in [
            "lab state /run/beeline-lab/default",
            "mount of bpf at /run/beeline-lab/t000001-1-1-story/nodes/node-1/bpf",
            "process beeline-lab daemon --name t000001-1-1-story",
        ] {
            assert!(!may_be_of(other, "ab12cd"), "{other}");
        }
    }
}
