//! Names for people: pods by address. (Services and nodes tell their own.)

use std::collections::BTreeMap;
use std::net::IpAddr;

use beeline_model::{ObjectName, Pod};

/// Names for addresses and numbers, for events and drops.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Pods (`namespace/name`) by address.
    pub pods: Vec<(IpAddr, String)>,
    /// Services (`namespace/name:port`, `/UDP` if it is not TCP) by service id.
    pub services: Vec<(u32, String)>,
    /// Services (`namespace/name`) by address.
    pub service_addresses: Vec<(IpAddr, String)>,
    /// Nodes by address.
    pub nodes: Vec<(IpAddr, String)>,
}

#[derive(Debug)]
struct PodFacts {
    ips: Box<[IpAddr]>,
    epoch: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Pods {
    pods: BTreeMap<ObjectName, PodFacts>,
}

impl Pods {
    pub(crate) fn apply(&mut self, pod: Pod, epoch: u32) {
        // Addresses of finished pods may belong to others; those of pods in
        // the host's network are the node's.
        let named = !pod.finished && !pod.host_network;
        let ips = if named { pod.ips.into() } else { Box::default() };
        self.pods.insert(pod.name, PodFacts { ips, epoch });
    }

    pub(crate) fn delete(&mut self, name: &ObjectName) {
        self.pods.remove(name);
    }

    pub(crate) fn older_than(&self, epoch: u32) -> Vec<ObjectName> {
        self.pods.iter().filter(|(_, pod)| pod.epoch != epoch).map(|(name, _)| name.clone()).collect()
    }

    pub(crate) fn names(&self) -> Vec<(IpAddr, String)> {
        self.pods.iter().flat_map(|(name, pod)| pod.ips.iter().map(|ip| (*ip, name.to_string()))).collect()
    }
}
