//! The address table: what stands behind an IP address (longest prefix match).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Ip;

/// Key of the address table, as `BPF_MAP_TYPE_LPM_TRIE` wants it.
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
pub struct AddressKey {
    /// Prefix length in bits of the 128-bit form: an IPv4 `/24` is 120.
    pub prefix_bits: u32,
    /// The prefix, host bits zero.
    pub ip: Ip,
}

/// What an address or prefix is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct AddressValue {
    /// One of [`kind`].
    pub kind: u8,
    /// Reserved, zero.
    pub flags: u8,
    /// Reserved, zero.
    pub reserved: u16,
    /// The node that holds the address (key of the node table); 0 = none.
    pub node: u32,
    /// Identity of what stands behind the prefix (see [`crate::endpoint::identity`]).
    pub identity: u32,
}

/// Kinds of address. 0 is never written, so that a zeroed value is seen.
pub mod kind {
    /// In this node's pod range: the endpoint table knows the pod.
    pub const LOCAL_POD: u8 = 1;
    /// In another node's pod range.
    pub const REMOTE_POD: u8 = 2;
    /// An address of this node.
    pub const LOCAL_NODE: u8 = 3;
    /// An address of another node.
    pub const REMOTE_NODE: u8 = 4;
    /// A range that only Services have: never routed.
    pub const SERVICE_RANGE: u8 = 5;
    /// A LoadBalancer or external address that this cluster answers for.
    pub const LOAD_BALANCER: u8 = 6;
    /// Known to be outside the cluster.
    pub const EXTERNAL: u8 = 7;
    /// Outside the cluster, but reached with the pod's own address
    /// (`ipv4NativeRoutingCIDR`, `ipv6NativeRoutingCIDR`, the ranges of
    /// ip-masq-agent's configuration).
    pub const NATIVE_RANGE: u8 = 8;
}
