//! What can go wrong with the datapath, with the object and the next step.

use std::io;
use std::path::PathBuf;

use beeline_sync::TableError;
use thiserror::Error;

use super::maps::MapDefinition;
use crate::bpffs::BpffsError;
use crate::netlink::NetlinkError;

/// Why the datapath could not be opened, changed or read.
#[derive(Debug, Error)]
pub enum DatapathError {
    /// This binary was built without the programs.
    #[error(
        "this binary was built without the eBPF programs: run `cargo xtask ebpf` and build again, or run `make build`, which does both"
    )]
    NoObject,
    /// The object is not what this binary expects.
    #[error(
        "the eBPF object does not match this binary: {0}; build both from the same source (`make build`)"
    )]
    Object(String),
    /// The directory for pins is on another file system.
    #[error(
        "{} is not on a BPF file system (bpffs), so nothing can be pinned there: mount one with `mount -t bpf bpf {0}`",
        path.display()
    )]
    NotBpffs {
        /// The directory.
        path: PathBuf,
    },
    /// A mount point could not be examined.
    #[error(transparent)]
    Bpffs(#[from] BpffsError),
    /// A system call on an object failed.
    #[error("cannot {operation} {object}: {source}{}", hint(source))]
    System {
        /// What was tried.
        operation: &'static str,
        /// On what.
        object: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A pinned table is not what its programs expect.
    #[error(
        "the table pinned at {} is {found}, but must be {expected}: another program may have pinned it. Drain the \
         node, remove the pin and restart the agent",
        path.display()
    )]
    MapMismatch {
        /// Where.
        path: PathBuf,
        /// What is there.
        found: MapDefinition,
        /// What should be.
        expected: MapDefinition,
    },
    /// The configuration in the tables says another version.
    #[error(
        "the tables pinned in {} have layout {found}, but the directory is for layout {expected}: drain the node, \
         remove the directory and restart the agent",
        path.display()
    )]
    Version {
        /// The directory.
        path: PathBuf,
        /// What the configuration says.
        found: u32,
        /// What the directory's name says.
        expected: u32,
    },
    /// Nothing of this layout is pinned.
    #[error("no datapath of layout {expected} is pinned in {}{}", path.display(), other_layouts(others))]
    NotPinned {
        /// The bpffs directory.
        path: PathBuf,
        /// The layout that this binary reads.
        expected: u32,
        /// The layouts that are there.
        others: Vec<u32>,
    },
    /// The kernel refused a program, or aya could not prepare it.
    #[error("cannot load {object}: {message}")]
    Load {
        /// `the eBPF object`, `program from_pod`.
        object: String,
        /// The kernel's words, the end of the verifier's log included.
        message: String,
    },
    /// A table refused.
    #[error(transparent)]
    Table(#[from] TableError),
    /// A device, qdisc or filter could not be read or changed.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// There is no such program.
    #[error("there is no program {0} in the datapath")]
    NoProgram(String),
}

/// For `map_err`: an error of a system call with its object.
pub(crate) fn failed(
    operation: &'static str,
    object: impl Into<String>,
) -> impl FnOnce(io::Error) -> DatapathError {
    let object = object.into();
    move |source| DatapathError::System { operation, object, source }
}

fn hint(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EPERM) => " (CAP_BPF and CAP_NET_ADMIN are required)",
        Some(libc::ENODEV) => " (the device was deleted, or is in another network namespace)",
        _ => "",
    }
}

fn other_layouts(others: &[u32]) -> String {
    match others {
        [] => ": is an agent with this --bpffs running?".into(),
        some => format!(" (found layout {some:?}): use the binaries of that release"),
    }
}
