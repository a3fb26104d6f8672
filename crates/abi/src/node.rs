//! The node table: nodes by id.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Ip;

/// Value of the node table (key: node id, `u32`; 0 is never used).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct NodeValue {
    /// One of [`mode`].
    pub mode: u8,
    /// State of the neighbour probe; reserved, zero.
    pub neighbour_state: u8,
    /// Path MTU to the node, bytes; 0 = use the route's.
    pub path_mtu: u16,
    /// Reserved, zero.
    pub flags: u32,
    /// Node address, IPv4; unspecified if it has none.
    pub ipv4: Ip,
    /// Node address, IPv6; unspecified if it has none.
    pub ipv6: Ip,
    /// Remote tunnel endpoint; unspecified = none.
    pub tunnel_ip: Ip,
}

/// How a node is reached.
pub mod mode {
    /// Native routing, by the kernel's routes.
    pub const NATIVE: u8 = 1;
    /// Encapsulated. Not implemented.
    pub const TUNNEL: u8 = 2;
}
