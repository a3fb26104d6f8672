//! Removes a lab, complete or partially created, with or without its daemon.

use std::fmt;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use beeline_lab_net::leaks::leaks;
use beeline_lab_net::paths::{LabName, LabPaths, ROOT};
use beeline_lab_net::record::LabRecord;
use beeline_lab_net::{cgroup, lock, mounts};
use nix::sys::signal::Signal;

/// Timeout for processes to disappear after SIGKILL.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(5);

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    processes: usize,
    namespaces: usize,
    bpf_mounts: usize,
    other_mounts: usize,
    cgroup: Option<String>,
    directory: Option<String>,
}

impl fmt::Display for Removed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted = |count: usize, one: &str, many: &str| match count {
            0 => None,
            1 => Some(format!("1 {one}")),
            _ => Some(format!("{count} {many}")),
        };
        let parts = [
            counted(self.processes, "process", "processes"),
            counted(
                self.namespaces,
                "network namespace with its links",
                "network namespaces with their links",
            ),
            counted(self.bpf_mounts, "bpffs with its pins", "bpffs with their pins"),
            counted(self.other_mounts, "other mount", "other mounts"),
            self.cgroup.as_ref().map(|path| format!("cgroups below {path}")),
            self.directory.clone(),
        ];
        f.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

/// Removes everything of a lab and returns what that was; none if there was
/// nothing. Every step is attempted and all errors are reported.
pub fn down(name: &LabName) -> Result<Option<Removed>> {
    let paths = LabPaths::new(name);
    let lock = lock::acquire(paths.root())?;
    if leaks(name).is_empty() {
        return Ok(None);
    }
    let found = look(name, &paths);
    let mut problems = Vec::new();
    let mut note = |result: Result<()>| problems.extend(result.err());
    kill_daemon(&paths);
    match cgroup::lab_cgroup(name, &paths) {
        Ok(cgroup) => note(cgroup::remove(&cgroup)),
        Err(error) => note(Err(error)),
    }
    for error in mounts::unmount_below(paths.root()) {
        note(Err(error));
    }
    note(remove_directory(paths.root()));
    drop(lock);
    // Removed with the last lab; not empty otherwise.
    let _ = fs::remove_dir(ROOT);
    let deadline = Instant::now() + CLEANUP_TIMEOUT;
    while !leaks(name).is_empty() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut messages: Vec<String> = problems.iter().map(|problem| format!("{problem:#}")).collect();
    messages.extend(leaks(name));
    if !messages.is_empty() {
        bail!("lab {name} was not removed completely:\n  {}", messages.join("\n  "));
    }
    Ok(Some(found))
}

fn look(name: &LabName, paths: &LabPaths) -> Removed {
    let mounts = mounts::below(paths.root()).unwrap_or_default();
    let of_kind = |kind: &str| mounts.iter().filter(|mount| mount.kind == kind).count();
    let (namespaces, bpf_mounts) = (of_kind("nsfs"), of_kind("bpf"));
    let cgroup = cgroup::existing(name, paths);
    Removed {
        processes: cgroup.as_deref().map_or(0, |cgroup| cgroup::processes(cgroup).len()),
        namespaces,
        bpf_mounts,
        other_mounts: mounts.len() - namespaces - bpf_mounts,
        cgroup: cgroup.map(|path| path.display().to_string()),
        directory: paths.root().exists().then(|| paths.root().display().to_string()),
    }
}

/// The daemon is killed first, so that it restarts nothing. A damaged record
/// is not a problem: the daemon is in the lab's cgroup, too.
fn kill_daemon(paths: &LabPaths) {
    if let Ok(Some(record)) = LabRecord::read(paths) {
        record.daemon.signal(Signal::SIGKILL);
    }
}

fn remove_directory(directory: &Path) -> Result<()> {
    let mounts = mounts::below(directory)?;
    if !mounts.is_empty() {
        bail!(
            "{} was not removed: {} file systems are still mounted below it",
            directory.display(),
            mounts.len()
        );
    }
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_removed_objects_are_listed() {
        let removed =
            Removed { processes: 1, namespaces: 7, directory: Some("/run/x".into()), ..Removed::default() };
        assert_eq!(removed.to_string(), "1 process, 7 network namespaces with their links, /run/x");
    }
}
