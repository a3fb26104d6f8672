//! A multi-node Kubernetes cluster in network namespaces on one host.
//!
//! Each lab has one daemon process ([`daemon`]), which serves the Kubernetes
//! API, keeps an agent running on each node, and runs the pods. The verbs
//! ([`verbs`]) are short-lived: they send requests to the daemon
//! ([`protocol`]), or enter a namespace and execute a command ([`enter`]).
//! Everything that a lab creates is below one directory ([`paths`]), in one
//! cgroup and in its own namespaces, so that [`down`] can remove it without
//! the daemon.

pub mod address;
pub mod cgroup;
pub mod cri_log;
pub mod daemon;
pub mod dns;
pub mod down;
pub mod echo;
pub mod enter;
pub mod harness;
pub mod leaks;
pub mod link;
mod lock;
mod log_tail;
mod logs;
pub mod manifests;
pub mod mount_namespace;
pub mod mounts;
mod netdev;
pub mod paths;
pub mod process;
mod programs;
pub mod protocol;
pub mod record;
mod round_trip;
mod show;
mod spawn;
mod standalone;
mod topology;
mod up;
pub mod verbs;

/// The default name of a lab.
pub const DEFAULT_NAME: &str = "default";
