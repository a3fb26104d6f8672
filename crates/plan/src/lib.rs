//! From cluster facts to desired tables.
//!
//! [`Planner::apply`] only marks what a change touches; [`Planner::drain`]
//! computes the marked objects anew and returns what changes in the tables,
//! at the cost of what was touched. One bad object yields a problem, never a
//! stop. Any order of the same changes ends in the same tables up to the
//! numbers chosen ([`canonical`]).
//!
//! An agent starts with [`Planner::adopt`], so that objects keep the numbers
//! which pinned tables and connections know them by. Until Nodes, Services
//! and EndpointSlices have been listed once, [`Planner::drain`] returns
//! endpoints only: a Service whose slices are not known yet must not replace
//! a good one.

mod backend;
pub mod canonical;
mod endpoint_selection;
mod frontend_address;
mod health;
mod host_port;
mod ids;
mod maglev;
mod maglev_table;
mod names;
mod network_namespaces;
mod node;
mod prefix_owners;
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
pub use health::HealthCheck;
pub use maglev_table::MaglevConfig;
pub use names::{FrontendName, Names};
pub use node::{OwnNode, Route};

use names::Pods;
use network_namespaces::NetworkNamespaces;
use node::Nodes;
use problems::ProblemStore;
use service::Services;

/// What the planner must know about its node.
#[derive(Clone, Debug, Default)]
pub struct PlanConfig {
    /// Name of this node's Node object.
    pub node_name: String,
    /// Ranges that only Services have, if known: addresses in them that no
    /// Service uses are dropped instead of routed.
    pub service_cidrs: Vec<IpNet>,
    /// Subnets of this node's uplinks: a peer is reached directly only if its
    /// address is in one. None: every peer is taken to be a neighbour.
    pub on_link: Option<Vec<IpNet>>,
    /// Ranges outside the cluster that pods reach with their own address.
    pub native_ranges: Vec<IpNet>,
    /// Which parts of Services are on.
    pub services: ServiceConfig,
}

/// Which parts of Services are on, beyond ClusterIPs. Everything else is off
/// and named as such on the objects that ask for it.
#[derive(Clone, Debug, Default)]
pub struct ServiceConfig {
    /// NodePorts, and the addresses of LoadBalancers.
    pub node_ports: bool,
    /// Node addresses at which NodePorts are served; empty: all.
    pub node_port_addresses: Vec<IpNet>,
    /// Ranges of which Services may take externalIPs; none: externalIPs are
    /// off.
    pub external_ips: Option<Vec<IpNet>>,
    /// hostPorts of pods.
    pub host_ports: bool,
    /// `sessionAffinity: ClientIP`.
    pub affinity: bool,
    /// `loadBalancerSourceRanges` count for NodePorts and externalIPs, too.
    pub source_ranges_all_types: bool,
    /// Consistent hashing and weights.
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
    /// Per kind: how often a listing has begun.
    epochs: [u32; Kind::ALL.len()],
    listed: [bool; Kind::ALL.len()],
    drained: bool,
}

impl Planner {
    /// A planner that knows nothing yet.
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

    /// Takes over the numbers in tables that an earlier agent left. To be
    /// called before the first [`Planner::drain`].
    pub fn adopt(&mut self, actual: &Contents) {
        self.nodes.adopt(actual);
        self.services.adopt(actual);
    }

    /// Takes in one change from the source.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Apply(object) => self.apply_object(*object),
            Change::Delete(kind, name) => self.delete_object(kind, &name),
            Change::ResetStart(kind) => self.epochs[index(kind)] += 1,
            Change::ResetEnd(kind) => self.finish_listing(kind),
        }
    }

    /// A pod of this node is attached. Endpoints are not part of the model:
    /// the agent sets all of them anew after a restart, before it prunes.
    pub fn set_endpoint(&mut self, ip: IpAddr, value: EndpointValue) {
        self.endpoints.insert(ip.into(), Some(value));
        self.nodes.set_endpoint(ip.into());
    }

    /// A pod of this node is gone.
    pub fn remove_endpoint(&mut self, ip: IpAddr) {
        self.endpoints.insert(ip.into(), None);
        self.nodes.remove_endpoint(ip.into());
    }

    /// The cookie of an attached pod's network namespace. To be set anew
    /// after a restart, as endpoints are.
    pub fn set_namespace(&mut self, cookie: u64, pod: ObjectName) {
        self.network_namespaces.attach(cookie, pod);
    }

    /// The pod with this network namespace is gone.
    pub fn remove_namespace(&mut self, cookie: u64, pod: &ObjectName) {
        self.network_namespaces.detach(cookie, pod);
    }

    /// The subnets of this node's uplinks have changed.
    pub fn set_on_link(&mut self, on_link: Option<Vec<IpNet>>) {
        self.nodes.set_on_link(on_link);
    }

    /// True once Nodes, Services and EndpointSlices have been listed, and
    /// Pods where their hostPorts matter.
    pub fn is_listed(&self) -> bool {
        let listed = |kind: Kind| self.listed[index(kind)];
        let pods = !self.services.serves_host_ports() || listed(Kind::Pod);
        pods && [Kind::Node, Kind::Service, Kind::EndpointSlice].into_iter().all(listed)
    }

    /// What changes in the tables since the last call.
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

    /// Objects, or parts of them, that cannot be used, as of the last drain.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = self.problem_store.problems();
        if self.is_listed() && self.nodes.own().is_none() {
            problems.push(self.nodes.own_node_missing());
        }
        problems
    }

    /// Parts of objects that are not served, with the object and by name.
    pub fn ignored_fields(&self) -> Vec<String> {
        self.problem_store.ignored_fields()
    }

    /// How many Nodes the cluster has.
    pub fn node_count(&self) -> usize {
        self.nodes.count()
    }

    /// This node, once its Node object is known.
    pub fn own_node(&self) -> Option<OwnNode> {
        self.nodes.own()
    }

    /// The cluster is about to remove this node.
    pub fn own_node_is_leaving(&self) -> bool {
        self.nodes.own_is_leaving()
    }

    /// What `healthCheckNodePort`s answer from now on, as far as it has
    /// changed since the last call; none: nothing is to be answered.
    pub fn take_health_changes(&mut self) -> BTreeMap<ObjectName, Option<HealthCheck>> {
        self.services.take_health_changes()
    }

    /// The native routes that this node needs: one for every PodCIDR of
    /// every neighbour.
    pub fn routes(&self) -> Vec<Route> {
        self.nodes.routes()
    }

    /// Rises whenever [`Planner::routes`] or [`Planner::own_node`] may have
    /// changed.
    pub fn node_revision(&self) -> u64 {
        self.nodes.revision()
    }

    /// Names for addresses and numbers. Pods of other nodes are known as far
    /// as they are endpoints of a Service.
    pub fn names(&self) -> Names {
        let nodes = self.nodes.names();
        // A pod in the host's network bears its node's address.
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
