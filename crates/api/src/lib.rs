//! What agent, plugin and CLI say to each other over the node's socket: one
//! JSON object per line, request then response, one request per connection.
//!
//! The wire types are this crate's own and versioned by [`API_VERSION`]; a
//! field may be added, never changed in meaning. [`Call::Drops`] alone is
//! answered by a stream of lines.

mod client;

pub use client::{Client, ClientError, Responses};

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Version of the protocol on the socket.
pub const API_VERSION: u32 = 1;

/// The longest line that either side accepts, in bytes.
pub const LINE_BYTES_MAX: usize = 1 << 20;

/// Where the agent's socket is unless configured otherwise.
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
    /// Name of the host side of the attachment's veth: fixed by the
    /// attachment alone, so that DEL finds it when the agent is away. 15
    /// bytes, as many as a device name may have.
    pub fn host_interface(&self) -> String {
        let bytes = self.container_id.bytes().chain([0]).chain(self.interface.bytes());
        // FNV-1a, 64 bits, of which 48 stand in the name.
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
        format!("bee{:012x}", hash >> 16)
    }

    /// Name of the file that DEL leaves in [`deleted_directory`] when the
    /// agent is away.
    pub fn file_name(&self) -> String {
        format!("{}@{}.json", self.container_id, self.interface)
    }
}

/// Where DEL leaves one file per attachment (the [`Attachment`] as JSON) when
/// the agent cannot be told. The agent releases and removes them; ADD removes
/// the file of its attachment before it allocates.
pub fn deleted_directory(socket: &Path) -> PathBuf {
    socket.parent().unwrap_or(Path::new("/")).join("deleted")
}

/// A request. The first field of the line is the protocol version.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    /// [`API_VERSION`] of the sender.
    pub version: u32,
    /// What is asked.
    #[serde(flatten)]
    pub call: Call,
}

/// What can be asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "kebab-case")]
pub enum Call {
    /// CNI ADD, first half: reserve addresses and learn how to make the
    /// interface. Idempotent per attachment.
    Allocate {
        /// The attachment.
        attachment: Attachment,
        /// `K8S_POD_NAMESPACE`, empty if the runtime did not say.
        pod_namespace: String,
        /// `K8S_POD_NAME`, empty if the runtime did not say.
        pod_name: String,
        /// `K8S_POD_UID`, empty if the runtime did not say.
        pod_uid: String,
        /// Path of the network namespace, for the record.
        netns: String,
    },
    /// CNI ADD, second half: the interface exists; program the datapath.
    /// Answers when packets flow.
    Commit {
        /// The attachment.
        attachment: Attachment,
        /// Index of the host side of the veth, in the node's namespace.
        host_ifindex: u32,
        /// MAC of the pod's interface, `aa:bb:cc:dd:ee:ff`.
        pod_mac: String,
        /// `SO_NETNS_COOKIE` of the pod's namespace.
        netns_cookie: u64,
    },
    /// CNI DEL: release everything. Idempotent.
    Release {
        /// The attachment.
        attachment: Attachment,
    },
    /// CNI CHECK: is the attachment as it should be?
    Check {
        /// The attachment.
        attachment: Attachment,
    },
    /// CNI GC: release every attachment that is not listed.
    Collect {
        /// Those that live.
        valid: Vec<Attachment>,
    },
    /// CNI STATUS: can ADD be served?
    Ready,
    /// Node, sync and endpoint state for people and tools.
    Status,
    /// Names of pods and services by address and number, for `beeline drops`.
    Names,
    /// Recent drop events, oldest first: a stream of [`Response::Drop`], one
    /// per line, ended by [`Response::Done`]. The agent is the only reader of
    /// the kernel's event buffer and relays what it reads.
    Drops {
        /// After the recent ones, stay and send new ones as they come (never
        /// ends with [`Response::Done`]).
        follow: bool,
    },
    /// Answers once everything that the API server held when the call
    /// arrived is programmed, or the time is up.
    #[serde(rename = "settle")]
    WaitForSync {
        /// Milliseconds to wait at most.
        timeout_ms: u64,
        /// Wait until the agent has seen at least these objects at these
        /// resource versions (`Kind/namespace/name` -> resourceVersion).
        objects: Vec<ObjectVersion>,
    },
}

/// An object as the API server returned it after a write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectVersion {
    /// `Service`, `EndpointSlice`, `Pod`, `Node`, `Namespace`.
    pub kind: String,
    /// Namespace, or empty.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// `metadata.resourceVersion`; empty = must be gone.
    pub resource_version: String,
}

/// The answer to a request.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Response {
    /// Done; no further content.
    Done,
    /// Answer to [`Call::Allocate`].
    Allocated(Allocation),
    /// Answer to [`Call::Status`].
    Status(Box<Status>),
    /// Answer to [`Call::Names`].
    Names(Names),
    /// One record of [`Call::Drops`].
    Drop(Box<DropRecord>),
    /// The request failed; nothing was changed, or what was changed was
    /// undone.
    Error(ApiError),
}

/// How to make a pod's interface.
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
    /// MTU of the pod's interface and routes, bytes.
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

/// Kinds of failure, as far as a caller acts on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    /// The request is not understood (version, syntax, missing field).
    Invalid,
    /// No address is left.
    Exhausted,
    /// The attachment is not known.
    Unknown,
    /// Not now; trying again helps (starting, no PodCIDR yet).
    TryAgain,
    /// The attachment is not as it should be (CHECK).
    Mismatch,
    /// The caller may not ask this.
    Denied,
    /// Everything else.
    Internal,
}

/// State of a node's agent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Node name.
    pub node: String,
    /// Version of the agent.
    pub version: String,
    /// ABI version of the tables.
    pub abi_version: u32,
    /// Everything listed at start has been programmed.
    pub synced: bool,
    /// The last contact with the API server succeeded.
    pub api_connected: bool,
    /// Devices with uplink programs.
    pub uplinks: Vec<String>,
    /// Prefixes from which pods get addresses.
    pub pod_cidrs: Vec<IpNet>,
    /// Local pods.
    pub endpoints: Vec<EndpointStatus>,
    /// Objects that cannot be used, and why.
    pub problems: Vec<String>,
    /// Options that are set but not built yet, by name.
    pub not_built: Vec<String>,
    /// Entries per table.
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
    /// Host side of the veth.
    pub host_interface: String,
    /// Its index; 0 = not committed yet.
    pub ifindex: u32,
}

/// Fill of one table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableStatus {
    /// Name.
    pub name: String,
    /// Desired entries.
    pub entries: u64,
    /// Capacity.
    pub capacity: u64,
}

/// Names for numbers and addresses.
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
    /// Pods of this node (`namespace/name`) by the index of their device in
    /// the node's namespace.
    #[serde(default)]
    pub devices: Vec<(u32, String)>,
    /// Service ids that stand for the endpoints of this node alone (traffic
    /// policy `Local`).
    #[serde(default)]
    pub local_services: Vec<u32>,
    /// Frontends that are more than a ClusterIP or a NodePort.
    #[serde(default)]
    pub frontends: Vec<FrontendName>,
}

/// What a frontend is.
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

/// A sampled drop event, in plain words. Counters are exact, events are not:
/// `lost` says how many were left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropRecord {
    /// Milliseconds since 1970 (UTC).
    pub time_unix_ms: u64,
    /// Observation point: `from_pod`, `to_pod`, `from_uplink`, ...
    pub hook: String,
    /// Reason, as metrics and the documentation name it.
    pub reason: String,
    /// Device at whose hook the packet was dropped, by index.
    pub ifindex: u32,
    /// Ethertype, host byte order.
    pub ethertype: u16,
    /// IP protocol; 0 if the packet is not IP.
    pub proto: u8,
    /// TCP flags.
    pub tcp_flags: u8,
    /// Bytes of the frame.
    pub length: u32,
    /// Source as the packet arrived.
    pub src: IpAddr,
    /// Destination as the packet arrived.
    pub dst: IpAddr,
    /// Source port; ICMP: type and code as two bytes.
    pub sport: u16,
    /// Destination port; ICMP echo: identifier.
    pub dport: u16,
    /// Source after translation (equals `src` where nothing was translated).
    pub src_after: IpAddr,
    /// Destination after translation.
    pub dst_after: IpAddr,
    /// Source port after translation.
    pub sport_after: u16,
    /// Destination port after translation.
    pub dport_after: u16,
    /// Service id; 0 = none (see [`Names::services`]).
    pub service: u32,
    /// CPU that saw the packet.
    pub cpu: u32,
    /// Number of this event on its CPU.
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
