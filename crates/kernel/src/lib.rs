//! The only room that makes networking system calls.
//!
//! Blocking throughout: a caller that must not wait uses a thread. Modules
//! are named after what they touch.

pub mod bpffs;
pub mod cgroup;
pub mod datapath;
pub mod kube_proxy;
pub mod loss;
pub mod mounts;
pub mod netlink;
pub mod netns;
pub mod sysctl;
