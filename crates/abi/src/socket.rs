//! The socket table: what the socket hooks translated.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Ip, Port};

/// Key of the socket table: a connected or sending socket and the address it
/// asked for.
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
    /// The backend's address.
    pub backend_ip: Ip,
    /// The backend's port.
    pub backend_port: Port,
    /// IP protocol.
    pub proto: u8,
    /// Reserved, zero.
    pub reserved: [u8; 5],
}

/// Value of the socket table.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SocketValue {
    /// The address that the socket asked for.
    pub frontend_ip: Ip,
    /// Its port.
    pub frontend_port: Port,
    /// Reserved, zero.
    pub flags: u16,
    /// Service id.
    pub service: u32,
    /// Backend id.
    pub backend: u32,
}
