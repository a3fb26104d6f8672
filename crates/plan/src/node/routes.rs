//! Plans the native routes to other nodes: one for each PodCIDR of each node
//! that is on link.

use std::net::IpAddr;

use beeline_model::{Node, Reason};
use ipnet::IpNet;

use super::{Nodes, usable_ips};
use crate::problems::ProblemDetail;

/// A native route to the pods of another node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// A PodCIDR of the other node.
    pub prefix: IpNet,
    /// The other node's address of the same family, on one of this node's
    /// subnets.
    pub next_hop: IpAddr,
    /// Name of the other node.
    pub node: String,
}

impl Nodes {
    pub(crate) fn routes(&self) -> Vec<Route> {
        let mut routes: Vec<Route> = self
            .specs()
            .filter(|node| node.name != self.config.node_name)
            .flat_map(|node| {
                self.active_cidrs(node).into_iter().filter_map(|prefix| {
                    let next_hop = self.next_hop(node, prefix)?;
                    Some(Route { prefix, next_hop, node: node.name.clone() })
                })
            })
            .collect();
        routes.sort();
        routes
    }

    /// The address of `node` on one of this node's subnets, in the family of `prefix`.
    fn next_hop(&self, node: &Node, prefix: IpNet) -> Option<IpAddr> {
        let is_ipv6 = matches!(prefix, IpNet::V6(_));
        let on_link = |ip: &IpAddr| match &self.config.on_link {
            Some(subnets) => subnets.iter().any(|subnet| subnet.contains(ip)),
            None => true,
        };
        usable_ips(node).into_iter().find(|ip| ip.is_ipv6() == is_ipv6 && on_link(ip))
    }

    /// The problem of a PodCIDR for which no direct route is possible.
    pub(super) fn missing_route(&self, node: &Node, cidr: IpNet) -> Option<ProblemDetail> {
        if self.next_hop(node, cidr).is_some() {
            return None;
        }
        let subnets = self.config.on_link.as_deref().unwrap_or_default();
        let subnets = subnets.iter().map(IpNet::to_string).collect::<Vec<_>>().join(", ");
        let message = format!(
            "no direct route to its PodCIDR {cidr}: it has no InternalIP of that family on a subnet of this \
             node's uplinks ({subnets}); packets follow the node's own routes: let the network route the \
             PodCIDRs, or put the nodes on one subnet"
        );
        Some((Reason::NoDirectRoute, message))
    }
}
