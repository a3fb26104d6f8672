//! Names and addresses of the DNS server in the cluster.

use std::net::IpAddr;

use beeline_lab_net::address::service_addresses;

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
