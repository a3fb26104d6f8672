//! What `healthCheckNodePort`s answer: how many endpoints this node has.

use std::collections::HashSet;

use beeline_abi::Ip;
use beeline_model::{ObjectName, Service, ServiceType};

use crate::endpoint_selection::ServiceEndpoint;

/// A Service whose load balancer asks the nodes which of them have endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The Service.
    pub service: ObjectName,
    /// `healthCheckNodePort`.
    pub port: u16,
    /// Ready endpoints on this node; those that terminate do not count.
    pub local_endpoints: u32,
}

/// Only load balancers with `externalTrafficPolicy: Local` ask.
pub(crate) fn port(service: &Service) -> Option<u16> {
    let is_checked =
        service.service_type == ServiceType::LoadBalancer && service.external_local && !service.foreign;
    (is_checked && service.health_check_node_port != 0).then_some(service.health_check_node_port)
}

/// Counts endpoints once, however many ports they serve and in whichever
/// family they have more addresses.
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
