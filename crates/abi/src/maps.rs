//! The eBPF maps: names, kinds and sizes. The programs declare them; the loader
//! and every reader of a pinned map compare against this list.

use core::mem::size_of;

use crate::{Ip, address, config, conntrack, counter, endpoint, event, fragment, node, service, socket};

/// The map types in use (`enum bpf_map_type` of linux/bpf.h), with the first
/// kernel version that has each.
#[doc(alias = "bpf_map_type")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapKind {
    /// `BPF_MAP_TYPE_HASH` (Linux 3.19), allocated on demand
    /// (`BPF_F_NO_PREALLOC`, Linux 4.6).
    #[doc(alias = "BPF_MAP_TYPE_HASH")]
    Hash,
    /// `BPF_MAP_TYPE_LRU_HASH` (Linux 4.10).
    #[doc(alias = "BPF_MAP_TYPE_LRU_HASH")]
    LruHash,
    /// `BPF_MAP_TYPE_LPM_TRIE` (Linux 4.11), which requires
    /// `BPF_F_NO_PREALLOC`.
    #[doc(alias = "BPF_MAP_TYPE_LPM_TRIE")]
    LpmTrie,
    /// `BPF_MAP_TYPE_ARRAY` (Linux 3.19).
    #[doc(alias = "BPF_MAP_TYPE_ARRAY")]
    Array,
    /// `BPF_MAP_TYPE_PERCPU_ARRAY` (Linux 4.6).
    #[doc(alias = "BPF_MAP_TYPE_PERCPU_ARRAY")]
    PerCpuArray,
    /// `BPF_MAP_TYPE_ARRAY_OF_MAPS` (Linux 4.12).
    #[doc(alias = "BPF_MAP_TYPE_ARRAY_OF_MAPS")]
    ArrayOfMaps,
    /// `BPF_MAP_TYPE_RINGBUF` (Linux 5.8); `max_entries` is its size in bytes.
    #[doc(alias = "BPF_MAP_TYPE_RINGBUF")]
    RingBuf,
}

/// The required definition of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSpec {
    /// Name in the object file and of the pinned map.
    pub name: &'static str,
    /// Kind.
    pub kind: MapKind,
    /// Key size in bytes.
    pub key_size: usize,
    /// Value size in bytes.
    pub value_size: usize,
    /// Capacity in elements (bytes for a ring buffer).
    pub max_entries: u32,
}

const fn spec(
    name: &'static str,
    kind: MapKind,
    key_size: usize,
    value_size: usize,
    max_entries: u32,
) -> MapSpec {
    MapSpec { name, kind, key_size, value_size, max_entries }
}

/// Prefixes of pods, nodes and Services.
pub const ADDRESS: MapSpec = spec(
    "ADDRESS",
    MapKind::LpmTrie,
    size_of::<address::AddressKey>(),
    size_of::<address::AddressValue>(),
    65_536,
);
/// Local pods by address.
pub const ENDPOINT: MapSpec =
    spec("ENDPOINT", MapKind::Hash, size_of::<Ip>(), size_of::<endpoint::EndpointValue>(), 8_192);
/// Network namespaces of local pods by cookie.
pub const NAMESPACE: MapSpec =
    spec("NAMESPACE", MapKind::Hash, size_of::<u64>(), size_of::<endpoint::NamespaceValue>(), 8_192);
/// Nodes by id.
pub const NODE: MapSpec = spec("NODE", MapKind::Hash, size_of::<u32>(), size_of::<node::NodeValue>(), 16_384);
/// Service addresses to classes.
pub const SERVICE_ADDRESS: MapSpec = spec(
    "SERVICE_ADDRESS",
    MapKind::Hash,
    size_of::<Ip>(),
    size_of::<service::ServiceAddressValue>(),
    131_072,
);
/// Frontends.
pub const FRONTEND: MapSpec = spec(
    "FRONTEND",
    MapKind::Hash,
    size_of::<service::FrontendKey>(),
    size_of::<service::FrontendValue>(),
    262_144,
);
/// Services.
pub const SERVICE: MapSpec =
    spec("SERVICE", MapKind::Hash, size_of::<u32>(), size_of::<service::ServiceValue>(), 131_072);
/// Slots of services.
pub const SLOT: MapSpec =
    spec("SLOT", MapKind::Hash, size_of::<service::SlotKey>(), size_of::<service::SlotValue>(), 1_048_576);
/// Maglev table segments; a service with three backends uses 16 of them.
pub const SHARE: MapSpec =
    spec("SHARE", MapKind::Hash, size_of::<service::SlotKey>(), size_of::<service::MaglevSegment>(), 131_072);
/// Backends by id.
pub const BACKEND: MapSpec =
    spec("BACKEND", MapKind::Hash, size_of::<u32>(), size_of::<service::BackendValue>(), 524_288);
/// `loadBalancerSourceRanges` of Services.
pub const SOURCE_RANGE: MapSpec = spec(
    "SOURCE_RANGE",
    MapKind::LpmTrie,
    size_of::<service::SourceRangeKey>(),
    size_of::<service::SourceRangeValue>(),
    65_536,
);
/// Backends of clients with `ClientIP` session affinity.
pub const AFFINITY: MapSpec = spec(
    "AFFINITY",
    MapKind::LruHash,
    size_of::<service::AffinityKey>(),
    size_of::<service::AffinityValue>(),
    65_536,
);
/// Sockets that were translated, two entries each.
pub const SOCKET: MapSpec = spec(
    "SOCKET",
    MapKind::LruHash,
    size_of::<socket::SocketKey>(),
    size_of::<socket::SocketValue>(),
    32_768,
);
/// The current connection table. Its element is empty while programs of two
/// layouts run at the same time: entries then go to the previous table.
pub const CONNTRACK: MapSpec = spec("CONNTRACK", MapKind::ArrayOfMaps, size_of::<u32>(), size_of::<u32>(), 1);
/// The previous connection table, read while it drains; usually the element is
/// empty. It is an array of its own because its values may have another size,
/// and all inner maps of an array must have the same definition.
pub const CONNTRACK_PREVIOUS: MapSpec =
    spec("CONNTRACK_PREVIOUS", MapKind::ArrayOfMaps, size_of::<u32>(), size_of::<u32>(), 1);
/// Definition of each connection table; `max_entries` is the default capacity.
pub const CONNTRACK_TABLE: MapSpec = spec(
    "CONNTRACK_TABLE",
    MapKind::Hash,
    size_of::<conntrack::ConntrackKey>(),
    size_of::<conntrack::ConntrackValue>(),
    262_144,
);
/// Timer and statistics of the connection table sweep.
pub const SWEEP: MapSpec =
    spec("SWEEP", MapKind::Array, size_of::<u32>(), size_of::<conntrack::SweepValue>(), 1);
/// Ports of first fragments.
pub const FRAGMENT: MapSpec = spec(
    "FRAGMENT",
    MapKind::LruHash,
    size_of::<fragment::FragmentKey>(),
    size_of::<fragment::FragmentValue>(),
    8_192,
);
/// The node's configuration.
pub const CONFIG: MapSpec =
    spec("CONFIG", MapKind::Array, size_of::<u32>(), size_of::<config::ConfigValue>(), 1);
/// Counters.
pub const COUNTER: MapSpec = spec(
    "COUNTER",
    MapKind::PerCpuArray,
    size_of::<u32>(),
    size_of::<counter::CounterValue>(),
    counter::COUNTERS,
);
/// State of the event stream.
pub const EVENT_STATE: MapSpec =
    spec("EVENT_STATE", MapKind::PerCpuArray, size_of::<u32>(), size_of::<event::EventState>(), 1);
/// The event stream.
pub const EVENTS: MapSpec = spec("EVENTS", MapKind::RingBuf, 0, 0, 1 << 20);

/// Every pinned map, in the order of creation.
pub const ALL: &[MapSpec] = &[
    ADDRESS,
    ENDPOINT,
    NAMESPACE,
    NODE,
    SERVICE_ADDRESS,
    FRONTEND,
    SERVICE,
    SLOT,
    SHARE,
    BACKEND,
    SOURCE_RANGE,
    AFFINITY,
    SOCKET,
    CONNTRACK,
    CONNTRACK_PREVIOUS,
    SWEEP,
    FRAGMENT,
    CONFIG,
    COUNTER,
    EVENT_STATE,
    EVENTS,
];

/// Names of the programs in the object file, also used for their pinned links.
pub mod programs {
    /// tc ingress of a pod's host-side veth.
    pub const FROM_POD: &str = "from_pod";
    /// tc egress of a pod's host-side veth.
    pub const TO_POD: &str = "to_pod";
    /// tc ingress of an uplink.
    pub const FROM_UPLINK: &str = "from_uplink";
    /// tc egress of an uplink.
    pub const TO_UPLINK: &str = "to_uplink";
    /// connect(2), IPv4.
    pub const CONNECT4: &str = "connect4";
    /// connect(2), IPv6.
    pub const CONNECT6: &str = "connect6";
    /// sendmsg(2) of datagrams, IPv4.
    pub const SENDMSG4: &str = "sendmsg4";
    /// sendmsg(2) of datagrams, IPv6.
    pub const SENDMSG6: &str = "sendmsg6";
    /// recvmsg(2) of datagrams, IPv4.
    pub const RECVMSG4: &str = "recvmsg4";
    /// recvmsg(2) of datagrams, IPv6.
    pub const RECVMSG6: &str = "recvmsg6";
    /// getpeername(2), IPv4.
    pub const GETPEERNAME4: &str = "getpeername4";
    /// getpeername(2), IPv6.
    pub const GETPEERNAME6: &str = "getpeername6";
    /// The programs of a cgroup's socket hooks.
    pub const SOCKETS: &[&str] =
        &[CONNECT4, CONNECT6, SENDMSG4, SENDMSG6, RECVMSG4, RECVMSG6, GETPEERNAME4, GETPEERNAME6];
    /// Starts the connection table sweep. Run once by the loader, never attached.
    pub const SWEEP: &str = "sweep";
    /// The minimum work for a connection to a Service. Only benchmarks load it.
    pub const BASELINE: &str = "baseline";
    /// Every program that an agent loads.
    pub const ALL: &[&str] = &[
        FROM_POD,
        TO_POD,
        FROM_UPLINK,
        TO_UPLINK,
        SWEEP,
        CONNECT4,
        CONNECT6,
        SENDMSG4,
        SENDMSG6,
        RECVMSG4,
        RECVMSG6,
        GETPEERNAME4,
        GETPEERNAME6,
    ];
}
