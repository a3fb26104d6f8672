//! A multi-node cluster out of network namespaces on one machine.
//!
//! One process per lab, the daemon ([`daemon`]), serves the Kubernetes API,
//! keeps an agent running on each node, and makes the pods. The verbs
//! ([`verbs`]) are short: they ask the daemon ([`protocol`]), or enter a
//! namespace and become a command ([`enter`]). What a lab makes is below one
//! folder ([`paths`]), in one cgroup and in namespaces of its own, so that
//! [`down`] finds it without the daemon's help.

pub mod address;
pub mod cgroup;
mod claim;
pub mod daemon;
pub mod dns;
pub mod down;
pub mod echo;
pub mod enter;
pub mod harness;
pub mod leaks;
pub mod link;
pub mod log;
mod logs;
pub mod manifests;
pub mod mounts;
pub mod paths;
pub mod process;
mod programs;
pub mod protocol;
pub mod record;
mod round_trip;
mod show;
pub mod space;
mod spawn;
mod standalone;
mod tail;
mod topology;
mod up;
pub mod verbs;
mod wire;

/// The lab that is meant when nobody says which.
pub const DEFAULT_NAME: &str = "default";
