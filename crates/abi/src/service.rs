//! Service tables: address -> class -> frontend -> service -> slot -> backend.
//!
//! Publishing: write the new slots under a new generation, replace the
//! service's value (one hash element, so a reader sees the old set or the new
//! one), delete the old generation's slots afterwards. Maglev tables are
//! published in the same way.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Ip, Port};

/// Value of the service address table (key: [`Ip`]): the class of a frontend
/// address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ServiceAddressValue {
    /// All addresses of a class have the same frontends. [`CLASS_NODE`] and
    /// [`CLASS_NODE_IPV6`] hold all node addresses of a family; each class from
    /// [`CLASS_FIRST_EXACT`] on is a single address.
    pub class: u32,
    /// See [`address_flags`].
    pub flags: u32,
}

/// The class of all IPv4 addresses of nodes (NodePort).
pub const CLASS_NODE: u32 = 1;
/// The class of all IPv6 addresses of nodes.
pub const CLASS_NODE_IPV6: u32 = 2;
/// The first class of a single address.
pub const CLASS_FIRST_EXACT: u32 = 16;

/// Flags of [`ServiceAddressValue`].
pub mod address_flags {
    /// Only Services use the address: a port without a frontend is rejected. Not
    /// set for node addresses, whose other ports belong to the host.
    pub const EXCLUSIVE: u32 = 1;
    /// The address has its own frontends and is also a node address: a port that
    /// is not found in its class is looked up in the node class of its family.
    pub const ALSO_NODE: u32 = 2;
}

/// Key of the frontend table.
#[repr(C)]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
pub struct FrontendKey {
    /// Class of the address ([`ServiceAddressValue::class`]).
    pub class: u32,
    /// Destination port, network byte order; 0 is the wildcard.
    pub port: Port,
    /// IP protocol; 0 is the wildcard.
    pub proto: u8,
    /// [`SCOPE_INTERNAL`] or [`SCOPE_EXTERNAL`].
    pub scope: u8,
}

/// Traffic from pods and nodes of the cluster.
pub const SCOPE_INTERNAL: u8 = 0;
/// Traffic from outside the cluster.
pub const SCOPE_EXTERNAL: u8 = 1;

/// Value of the frontend table.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct FrontendValue {
    /// Key of the service table.
    pub service: u32,
    /// Reserved, zero.
    pub flags: u32,
    /// Set of source ranges that clients must be in; 0 = all clients.
    pub source_ranges: u32,
}

/// Value of the service table (key: service id, `u32`; one per Service port
/// and endpoint selection). Replaced whole, never written in part.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ServiceValue {
    /// Generation of the current slots.
    pub generation: u32,
    /// Number of slots; 0 = no endpoints: reject the connection.
    pub slots: u32,
    /// See [`service_flags`].
    pub flags: u32,
    /// Timeout of `ClientIP` session affinity in seconds; 0 = none.
    pub affinity_s: u32,
    /// Generation of the current Maglev table.
    pub maglev_generation: u32,
    /// Number of entries of the Maglev table; 0 = none: slots have equal weight.
    pub maglev_size: u32,
}

impl ServiceValue {
    /// Whether each backend has a slot of its own ([`SLOT_BY_BACKEND`]).
    pub const fn has_slots_by_backend(&self) -> bool {
        self.affinity_s != 0 || self.flags & service_flags::SLOTS_BY_BACKEND != 0
    }
}

/// Key of the source range table: the clients that a set of
/// `loadBalancerSourceRanges` allows. Mirrors `struct bpf_lpm_trie_key` (Linux
/// 4.11), the key of `BPF_MAP_TYPE_LPM_TRIE`.
#[doc(alias = "bpf_lpm_trie_key")]
#[doc(alias = "BPF_MAP_TYPE_LPM_TRIE")]
#[repr(C)]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
pub struct SourceRangeKey {
    /// [`SOURCE_SET_BITS`] plus the prefix length in bits of the 128-bit form.
    pub prefix_bits: u32,
    /// The set ([`FrontendValue::source_ranges`]), native byte order. It is
    /// always matched as a whole, so its byte order does not matter.
    pub set: u32,
    /// The prefix, network byte order, host bits zero.
    pub ip: Ip,
}

/// Size of [`SourceRangeKey::set`] in bits.
pub const SOURCE_SET_BITS: u32 = 32;

/// Value of the source range table.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SourceRangeValue {
    /// 1: clients of the prefix are allowed.
    pub allowed: u32,
}

/// Key of the affinity table: a client of a Service with `ClientIP` affinity.
#[repr(C)]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
pub struct AffinityKey {
    /// The client's address. At the socket hooks, which know no source address:
    /// the cookie of the network namespace, high word first, in the last two
    /// words.
    pub client: Ip,
    /// Service id.
    pub service: u32,
    /// 1: `client` is the cookie of a network namespace.
    pub is_cookie: u32,
}

/// Value of the affinity table. An LRU hash: a lost entry costs a client its
/// affinity, not a connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct AffinityValue {
    /// Backend id.
    pub backend: u32,
    /// Tick of the last connection. The affinity expires
    /// [`ServiceValue::affinity_s`] later.
    pub used: u32,
}

/// Flags of [`ServiceValue`].
pub mod service_flags {
    /// The entry of the Maglev table is chosen by a hash of the client's address
    /// and ports, equally on every node; without the flag at random.
    pub const MAGLEV: u32 = 1;
    /// Forward by direct server return. Not implemented.
    pub const DSR: u32 = 2;
    /// Without slots packets are dropped instead of rejected: the traffic policy
    /// is `Local`, and all endpoints are on other nodes.
    pub const LOCAL: u32 = 4;
    /// Each backend that serves the service has a slot by backend id
    /// ([`super::SLOT_BY_BACKEND`]).
    pub const SLOTS_BY_BACKEND: u32 = 8;
}

/// Key of the slot table.
#[repr(C)]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
pub struct SlotKey {
    /// Service id.
    pub service: u32,
    /// Generation of the slot, or [`SLOT_BY_BACKEND`].
    pub generation: u32,
    /// Index in `0 .. slots`; the backend id with [`SLOT_BY_BACKEND`].
    pub slot: u32,
}

/// Reserved generation of slots that are looked up by backend id. The key
/// (service, [`SLOT_BY_BACKEND`], backend id) exists while the backend serves the
/// service. Written for services with session affinity and for UDP, whose
/// clients keep a backend without a TCP connection to it.
pub const SLOT_BY_BACKEND: u32 = u32::MAX;

/// Flags of [`SlotValue`].
pub mod slot_flags {
    /// Only in slots by backend id: existing clients keep the backend, new ones do
    /// not get it. It is ready, but topology hints select others for this node.
    pub const QUIESCING: u32 = 1;
}

/// Value of the slot table.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SlotValue {
    /// Key of the backend table.
    pub backend: u32,
    /// Bits of [`slot_flags`].
    pub flags: u32,
    /// Copy of [`BackendValue::ip`], which saves new connections a lookup. A
    /// backend id stands for one address, port and protocol, so they never
    /// differ.
    pub ip: Ip,
    /// Copy of [`BackendValue::port`], network byte order.
    pub port: Port,
    /// Reserved, zero.
    pub reserved: u16,
}

impl SlotValue {
    /// The slot of the backend with this id, without flags.
    pub const fn of(id: u32, backend: &BackendValue) -> SlotValue {
        SlotValue { backend: id, flags: 0, ip: backend.ip, port: backend.port, reserved: 0 }
    }
}

/// Entries of a Maglev table per segment.
pub const MAGLEV_SEGMENT_SIZE: usize = 32;

/// One segment of a Maglev table, the value of the map `SHARE`. The key is a
/// [`SlotKey`] with the generation [`ServiceValue::maglev_generation`] and the
/// number of the segment as `slot`: entry `n` is at index `n % 32` of segment
/// `n / 32`.
///
/// The number of entries of a backend is proportional to its weight, and every
/// node computes the same order (Eisenbud et al., "Maglev: A Fast and Reliable
/// Software Network Load Balancer", NSDI 2016, section 3.4).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct MaglevSegment {
    /// Backend ids; 0 after the last entry.
    pub backends: [u32; MAGLEV_SEGMENT_SIZE],
}

/// Value of the backend table (key: backend id, `u32`, stable for one
/// address, port and protocol while anything refers to it; 0 is never used).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct BackendValue {
    /// Address of the backend.
    pub ip: Ip,
    /// Target port, network byte order.
    pub port: Port,
    /// IP protocol.
    pub proto: u8,
    /// One of [`backend_state`].
    pub state: u8,
    /// Node that runs the backend; 0 = unknown or outside.
    pub node: u32,
    /// Topology zone, node-local id; 0 = none.
    pub zone: u16,
    /// Reserved, 1. Weights belong to a Service: see [`MaglevSegment`].
    pub weight: u16,
    /// Reserved, zero.
    pub flags: u32,
}

/// States of a backend.
pub mod backend_state {
    /// Takes new connections.
    pub const ACTIVE: u8 = 1;
    /// Keeps its connections, takes no new ones.
    pub const TERMINATING: u8 = 2;
    /// Deleted: its connections must be closed. Not written today.
    pub const GONE: u8 = 3;
}
