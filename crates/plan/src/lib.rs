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
mod claims;
mod ids;
mod names;
mod node;
mod problems;
mod select;
mod service;
mod slice;
mod slots;

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use beeline_abi::Ip;
use beeline_abi::endpoint::EndpointValue;
use beeline_model::{Change, Kind, Object, ObjectName, Problem};
use beeline_sync::{Contents, Delta};
use ipnet::IpNet;

pub use names::Names;
pub use node::{OwnNode, Route};

use names::Pods;
use node::Nodes;
use problems::Book;
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
}

/// Turns changes of the model into changes of the tables.
#[derive(Debug)]
pub struct Planner {
    nodes: Nodes,
    services: Services,
    pods: Pods,
    book: Book,
    endpoints: BTreeMap<Ip, Option<EndpointValue>>,
    /// Per kind: how often a listing has begun.
    epochs: [u32; Kind::ALL.len()],
    listed: [bool; Kind::ALL.len()],
    drained: bool,
}

impl Planner {
    /// A planner that knows nothing yet.
    pub fn new(config: PlanConfig) -> Planner {
        Planner {
            services: Services::new(&config.node_name),
            nodes: Nodes::new(config),
            pods: Pods::default(),
            book: Book::default(),
            endpoints: BTreeMap::new(),
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

    /// The subnets of this node's uplinks have changed.
    pub fn set_on_link(&mut self, on_link: Option<Vec<IpNet>>) {
        self.nodes.set_on_link(on_link);
    }

    /// True once Nodes, Services and EndpointSlices have been listed.
    pub fn is_listed(&self) -> bool {
        [Kind::Node, Kind::Service, Kind::EndpointSlice].iter().all(|kind| self.listed[index(*kind)])
    }

    /// What changes in the tables since the last call.
    pub fn drain(&mut self) -> Delta {
        let mut delta = Delta { endpoint: std::mem::take(&mut self.endpoints), ..Delta::default() };
        if !self.is_listed() {
            return delta;
        }
        let renumbered = self.nodes.drain(&mut delta, &mut self.book);
        self.services.drain(&renumbered, &self.nodes, &mut delta, &mut self.book);
        if !self.drained {
            self.drained = true;
            self.nodes.finish_adoption();
            self.services.finish_adoption();
        }
        delta
    }

    /// Objects, or parts of them, that cannot be used, as of the last drain.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = self.book.problems();
        if self.is_listed() && self.nodes.own().is_none() {
            problems.push(self.nodes.own_is_missing());
        }
        problems
    }

    /// Parts of objects that Beeline does not serve yet, by name.
    pub fn not_built(&self) -> Vec<Problem> {
        self.book.not_built()
    }

    /// This node, once its Node object is known.
    pub fn own_node(&self) -> Option<OwnNode> {
        self.nodes.own()
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
        Names {
            pods: pods.into_iter().collect(),
            services: self.services.names(),
            service_addresses: self.services.address_names(),
            nodes,
        }
    }

    fn apply_object(&mut self, object: Object) {
        let epoch = self.epochs[index(object.kind())];
        match object {
            Object::Node(node) => self.nodes.apply(node, epoch),
            Object::Service(service) => self.services.apply(service, epoch),
            Object::EndpointSlice(slice) => self.services.apply_slice(slice, epoch, &mut self.book),
            Object::Pod(pod) => self.pods.apply(pod, epoch),
            Object::Namespace(_) => {}
        }
    }

    fn delete_object(&mut self, kind: Kind, name: &ObjectName) {
        match kind {
            Kind::Node => self.nodes.delete(&name.name),
            Kind::Service => self.services.delete(name),
            Kind::EndpointSlice => self.services.delete_slice(name, &mut self.book),
            Kind::Pod => self.pods.delete(name),
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
