//! A multi-node cluster out of network namespaces on one machine.
//!
//! One process per lab, the daemon ([`daemon`]), serves the Kubernetes API,
//! keeps an agent running on each node, and makes the pods. The verbs
//! ([`verbs`]) are short: they ask the daemon ([`protocol`]), or enter a
//! namespace and become a command ([`enter`]). What a lab makes is below one
//! directory ([`paths`]), in one cgroup and in namespaces of its own, so that
//! [`down`] finds it without the daemon's help.

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

/// The lab that is meant when nobody says which.
pub const DEFAULT_NAME: &str = "default";
