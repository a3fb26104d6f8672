//! Configuration of a server, and why it does not start.

use std::collections::BTreeSet;
use std::net::IpAddr;

use beeline_apiserver_controllers::{BootstrapError, ClusterConfig, Component};
use beeline_apiserver_objects::ApiError;
use beeline_apiserver_protocol::{Certificate, LogSource};
use ipnet::IpNet;

/// Configuration of a server.
#[derive(Clone, Debug)]
pub struct Config {
    /// Service CIDRs, at most one per family. The family of the first is the primary family.
    pub service_cidrs: Vec<IpNet>,
    /// Pod CIDRs of the cluster, at most one per family. Each node gets a /24 (IPv4) or /64 (IPv6).
    pub pod_cidrs: Vec<IpNet>,
    /// Address pools for Services of type LoadBalancer, at most one per family. If empty, no
    /// addresses are assigned.
    pub load_balancer_cidrs: Vec<IpNet>,
    /// Addresses of the control plane, for the certificate and (with a port) the endpoints of the
    /// Service `kubernetes`.
    pub control_plane_addresses: Vec<IpAddr>,
    /// Port of the endpoints of the Service `kubernetes`; none leaves the Service without endpoints.
    pub control_plane_port: Option<u16>,
    /// Bearer token of the administrator; none generates one.
    pub token: Option<String>,
    /// Control plane components to run besides the API.
    pub components: BTreeSet<Component>,
    /// The certificate; none generates one.
    pub certificate: Option<Certificate>,
    /// Maximum number of changes kept per kind; a watch further behind gets 410 Gone.
    pub log_max: usize,
    /// Source of pod logs.
    pub pod_logs: Option<LogSource>,
}

impl Default for Config {
    /// The default ranges of the lab.
    fn default() -> Self {
        let cluster = ClusterConfig::default();
        Self {
            service_cidrs: cluster.service_cidrs,
            pod_cidrs: cluster.pod_cidrs,
            load_balancer_cidrs: cluster.load_balancer_cidrs,
            control_plane_addresses: cluster.control_plane_addresses,
            control_plane_port: cluster.control_plane_port,
            token: None,
            components: cluster.components,
            certificate: None,
            log_max: 32_768,
            pod_logs: None,
        }
    }
}

impl Config {
    /// The part that the controllers need.
    pub fn cluster(&self) -> ClusterConfig {
        ClusterConfig {
            service_cidrs: self.service_cidrs.clone(),
            pod_cidrs: self.pod_cidrs.clone(),
            load_balancer_cidrs: self.load_balancer_cidrs.clone(),
            control_plane_addresses: self.control_plane_addresses.clone(),
            control_plane_port: self.control_plane_port,
            components: self.components.clone(),
        }
    }
}

/// Why a server failed to start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The certificate could not be generated.
    #[error("the API server cannot generate its certificate: {0}")]
    Certificate(String),
    /// The service account signing key could not be generated.
    #[error("the API server cannot generate its service account signing key: {0}")]
    Signer(String),
    /// A bootstrap object was refused.
    #[error("the API server cannot create {what}: {cause}")]
    BootstrapObject {
        /// The object.
        what: String,
        /// The error.
        cause: ApiError,
    },
    /// A listener could not be used.
    #[error("cannot serve the listener on {address}: {cause}")]
    Listener {
        /// Its address.
        address: String,
        /// The error.
        cause: std::io::Error,
    },
}

impl From<BootstrapError> for StartError {
    fn from(BootstrapError { what, cause }: BootstrapError) -> Self {
        Self::BootstrapObject { what, cause }
    }
}
