//! A multi-node Kubernetes cluster in network namespaces on one host.
//!
//! Each lab has one daemon process ([`daemon`]), which serves the Kubernetes
//! API, keeps an agent running on each node, and runs the pods. The verbs
//! ([`verbs`]) are short-lived: they send requests to the daemon
//! ([`protocol`]), or enter a namespace and execute a command
//! ([`beeline_lab_net::enter`]). Everything that a lab creates is below one
//! directory, in one cgroup and in its own namespaces ([`beeline_lab_net`]), so
//! that [`down`] can remove it without the daemon. Pods are run by
//! [`beeline_lab_kubelet`], names resolved by [`beeline_lab_dns`].

pub mod daemon;
pub mod down;
pub mod echo;
pub mod harness;
mod logs;
pub mod manifests;
pub mod protocol;
mod round_trip;
mod show;
mod standalone;
mod up;
pub mod verbs;
