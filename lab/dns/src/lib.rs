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
mod names;
mod question;
pub mod resolv_conf;
mod serve;
#[cfg(test)]
mod tests;
mod watch;

pub use names::{DOMAIN, NAMESPACE, PORT, SERVICE, addresses};
pub use serve::{Sockets, serve};
pub use watch::{SharedFacts, watch};
