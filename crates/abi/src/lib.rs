//! Everything that crosses into the kernel: map keys and values, events, drop
//! reasons, counters and configuration.
//!
//! Every type here is `repr(C)`, has no implicit padding (the `zerocopy`
//! derive refuses it) and holds no `bool`, `Option`, `usize` or Rust enum.
//! The layouts are recorded in `layout.snapshot`; a test fails when one of
//! them changes while [`ABI_VERSION`] does not.
//!
//! Addresses are always 16 bytes: IPv4 is stored IPv4-mapped
//! (`::ffff:a.b.c.d`, RFC 4291 section 2.5.5.2), so every table serves both
//! families. Ports are kept in network byte order ([`Port`]).
#![no_std]

pub mod address;
pub mod config;
pub mod conntrack;
pub mod context;
pub mod counter;
pub mod drop;
pub mod endpoint;
pub mod event;
pub mod fragment;
pub mod ip;
pub mod maps;
pub mod node;
pub mod service;
pub mod socket;

pub use drop::DropReason;
pub use ip::{Ip, Mac, Port};

/// Version of every layout in this crate. Maps are pinned under
/// `v<ABI_VERSION>/`. It is incremented whenever a layout in `layout.snapshot`
/// changes.
pub const ABI_VERSION: u32 = 2;

/// The IPv4 address that every pod uses as its gateway (RFC 3927 link-local,
/// never routed). Also the IPv4 hairpin address: the source that a pod sees when
/// it reaches itself through a Service ([`HAIRPIN_IPV6`] for IPv6).
pub const GATEWAY_IPV4: [u8; 4] = [169, 254, 42, 1];

/// The IPv6 address that every pod uses as its gateway (link-local).
pub const GATEWAY_IPV6: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xbe, 0xe1, 0, 1];

/// The IPv6 hairpin address: the source that a pod sees when it reaches itself
/// through a Service. `100::bee1:1` of the discard-only prefix (RFC 6666), never
/// routed. The gateway address does not work: an unbound socket replies to a
/// link-local address from its own link-local address (RFC 6724 section 5,
/// rule 2).
pub const HAIRPIN_IPV6: [u8; 16] = [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xbe, 0xe1, 0, 1];

/// The MAC address of the host side of every pod's veth. It is fixed, so the
/// pod's permanent neighbour entries stay valid when the host side is recreated.
pub const GATEWAY_MAC: Mac = Mac([0x02, 0xbe, 0xe1, 0x00, 0x00, 0x01]);
