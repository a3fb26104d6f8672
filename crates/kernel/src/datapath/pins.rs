//! Paths of the pins.
//!
//! ```text
//! BPFFS/v1/ADDRESS ...            tables of layout 1
//! BPFFS/v1/programs/from_pod ...  the programs that use them
//! BPFFS/v1/fingerprint -> 3b0c... hash of the object and the tables (a dangling symbolic link)
//! BPFFS/links/from_pod-17         link of a program to the device with index 17
//! BPFFS/links/connect4            link of a socket hook to the cgroup
//! BPFFS/current -> v1             the layout that the links use
//! ```
//!
//! Names on a bpffs must not contain a dot. Links do not depend on the layout:
//! they are kept and updated to the programs of another one.

use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use super::bpf;
use super::error::{DatapathError, failed};
use crate::bpffs;

const CURRENT: &str = "current";
const LINKS: &str = "links";
const PROGRAMS: &str = "programs";
const FINGERPRINT: &str = "fingerprint";
/// Suffix of a new pin until it is renamed over the old one.
const NEXT: &str = "_next";

/// The paths of one layout.
#[derive(Clone, Debug)]
pub(crate) struct Pins {
    root: PathBuf,
    version: u32,
}

impl Pins {
    /// Does not access the file system.
    pub(crate) fn new(root: &Path, version: u32) -> Pins {
        Pins { root: root.to_owned(), version }
    }

    /// Creates the missing directories.
    pub(crate) fn create(&self) -> Result<(), DatapathError> {
        make_directory(&self.root)?;
        if !bpffs::is_bpffs(&self.root)? {
            return Err(DatapathError::NotBpffs { path: self.root.clone() });
        }
        for directory in [self.directory(), self.directory().join(PROGRAMS), self.links()] {
            make_directory(&directory)?;
        }
        Ok(())
    }

    /// The paths of another layout on the same bpffs.
    pub(crate) fn of_version(&self, version: u32) -> Pins {
        Pins { root: self.root.clone(), version }
    }

    pub(crate) fn version(&self) -> u32 {
        self.version
    }

    pub(crate) fn directory(&self) -> PathBuf {
        self.root.join(format!("v{}", self.version))
    }

    pub(crate) fn table(&self, name: &str) -> PathBuf {
        self.directory().join(name)
    }

    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.directory().join(PROGRAMS).join(name)
    }

    pub(crate) fn links(&self) -> PathBuf {
        self.root.join(LINKS)
    }

    pub(crate) fn link(&self, program: &str, ifindex: u32) -> PathBuf {
        self.links().join(format!("{program}-{ifindex}"))
    }

    /// The link of a socket hook.
    pub(crate) fn socket_link(&self, program: &str) -> PathBuf {
        self.links().join(program)
    }

    /// The pinned links to devices: program and device index.
    pub(crate) fn pinned_links(&self) -> Result<Vec<(String, u32)>, DatapathError> {
        let names = names(&self.links())?;
        let parse = |name: &String| {
            let (program, ifindex) = name.rsplit_once('-')?;
            Some((program.to_owned(), ifindex.parse().ok()?))
        };
        Ok(names.iter().filter_map(parse).collect())
    }

    /// The layouts that have a directory, sorted.
    pub(crate) fn versions(&self) -> Result<Vec<u32>, DatapathError> {
        let names = names(&self.root)?;
        let mut versions: Vec<u32> =
            names.iter().filter_map(|name| name.strip_prefix('v')?.parse().ok()).collect();
        versions.sort_unstable();
        Ok(versions)
    }

    /// The fingerprint of the pinned programs.
    pub(crate) fn fingerprint(&self) -> Option<String> {
        fs::read_link(self.directory().join(FINGERPRINT)).ok()?.into_os_string().into_string().ok()
    }

    /// Sets the fingerprint of the pinned programs; none while they are replaced.
    pub(crate) fn set_fingerprint(&self, fingerprint: Option<&str>) -> Result<(), DatapathError> {
        let path = self.directory().join(FINGERPRINT);
        match fingerprint {
            None => unpin(&path),
            Some(text) => replace(&path, |next| symlink(text, next))
                .map_err(failed("write", path.display().to_string())),
        }
    }

    /// The layout that the links use, if its directory exists.
    pub(crate) fn current(&self) -> Option<u32> {
        let target = fs::read_link(self.root.join(CURRENT)).ok()?;
        let version = target.to_str()?.strip_prefix('v')?.parse().ok()?;
        self.of_version(version).directory().is_dir().then_some(version)
    }

    /// Records that the links use this layout.
    pub(crate) fn set_current(&self) -> Result<(), DatapathError> {
        let path = self.root.join(CURRENT);
        replace(&path, |next| symlink(format!("v{}", self.version), next))
            .map_err(failed("write", path.display().to_string()))
    }

    /// Removes the directory of this layout and all pins in it.
    pub(crate) fn remove_directory(&self) -> Result<(), DatapathError> {
        let directory = self.directory();
        fs::remove_dir_all(&directory).map_err(failed("remove", directory.display().to_string()))
    }
}

/// Pins an object, atomically replacing an existing pin.
pub(crate) fn pin_over(object: BorrowedFd<'_>, path: &Path) -> Result<(), DatapathError> {
    replace(path, |next| bpf::pin(object, next)).map_err(failed("pin", path.display().to_string()))
}

/// Removes a pin. It is no error if there is none.
pub(crate) fn unpin(path: &Path) -> Result<(), DatapathError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed("remove the pin", path.display().to_string())(error))
        }
        _ => Ok(()),
    }
}

fn replace(path: &Path, make: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let mut next = path.as_os_str().to_owned();
    next.push(NEXT);
    let next = PathBuf::from(next);
    // Left by a process that was stopped between the two steps.
    match fs::remove_file(&next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    make(&next)?;
    fs::rename(&next, path)
}

fn make_directory(path: &Path) -> Result<(), DatapathError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(failed("create the directory", path.display().to_string()))
}

/// The names in a directory; empty if the directory does not exist.
fn names(directory: &Path) -> Result<Vec<String>, DatapathError> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed("list", directory.display().to_string()))?,
    };
    Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
}
