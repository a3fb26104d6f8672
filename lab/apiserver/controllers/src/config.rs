//! Configuration of the controllers and of the objects that are created at start.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

/// A control plane component besides the API itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Component {
    /// The parts of kube-controller-manager that networking needs.
    ControllerManager,
    /// kube-scheduler.
    Scheduler,
    /// Deletion of custom resources with their definition, which kube-apiserver does itself.
    CustomResources,
    /// Addresses of Services of type LoadBalancer, as a cloud-controller-manager assigns them.
    LoadBalancers,
}

/// What the controllers know of the cluster.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// Service CIDRs, at most one per family. The family of the first is the primary family.
    pub service_cidrs: Vec<IpNet>,
    /// Pod CIDRs of the cluster, at most one per family. Each node gets a /24 (IPv4) or /64 (IPv6).
    pub pod_cidrs: Vec<IpNet>,
    /// Address pools for Services of type LoadBalancer, at most one per family. If empty, no
    /// addresses are assigned.
    pub load_balancer_cidrs: Vec<IpNet>,
    /// Addresses of the endpoints of the Service `kubernetes`.
    pub control_plane_addresses: Vec<IpAddr>,
    /// Port of the endpoints of the Service `kubernetes`; none leaves the Service without endpoints.
    pub control_plane_port: Option<u16>,
    /// Control plane components to run besides the API.
    pub components: BTreeSet<Component>,
}

impl Default for ClusterConfig {
    /// The default ranges of the lab.
    fn default() -> Self {
        let net = |text: &str| text.parse().expect("the default CIDRs are valid");
        Self {
            service_cidrs: vec![net("10.96.0.0/16"), net("fd00:10:96::/112")],
            pod_cidrs: vec![net("10.244.0.0/16"), net("fd00:10:244::/48")],
            load_balancer_cidrs: vec![net("172.30.0.224/28"), net("fd00:172:30::fe0/124")],
            control_plane_addresses: Vec::new(),
            control_plane_port: None,
            components: [
                Component::ControllerManager,
                Component::Scheduler,
                Component::CustomResources,
                Component::LoadBalancers,
            ]
            .into(),
        }
    }
}
