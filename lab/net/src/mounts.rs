//! Mounts below a directory, and the file systems that a lab mounts.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use beeline_kernel::mounts::{Mount, table};
use nix::mount::{MntFlags, umount2};

/// All mounts of this thread's mount namespace, in the order of mounting.
pub fn all() -> Result<Vec<Mount>> {
    table().context("cannot read /proc/thread-self/mountinfo")
}

/// Mounts on `directory` or below it.
pub fn below(directory: &Path) -> Result<Vec<Mount>> {
    Ok(all()?.into_iter().filter(|mount| mount.target.starts_with(directory)).collect())
}

/// Mount point of the root of cgroup2, found by type, not by path.
pub fn cgroup2() -> Result<Option<PathBuf>> {
    let mut mounts = all()?.into_iter().filter(|mount| mount.kind == "cgroup2");
    Ok(mounts
        .find(|mount| mount.root == "/" && !mount.target.starts_with(crate::paths::ROOT))
        .map(|m| m.target))
}

/// Unmounts everything on `directory` or below it, in reverse order; returns
/// all errors.
pub fn unmount_below(directory: &Path) -> Vec<anyhow::Error> {
    let mounts = match below(directory) {
        Ok(mounts) => mounts,
        Err(error) => return vec![error],
    };
    mounts.iter().rev().filter_map(|mount| unmount(&mount.target).err()).collect()
}

/// Unmounts one mount, even if it is busy.
pub fn unmount(target: &Path) -> Result<()> {
    umount2(target, MntFlags::MNT_DETACH).with_context(|| format!("cannot unmount {}", target.display()))
}
