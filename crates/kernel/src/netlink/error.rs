//! What can go wrong, with the object at hand and the kernel's own words.

use std::io;

use thiserror::Error;

/// Why a netlink operation failed.
#[derive(Debug, Error)]
pub enum NetlinkError {
    /// The socket itself failed.
    #[error("netlink: cannot {operation}: {source}")]
    Socket {
        /// What was tried.
        operation: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refused the operation.
    #[error("cannot {operation} {object}: {source}{}{detail}", if detail.is_empty() { "" } else { ": " })]
    Refused {
        /// Operation: `add`, `delete`, ...
        operation: &'static str,
        /// The object: `link eth0`, `route 10.0.0.0/8 via 10.1.0.1`, ...
        object: String,
        /// What the kernel said.
        source: io::Error,
        /// Its extended words, or nothing.
        detail: String,
    },
    /// There is no such object.
    #[error("{object} does not exist")]
    Missing {
        /// The object.
        object: String,
    },
    /// The answer was not understood.
    #[error("cannot {operation} {object}: unexpected reply from the kernel")]
    UnexpectedReply {
        /// Operation.
        operation: &'static str,
        /// The object.
        object: String,
    },
}

impl NetlinkError {
    /// The error number, if the kernel gave one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            NetlinkError::Socket { source, .. } | NetlinkError::Refused { source, .. } => {
                source.raw_os_error()
            }
            NetlinkError::Missing { .. } => Some(libc::ENODEV),
            NetlinkError::UnexpectedReply { .. } => None,
        }
    }

    /// The object, or what it refers to, is not there.
    pub fn is_missing(&self) -> bool {
        let errnos = [libc::ENODEV, libc::ENOENT, libc::ESRCH, libc::EADDRNOTAVAIL, libc::ENXIO];
        self.errno().is_some_and(|errno| errnos.contains(&errno))
    }

    /// The object is there already.
    pub fn is_exists(&self) -> bool {
        self.errno() == Some(libc::EEXIST)
    }
}

/// Makes an error about a missing object a success.
pub(crate) fn ignore_missing(result: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    match result {
        Err(error) if error.is_missing() => Ok(()),
        other => other,
    }
}
