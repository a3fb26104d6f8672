//! The cluster's DNS, as Kubernetes' DNS specification 1.1.0 has it.
//!
//! Reads top-down: `watch` keeps [`facts`] of the API's objects; a question
//! ([`question`]) is answered out of them ([`answer`]); `serve` speaks the
//! protocol. [`resolv_conf`] is the other end: what a pod is told about it.
//!
//! Where the specification leaves room, CoreDNS as kubeadm configures it is
//! followed, with two differences. Answers live for 5 s instead of 30, because
//! labs change. And there is no world outside the cluster: a name that is not
//! the cluster's does not exist (NXDOMAIN), at once, instead of being asked for
//! at a server that cannot be reached.

mod answer;
mod facts;
mod question;
pub mod resolv_conf;
mod serve;
#[cfg(test)]
mod tests;
mod watch;

pub use serve::{Sockets, serve};
pub use watch::{SharedFacts, watch};

use std::net::IpAddr;

use crate::address::service_addresses;

/// The cluster's domain.
pub const DOMAIN: &str = "cluster.local";

/// The namespace of the Service.
pub const NAMESPACE: &str = "kube-system";

/// The Service, as every cluster calls it.
pub const SERVICE: &str = "kube-dns";

/// The port of DNS.
pub const PORT: u16 = 53;

/// Which address of a range of Services is the DNS server's, as kubeadm has
/// it.
const TENTH: u32 = 10;

/// The cluster addresses of the Service, in the order in which they are asked.
pub fn addresses() -> Vec<IpAddr> {
    service_addresses(TENTH)
}
