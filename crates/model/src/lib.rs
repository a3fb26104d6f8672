//! Plain cluster facts: node, pod, service, endpoint slice, namespace. No
//! Kubernetes types, no I/O; everything can be written to disk and read back.

mod reason;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use reason::Reason;

/// Namespace and name of an object; the namespace is empty for
/// cluster-scoped kinds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectName {
    /// Namespace, or empty.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl ObjectName {
    /// A name in a namespace.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> ObjectName {
        ObjectName { namespace: namespace.into(), name: name.into() }
    }

    /// The name of a cluster-scoped object.
    pub fn cluster(name: impl Into<String>) -> ObjectName {
        ObjectName::new("", name)
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Name.
    pub name: String,
    /// `InternalIP` addresses, in the order of the status; both families.
    pub internal_ips: Vec<IpAddr>,
    /// `spec.podCIDRs`.
    pub pod_cidrs: Vec<IpNet>,
    /// `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
    /// `ExternalIP` addresses, in the order of the status; both families.
    #[serde(default)]
    pub external_ips: Vec<IpAddr>,
    /// The node is being deleted, or the cluster autoscaler has chosen it. Load
    /// balancers should stop sending to it.
    #[serde(default)]
    pub leaving: bool,
}

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// Name.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Namespace and name.
    pub name: ObjectName,
    /// `metadata.uid`.
    pub uid: String,
    /// `spec.nodeName`, once scheduled.
    pub node: Option<String>,
    /// `status.podIPs`.
    pub ips: Vec<IpAddr>,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Succeeded or Failed: its addresses may belong to another pod.
    pub finished: bool,
    /// Ports of its containers that have a `hostPort`.
    #[serde(default)]
    pub host_ports: Vec<HostPort>,
    /// Socket translation is disabled for the pod: only its packets are
    /// translated.
    #[serde(default)]
    pub packets_only: bool,
}

/// A container port with a `hostPort`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HostPort {
    /// `hostIP`; none: every address of the node.
    pub host_ip: Option<IpAddr>,
    /// `hostPort`, 1..=65535.
    pub host_port: u16,
    /// `containerPort`, 1..=65535.
    pub container_port: u16,
    /// Protocol.
    pub protocol: Protocol,
}

/// Transport protocols of Service ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// IANA protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }

    /// As Kubernetes spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        }
    }
}

/// `spec.type` of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceType {
    /// ClusterIP (headless ones have no `cluster_ips`).
    ClusterIp,
    /// NodePort.
    NodePort,
    /// LoadBalancer.
    LoadBalancer,
    /// ExternalName: DNS only.
    ExternalName,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// Name; empty if unnamed. Matches the port name of EndpointSlices.
    pub name: String,
    /// Protocol.
    pub protocol: Protocol,
    /// Port of the frontend, 1..=65535.
    pub port: u16,
    /// `nodePort`; 0 = none.
    pub node_port: u16,
}

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Namespace and name.
    pub name: ObjectName,
    /// Type.
    pub service_type: ServiceType,
    /// `spec.clusterIPs` without `None`: empty for headless Services.
    pub cluster_ips: Vec<IpAddr>,
    /// Ports.
    pub ports: Vec<ServicePort>,
    /// ClientIP affinity in seconds; none = no affinity.
    pub affinity_s: Option<u32>,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `publishNotReadyAddresses`.
    pub publish_not_ready: bool,
    /// Addresses in `status.loadBalancer.ingress` that the nodes serve
    /// (`ipMode: VIP`, the default).
    pub load_balancer_ips: Vec<IpAddr>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `externalTrafficPolicy: Local`.
    #[serde(default)]
    pub external_local: bool,
    /// `healthCheckNodePort`; 0 = none.
    #[serde(default)]
    pub health_check_node_port: u16,
    /// `loadBalancerSourceRanges`.
    #[serde(default)]
    pub source_ranges: SourceRanges,
    /// Another proxy serves the Service: it has the label
    /// `service.kubernetes.io/service-proxy-name` or
    /// `service.kubernetes.io/headless`.
    #[serde(default)]
    pub foreign: bool,
    /// How a backend is chosen, where the Service says so itself.
    #[serde(default)]
    pub algorithm: Option<Algorithm>,
}

/// How a backend is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    /// At random.
    Random,
    /// By consistent hashing of the client's address and ports (Maglev).
    Maglev,
}

/// Who may use a load balancer. No range at all: everybody.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRanges {
    /// The valid ranges.
    pub ranges: Vec<IpNet>,
    /// There were malformed ranges: a family without any valid range then
    /// allows no client, rather than all.
    pub malformed: bool,
}

/// One endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The first address (Kubernetes uses one per endpoint).
    pub ip: IpAddr,
    /// `conditions.ready`, defaulted as the API says (absent = true).
    pub ready: bool,
    /// `conditions.serving`, absent = `ready`.
    pub serving: bool,
    /// `conditions.terminating`, absent = false.
    pub terminating: bool,
    /// Node that runs it.
    pub node: Option<String>,
    /// Zone.
    pub zone: Option<String>,
    /// Pod behind it.
    pub pod: Option<ObjectName>,
    /// `hints.forZones`.
    #[serde(default)]
    pub zone_hints: Vec<String>,
    /// `hints.forNodes`.
    #[serde(default)]
    pub node_hints: Vec<String>,
}

/// One port of a slice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointPort {
    /// Name of the Service port that it serves; empty if unnamed.
    pub name: String,
    /// Protocol.
    pub protocol: Protocol,
    /// Target port; none = all ports (not used for Services).
    pub port: Option<u16>,
}

/// An EndpointSlice of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSlice {
    /// Namespace and name of the slice.
    pub name: ObjectName,
    /// The Service (label `kubernetes.io/service-name`), same namespace.
    pub service: String,
    /// `addressType: IPv6`.
    pub ipv6: bool,
    /// Ports.
    pub ports: Vec<EndpointPort>,
    /// Endpoints.
    pub endpoints: Vec<Endpoint>,
    /// The weight of each of its endpoints: 1 is normal, of 0 no new
    /// connection comes.
    #[serde(default = "weight_default")]
    pub weight: u16,
}

fn weight_default() -> u16 {
    1
}

/// The kinds of object that are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each is the kind of that name")]
pub enum Kind {
    Node,
    Namespace,
    Pod,
    Service,
    EndpointSlice,
}

impl Kind {
    /// Every kind.
    pub const ALL: &'static [Kind] =
        &[Kind::Node, Kind::Namespace, Kind::Pod, Kind::Service, Kind::EndpointSlice];
}

/// An object of any kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each is the kind of that name")]
pub enum Object {
    Node(Node),
    Namespace(Namespace),
    Pod(Pod),
    Service(Service),
    EndpointSlice(EndpointSlice),
}

impl Object {
    /// The kind.
    pub fn kind(&self) -> Kind {
        match self {
            Object::Node(_) => Kind::Node,
            Object::Namespace(_) => Kind::Namespace,
            Object::Pod(_) => Kind::Pod,
            Object::Service(_) => Kind::Service,
            Object::EndpointSlice(_) => Kind::EndpointSlice,
        }
    }

    /// Namespace and name.
    pub fn name(&self) -> ObjectName {
        match self {
            Object::Node(o) => ObjectName::cluster(&o.name),
            Object::Namespace(o) => ObjectName::cluster(&o.name),
            Object::Pod(o) => o.name.clone(),
            Object::Service(o) => o.name.clone(),
            Object::EndpointSlice(o) => o.name.clone(),
        }
    }
}

/// A change from the source: one object, or the start or end of a full listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// The object exists and looks like this.
    Apply(Box<Object>),
    /// The object was deleted.
    Delete(Kind, ObjectName),
    /// A full listing of the kind begins.
    ResetStart(Kind),
    /// The full listing is complete: objects of the kind that were not applied
    /// since its start no longer exist.
    ResetEnd(Kind),
}

/// An object, or part of one, that cannot be used. Everything else keeps
/// working.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Problem {
    /// Kind of the object.
    pub kind: Kind,
    /// Its name.
    pub name: ObjectName,
    /// What class of problem it is.
    pub reason: Reason,
    /// What is wrong, the likely cause and the next step.
    pub message: String,
}

impl Problem {
    /// The problem exists on this node only: other nodes do not report it.
    pub fn is_local(&self) -> bool {
        // A pod is watched by its own node alone.
        self.kind == Kind::Pod || self.reason.is_local()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}: {}", self.kind, self.name, self.message)
    }
}
