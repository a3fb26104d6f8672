//! Computes the desired tables from cluster state.
//!
//! [`Planner::apply`] only marks what a change affects. [`Planner::drain`]
//! recomputes the marked objects and returns the changes to the tables; its
//! cost is proportional to what was marked. An invalid object is reported as a
//! problem and never stops the planner. The same changes in any order result in
//! the same tables, except for the allocated ids ([`canonical`]).
//!
//! An agent starts with [`Planner::adopt`], so that objects keep the ids that
//! the pinned tables and established connections use. Until Nodes, Services and
//! EndpointSlices have been listed once, [`Planner::drain`] returns endpoints
//! only: a Service whose slices are not known yet must not replace a working
//! one.
//!
//! Where to look: `node` plans the node and address tables, `node::routes` the
//! routes to other nodes; `endpoint_selection` selects the endpoints of a
//! Service port; `service::update_tables` and `service_tables` build the tables
//! of a Service.

mod backend;
pub mod canonical_tables;
mod endpoint_selection;
mod frontend_address;
mod health_check_node_port;
mod host_port;
mod ids;
mod maglev_permutation;
mod maglev_table;
mod names;
mod network_namespaces;
mod node;
mod pod_cidr_owners;
mod problems;
mod service;
mod service_address;
mod service_frontends;
mod service_problems;
mod service_tables;
mod slice;
mod slots;
mod source_ranges;

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use beeline_abi::Ip;
use beeline_abi::endpoint::EndpointValue;
use beeline_model::{Change, Kind, Object, ObjectName, Problem};
use beeline_sync::{Contents, Delta};
use ipnet::IpNet;

pub use frontend_address::FrontendKind;
pub use health_check_node_port::HealthCheck;
pub use maglev_table::MaglevConfig;
pub use names::{FrontendName, Names};
pub use node::OwnNode;
pub use node::routes::Route;

use names::Pods;
use network_namespaces::NetworkNamespaces;
use node::Nodes;
use problems::ProblemStore;
use service::Services;

/// Configuration of the planner for this node.
#[derive(Clone, Debug, Default)]
pub struct PlanConfig {
    /// Name of this node's Node object.
    pub node_name: String,
    /// Service CIDRs, if known. Packets to addresses in them that no Service
    /// uses are dropped instead of routed.
    pub service_cidrs: Vec<IpNet>,
    /// Subnets of this node's uplinks. Another node gets a direct route only if
    /// its address is in one of them. None: all nodes are assumed to be on
    /// link.
    pub on_link: Option<Vec<IpNet>>,
    /// CIDRs outside the cluster to which pod traffic is not masqueraded.
    pub native_ranges: Vec<IpNet>,
    /// Which Service features are enabled.
    pub services: ServiceConfig,
}

/// Service features beyond ClusterIPs. An object that uses a disabled feature
/// gets a notice that names it.
#[derive(Clone, Debug, Default)]
pub struct ServiceConfig {
    /// NodePorts, and the addresses of LoadBalancers.
    pub node_ports: bool,
    /// Node addresses at which NodePorts are served; empty: all.
    pub node_port_addresses: Vec<IpNet>,
    /// CIDRs from which Services may take externalIPs. None: externalIPs are
    /// disabled.
    pub external_ips: Option<Vec<IpNet>>,
    /// hostPorts of pods.
    pub host_ports: bool,
    /// `sessionAffinity: ClientIP`.
    pub affinity: bool,
    /// `loadBalancerSourceRanges` also apply to NodePorts and externalIPs.
    pub source_ranges_all_types: bool,
    /// Maglev tables, for consistent hashing and weights.
    pub maglev: MaglevConfig,
}

/// Turns changes of the model into changes of the tables.
#[derive(Debug)]
pub struct Planner {
    nodes: Nodes,
    services: Services,
    pods: Pods,
    problem_store: ProblemStore,
    endpoints: BTreeMap<Ip, Option<EndpointValue>>,
    network_namespaces: NetworkNamespaces,
    /// For each kind: how many listings have started.
    epochs: [u32; Kind::ALL.len()],
    listed: [bool; Kind::ALL.len()],
    drained: bool,
}

impl Planner {
    /// A planner without any objects.
    pub fn new(config: PlanConfig) -> Planner {
        Planner {
            services: Services::new(&config.node_name, config.services.clone()),
            nodes: Nodes::new(config),
            pods: Pods::default(),
            problem_store: ProblemStore::default(),
            endpoints: BTreeMap::new(),
            network_namespaces: NetworkNamespaces::default(),
            epochs: [0; Kind::ALL.len()],
            listed: [false; Kind::ALL.len()],
            drained: false,
        }
    }

    /// Adopts the ids in the tables of an earlier agent. Must be called before
    /// the first [`Planner::drain`].
    pub fn adopt(&mut self, actual: &Contents) {
        self.nodes.adopt(actual);
        self.services.adopt(actual);
    }

    /// Applies one change from the source.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Apply(object) => self.apply_object(*object),
            Change::Delete(kind, name) => self.delete_object(kind, &name),
            Change::ResetStart(kind) => self.epochs[index(kind)] += 1,
            Change::ResetEnd(kind) => self.finish_listing(kind),
        }
    }

    /// A pod of this node was attached. Endpoints are not part of the model:
    /// after a restart the agent sets all of them again before it prunes.
    pub fn set_endpoint(&mut self, ip: IpAddr, value: EndpointValue) {
        self.endpoints.insert(ip.into(), Some(value));
        self.nodes.set_endpoint(ip.into());
    }

    /// A pod of this node was detached.
    pub fn remove_endpoint(&mut self, ip: IpAddr) {
        self.endpoints.insert(ip.into(), None);
        self.nodes.remove_endpoint(ip.into());
    }

    /// Sets the cookie of an attached pod's network namespace. Must be set
    /// again after a restart, like endpoints.
    pub fn set_namespace(&mut self, cookie: u64, pod: ObjectName) {
        self.network_namespaces.attach(cookie, pod);
    }

    /// The pod with this network namespace was removed.
    pub fn remove_namespace(&mut self, cookie: u64, pod: &ObjectName) {
        self.network_namespaces.detach(cookie, pod);
    }

    /// Sets the subnets of this node's uplinks.
    pub fn set_on_link(&mut self, on_link: Option<Vec<IpNet>>) {
        self.nodes.set_on_link(on_link);
    }

    /// True once Nodes, Services and EndpointSlices have been listed, and Pods
    /// if hostPorts are enabled.
    pub fn is_listed(&self) -> bool {
        let listed = |kind: Kind| self.listed[index(kind)];
        let pods = !self.services.serves_host_ports() || listed(Kind::Pod);
        pods && [Kind::Node, Kind::Service, Kind::EndpointSlice].into_iter().all(listed)
    }

    /// Changes to the tables since the last call.
    pub fn drain(&mut self) -> Delta {
        let mut delta = Delta { endpoint: std::mem::take(&mut self.endpoints), ..Delta::default() };
        if !self.is_listed() {
            return delta;
        }
        delta.namespace = self.network_namespaces.drain();
        let changes = self.nodes.drain(&mut delta, &mut self.problem_store);
        self.services.drain(changes, &self.nodes, &mut delta, &mut self.problem_store);
        if !self.drained {
            self.drained = true;
            self.nodes.finish_adoption();
            self.services.finish_adoption();
        }
        delta
    }

    /// Problems of objects, as of the last drain.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = self.problem_store.problems();
        if self.is_listed() && self.nodes.own().is_none() {
            problems.push(self.nodes.own_node_missing());
        }
        problems
    }

    /// Fields that are ignored because their feature is disabled, each with the
    /// name of its object.
    pub fn ignored_fields(&self) -> Vec<String> {
        self.problem_store.ignored_fields()
    }

    /// Number of Nodes in the cluster.
    pub fn node_count(&self) -> usize {
        self.nodes.count()
    }

    /// This node, once its Node object is known.
    pub fn own_node(&self) -> Option<OwnNode> {
        self.nodes.own()
    }

    /// The node is being deleted, or the cluster autoscaler has chosen it.
    pub fn own_node_is_leaving(&self) -> bool {
        self.nodes.own_is_leaving()
    }

    /// Changed `healthCheckNodePort` servers since the last call. None: the
    /// server is to be stopped.
    pub fn take_health_changes(&mut self) -> BTreeMap<ObjectName, Option<HealthCheck>> {
        self.services.take_health_changes()
    }

    /// The native routes of this node: one for each PodCIDR of each node that
    /// is on link.
    pub fn routes(&self) -> Vec<Route> {
        self.nodes.routes()
    }

    /// Increases whenever [`Planner::routes`] or [`Planner::own_node`] may have
    /// changed.
    pub fn node_revision(&self) -> u64 {
        self.nodes.revision()
    }

    /// Names of addresses and ids. Pods of other nodes are included only if
    /// they are endpoints of a Service.
    pub fn names(&self) -> Names {
        let nodes = self.nodes.names();
        // A pod in the host network has its node's address.
        let hosts: HashSet<IpAddr> = nodes.iter().map(|(ip, _)| *ip).collect();
        let serving = self.services.pods().filter(|(ip, _)| !hosts.contains(ip));
        let mut pods: BTreeMap<IpAddr, String> = serving.map(|(ip, name)| (ip, name.to_string())).collect();
        pods.extend(self.pods.names());
        let services = self.services.names();
        Names {
            pods: pods.into_iter().collect(),
            local_services: services.iter().filter(|name| name.local).map(|name| name.id).collect(),
            services: services.into_iter().map(|name| (name.id, name.name)).collect(),
            frontends: self.services.frontend_names(),
            service_addresses: self.services.address_names(),
            nodes,
        }
    }

    fn apply_object(&mut self, object: Object) {
        let epoch = self.epochs[index(object.kind())];
        match object {
            Object::Node(node) => self.nodes.apply(node, epoch),
            Object::Service(service) => self.services.apply(service, epoch),
            Object::EndpointSlice(slice) => self.services.apply_slice(slice, epoch, &mut self.problem_store),
            Object::Pod(pod) => {
                self.services.apply_pod(&pod);
                self.network_namespaces.apply(&pod);
                self.pods.apply(pod, epoch);
            }
            Object::Namespace(_) => {}
        }
    }

    fn delete_object(&mut self, kind: Kind, name: &ObjectName) {
        match kind {
            Kind::Node => self.nodes.delete(&name.name),
            Kind::Service => self.services.delete(name),
            Kind::EndpointSlice => self.services.delete_slice(name, &mut self.problem_store),
            Kind::Pod => {
                self.services.delete_pod(name);
                self.network_namespaces.delete(name);
                self.pods.delete(name);
            }
            Kind::Namespace => {}
        }
    }

    fn finish_listing(&mut self, kind: Kind) {
        let epoch = self.epochs[index(kind)];
        let stale: Vec<ObjectName> = match kind {
            Kind::Node => self.nodes.older_than(epoch),
            Kind::Service => self.services.older_than(epoch),
            Kind::EndpointSlice => self.services.slices_older_than(epoch),
            Kind::Pod => self.pods.older_than(epoch),
            Kind::Namespace => Vec::new(),
        };
        for name in stale {
            self.delete_object(kind, &name);
        }
        self.listed[index(kind)] = true;
    }
}

fn index(kind: Kind) -> usize {
    kind as usize
}
