//! The endpoint table: local pods by address.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Ip, Mac};

/// Value of the endpoint table (key: [`Ip`] of the pod).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct EndpointValue {
    /// Interface index of the host side of the pod's veth.
    pub ifindex: u32,
    /// Node-local identity of the pod's labels (see [`identity`]).
    pub identity: u32,
    /// Cookie of the pod's network namespace (`SO_NETNS_COOKIE`, Linux 5.14).
    pub netns_cookie: u64,
    /// MAC of the pod's interface.
    pub pod_mac: Mac,
    /// MTU of the pod's interface, bytes.
    pub mtu: u16,
    /// See [`flags`].
    pub flags: u32,
    /// Node-local id of the endpoint.
    pub id: u32,
    /// Additional source prefix that the guard allows. Reserved, zero.
    pub guard_ip: Ip,
    /// Prefix length of `guard_ip` in bits of the 128-bit form. Reserved, zero.
    pub guard_bits: u32,
    /// Reserved, zero.
    pub reserved: u32,
}

/// Flags of [`EndpointValue`].
pub mod flags {
    /// The guard is off for this pod.
    pub const NO_GUARD: u32 = 1;
}

/// Value of the namespace table (key: `u64`, cookie of a pod's network
/// namespace, `SO_NETNS_COOKIE`, Linux 5.14). Sockets of a namespace that is not
/// in the table are not translated.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct NamespaceValue {
    /// See [`namespace_flags`].
    pub flags: u32,
    /// Reserved, zero.
    pub reserved: u32,
}

/// Flags of [`NamespaceValue`].
pub mod namespace_flags {
    /// The socket hooks translate for sockets of the namespace.
    pub const SOCKETS: u32 = 1;
}

/// Reserved identities. Those of pods start at [`identity::FIRST_POD`].
pub mod identity {
    /// Not known.
    pub const UNKNOWN: u32 = 0;
    /// This node.
    pub const HOST: u32 = 1;
    /// Outside the cluster.
    pub const WORLD: u32 = 2;
    /// Another node.
    pub const REMOTE_NODE: u32 = 3;
    /// The first identity of a label set of pods.
    pub const FIRST_POD: u32 = 256;
}
