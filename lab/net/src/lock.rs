//! A lab's directory: creating it reserves the name. A lock on it serializes
//! `up` and `down` of a lab while `up` has no daemon yet.

use std::fs::{DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};

use crate::paths::{LabName, LabPaths, ROOT};
use crate::programs::typed;
use crate::record::{LabRecord, LabSpec};

/// Number of attempts to create the parent directory, which the `down` of
/// another lab may remove at the same time.
const ATTEMPTS: usize = 10;

/// The locked directory of a lab.
pub type LabLock = Flock<File>;

/// Creates and locks the directory of a new lab.
pub fn create(name: &LabName, shape: &LabSpec) -> Result<LabLock> {
    let paths = LabPaths::new(name);
    for _ in 0..ATTEMPTS {
        make(Path::new(ROOT), 0o755).or_else(|error| match error.kind() {
            ErrorKind::AlreadyExists => Ok(()),
            _ => Err(error).with_context(|| format!("cannot create the directory {ROOT}")),
        })?;
        match make(paths.root(), 0o700) {
            Ok(()) => {
                return acquire(paths.root())?
                    .context("the lab's directory was removed by a concurrent `down`");
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                bail!("{}", already_exists(name, &paths, shape))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("cannot create the directory {}", paths.root().display()));
            }
        }
    }
    bail!("cannot create the directory {}: {ROOT} keeps being removed", paths.root().display())
}

/// Locks a lab's directory, waiting for the current holder; none if it does
/// not exist.
pub fn acquire(directory: &Path) -> Result<Option<LabLock>> {
    let file = match File::open(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened.with_context(|| format!("cannot open {}", directory.display()))?,
    };
    match Flock::lock(file, FlockArg::LockExclusive) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, errno)) => Err(errno).with_context(|| format!("cannot lock {}", directory.display())),
    }
}

fn make(directory: &Path, mode: u32) -> std::io::Result<()> {
    DirBuilder::new().mode(mode).create(directory)
}

fn already_exists(name: &LabName, paths: &LabPaths, wanted: &LabSpec) -> String {
    let remove = typed("down", name);
    match LabRecord::read(paths) {
        Ok(Some(record)) if record.daemon.alive() => {
            let mut words = format!("lab {name} already exists (nodes: {})", record.shape.nodes);
            for difference in record.shape.differences(wanted) {
                words.push_str(&format!("; {difference}"));
            }
            format!("{words}. Use it, remove it with: {remove}, or choose another --name")
        }
        Ok(Some(_)) => {
            format!("the daemon of lab {name} is not running; remove the lab with: {remove}")
        }
        _ => {
            format!("lab {name} is being created, or its creation was interrupted; remove it with: {remove}")
        }
    }
}
