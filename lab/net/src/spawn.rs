//! Starts processes in network namespaces and cgroups.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::SigSet;
use tokio::process::Command;

use crate::mount_namespace::MountNamespace;

/// Makes the process of `command` start in this network namespace and cgroup,
/// as leader of a new session. It keeps the file descriptor `inherit`.
pub fn enter_namespaces(
    command: &mut Command,
    netns: &Path,
    cgroup: &Path,
    inherit: Option<OwnedFd>,
) -> Result<()> {
    let namespace =
        File::open(netns).with_context(|| format!("cannot open the namespace {}", netns.display()))?;
    let procs = open_procs(&cgroup.join("cgroup.procs"))?;
    let before_exec = move || -> io::Result<()> {
        nix::unistd::setsid()?;
        nix::unistd::write(&procs, b"0")?;
        setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?;
        if let Some(kept) = &inherit {
            fcntl(kept, FcntlArg::F_SETFD(FdFlag::empty()))?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes system calls on
    // descriptors that are open, and nothing else: no allocation, no locks.
    unsafe { command.pre_exec(before_exec) };
    Ok(())
}

/// The same in a container, with this working directory.
pub fn enter_container(
    command: &mut Command,
    netns: &Path,
    cgroup: &Path,
    mount_ns: &MountNamespace,
    directory: &str,
    inherit: Option<OwnedFd>,
) -> Result<()> {
    let mount_ns = mount_ns.try_clone().context("cannot duplicate the container's namespaces")?;
    let directory = CString::new(directory).context("workingDir")?;
    enter_namespaces(command, netns, cgroup, inherit)?;
    let before_exec = move || -> io::Result<()> {
        mount_ns.enter_this_thread()?;
        Ok(nix::unistd::chdir(directory.as_c_str())?)
    };
    // SAFETY: between fork and exec the closure makes system calls on
    // descriptors that are open and strings that exist, and nothing else.
    unsafe { command.pre_exec(before_exec) };
    Ok(())
}

/// Makes the process of `command` start in this cgroup, as leader of a new
/// session, with all signals unblocked.
pub fn detach(command: &mut std::process::Command, cgroup: &Path) -> Result<()> {
    let procs = open_procs(&cgroup.join("cgroup.procs"))?;
    let before_exec = move || -> io::Result<()> {
        nix::unistd::setsid()?;
        nix::unistd::write(&procs, b"0")?;
        SigSet::all().thread_unblock()?;
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes system calls, one of
    // them on a descriptor that is open, and nothing else.
    unsafe { std::os::unix::process::CommandExt::pre_exec(command, before_exec) };
    Ok(())
}

fn open_procs(path: &Path) -> Result<File> {
    OpenOptions::new().write(true).open(path).with_context(|| format!("cannot open {}", path.display()))
}

/// Environment variable with the file descriptor of [`ready_pipe`] to which the
/// program of the image `beeline/echo` writes when all of its ports are open.
pub const READY_FD: &str = "BEELINE_ECHO_READY_FD";

/// A pipe whose write end a child inherits: read end, write end, and the
/// descriptor number in the child.
pub fn ready_pipe() -> Result<(File, OwnedFd, i32)> {
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).context("cannot create a pipe")?;
    let number = write.as_raw_fd();
    Ok((File::from(read), write, number))
}

/// Opens a log file for appending.
pub fn log_file(path: &Path) -> Result<File> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.with_context(|| format!("cannot write the log {}", path.display()))
}
