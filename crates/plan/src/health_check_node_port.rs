//! `healthCheckNodePort`: the number of ready endpoints on this node.

use std::collections::HashSet;

use beeline_abi::Ip;
use beeline_model::{ObjectName, Service, ServiceType};

use crate::endpoint_selection::ServiceEndpoint;

/// The health check of a Service, with which load balancers find the nodes that
/// have endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The Service.
    pub service: ObjectName,
    /// `healthCheckNodePort`.
    pub port: u16,
    /// Ready endpoints on this node, without terminating ones.
    pub local_endpoints: u32,
}

/// Used for type LoadBalancer with `externalTrafficPolicy: Local` only.
pub(crate) fn port(service: &Service) -> Option<u16> {
    let is_checked =
        service.service_type == ServiceType::LoadBalancer && service.external_local && !service.foreign;
    (is_checked && service.health_check_node_port != 0).then_some(service.health_check_node_port)
}

/// Counts each endpoint once, regardless of its number of ports. For dual-stack
/// Services the family with more addresses counts.
#[derive(Debug, Default)]
pub(crate) struct LocalEndpoints {
    ips: HashSet<Ip>,
}

impl LocalEndpoints {
    pub(crate) fn add(&mut self, endpoints: &[ServiceEndpoint], node: &str) {
        let local =
            endpoints.iter().filter(|endpoint| endpoint.ready && endpoint.node.as_deref() == Some(node));
        self.ips.extend(local.map(|endpoint| endpoint.ip));
    }

    pub(crate) fn total(&self) -> u32 {
        let ipv4 = self.ips.iter().filter(|ip| ip.is_v4()).count();
        ipv4.max(self.ips.len() - ipv4) as u32
    }
}
