//! Pod CIDRs of nodes: each node gets one subnet of every cluster CIDR. `node-3` gets the third if it
//! is free.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use beeline_apiserver_admission::{Api, ListOptions, Subresource, WriteOptions};
use beeline_apiserver_objects::{ApiError, ObjectKey, object};
use ipnet::IpNet;
use serde_json::{Value, json};

use super::controller::Controller;

pub(super) struct NodeController {
    cluster_cidrs: Vec<IpNet>,
}

impl NodeController {
    pub fn new(cluster_cidrs: &[IpNet]) -> Self {
        Self { cluster_cidrs: cluster_cidrs.to_vec() }
    }
}

impl Controller for NodeController {
    fn name(&self) -> &'static str {
        "node"
    }

    fn watches(&self) -> &'static [&'static str] {
        &["nodes"]
    }

    fn keys_for_event(&self, _: &Api, _: &str, object: &Value) -> Vec<ObjectKey> {
        vec![ObjectKey::of(object)]
    }

    fn reconcile(&mut self, api: &Api, key: &ObjectKey) -> Result<(), ApiError> {
        let Ok(node) = api.get("nodes", "", &key.name) else { return Ok(()) };
        let has_own = !object::array_at(&node, "/spec/podCIDRs").is_empty()
            || !object::str_at(&node, "/spec/podCIDR").is_empty();
        if has_own || self.cluster_cidrs.is_empty() {
            return Ok(());
        }
        let used = used(api)?;
        let preferred = key.name.rsplit_once('-').and_then(|(_, number)| number.parse().ok());
        let subnets = preferred.into_iter().chain(1..self.subnet_count()).find_map(|index| {
            let subnets = self.subnets(index)?;
            (!subnets.iter().any(|subnet| used.contains(subnet))).then_some(subnets)
        });
        let Some(subnets) = subnets else {
            let why = format!(
                "no pod CIDR is free for node {}: it gets one when another node is deleted",
                key.name
            );
            return Err(ApiError::new(409, "Conflict", why));
        };
        let mut next = Value::clone(&node);
        let spec = object::child_mut(&mut next, "spec");
        spec.insert("podCIDR".to_owned(), json!(subnets[0].to_string()));
        spec.insert("podCIDRs".to_owned(), subnets.iter().map(IpNet::to_string).collect());
        api.update_of(&api.kind("nodes")?, Subresource::None, next, &WriteOptions::default())?;
        Ok(())
    }
}

impl NodeController {
    /// Number of nodes that the smallest cluster CIDR has subnets for.
    fn subnet_count(&self) -> u32 {
        let bits = self
            .cluster_cidrs
            .iter()
            .map(|range| u32::from(subnet_prefix_len(range).saturating_sub(range.prefix_len())));
        1_u32.checked_shl(bits.min().unwrap_or(0)).unwrap_or(u32::MAX).min(1 << 16)
    }

    /// The subnets of every cluster CIDR with this index.
    fn subnets(&self, index: u32) -> Option<Vec<IpNet>> {
        self.cluster_cidrs.iter().map(|range| subnet(range, index)).collect()
    }
}

fn used(api: &Api) -> Result<HashSet<IpNet>, ApiError> {
    let nodes = api.list("nodes", None, &ListOptions::default())?.items;
    let texts = |node: &Value| -> Vec<String> {
        let mut texts: Vec<String> =
            object::strs_at(node, "/spec/podCIDRs").into_iter().map(str::to_owned).collect();
        texts.push(object::str_at(node, "/spec/podCIDR").to_owned());
        texts
    };
    Ok(nodes.iter().flat_map(|node| texts(node)).filter_map(|text| text.parse().ok()).collect())
}

fn subnet_prefix_len(range: &IpNet) -> u8 {
    if range.addr().is_ipv6() { 64 } else { 24 }
}

fn subnet(range: &IpNet, index: u32) -> Option<IpNet> {
    let length = subnet_prefix_len(range);
    let subnets = 1_u64.checked_shl(u32::from(length.checked_sub(range.prefix_len())?)).unwrap_or(u64::MAX);
    if u64::from(index) >= subnets {
        return None;
    }
    let address = match range.network() {
        IpAddr::V4(base) => IpAddr::V4(Ipv4Addr::from(u32::from(base).checked_add(index << 8)?)),
        IpAddr::V6(base) => {
            IpAddr::V6(Ipv6Addr::from(u128::from(base).checked_add(u128::from(index) << 64)?))
        }
    };
    IpNet::new(address, length).ok()
}
