//! What is left of a lab on this host. `down` ends with [`leaks`]; tests also
//! compare [`Snapshot`]s from before and after.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Result, bail};

use crate::paths::{LabName, LabPaths};
use crate::{cgroup, mounts};

/// What is left of a lab: its directory, mounts (network namespaces and bpffs
/// with their pins), cgroups, processes. Links disappear with their
/// namespaces.
pub fn leaks(name: &LabName) -> Vec<String> {
    let paths = LabPaths::new(name);
    let mut found = Vec::new();
    if paths.root().exists() {
        found.push(format!("the directory {}", paths.root().display()));
    }
    match mounts::below(paths.root()) {
        Ok(mounts) => {
            found.extend(mounts.iter().map(|m| format!("a mount of {} on {}", m.kind, m.target.display())))
        }
        Err(error) => found.push(format!("mounts cannot be listed: {error:#}")),
    }
    for mount in mounts::all().unwrap_or_default().iter().filter(|mount| mount.kind == "cgroup2") {
        let cgroup = mount.target.join(name.cgroup());
        if cgroup.exists() {
            found.push(format!(
                "the cgroup {} with processes {:?}",
                cgroup.display(),
                cgroup::processes(&cgroup)
            ));
        }
    }
    found.extend(processes(paths.root()));
    found
}

/// Processes whose command line contains the lab's directory.
fn processes(directory: &Path) -> Vec<String> {
    let needle = format!("{}/", directory.display());
    let ours = commands().filter(|(_, command)| {
        let program = command.split(' ').next().unwrap_or_default();
        let known = ["beeline-agent", "beeline-lab", "beeline-cni"];
        known.iter().any(|name| program.ends_with(name)) && command.contains(&needle)
    });
    ours.map(|(pid, command)| format!("process {pid}: {command}")).collect()
}

/// Every other process with its command line.
fn commands() -> impl Iterator<Item = (u32, String)> {
    let own = std::process::id();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(move |pid| *pid != own).filter_map(|pid| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        Some((pid, String::from_utf8_lossy(&command).replace('\0', " ").trim().to_owned()))
    })
}

/// Everything on this host that a lab could leave behind: links and routes of
/// this network namespace; mounts of namespaces, bpffs and cgroups; cgroups;
/// and processes of this project's programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot(BTreeSet<String>);

impl Snapshot {
    /// Takes a snapshot.
    pub fn take() -> Snapshot {
        let mut lines = BTreeSet::new();
        lines.extend(names("/sys/class/net").map(|name| format!("link {name}")));
        lines.extend(names("/run/netns").map(|name| format!("network namespace {name}")));
        lines.extend(names(crate::paths::ROOT).map(|name| format!("lab {name}")));
        for mount in mounts::all().unwrap_or_default() {
            let target = mount.target.display();
            match mount.kind.as_str() {
                "bpf" => lines.extend(pins(&mount.target)),
                "cgroup2" => lines.extend(
                    names(&mount.target)
                        .filter(|name| name.starts_with("beeline"))
                        .map(|name| format!("cgroup {target}/{name}")),
                ),
                "nsfs" => {}
                _ => continue,
            }
            lines.insert(format!("mount of {} on {target}", mount.kind));
        }
        let ours = commands().filter(|(_, command)| {
            let program = command.split(' ').next().unwrap_or_default();
            program.rsplit('/').next().is_some_and(|name| name.starts_with("beeline"))
        });
        lines.extend(ours.map(|(pid, command)| format!("process {pid}: {command}")));
        Snapshot(lines)
    }

    /// New objects that may belong to this lab. Other labs and tests may start
    /// and end meanwhile, but no test may leave a link in this namespace.
    pub fn left_by(&self, name: &LabName) -> Vec<String> {
        let now = Snapshot::take();
        let new = now.0.difference(&self.0);
        let may_be_its = |line: &&String| line.starts_with("link ") || line.contains(name.as_str());
        new.filter(may_be_its).cloned().collect()
    }

    /// Fails with the objects that a lab left behind.
    pub fn check(&self, name: &LabName) -> Result<()> {
        let mut left = self.left_by(name);
        left.extend(leaks(name));
        if left.is_empty() {
            return Ok(());
        }
        bail!("lab {name} left behind:\n  {}", left.join("\n  "))
    }
}

fn names(directory: impl AsRef<Path>) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
}

/// The top-level directories and pins of a bpffs.
fn pins(mount: &Path) -> Vec<String> {
    names(mount).map(|name| format!("pin {}/{name}", mount.display())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_pre_existing_objects_are_not_leaks() {
        let name = LabName::parse("no-such-lab").unwrap();
        assert!(leaks(&name).is_empty());
        Snapshot::take().check(&name).unwrap();
    }

    #[test]
    fn unit_new_objects_with_the_labs_name_are_leaks() {
        let mut before = Snapshot::take();
        let name = LabName::parse("no-such-lab").unwrap();
        before.0.retain(|line| line != "link lo");
        assert_eq!(before.left_by(&name), ["link lo"]);
        assert!(before.check(&name).unwrap_err().to_string().contains("link lo"));
    }
}
