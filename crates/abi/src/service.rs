//! Service tables: address -> class -> frontend -> service -> slot -> backend.
//!
//! Publishing: write the new slots under a new generation, replace the
//! service's value (one hash element, so a reader sees the old set or the new
//! one), delete the old generation's slots afterwards. The shares of services
//! with consistent hashing or weights go the same way.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Ip, Port};

/// Value of the `service_address` table (key: [`Ip`]): the class of an
/// address that some frontend uses.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ServiceAddressValue {
    /// All addresses of one class share their frontends. [`CLASS_NODE`] and
    /// [`CLASS_NODE_IPV6`] are every node address of a family; numbers from
    /// [`CLASS_FIRST_EXACT`] stand for one address each.
    pub class: u32,
    /// See [`address_flags`].
    pub flags: u32,
}

/// The class of all IPv4 addresses of nodes (NodePort).
pub const CLASS_NODE: u32 = 1;
/// The class of all IPv6 addresses of nodes.
pub const CLASS_NODE_IPV6: u32 = 2;
/// The first class that stands for a single address.
pub const CLASS_FIRST_EXACT: u32 = 16;

/// Flags of [`ServiceAddressValue`].
pub mod address_flags {
    /// The address belongs to Services alone: a port without a frontend is
    /// refused. Absent on node addresses, whose other ports are the host's.
    pub const EXCLUSIVE: u32 = 1;
    /// The address has frontends of its own and is a node's: a port that is
    /// not found in its class is looked for in that of its family's nodes.
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
    /// Class of the address.
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
    /// Source-range set that clients must be in; 0 = everyone.
    pub source_ranges: u32,
}

/// Value of the service table (key: service id, `u32`; one per Service port
/// and endpoint selection). Replaced whole, never written in part.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ServiceValue {
    /// Which slots are the current ones.
    pub generation: u32,
    /// Number of slots; 0 = no endpoints: refuse the connection.
    pub slots: u32,
    /// See [`service_flags`].
    pub flags: u32,
    /// ClientIP affinity in seconds; 0 = none.
    pub affinity_s: u32,
    /// Which shares are the current ones.
    pub maglev_generation: u32,
    /// Number of shares; 0 = none: every slot is as good as another.
    pub maglev_size: u32,
}

impl ServiceValue {
    /// Each of its backends has an entry of its own ([`SLOT_BY_BACKEND`]).
    pub const fn has_slots_by_backend(&self) -> bool {
        self.affinity_s != 0 || self.flags & service_flags::SLOTS_BY_BACKEND != 0
    }
}

/// Key of the source-range table, as `BPF_MAP_TYPE_LPM_TRIE` wants it: which
/// clients a set of `loadBalancerSourceRanges` lets in.
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
    /// The set ([`FrontendValue::source_ranges`]), as stored in native order.
    pub set: u32,
    /// The prefix, host bits zero.
    pub ip: Ip,
}

/// Bits of [`SourceRangeKey::set`].
pub const SOURCE_SET_BITS: u32 = 32;

/// Value of the source-range table.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SourceRangeValue {
    /// 1: clients of the prefix are let in.
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
    /// The client's address; for a socket of a pod or the host that of its
    /// network namespace: its cookie in the last eight bytes.
    pub client: Ip,
    /// Service id.
    pub service: u32,
    /// 1: `client` is a network namespace's cookie.
    pub is_cookie: u32,
}

/// Value of the affinity table. An LRU hash: it holds a preference, not a
/// connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct AffinityValue {
    /// Backend id.
    pub backend: u32,
    /// Tick of the last connection; the preference ends
    /// [`ServiceValue::affinity_s`] later.
    pub used: u32,
}

/// Flags of [`ServiceValue`].
pub mod service_flags {
    /// Among the shares one is chosen by the client's address and ports, the
    /// same on every node; otherwise by chance.
    pub const MAGLEV: u32 = 1;
    /// Dispatch by direct server return.
    pub const DSR: u32 = 2;
    /// Without slots packets are dropped, not refused: there are endpoints,
    /// but none on this node, and the traffic policy is `Local`.
    pub const LOCAL: u32 = 4;
    /// Each backend has an entry of the slot table that says that it serves
    /// the service ([`super::SLOT_BY_BACKEND`]).
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
    /// Generation that the slot belongs to.
    pub generation: u32,
    /// `0 .. slots`.
    pub slot: u32,
}

/// A generation that no service has: the key (service, [`SLOT_BY_BACKEND`],
/// backend id) exists while the backend serves a service whose clients keep
/// their backend by other means than a connection: by affinity or, datagrams,
/// by habit.
pub const SLOT_BY_BACKEND: u32 = u32::MAX;

/// Flags of [`SlotValue`].
pub mod slot_flags {
    /// Of a member: it is not among the slots. Clients that have it keep it,
    /// no other gets it (it is ready, but hints name others for this node).
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
    /// Where the backend is: a number stands for one address, port and
    /// protocol, so that this never differs from [`BackendValue::ip`]. New
    /// connections are spared a look-up.
    pub ip: Ip,
    /// [`BackendValue::port`], network byte order.
    pub port: Port,
    /// Reserved, zero.
    pub reserved: u16,
}

impl SlotValue {
    /// The value for the backend of this number.
    pub const fn of(id: u32, backend: &BackendValue) -> SlotValue {
        SlotValue { backend: id, flags: 0, ip: backend.ip, port: backend.port, reserved: 0 }
    }
}

/// Shares that stand in one element of the share table.
pub const MAGLEV_SEGMENT_SIZE: usize = 32;

/// Value of the share table. Its key is a [`SlotKey`] of the generation
/// [`ServiceValue::maglev_generation`], whose `slot` counts chunks: share `n`
/// stands in chunk `n / 32` at place `n % 32`.
///
/// A backend has as many shares as its weight says, in an order that every
/// node finds out by itself (consistent hashing after Maglev).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct MaglevSegment {
    /// Keys of the backend table; 0 behind the last share.
    pub backends: [u32; MAGLEV_SEGMENT_SIZE],
}

/// Value of the backend table (key: backend id, `u32`, stable for one
/// address, port and protocol while anything refers to it; 0 is never used).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct BackendValue {
    /// Where the packets go.
    pub ip: Ip,
    /// Target port, network byte order.
    pub port: Port,
    /// IP protocol.
    pub proto: u8,
    /// One of [`backend_state`].
    pub state: u8,
    /// Node that runs the backend; 0 = unknown or outside.
    pub node: u32,
    /// Topology zone, node-local number; 0 = none.
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
    /// Gone: its connections are to be ended.
    pub const GONE: u8 = 3;
}
