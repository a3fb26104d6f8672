//! The files, namespaces, links and processes of a lab.
//!
//! Everything that a lab creates is below one directory ([`paths`]), in one
//! cgroup ([`cgroup`]) and in its own namespaces. The network is built by
//! [`topology`] with the [`address`] plan, and changed by [`link`]. Processes
//! start in namespaces ([`spawn`]) or enter them ([`enter`]). [`record`] is
//! what the verbs read without the daemon, [`leaks`] what must be gone after
//! `down`.

pub mod address;
pub mod cgroup;
pub mod enter;
pub mod leaks;
pub mod link;
pub mod lock;
pub mod log_tail;
pub mod mount_namespace;
pub mod mounts;
pub mod netdev;
pub mod paths;
pub mod process;
pub mod programs;
pub mod record;
pub mod spawn;
pub mod topology;
