//! Cluster DNS according to the Kubernetes DNS specification 1.1.0.
//!
//! Module order: `watch` keeps the [`facts`] in sync with the API server; a
//! query is parsed ([`question`]) and answered ([`answer`]); `serve`
//! implements the protocol. [`resolv_conf`] is the resolver configuration of
//! pods.
//!
//! Where the specification leaves a choice, the behaviour is that of CoreDNS
//! as configured by kubeadm, with two differences: the TTL is 5 s instead of
//! 30 s, and there is no upstream server. Names outside the cluster get
//! NXDOMAIN.

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

/// Namespace of the Service.
pub const NAMESPACE: &str = "kube-system";

/// Name of the Service, as in every cluster.
pub const SERVICE: &str = "kube-dns";

/// The port of DNS.
pub const PORT: u16 = 53;

/// Index of the DNS server's address in the Service CIDR, as kubeadm assigns
/// it.
const TENTH: u32 = 10;

/// The cluster IPs of the Service, in the order of resolv.conf.
pub fn addresses() -> Vec<IpAddr> {
    service_addresses(TENTH)
}
