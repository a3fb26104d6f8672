//! The lab's cgroups: one tree per lab, so that one write ends all of it.

use std::path::{Path, PathBuf};

use anyhow::Result;
use beeline_kernel::cgroup;

use crate::mounts;
use crate::paths::{LabName, LabPaths};

/// Finds cgroup2, or mounts it below the lab's directory, and names the lab's
/// cgroup in it.
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

/// The lab's cgroup, if there is one; mounts nothing.
pub fn existing(name: &LabName, paths: &LabPaths) -> Option<PathBuf> {
    let mount = mounts::cgroup2().ok().flatten().unwrap_or_else(|| paths.own_cgroup_mount());
    Some(mount.join(name.cgroup())).filter(|cgroup| cgroup.exists())
}

/// Creates a cgroup and the ones above it.
pub fn create(path: &Path) -> Result<()> {
    Ok(cgroup::create(path)?)
}

/// Moves the calling process into a cgroup.
pub fn enter(path: &Path) -> Result<()> {
    Ok(cgroup::add(path, 0)?)
}

/// The processes of a cgroup and of those below it; none if it is gone.
pub fn processes(path: &Path) -> Vec<u32> {
    cgroup::processes(path).unwrap_or_default()
}

/// Ends every process of a cgroup and removes it with those below it. The
/// caller is moved out first: a `down` that was typed inside the lab must not
/// end itself.
pub fn remove(path: &Path) -> Result<()> {
    if processes(path).contains(&std::process::id())
        && let Some(above) = path.parent()
    {
        enter(above)?;
    }
    Ok(cgroup::remove(path)?)
}
