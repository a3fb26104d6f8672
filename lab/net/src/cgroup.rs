//! The lab's cgroups: one tree per lab, so that `cgroup.kill` ends all of its
//! processes with one write.

use std::path::{Path, PathBuf};

use anyhow::Result;
use beeline_kernel::cgroup;

use crate::mounts;
use crate::paths::{LabName, LabPaths};

/// Finds the cgroup2 hierarchy, or mounts it below the lab's directory, and
/// returns the path of the lab's cgroup.
pub fn lab_cgroup(name: &LabName, paths: &LabPaths) -> Result<PathBuf> {
    let mount = match mounts::cgroup2()? {
        Some(mount) => mount,
        None => {
            let mount = paths.own_cgroup_mount();
            if mounts::below(&mount)?.is_empty() {
                cgroup::mount_at(&mount)?;
            }
            mount
        }
    };
    Ok(mount.join(name.cgroup()))
}

/// The lab's cgroup if it exists. Mounts nothing.
pub fn existing(name: &LabName, paths: &LabPaths) -> Option<PathBuf> {
    let mount = mounts::cgroup2().ok().flatten().unwrap_or_else(|| paths.own_cgroup_mount());
    Some(mount.join(name.cgroup())).filter(|cgroup| cgroup.exists())
}

/// Creates a cgroup and its parents.
pub fn create(path: &Path) -> Result<()> {
    Ok(cgroup::create(path)?)
}

/// Moves the calling process into a cgroup.
pub fn enter(path: &Path) -> Result<()> {
    Ok(cgroup::add(path, 0)?)
}

/// The processes of a cgroup and its descendants; empty if it does not exist.
pub fn processes(path: &Path) -> Vec<u32> {
    cgroup::processes(path).unwrap_or_default()
}

/// Kills every process of a cgroup and removes it with its descendants. The
/// calling process is moved out first, so that a `down` that runs inside the
/// lab does not kill itself.
pub fn remove(path: &Path) -> Result<()> {
    if processes(path).contains(&std::process::id())
        && let Some(above) = path.parent()
    {
        enter(above)?;
    }
    Ok(cgroup::remove(path)?)
}
