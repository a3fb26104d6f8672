//! cgroup v2 (cgroups(7)). The mount is found by its file system type, not by its path.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::mounts;

/// How long [`kill`] and [`remove`] wait for processes to exit.
const EXIT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a cgroup operation failed.
#[derive(Debug, Error)]
pub enum CgroupError {
    /// A file operation failed.
    #[error("cannot {operation} cgroup {}: {source}", path.display())]
    System {
        /// The operation that failed.
        operation: &'static str,
        /// Directory of the cgroup.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
    /// No cgroup2 is mounted.
    #[error("no cgroup2 file system is mounted: mount one (mount -t cgroup2 none DIRECTORY)")]
    NotMounted,
    /// Processes did not exit after SIGKILL.
    #[error("processes of cgroup {} did not end within {} s", path.display(), EXIT_TIMEOUT.as_secs())]
    Busy {
        /// Directory of the cgroup.
        path: PathBuf,
    },
}

/// The mount point of cgroup2: the first mount that shows the root of the hierarchy.
pub fn find_mount() -> Result<PathBuf, CgroupError> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")
        .map_err(failed("read the mount table for", Path::new("/proc/self/mountinfo")))?;
    find_in(&table).ok_or(CgroupError::NotMounted)
}

/// Mounts a cgroup2 file system on a directory, which is created if missing.
pub fn mount_at(path: &Path) -> Result<(), CgroupError> {
    use nix::mount::{MsFlags, mount};
    std::fs::create_dir_all(path).map_err(failed("create the mount point of", path))?;
    mount(Some("none"), path, Some("cgroup2"), MsFlags::empty(), None::<&str>)
        .map_err(|errno| failed("mount", path)(errno.into()))
}

/// Creates a cgroup and its missing parents. It is no error if it exists.
pub fn create(path: &Path) -> Result<(), CgroupError> {
    std::fs::create_dir_all(path).map_err(failed("create", path))
}

/// Moves a process with all its threads into the cgroup; 0 = the calling process.
pub fn add(path: &Path, pid: u32) -> Result<(), CgroupError> {
    std::fs::write(path.join("cgroup.procs"), pid.to_string()).map_err(failed("add a process to", path))
}

/// The processes in the cgroup and its descendants. Empty if it does not exist.
pub fn processes(path: &Path) -> Result<Vec<u32>, CgroupError> {
    let mut found = Vec::new();
    for cgroup in tree(path)? {
        let text = match std::fs::read_to_string(cgroup.join("cgroup.procs")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(failed("read the processes of", &cgroup))?,
        };
        found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
    }
    Ok(found)
}

/// Kills every process in the cgroup and its descendants with SIGKILL, and
/// waits until they have exited. It is no error if the cgroup does not exist.
/// Fails with [`CgroupError::Busy`] after 5 seconds.
pub fn kill(path: &Path) -> Result<(), CgroupError> {
    let deadline = Instant::now() + EXIT_TIMEOUT;
    loop {
        let left = processes(path)?;
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(CgroupError::Busy { path: path.to_owned() });
        }
        // cgroup.kill exists since Linux 5.14. Without it each process is
        // signalled, repeatedly until none is left.
        if std::fs::write(path.join("cgroup.kill"), "1").is_err() {
            signal_each(&left);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Kills the processes in the cgroup and removes it with its descendants. It
/// is no error if it does not exist.
pub fn remove(path: &Path) -> Result<(), CgroupError> {
    kill(path)?;
    let deadline = Instant::now() + EXIT_TIMEOUT;
    for cgroup in tree(path)?.into_iter().rev() {
        remove_one(&cgroup, deadline)?;
    }
    Ok(())
}

fn remove_one(cgroup: &Path, deadline: Instant) -> Result<(), CgroupError> {
    loop {
        match std::fs::remove_dir(cgroup) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // Zombies keep the cgroup busy until they are reaped.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(failed("remove", cgroup)(error)),
        }
    }
}

fn signal_each(pids: &[u32]) {
    use nix::sys::signal::{Signal, kill};
    for pid in pids {
        if let Ok(pid) = i32::try_from(*pid) {
            // The process may have exited already.
            let _ = kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// The cgroup and its descendants, parents first. Empty if it does not exist.
fn tree(path: &Path) -> Result<Vec<PathBuf>, CgroupError> {
    let mut found = Vec::new();
    let mut pending = vec![path.to_owned()];
    while let Some(directory) = pending.pop() {
        let entries = match std::fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(failed("list", &directory))?,
        };
        let below = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        pending.extend(below.map(|entry| entry.path()));
        found.push(directory);
    }
    Ok(found)
}

fn find_in(mountinfo: &str) -> Option<PathBuf> {
    let mut whole = mounts::parse(mountinfo).filter(|mount| mount.kind == "cgroup2" && mount.root == "/");
    whole.next().map(|mount| mount.target)
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    let path = path.to_owned();
    move |source| CgroupError::System { operation, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_the_mount_is_found_by_type_wherever_it_is() {
        let hybrid = "25 20 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                      26 25 0:23 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      36 25 0:33 /sub /part rw shared:9 - cgroup2 cgroup2 rw\n\
                      37 25 0:33 / /sys/fs/cg\\040two rw shared:9 master:1 - cgroup2 cgroup2 rw\n";
        assert_eq!(find_in(hybrid), Some(PathBuf::from("/sys/fs/cg two")));
        assert_eq!(find_in("25 20 0:22 / /x rw - tmpfs cgroup2 rw\n"), None);
    }
}
