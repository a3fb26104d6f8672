//! The socket table: the translations of the socket hooks. An LRU hash: an
//! evicted entry costs a socket the Service address of its peer, not its
//! connection.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Ip, Port};

/// Key of the socket table: a socket and a remote address.
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
pub struct SocketKey {
    /// Socket cookie (`bpf_get_socket_cookie`, `SO_COOKIE`, Linux 4.12).
    pub cookie: u64,
    /// The remote address: a frontend or a backend (see `direction`).
    pub ip: Ip,
    /// Its port, network byte order.
    pub port: Port,
    /// IP protocol.
    pub proto: u8,
    /// One of [`direction`].
    pub direction: u8,
    /// Reserved, zero.
    pub reserved: [u8; 4],
}

/// Direction of a lookup with [`SocketKey`].
pub mod direction {
    /// From the frontend that the socket named to the backend.
    pub const FRONTEND: u8 = 1;
    /// From the backend to the frontend that the socket named.
    pub const BACKEND: u8 = 2;
}

/// Value of the socket table.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SocketValue {
    /// The backend or the frontend of the key's address.
    pub ip: Ip,
    /// Its port, network byte order.
    pub port: Port,
    /// Reserved, zero.
    pub flags: u16,
    /// Service id.
    pub service: u32,
    /// Backend id.
    pub backend: u32,
}
