//! The parts of kube-controller-manager and kube-scheduler that networking needs, and the objects that
//! exist from the start.

mod bootstrap;
mod config;
mod controller;
mod custom_resource;
mod daemon_set;
mod deployment;
mod endpoint_slice;
mod endpoints;
mod events;
mod garbage;
mod load_balancer;
mod namespace;
mod node;
mod pods;
mod queue;
mod replica_set;
mod roles;
mod scheduler;

pub use bootstrap::{BootstrapError, bootstrap, first_addresses};
pub use config::{ClusterConfig, Component};
pub use queue::Controllers;
