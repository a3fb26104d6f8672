//! The address table: what an IP address belongs to (longest prefix match).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Ip;

/// Key of the address table. Mirrors `struct bpf_lpm_trie_key` (Linux 4.11),
/// the key of `BPF_MAP_TYPE_LPM_TRIE`: the prefix length, then the prefix, most
/// significant byte first.
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
pub struct AddressKey {
    /// Prefix length in bits of the 128-bit form, native byte order: an IPv4
    /// `/24` is 120.
    pub prefix_bits: u32,
    /// The prefix, network byte order, host bits zero.
    pub ip: Ip,
}

/// Value of the address table: what an address or prefix belongs to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct AddressValue {
    /// One of [`kind`].
    pub kind: u8,
    /// Reserved, zero.
    pub flags: u8,
    /// Reserved, zero.
    pub reserved: u16,
    /// Node that has the address (key of the node table); 0 = none.
    pub node: u32,
    /// Identity of the prefix (see [`crate::endpoint::identity`]).
    pub identity: u32,
}

/// Kinds of address. 0 is never written, so a zeroed value is recognised.
pub mod kind {
    /// In this node's pod CIDR: the endpoint table has the pod.
    pub const LOCAL_POD: u8 = 1;
    /// In another node's pod CIDR.
    pub const REMOTE_POD: u8 = 2;
    /// An address of this node.
    pub const LOCAL_NODE: u8 = 3;
    /// An address of another node.
    pub const REMOTE_NODE: u8 = 4;
    /// A Service CIDR: never routed.
    pub const SERVICE_RANGE: u8 = 5;
    /// A LoadBalancer or external IP that this cluster serves.
    pub const LOAD_BALANCER: u8 = 6;
    /// Outside the cluster. Not written today.
    pub const EXTERNAL: u8 = 7;
    /// Outside the cluster, but not masqueraded: pods reach it with their own
    /// address (`ipv4NativeRoutingCIDR`, `ipv6NativeRoutingCIDR`, and
    /// `nonMasqueradeCIDRs` of the ip-masq-agent configuration).
    pub const NATIVE_RANGE: u8 = 8;
}
