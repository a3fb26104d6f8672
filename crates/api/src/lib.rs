//! The protocol between agent, CNI plugin and CLI on the node's socket: one
//! JSON object per line, a request followed by a response, one request per
//! connection.
//!
//! The wire types are defined here and versioned by [`API_VERSION`]. Fields may
//! be added; their meaning never changes. Only [`Call::Drops`] is answered with
//! a stream of lines.

mod client;

pub use client::{Client, ClientError, Responses};

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Version of the protocol.
pub const API_VERSION: u32 = 1;

/// Maximum length of a line, in bytes.
pub const LINE_BYTES_MAX: usize = 1 << 20;

/// Default path of the agent's socket.
pub const DEFAULT_SOCKET: &str = "/run/beeline/agent.sock";

/// One attachment: a container's interface, as CNI names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attachment {
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_IFNAME`.
    pub interface: String,
}

impl Attachment {
    /// Name of the host side of the attachment's veth. Derived from the
    /// attachment alone, so that DEL finds it while the agent is down. 15
    /// bytes, the maximum length of a device name.
    pub fn host_interface(&self) -> String {
        let bytes = self.container_id.bytes().chain([0]).chain(self.interface.bytes());
        // FNV-1a, 64 bits, of which 48 are used in the name.
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
        format!("bee{:012x}", hash >> 16)
    }

    /// Name of the file that DEL writes to [`deleted_directory`] while the
    /// agent is down.
    pub fn file_name(&self) -> String {
        format!("{}@{}.json", self.container_id, self.interface)
    }
}

/// Directory where DEL writes one file per attachment (the [`Attachment`] as
/// JSON) while the agent is down. The agent releases the attachments and
/// removes the files; ADD removes the file of its attachment before it
/// allocates.
pub fn deleted_directory(socket: &Path) -> PathBuf {
    socket.parent().unwrap_or(Path::new("/")).join("deleted")
}

/// A request. The first field of the line is the protocol version.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    /// [`API_VERSION`] of the sender.
    pub version: u32,
    /// The call.
    #[serde(flatten)]
    pub call: Call,
}

/// The calls.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "kebab-case")]
pub enum Call {
    /// CNI ADD, first half: allocates addresses and returns how to configure
    /// the interface. Idempotent per attachment.
    Allocate {
        /// The attachment.
        attachment: Attachment,
        /// `K8S_POD_NAMESPACE`; empty if not sent by the runtime.
        pod_namespace: String,
        /// `K8S_POD_NAME`; empty if not sent by the runtime.
        pod_name: String,
        /// `K8S_POD_UID`; empty if not sent by the runtime.
        pod_uid: String,
        /// Path of the network namespace.
        netns: String,
    },
    /// CNI ADD, second half: programs the datapath for the existing interface.
    /// Returns when traffic can flow.
    Commit {
        /// The attachment.
        attachment: Attachment,
        /// Interface index of the host side of the veth, in the node's network
        /// namespace.
        host_ifindex: u32,
        /// MAC of the pod's interface, `aa:bb:cc:dd:ee:ff`.
        pod_mac: String,
        /// `SO_NETNS_COOKIE` of the pod's network namespace.
        netns_cookie: u64,
    },
    /// CNI DEL: releases the attachment. Idempotent.
    Release {
        /// The attachment.
        attachment: Attachment,
    },
    /// CNI CHECK: checks that the attachment is in its desired state.
    Check {
        /// The attachment.
        attachment: Attachment,
    },
    /// CNI GC: releases every attachment that is not listed.
    Collect {
        /// The valid attachments.
        valid: Vec<Attachment>,
    },
    /// CNI STATUS: whether ADD can be served.
    Ready,
    /// Status of the node, its sync and its endpoints.
    Status,
    /// Names of pods and Services by address and id, for `beeline drops`.
    Names,
    /// Recent drop events, oldest first: a stream of [`Response::Drop`], one
    /// per line, ended by [`Response::Done`]. The agent is the only reader of
    /// the kernel's event buffer and relays what it reads.
    Drops {
        /// After the recent events, keep sending new ones. The stream then
        /// never ends with [`Response::Done`].
        follow: bool,
    },
    /// Waits until everything that the API server held when the call arrived has
    /// been applied to the tables, or until the timeout. Entries that a full
    /// table refused do not delay the answer: they are problems in the status.
    #[serde(rename = "settle")]
    WaitForSync {
        /// Timeout in milliseconds.
        timeout_ms: u64,
        /// Objects that must be programmed at least at these resource versions.
        objects: Vec<ObjectVersion>,
    },
}

/// An object and its version, as returned by the API server after a write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectVersion {
    /// `Service`, `EndpointSlice`, `Pod`, `Node`, `Namespace`.
    pub kind: String,
    /// Namespace; empty for cluster-scoped objects.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// `metadata.resourceVersion`; empty if the object must be deleted.
    pub resource_version: String,
}

/// The response to a request.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Response {
    /// Success without content.
    Done,
    /// Response to [`Call::Allocate`].
    Allocated(Allocation),
    /// Response to [`Call::Status`].
    Status(Box<Status>),
    /// Response to [`Call::Names`].
    Names(Names),
    /// One record of [`Call::Drops`].
    Drop(Box<DropRecord>),
    /// The request failed. All changes were undone.
    Error(ApiError),
}

/// How to configure a pod's interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allocation {
    /// The pod's addresses, at most one per family.
    pub addresses: Vec<IpAddr>,
    /// Gateways, link-local, one per family of `addresses`.
    pub gateways: Vec<IpAddr>,
    /// Name of the host side of the veth (at most 15 bytes).
    pub host_interface: String,
    /// MAC of the host side, `aa:bb:cc:dd:ee:ff`.
    pub host_mac: String,
    /// MTU of the pod's interface and routes, in bytes.
    pub mtu: u32,
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// What kind of failure.
    pub kind: ErrorKind,
    /// What failed, for which object, the likely cause and the next step.
    pub message: String,
}

/// Kinds of failure that callers distinguish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    /// The request is invalid (version, syntax, missing field).
    Invalid,
    /// No free address.
    Exhausted,
    /// The attachment is unknown.
    Unknown,
    /// Temporary failure; retry later (agent starting, no PodCIDR yet).
    TryAgain,
    /// The attachment differs from its desired state (CHECK).
    Mismatch,
    /// The caller is not permitted.
    Denied,
    /// Any other failure.
    Internal,
}

/// Status of a node's agent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Node name.
    pub node: String,
    /// Version of the agent.
    pub version: String,
    /// ABI version of the tables.
    pub abi_version: u32,
    /// The initial list is programmed.
    pub synced: bool,
    /// The last contact with the API server succeeded.
    pub api_connected: bool,
    /// Devices with uplink programs.
    pub uplinks: Vec<String>,
    /// Pod CIDRs of this node.
    pub pod_cidrs: Vec<IpNet>,
    /// Local pods.
    pub endpoints: Vec<EndpointStatus>,
    /// Objects that cannot be used, and why.
    pub problems: Vec<String>,
    /// Options that are set but not implemented.
    pub not_built: Vec<String>,
    /// Utilisation of each table.
    pub tables: Vec<TableStatus>,
}

/// A local pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointStatus {
    /// The attachment.
    pub attachment: Attachment,
    /// Pod namespace.
    pub pod_namespace: String,
    /// Pod name.
    pub pod_name: String,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
    /// Name of the host side of the veth.
    pub host_interface: String,
    /// Interface index of the host side; 0 = not committed yet.
    pub ifindex: u32,
}

/// Utilisation of one table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableStatus {
    /// Name.
    pub name: String,
    /// Desired number of entries.
    pub entries: u64,
    /// Maximum number of entries.
    pub capacity: u64,
}

/// Names of objects by id and address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    /// Pods (`namespace/name`) by address.
    pub pods: Vec<(IpAddr, String)>,
    /// Services (`namespace/name:port`) by service id.
    pub services: Vec<(u32, String)>,
    /// Nodes by address.
    pub nodes: Vec<(IpAddr, String)>,
    /// Services (`namespace/name`) by address.
    #[serde(default)]
    pub service_addresses: Vec<(IpAddr, String)>,
    /// Pods of this node (`namespace/name`) by the interface index of the host
    /// side of their veth.
    #[serde(default)]
    pub devices: Vec<(u32, String)>,
    /// Ids of Services restricted to endpoints of this node (traffic policy
    /// `Local`).
    #[serde(default)]
    pub local_services: Vec<u32>,
    /// Frontends other than ClusterIP and NodePort.
    #[serde(default)]
    pub frontends: Vec<FrontendName>,
}

/// The kind of a frontend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrontendName {
    /// Its address.
    pub ip: IpAddr,
    /// Its port.
    pub port: u16,
    /// IP protocol.
    pub proto: u8,
    /// `LoadBalancer`, `ExternalIP` or `HostPort`.
    pub kind: String,
}

/// A sampled drop event. Counters are exact, events are sampled: `lost` counts
/// the events that were not written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropRecord {
    /// Time in milliseconds since the Unix epoch (UTC).
    pub time_unix_ms: u64,
    /// Observation point: `from_pod`, `to_pod`, `from_uplink`, ...
    pub hook: String,
    /// Reason, as in metrics and documentation.
    pub reason: String,
    /// Interface index of the device at whose hook the packet was dropped.
    pub ifindex: u32,
    /// Ethertype, host byte order.
    pub ethertype: u16,
    /// IP protocol; 0 if the packet is not IP.
    pub proto: u8,
    /// TCP flags.
    pub tcp_flags: u8,
    /// Length of the frame, in bytes.
    pub length: u32,
    /// Source address of the received packet.
    pub src: IpAddr,
    /// Destination address of the received packet.
    pub dst: IpAddr,
    /// Source port; ICMP: type and code, one byte each.
    pub sport: u16,
    /// Destination port; ICMP echo: identifier.
    pub dport: u16,
    /// Source address after translation (equals `src` without translation).
    pub src_after: IpAddr,
    /// Destination address after translation.
    pub dst_after: IpAddr,
    /// Source port after translation.
    pub sport_after: u16,
    /// Destination port after translation.
    pub dport_after: u16,
    /// Service id; 0 = none (see [`Names::services`]).
    pub service: u32,
    /// CPU that processed the packet.
    pub cpu: u32,
    /// Sequence number of the event on its CPU.
    pub sequence: u64,
    /// Events of this CPU that were not written so far.
    pub lost: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_host_interface_names_fit_and_differ_by_container_and_interface() {
        let name = |container: &str, interface: &str| {
            Attachment { container_id: container.into(), interface: interface.into() }.host_interface()
        };
        assert_eq!(name("a", "eth0").len(), 15);
        assert_eq!(name("a", "eth0"), name("a", "eth0"));
        assert_ne!(name("a", "eth0"), name("b", "eth0"));
        assert_ne!(name("a", "eth0"), name("a", "eth1"));
        assert_ne!(name("ab", "c"), name("a", "bc"));
    }
}
