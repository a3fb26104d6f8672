//! The only crate that makes networking system calls: eBPF, netlink, network
//! namespaces, sysctl, cgroups and mounts.
//!
//! All functions block. A caller that must not block uses a thread.

pub mod bpffs;
pub mod cgroup;
pub mod datapath;
pub mod kube_proxy;
pub mod mounts;
pub mod netlink;
pub mod netns;
pub mod packet_loss;
pub mod sysctl;
