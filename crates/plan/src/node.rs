//! Nodes: the node table, the address table and, in `routes`, the native routes
//! to other nodes.

pub(crate) mod routes;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use beeline_abi::Ip;
use beeline_abi::address::{AddressKey, AddressValue, kind};
use beeline_abi::endpoint::identity;
use beeline_abi::node::{NodeValue, mode};
use beeline_model::{Kind, Node, ObjectName, Problem, Reason};
use beeline_sync::{Contents, Delta};
use ipnet::IpNet;

use crate::PlanConfig;
use crate::ids::Ids;
use crate::pod_cidr_owners::{Prefix, PrefixOwners};
use crate::problems::{ProblemDetail, ProblemStore};
use crate::slice::why_no_unicast;

/// This node, as its Node object describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnNode {
    /// Its id in the node table; 0 until the first drain after the listing.
    pub id: u32,
    /// Its IPv4 address; unspecified if it has none.
    pub ipv4: Ip,
    /// Its IPv6 address; unspecified if it has none.
    pub ipv6: Ip,
    /// Its `ExternalIP` addresses.
    pub external_ips: Vec<IpAddr>,
    /// Its PodCIDRs, without those that another node owns.
    pub pod_cidrs: Vec<IpNet>,
}

#[derive(Debug)]
struct NodeState {
    /// None: deleted since the last drain.
    spec: Option<Node>,
    /// 0 until the first drain after it was added.
    id: u32,
    /// Its zone as of the last drain.
    zone: u16,
    epoch: u32,
}

/// Changes of nodes that affect Services and pods.
#[derive(Debug, Default)]
pub(crate) struct NodeChanges {
    /// Nodes with another id or zone.
    pub(crate) renumbered: Vec<String>,
    /// Addresses that may have become, or may no longer be, node addresses.
    pub(crate) addresses: BTreeSet<Ip>,
    /// This node has other addresses.
    pub(crate) own_addresses: bool,
    /// This node is in another zone.
    pub(crate) own_zone: bool,
}

#[derive(Debug)]
pub(crate) struct Nodes {
    config: PlanConfig,
    nodes: BTreeMap<String, NodeState>,
    ids: Ids,
    /// Node ids by the addresses and PodCIDRs in an earlier agent's tables.
    adopted: HashMap<AddressKey, u32>,
    pod_cidrs: PrefixOwners,
    addresses: BTreeMap<Ip, BTreeSet<String>>,
    /// Internal and external addresses: where NodePorts are served.
    service_ips: BTreeMap<Ip, BTreeSet<String>>,
    changes: NodeChanges,
    endpoints: BTreeSet<Ip>,
    dirty_nodes: BTreeSet<String>,
    dirty_keys: BTreeSet<AddressKey>,
    revision: u64,
}

impl Nodes {
    pub(crate) fn new(config: PlanConfig) -> Nodes {
        let ranges = config.service_cidrs.iter().chain(&config.native_ranges);
        let ranges = ranges.map(|range| Prefix::of(range.trunc()).key()).collect();
        Nodes {
            config,
            nodes: BTreeMap::new(),
            ids: Ids::new(1),
            adopted: HashMap::new(),
            pod_cidrs: PrefixOwners::default(),
            addresses: BTreeMap::new(),
            service_ips: BTreeMap::new(),
            changes: NodeChanges::default(),
            endpoints: BTreeSet::new(),
            dirty_nodes: BTreeSet::new(),
            dirty_keys: ranges,
            revision: 0,
        }
    }

    pub(crate) fn adopt(&mut self, actual: &Contents) {
        self.ids.adopt(actual.node.keys().copied());
        let claimed = actual.address.iter().filter(|(_, value)| value.node != 0);
        self.adopted.extend(claimed.map(|(key, value)| (*key, value.node)));
        for (id, value) in &actual.node {
            // If two nodes have the same address, its entry refers to the
            // owner.
            for ip in [value.ipv4, value.ipv6].into_iter().filter(|ip| !ip.is_unspecified()) {
                self.adopted.entry(host_key(ip)).or_insert(*id);
            }
        }
    }

    pub(crate) fn finish_adoption(&mut self) {
        self.ids.finish_adoption();
        self.adopted = HashMap::new();
    }

    pub(crate) fn apply(&mut self, node: Node, epoch: u32) {
        let name = node.name.clone();
        if let Some(state) = self.nodes.get_mut(&name) {
            state.epoch = epoch;
            if state.spec.as_ref() == Some(&node) {
                return;
            }
        }
        self.update_indexes(&name, false);
        let (id, zone) = self.nodes.get(&name).map_or((0, 0), |state| (state.id, state.zone));
        self.nodes.insert(name.clone(), NodeState { spec: Some(node), id, zone, epoch });
        self.update_indexes(&name, true);
    }

    pub(crate) fn delete(&mut self, name: &str) {
        self.update_indexes(name, false);
        if let Some(state) = self.nodes.get_mut(name) {
            state.spec = None;
        }
    }

    pub(crate) fn older_than(&self, epoch: u32) -> Vec<ObjectName> {
        let old = self.nodes.iter().filter(|(_, state)| state.spec.is_some() && state.epoch != epoch);
        old.map(|(name, _)| ObjectName::cluster(name)).collect()
    }

    pub(crate) fn set_endpoint(&mut self, ip: Ip) {
        if self.endpoints.insert(ip) {
            self.dirty_keys.insert(host_key(ip));
        }
    }

    pub(crate) fn remove_endpoint(&mut self, ip: Ip) {
        if self.endpoints.remove(&ip) {
            self.dirty_keys.insert(host_key(ip));
        }
    }

    pub(crate) fn set_on_link(&mut self, on_link: Option<Vec<IpNet>>) {
        if self.config.on_link != on_link {
            self.config.on_link = on_link;
            self.revision += 1;
            self.dirty_nodes.extend(self.nodes.keys().cloned());
        }
    }

    /// Recomputes the marked nodes and prefixes. Returns changes that affect
    /// Services.
    pub(crate) fn drain(&mut self, delta: &mut Delta, problem_store: &mut ProblemStore) -> NodeChanges {
        for name in std::mem::take(&mut self.dirty_nodes) {
            if self.drain_node(&name, delta) {
                self.changes.renumbered.push(name.clone());
            }
            let problems = self.nodes.get(&name).map_or_else(Vec::new, |_| self.problems_of(&name));
            problem_store.set_problems(Kind::Node, &ObjectName::cluster(name), problems);
        }
        for key in std::mem::take(&mut self.dirty_keys) {
            delta.address.insert(key, self.address_value(key));
        }
        std::mem::take(&mut self.changes)
    }

    /// The id of a node; 0 if it does not exist.
    pub(crate) fn id_of(&self, name: &str) -> u32 {
        self.nodes.get(name).map_or(0, |state| state.id)
    }

    /// The number of a node's zone; 0 if it is not known.
    pub(crate) fn zone_number(&self, name: &str) -> u16 {
        self.nodes.get(name).map_or(0, |state| state.zone)
    }

    /// This node's zone.
    pub(crate) fn own_zone(&self) -> Option<&str> {
        self.own_spec()?.zone.as_deref()
    }

    /// The node is being deleted, or the cluster autoscaler has chosen it.
    pub(crate) fn own_is_leaving(&self) -> bool {
        self.own_spec().is_some_and(|node| node.leaving)
    }

    /// This node's addresses, internal and external.
    pub(crate) fn own_addresses(&self) -> Vec<Ip> {
        self.own_spec().map(service_ips).unwrap_or_default()
    }

    /// The node that has the address, internal or external.
    pub(crate) fn with_address(&self, ip: &Ip) -> Option<&str> {
        self.service_ips.get(ip)?.first().map(String::as_str)
    }

    fn own_spec(&self) -> Option<&Node> {
        self.nodes.get(&self.config.node_name)?.spec.as_ref()
    }

    pub(crate) fn own(&self) -> Option<OwnNode> {
        let name = &self.config.node_name;
        let state = self.nodes.get(name)?;
        let node = state.spec.as_ref()?;
        let value = node_value(node);
        let pod_cidrs = self.active_cidrs(node);
        let external_ips = node.external_ips.clone();
        Some(OwnNode { id: state.id, ipv4: value.ipv4, ipv6: value.ipv6, external_ips, pod_cidrs })
    }

    /// Number of Nodes.
    pub(crate) fn count(&self) -> usize {
        self.specs().count()
    }

    pub(crate) fn own_node_missing(&self) -> Problem {
        let name = &self.config.node_name;
        Problem {
            kind: Kind::Node,
            name: ObjectName::cluster(name),
            reason: Reason::NodeIncomplete,
            message: format!(
                "this node has no Node object, so it has no PodCIDR; check that the kubelet runs and that \
                 the agent's --node-name {name:?} is the name in `kubectl get nodes`"
            ),
        }
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    pub(crate) fn names(&self) -> Vec<(IpAddr, String)> {
        self.specs().flat_map(|node| usable_ips(node).into_iter().map(|ip| (ip, node.name.clone()))).collect()
    }

    fn specs(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().filter_map(|state| state.spec.as_ref())
    }

    /// Adds the node's addresses and PodCIDRs to the indexes, or removes them,
    /// and marks everything that depends on them.
    fn update_indexes(&mut self, name: &str, add: bool) {
        let Some(node) = self.nodes.get(name).and_then(|state| state.spec.as_ref()) else { return };
        let (ips, cidrs) = (usable_ips(node), usable_cidrs(node));
        self.revision += 1;
        self.dirty_nodes.insert(name.to_owned());
        for ip in service_ips(node) {
            let owners = self.service_ips.entry(ip).or_default();
            let changed = if add { owners.insert(name.to_owned()) } else { owners.remove(name) };
            if owners.is_empty() {
                self.service_ips.remove(&ip);
            }
            if changed {
                self.changes.addresses.insert(ip);
                self.changes.own_addresses |= name == self.config.node_name;
            }
        }
        for ip in ips.into_iter().map(Ip::from) {
            let owners = self.addresses.entry(ip).or_default();
            if add {
                owners.insert(name.to_owned())
            } else {
                owners.remove(name)
            };
            self.dirty_nodes.extend(owners.iter().cloned());
            if owners.is_empty() {
                self.addresses.remove(&ip);
            }
            self.dirty_keys.insert(host_key(ip));
        }
        for prefix in cidrs.into_iter().map(Prefix::of) {
            if add {
                self.pod_cidrs.add(prefix, name);
            } else {
                self.pod_cidrs.remove(prefix, name);
            }
            let mut touched = vec![prefix];
            for (other, owner) in self.pod_cidrs.overlapping(prefix) {
                touched.push(other);
                self.dirty_nodes.insert(owner.to_owned());
            }
            self.dirty_keys.extend(touched.iter().map(|prefix| prefix.key()));
            let within = |ip: &&Ip| touched.iter().any(|prefix| prefix.contains(**ip));
            self.dirty_keys.extend(self.endpoints.iter().filter(within).map(|ip| host_key(*ip)));
        }
    }

    /// Writes or deletes the node's entry. True if its id or zone changed.
    fn drain_node(&mut self, name: &str, delta: &mut Delta) -> bool {
        let Some(state) = self.nodes.get_mut(name) else { return false };
        let Some(node) = &state.spec else {
            let id = state.id;
            self.nodes.remove(name);
            if name == self.config.node_name {
                self.changes.own_zone = true;
                self.dirty_keys.extend(self.endpoints.iter().map(|ip| host_key(*ip)));
            }
            if id != 0 {
                self.ids.free(id);
                delta.node.insert(id, None);
            }
            return id != 0;
        };
        let is_new = state.id == 0;
        if is_new {
            let hosts = usable_ips(node).into_iter().map(|ip| host_key(ip.into()));
            let known: Vec<AddressKey> =
                hosts.chain(usable_cidrs(node).into_iter().map(|cidr| Prefix::of(cidr).key())).collect();
            let mut adopted = known.iter().filter_map(|key| self.adopted.get(key).copied());
            state.id = adopted.find(|id| self.ids.take_adopted(*id)).unwrap_or_else(|| self.ids.allocate());
            if name == self.config.node_name {
                self.dirty_keys.extend(self.endpoints.iter().map(|ip| host_key(*ip)));
            }
        }
        delta.node.insert(state.id, Some(node_value(node)));
        let zone = node.zone.as_deref().map_or(0, zone_number);
        let moved = std::mem::replace(&mut state.zone, zone) != zone;
        self.changes.own_zone |= (moved || is_new) && name == self.config.node_name;
        is_new || moved
    }

    /// The value of a prefix in the address table, if it has an owner.
    fn address_value(&self, key: AddressKey) -> Option<AddressValue> {
        let own = self.config.node_name.as_str();
        let value = |kind, name: &str, identity| AddressValue {
            kind,
            node: self.id_of(name),
            identity,
            ..AddressValue::default()
        };
        if key.prefix_bits == 128 {
            if let Some(name) = self.addresses.get(&key.ip).and_then(BTreeSet::first) {
                return Some(match name == own {
                    true => value(kind::LOCAL_NODE, name, identity::HOST),
                    false => value(kind::REMOTE_NODE, name, identity::REMOTE_NODE),
                });
            }
            // A pod that was attached before its node's PodCIDR changed.
            if self.endpoints.contains(&key.ip) && !self.is_in_own_range(key.ip) {
                return Some(value(kind::LOCAL_POD, own, identity::UNKNOWN));
            }
        }
        if let Some(name) = self.pod_cidrs.owner(Prefix::from(key)) {
            let kind = if name == own { kind::LOCAL_POD } else { kind::REMOTE_POD };
            return Some(value(kind, name, identity::UNKNOWN));
        }
        let ranges = self.config.service_cidrs.iter();
        let is_range = ranges.map(|range| Prefix::of(range.trunc()).key()).any(|range| range == key);
        if is_range {
            return Some(AddressValue { kind: kind::SERVICE_RANGE, ..AddressValue::default() });
        }
        let natives = self.config.native_ranges.iter();
        let is_native = natives.map(|range| Prefix::of(range.trunc()).key()).any(|range| range == key);
        is_native.then(|| AddressValue { kind: kind::NATIVE_RANGE, ..AddressValue::default() })
    }

    fn is_in_own_range(&self, ip: Ip) -> bool {
        let own = self.nodes.get(&self.config.node_name).and_then(|state| state.spec.as_ref());
        own.is_some_and(|node| self.active_cidrs(node).into_iter().any(|cidr| Prefix::of(cidr).contains(ip)))
    }

    /// The node's PodCIDRs, without those that another node owns.
    fn active_cidrs(&self, node: &Node) -> Vec<IpNet> {
        let mut cidrs = usable_cidrs(node);
        cidrs.retain(|cidr| self.pod_cidrs.conflict(Prefix::of(*cidr), &node.name).is_none());
        cidrs
    }

    fn problems_of(&self, name: &str) -> Vec<ProblemDetail> {
        let Some(node) = self.nodes.get(name).and_then(|state| state.spec.as_ref()) else {
            return Vec::new();
        };
        let mut problems = Vec::new();
        if usable_ips(node).is_empty() {
            let message = "it has no usable InternalIP, so nothing can be sent to it and its pods get no route; \
                           check the kubelet's --node-ip or the cloud controller";
            problems.push((Reason::NodeIncomplete, message.to_owned()));
        }
        if usable_cidrs(node).is_empty() {
            let message = "it has no PodCIDR, so its pods get no addresses; run kube-controller-manager with \
                           --allocate-node-cidrs=true or set spec.podCIDRs";
            problems.push((Reason::NodeIncomplete, message.to_owned()));
        }
        problems.extend(node.internal_ips.iter().filter_map(|ip| {
            let why = why_no_unicast(*ip)?;
            let message =
                format!("its InternalIP {ip} is {why} and is not used; correct the kubelet's --node-ip");
            Some((Reason::AddressUnusable, message))
        }));
        problems.extend(usable_ips(node).into_iter().filter_map(|ip| self.address_conflict(node, ip)));
        problems.extend(node.pod_cidrs.iter().filter_map(|cidr| self.cidr_conflict(node, *cidr)));
        if node.name != self.config.node_name && !usable_ips(node).is_empty() {
            problems.extend(
                self.active_cidrs(node).into_iter().filter_map(|cidr| self.missing_route(node, cidr)),
            );
        }
        problems
    }

    fn address_conflict(&self, node: &Node, ip: IpAddr) -> Option<ProblemDetail> {
        let first = self.addresses.get(&ip.into())?.first()?;
        (*first != node.name).then(|| {
            let message = format!(
                "its InternalIP {ip} is also an InternalIP of node {first}, which keeps it; give every node an address of its own"
            );
            (Reason::NodeCollision, message)
        })
    }

    fn cidr_conflict(&self, node: &Node, cidr: IpNet) -> Option<ProblemDetail> {
        if cidr.prefix_len() == 0 {
            let message =
                format!("its PodCIDR {cidr} covers every address and is not used; set a smaller one");
            return Some((Reason::AddressUnusable, message));
        }
        let (_, other) = self.pod_cidrs.conflict(Prefix::of(cidr.trunc()), &node.name)?;
        let message = format!(
            "its PodCIDR {cidr} overlaps a PodCIDR of node {other}, which keeps it; pods of {} are not \
             reachable through it; give the node another PodCIDR (recreate the Node object)",
            node.name
        );
        Some((Reason::NodeCollision, message))
    }
}

fn host_key(ip: Ip) -> AddressKey {
    AddressKey { prefix_bits: 128, ip }
}

fn usable_ips(node: &Node) -> Vec<IpAddr> {
    node.internal_ips.iter().copied().filter(|ip| why_no_unicast(*ip).is_none()).collect()
}

fn usable_cidrs(node: &Node) -> Vec<IpNet> {
    let mut cidrs: Vec<IpNet> =
        node.pod_cidrs.iter().map(IpNet::trunc).filter(|cidr| cidr.prefix_len() > 0).collect();
    cidrs.sort();
    cidrs.dedup();
    cidrs
}

fn node_value(node: &Node) -> NodeValue {
    let ips = usable_ips(node);
    let first = |ipv6| ips.iter().find(|ip| ip.is_ipv6() == ipv6).map_or(Ip::UNSPECIFIED, |ip| (*ip).into());
    NodeValue { mode: mode::NATIVE, ipv4: first(false), ipv6: first(true), ..NodeValue::default() }
}

/// Internal and external addresses, without duplicates.
fn service_ips(node: &Node) -> Vec<Ip> {
    let ips = node.internal_ips.iter().chain(&node.external_ips);
    let mut ips: Vec<Ip> = ips.filter(|ip| why_no_unicast(**ip).is_none()).map(|ip| Ip::from(*ip)).collect();
    ips.sort();
    ips.dedup();
    ips
}

/// A number for a zone that all agents compute alike, also after a restart:
/// FNV-1a, folded to 16 bits. For display only; a collision does no harm.
fn zone_number(name: &str) -> u16 {
    let hash =
        name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    ((hash >> 16) ^ (hash & 0xffff)).max(1) as u16
}
