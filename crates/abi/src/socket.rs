//! The socket table: what the socket hooks translated. An LRU hash: an entry
//! that is thrown out costs a socket the name of its peer, not its connection.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Ip, Port};

/// Key of the socket table: a socket and the address of the other end.
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
    /// `bpf_get_socket_cookie`.
    pub cookie: u64,
    /// The other end.
    pub ip: Ip,
    /// Its port.
    pub port: Port,
    /// IP protocol.
    pub proto: u8,
    /// One of [`direction`].
    pub direction: u8,
    /// Reserved, zero.
    pub reserved: [u8; 4],
}

/// What a [`SocketKey`] names.
pub mod direction {
    /// The address that the socket asked for; the value is the backend.
    pub const FRONTEND: u8 = 1;
    /// The backend; the value is the address that the socket asked for.
    pub const BACKEND: u8 = 2;
}

/// Value of the socket table.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SocketValue {
    /// The address that stands for the key's.
    pub ip: Ip,
    /// Its port.
    pub port: Port,
    /// Reserved, zero.
    pub flags: u16,
    /// Service id.
    pub service: u32,
    /// Backend id.
    pub backend: u32,
}
