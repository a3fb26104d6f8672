//! What the tests of this crate share: namespaces that are gone afterwards.
//! Every name holds the process id, so tests may run beside each other.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a failing test ends here")]

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use beeline_kernel::bpffs;
use beeline_kernel::netns::NetNs;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A path in the temporary directory that no other test has.
pub fn unique_path(word: &str) -> PathBuf {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("beeline-test-{}-{number}-{word}", std::process::id()))
}

/// A network namespace of the test, removed when dropped.
pub struct TestNetNs {
    netns: NetNs,
    path: PathBuf,
}

impl TestNetNs {
    /// Makes one.
    pub fn new(word: &str) -> TestNetNs {
        let path = unique_path(word);
        TestNetNs { netns: NetNs::create_bound(&path).unwrap(), path }
    }

    /// Where it is bound.
    pub fn path(&self) -> &PathBuf {
        &self.path
    }
}

impl Deref for TestNetNs {
    type Target = NetNs;

    fn deref(&self) -> &NetNs {
        &self.netns
    }
}

impl Drop for TestNetNs {
    fn drop(&mut self) {
        if let Err(error) = NetNs::remove_bound(&self.path) {
            eprintln!("left behind: {error}");
        }
    }
}

/// A bpffs of the test, gone with all its pins when dropped.
pub struct TestBpffs {
    path: PathBuf,
}

impl TestBpffs {
    /// Mounts one.
    pub fn new() -> TestBpffs {
        let path = unique_path("bpffs");
        bpffs::mount(&path).unwrap();
        TestBpffs { path }
    }
}

impl Deref for TestBpffs {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.path
    }
}

impl Drop for TestBpffs {
    fn drop(&mut self) {
        let unmounted = bpffs::unmount(&self.path).map_err(|error| error.to_string());
        if let Err(error) =
            unmounted.and_then(|()| std::fs::remove_dir(&self.path).map_err(|error| error.to_string()))
        {
            eprintln!("left behind: {}: {error}", self.path.display());
        }
    }
}
