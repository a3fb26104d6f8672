//! hostPorts of pods on this node.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use beeline_abi::Ip;
use beeline_abi::service::{SCOPE_EXTERNAL, SCOPE_INTERNAL};
use beeline_model::{HostPort, ObjectName, Pod};

use crate::frontend_address::{FrontendAddress, FrontendIp, FrontendKind, FrontendOwners, Owner};
use crate::service_tables::{DesiredFrontend, OwnerEntries, PortKey};
use crate::slice::why_no_unicast;

/// The parts of a pod that matter for hostPorts.
#[derive(Debug, PartialEq, Eq)]
struct Spec {
    ips: Box<[Ip]>,
    ports: Box<[HostPort]>,
}

/// A frontend address that a pod requests, and its container port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HostPortRequest {
    pub(crate) address: FrontendAddress,
    pub(crate) container_port: u16,
}

#[derive(Debug, Default)]
pub(crate) struct PodState {
    /// None: deleted, or without hostPorts.
    spec: Option<Spec>,
    pub(crate) requests: Vec<HostPortRequest>,
    pub(crate) entries: OwnerEntries,
}

impl PodState {
    /// The pod's address of a family.
    pub(crate) fn ip(&self, ipv6: bool) -> Option<Ip> {
        self.spec.as_ref()?.ips.iter().copied().find(|ip| ip.is_v4() != ipv6)
    }
}

/// Pods of this node with hostPorts.
#[derive(Debug)]
pub(crate) struct HostPorts {
    enabled: bool,
    node_name: String,
    pub(crate) pods: HashMap<Arc<ObjectName>, PodState>,
    own_addresses: Vec<Ip>,
}

impl HostPorts {
    pub(crate) fn new(node_name: &str, enabled: bool) -> HostPorts {
        let node_name = node_name.to_owned();
        HostPorts { enabled, node_name, pods: HashMap::new(), own_addresses: Vec::new() }
    }

    /// Applies the pod. Returns the owners to recompute.
    pub(crate) fn apply(&mut self, pod: &Pod, frontend_owners: &mut FrontendOwners) -> BTreeSet<Owner> {
        let is_local = self.enabled && pod.node.as_deref() == Some(self.node_name.as_str());
        let spec =
            (is_local && !pod.finished && !pod.host_network && !pod.host_ports.is_empty()).then(|| Spec {
                ips: pod
                    .ips
                    .iter()
                    .filter(|ip| why_no_unicast(**ip).is_none())
                    .map(|ip| (*ip).into())
                    .collect(),
                ports: pod.host_ports.as_slice().into(),
            });
        self.set(&pod.name, spec, frontend_owners)
    }

    /// Removes the pod. Returns the owners to recompute.
    pub(crate) fn delete(
        &mut self,
        name: &ObjectName,
        frontend_owners: &mut FrontendOwners,
    ) -> BTreeSet<Owner> {
        self.set(name, None, frontend_owners)
    }

    fn set(
        &mut self,
        name: &ObjectName,
        spec: Option<Spec>,
        frontend_owners: &mut FrontendOwners,
    ) -> BTreeSet<Owner> {
        let known = self.pods.get_key_value(name).map(|(name, _)| name.clone());
        if known.is_none() && spec.is_none() {
            return BTreeSet::new();
        }
        let name = known.unwrap_or_else(|| Arc::new(name.clone()));
        let state = self.pods.entry(name.clone()).or_default();
        if state.spec == spec {
            return BTreeSet::new();
        }
        state.spec = spec;
        let mut dirty = update_candidates(&name, state, &self.own_addresses, frontend_owners);
        dirty.insert(Owner::Pod(name));
        dirty
    }

    /// Sets this node's addresses, at which hostPorts are served. Returns the
    /// owners to recompute.
    pub(crate) fn set_own_addresses(
        &mut self,
        addresses: Vec<Ip>,
        frontend_owners: &mut FrontendOwners,
    ) -> BTreeSet<Owner> {
        self.own_addresses = addresses;
        let mut dirty = BTreeSet::new();
        for (name, state) in &mut self.pods {
            dirty.extend(update_candidates(name, state, &self.own_addresses, frontend_owners));
            dirty.insert(Owner::Pod(name.clone()));
        }
        dirty
    }
}

/// Updates the frontends that the pod requests.
fn update_candidates(
    name: &Arc<ObjectName>,
    state: &mut PodState,
    own: &[Ip],
    frontend_owners: &mut FrontendOwners,
) -> BTreeSet<Owner> {
    let candidate = (FrontendKind::HostPort, Owner::Pod(name.clone()));
    let requests = state.spec.as_ref().map(|spec| requested_frontends(spec, own)).unwrap_or_default();
    let mut dirty = BTreeSet::new();
    for old in &state.requests {
        dirty.extend(frontend_owners.remove_candidate(old.address, &candidate));
    }
    for new in &requests {
        dirty.extend(frontend_owners.add_candidate(new.address, candidate.clone()));
    }
    state.requests = requests;
    dirty
}

fn requested_frontends(spec: &Spec, own: &[Ip]) -> Vec<HostPortRequest> {
    let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)].map(Ip::from);
    let mut requests: BTreeMap<FrontendAddress, HostPortRequest> = BTreeMap::new();
    for port in &spec.ports {
        let host_ips: Vec<Ip> = match port.host_ip {
            Some(ip) => vec![ip.into()],
            None => own.iter().chain(&loopback).copied().collect(),
        };
        // A pod cannot be reached in a family in which it has no address.
        let has_family = |ip: &Ip| spec.ips.iter().any(|pod| pod.is_v4() == ip.is_v4());
        for ip in host_ips.into_iter().filter(has_family) {
            let proto = port.protocol.number();
            let address = FrontendAddress { ip: FrontendIp::Exact(ip), port: port.host_port, proto };
            requests
                .entry(address)
                .or_insert(HostPortRequest { address, container_port: port.container_port });
        }
    }
    requests.into_values().collect()
}

impl HostPortRequest {
    /// The table entries for this frontend.
    pub(crate) fn desired_frontends(self) -> [DesiredFrontend; 2] {
        let ipv6 = self.address.ip.is_ipv6();
        let port = PortKey { ipv6, port: self.container_port, proto: self.address.proto, local: false };
        [SCOPE_INTERNAL, SCOPE_EXTERNAL].map(|scope| DesiredFrontend {
            address: self.address,
            kind: FrontendKind::HostPort,
            scope,
            port,
            has_source_ranges: false,
        })
    }
}
