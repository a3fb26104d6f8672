//! Errors of the datapath, with the object, the likely cause and the next step.

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
    /// This binary was built without the eBPF object.
    #[error(
        "this binary was built without the eBPF programs: run `cargo xtask ebpf` and build again, or run `make build`, which does both"
    )]
    NoObject,
    /// The object does not match the layout of this binary.
    #[error(
        "the eBPF object does not match this binary: {0}; build both from the same source (`make build`)"
    )]
    Object(String),
    /// The directory for pins is not on a bpffs.
    #[error(
        "{} is not on a BPF file system (bpffs), so nothing can be pinned there: mount one with `mount -t bpf bpf {0}`",
        path.display()
    )]
    NotBpffs {
        /// The directory.
        path: PathBuf,
    },
    /// A bpffs could not be examined or mounted.
    #[error(transparent)]
    Bpffs(#[from] BpffsError),
    /// A system call failed.
    #[error("cannot {operation} {object}: {source}{}", hint(source))]
    System {
        /// The operation that failed.
        operation: &'static str,
        /// The object of the operation.
        object: String,
        /// The error of the system call.
        source: io::Error,
    },
    /// A pinned table has another definition than the programs expect.
    #[error(
        "the table pinned at {} is {found}, but must be {expected}: another program may have pinned it. Drain the \
         node, remove the pin and restart the agent",
        path.display()
    )]
    MapMismatch {
        /// Path of the pin.
        path: PathBuf,
        /// Definition of the pinned map.
        found: MapDefinition,
        /// Definition that the programs expect.
        expected: MapDefinition,
    },
    /// The configuration table has another ABI version than its directory.
    #[error(
        "the tables pinned in {} have layout {found}, but the directory is for layout {expected}: drain the node, \
         remove the directory and restart the agent",
        path.display()
    )]
    Version {
        /// The directory of the layout.
        path: PathBuf,
        /// ABI version in the configuration table.
        found: u32,
        /// ABI version in the name of the directory.
        expected: u32,
    },
    /// No tables of this layout are pinned.
    #[error("no datapath of layout {expected} is pinned in {}{}", path.display(), other_layouts(others))]
    NotPinned {
        /// The bpffs directory.
        path: PathBuf,
        /// The layout that this binary reads.
        expected: u32,
        /// The layouts that are pinned.
        others: Vec<u32>,
    },
    /// The kernel rejected a program or map, or aya could not prepare it.
    #[error("cannot load {object}: {message}")]
    Load {
        /// `the eBPF object`, `program from_pod`.
        object: String,
        /// The error text, with the end of the verifier log.
        message: String,
    },
    /// A table operation failed.
    #[error(transparent)]
    Table(#[from] TableError),
    /// A device, qdisc or filter could not be read or changed.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The datapath has no program of this name.
    #[error("there is no program {0} in the datapath")]
    NoProgram(String),
}

/// Adds the operation and the object to the error of a system call, for `map_err`.
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
