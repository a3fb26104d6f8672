//! Serialises the calls for a container, with flock(2) on a file that is removed
//! when the call ends.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};

use crate::error::{CniError, Code};

/// How long a call waits for another call for the same container.
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);

/// The lock of a container, released on drop.
#[derive(Debug)]
pub struct ContainerLock {
    path: PathBuf,
    _file: Flock<File>,
}

impl ContainerLock {
    /// Waits for the lock of a container. The lock file is in the directory
    /// `locks` next to the socket of the agent.
    pub fn acquire(socket: &Path, container_id: &str) -> Result<ContainerLock, CniError> {
        let directory = socket.parent().unwrap_or(Path::new("/")).join("locks");
        fs::create_dir_all(&directory).map_err(|error| failed(&directory, error))?;
        acquire_within(&directory.join(container_id), LOCK_TIMEOUT)
    }
}

impl Drop for ContainerLock {
    fn drop(&mut self) {
        // The file is removed while it is locked. A waiting call then sees that
        // the path no longer refers to the file it locked, and tries again.
        let _ = fs::remove_file(&self.path);
    }
}

fn acquire_within(path: &Path, timeout: Duration) -> Result<ContainerLock, CniError> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(lock) = try_acquire(path).map_err(|error| failed(path, error))? {
            return Ok(lock);
        }
        if Instant::now() >= deadline {
            let message =
                format!("another CNI call for this container still holds the lock {}", path.display());
            return Err(CniError::new(Code::TryAgain, message).with_details(format!(
                "waited {} s; look for a beeline-cni process that hangs",
                timeout.as_secs()
            )));
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn try_acquire(path: &Path) -> std::io::Result<Option<ContainerLock>> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(file) => file,
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => return Ok(None),
        Err((_, error)) => return Err(error.into()),
    };
    let locked = file.metadata()?;
    let current = fs::metadata(path)
        .is_ok_and(|at_path| at_path.ino() == locked.ino() && at_path.dev() == locked.dev());
    Ok(current.then(|| ContainerLock { path: path.to_owned(), _file: file }))
}

fn failed(path: &Path, error: std::io::Error) -> CniError {
    CniError::new(Code::InputOutput, format!("cannot take the lock {}: {error}", path.display()))
        .with_details("check that the directory of the agent's socket is writable by root")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn unit_only_one_caller_holds_the_lock_and_the_file_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("agent.sock");
        let inside = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let _lock = ContainerLock::acquire(&socket, "c1").unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        thread::sleep(Duration::from_micros(100));
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(directory.path().join("locks")).unwrap().count(), 0);
    }

    #[test]
    fn unit_a_held_lock_is_try_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c1");
        let _held = acquire_within(&path, Duration::ZERO).unwrap();
        assert_eq!(acquire_within(&path, Duration::from_millis(20)).unwrap_err().code, Code::TryAgain);
    }
}
