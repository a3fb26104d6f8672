//! The BPF file system (bpffs, Linux 4.4), which holds pinned programs, links and maps.

use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount as mount_system, umount2};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use thiserror::Error;

/// Why a bpffs could not be examined, mounted or unmounted.
#[derive(Debug, Error)]
#[error("cannot {operation} bpffs at {}: {source}", path.display())]
pub struct BpffsError {
    operation: &'static str,
    path: PathBuf,
    /// The error of the system call.
    pub source: io::Error,
}

/// Whether a directory is on a bpffs. False if it does not exist.
pub fn is_bpffs(path: &Path) -> Result<bool, BpffsError> {
    match statfs(path) {
        Ok(info) => Ok(info.filesystem_type() == BPF_FS_MAGIC),
        Err(nix::Error::ENOENT) => Ok(false),
        Err(errno) => Err(failed("examine", path)(errno.into())),
    }
}

/// Mounts a bpffs on a directory, which is created if missing. Does nothing if
/// the directory is on a bpffs.
pub fn mount(path: &Path) -> Result<(), BpffsError> {
    if is_bpffs(path)? {
        return Ok(());
    }
    std::fs::create_dir_all(path).map_err(failed("create the mount point of", path))?;
    mount_system(Some("bpf"), path, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
        .map_err(|errno| failed("mount", path)(errno.into()))
}

/// Unmounts every bpffs mounted on this directory, which releases the objects
/// pinned there. It is no error if there is none.
pub fn unmount(path: &Path) -> Result<(), BpffsError> {
    while is_bpffs(path)? {
        match umount2(path, MntFlags::MNT_DETACH) {
            Ok(()) => {}
            // A directory inside a bpffs that is mounted elsewhere.
            Err(nix::Error::EINVAL) => break,
            Err(errno) => return Err(failed("unmount", path)(errno.into())),
        }
    }
    Ok(())
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BpffsError {
    let path = path.to_owned();
    move |source| BpffsError { operation, path, source }
}
