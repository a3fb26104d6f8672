//! Names for display. Pods by address are kept here.

use std::collections::BTreeMap;
use std::net::IpAddr;

use beeline_abi::ip::proto;
use beeline_model::{ObjectName, Pod};

use crate::frontend_address::{FrontendKind, protocol_name};
use crate::service_tables::PortKey;

/// Names of addresses and ids, for events and drops.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Pods (`namespace/name`) by address.
    pub pods: Vec<(IpAddr, String)>,
    /// Services (`namespace/name:port`, `/UDP` if it is not TCP) by service
    /// id; pods with hostPorts (`namespace/name:containerPort`) as well.
    pub services: Vec<(u32, String)>,
    /// Service ids with only the endpoints of this node
    /// (`externalTrafficPolicy` or `internalTrafficPolicy: Local`).
    pub local_services: Vec<u32>,
    /// Kinds of frontends, which the tables do not contain.
    pub frontends: Vec<FrontendName>,
    /// Services (`namespace/name`) by address.
    pub service_addresses: Vec<(IpAddr, String)>,
    /// Nodes by address.
    pub nodes: Vec<(IpAddr, String)>,
}

/// The kind of a frontend at a single address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FrontendName {
    /// The address.
    pub ip: IpAddr,
    /// The port.
    pub port: u16,
    /// IP protocol.
    pub proto: u8,
    /// The kind.
    pub kind: FrontendKind,
}

/// The name of a service id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ServiceName {
    pub(crate) id: u32,
    pub(crate) name: String,
    pub(crate) local: bool,
}

impl ServiceName {
    pub(crate) fn of(id: u32, owner: &ObjectName, key: PortKey) -> ServiceName {
        let name = match key.proto {
            proto::TCP => format!("{owner}:{}", key.port),
            other => format!("{owner}:{}/{}", key.port, protocol_name(other)),
        };
        ServiceName { id, name, local: key.local }
    }
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
        // The address of a finished pod may belong to another pod already. Pods
        // in the host network have their node's address.
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
