//! Errors of netlink operations, with the object and the kernel's error text.

use std::io;

use thiserror::Error;

/// Why a netlink operation failed.
#[derive(Debug, Error)]
pub enum NetlinkError {
    /// A system call on the socket failed.
    #[error("netlink: cannot {operation}: {source}")]
    Socket {
        /// The operation that failed.
        operation: &'static str,
        /// The error of the system call.
        source: io::Error,
    },
    /// The kernel rejected the request.
    #[error("cannot {operation} {object}: {source}{}{detail}", if detail.is_empty() { "" } else { ": " })]
    Refused {
        /// Operation: `add`, `delete`, ...
        operation: &'static str,
        /// The object: `link eth0`, `route 10.0.0.0/8 via 10.1.0.1`, ...
        object: String,
        /// The error code of the kernel.
        source: io::Error,
        /// The text of the extended acknowledgement, or empty.
        detail: String,
    },
    /// The object does not exist.
    #[error("{object} does not exist")]
    Missing {
        /// The object.
        object: String,
    },
    /// The reply could not be parsed.
    #[error("cannot {operation} {object}: unexpected reply from the kernel")]
    UnexpectedReply {
        /// Operation.
        operation: &'static str,
        /// The object.
        object: String,
    },
}

impl NetlinkError {
    /// The errno, if the kernel returned one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            NetlinkError::Socket { source, .. } | NetlinkError::Refused { source, .. } => {
                source.raw_os_error()
            }
            NetlinkError::Missing { .. } => Some(libc::ENODEV),
            NetlinkError::UnexpectedReply { .. } => None,
        }
    }

    /// True if the object, or an object that it refers to, does not exist.
    pub fn is_missing(&self) -> bool {
        let errnos = [libc::ENODEV, libc::ENOENT, libc::ESRCH, libc::EADDRNOTAVAIL, libc::ENXIO];
        self.errno().is_some_and(|errno| errnos.contains(&errno))
    }

    /// True if the object already exists (`EEXIST`).
    pub fn is_exists(&self) -> bool {
        self.errno() == Some(libc::EEXIST)
    }
}

/// Turns an error about a missing object into success.
pub(crate) fn ignore_missing(result: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    match result {
        Err(error) if error.is_missing() => Ok(()),
        other => other,
    }
}
