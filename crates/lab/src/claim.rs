//! A lab's folder: whoever makes it owns the name. The lock on it keeps `up`
//! and `down` of one lab apart while `up` has not yet a daemon to be found.

use std::fs::{DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};

use crate::paths::{LabName, LabPaths, ROOT};
use crate::programs::typed;
use crate::record::{LabRecord, Shape};

/// How often the folder above all labs is made anew: another lab's `down` may
/// remove it just then.
const ATTEMPTS: usize = 10;

/// A lab's folder, locked.
pub type Claim = Flock<File>;

/// Makes the folder of a new lab and locks it.
pub fn new(name: &LabName, shape: &Shape) -> Result<Claim> {
    let paths = LabPaths::new(name);
    for _ in 0..ATTEMPTS {
        make(Path::new(ROOT), 0o755).or_else(|error| match error.kind() {
            ErrorKind::AlreadyExists => Ok(()),
            _ => Err(error).with_context(|| format!("cannot make the folder {ROOT}")),
        })?;
        match make(paths.root(), 0o700) {
            Ok(()) => {
                return lock(paths.root())?.context("the lab's folder has gone again: somebody ran down");
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => bail!("{}", taken(name, &paths, shape)),
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("cannot make the folder {}", paths.root().display()));
            }
        }
    }
    bail!("cannot make the folder {}: {ROOT} is removed again and again", paths.root().display())
}

/// Locks a lab's folder, waiting for whoever has it; none if there is none.
pub fn lock(folder: &Path) -> Result<Option<Claim>> {
    let file = match File::open(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened.with_context(|| format!("cannot open {}", folder.display()))?,
    };
    match Flock::lock(file, FlockArg::LockExclusive) {
        Ok(claim) => Ok(Some(claim)),
        Err((_, errno)) => Err(errno).with_context(|| format!("cannot lock {}", folder.display())),
    }
}

fn make(folder: &Path, mode: u32) -> std::io::Result<()> {
    DirBuilder::new().mode(mode).create(folder)
}

fn taken(name: &LabName, paths: &LabPaths, wanted: &Shape) -> String {
    let remove = typed("down", name);
    match LabRecord::read(paths) {
        Ok(Some(record)) if record.daemon.alive() => {
            let mut words = format!("the lab {name} exists already (nodes: {})", record.shape.nodes);
            for difference in record.shape.differences(wanted) {
                words.push_str(&format!("; {difference}"));
            }
            format!("{words}. Use it as it is, remove it with: {remove}, or choose another --name")
        }
        Ok(Some(_)) => {
            format!("the lab {name} has lost its daemon; remove what is left of it with: {remove}")
        }
        _ => format!("the lab {name} is being made, or was left half made; remove it with: {remove}"),
    }
}
