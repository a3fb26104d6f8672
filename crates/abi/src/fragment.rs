//! The fragment table: the ports of first fragments, for the later ones.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Ip, Port};

/// Key of the fragment table (RFC 791 section 3.2, RFC 8200 section 4.5).
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
pub struct FragmentKey {
    /// Source address as on the wire.
    pub src: Ip,
    /// Destination address as on the wire.
    pub dst: Ip,
    /// Identification, network byte order (IPv4: 16 bits, zero-extended).
    pub id: u32,
    /// IP protocol of the payload.
    pub proto: u32,
}

/// Value of the fragment table.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct FragmentValue {
    /// Source port of the first fragment.
    pub sport: Port,
    /// Destination port of the first fragment.
    pub dport: Port,
    /// Tick of the first fragment. Entries older than 60 ticks are ignored.
    pub seen: u32,
}
