//! The state of the current packet: the one struct that the stages of the
//! packet path share. It is kept in per-CPU scratch memory, so stages can become
//! separate functions without passing it on the stack.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::conntrack::{ConntrackKey, ConntrackValue};
use crate::fragment::FragmentKey;
use crate::service::{FrontendKey, SlotKey};
use crate::{Ip, Mac, Port};

/// The current packet. Offsets are bytes from the start of the frame; addresses
/// and ports are in network byte order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Context {
    /// Source before translation.
    pub src: Ip,
    /// Destination before translation.
    pub dst: Ip,
    /// Source after translation.
    pub src_after: Ip,
    /// Destination after translation.
    pub dst_after: Ip,
    /// Source port before translation; identifier for ICMP echo.
    pub sport: Port,
    /// Destination port before translation; identifier for ICMP echo.
    pub dport: Port,
    /// Source port after translation.
    pub sport_after: Port,
    /// Destination port after translation.
    pub dport_after: Port,
    /// The current hook; see [`crate::counter::hook`].
    pub hook: u8,
    /// IP protocol.
    pub proto: u8,
    /// TCP flags.
    pub tcp_flags: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Interface index of the hook's device.
    pub ifindex: u32,
    /// See [`flags`].
    pub flags: u32,
    /// Offset of the IP header.
    pub l3: u32,
    /// Offset of the transport header.
    pub l4: u32,
    /// Length of the IP packet in bytes, header included.
    pub l3_bytes: u32,
    /// Length of the transport header in bytes.
    pub l4_header_bytes: u32,
    /// Ethernet destination.
    pub mac_dst: Mac,
    /// Ethernet source.
    pub mac_src: Mac,
    /// Ethertype, network byte order.
    pub ethertype: u16,
    /// ICMP type.
    pub icmp_type: u8,
    /// ICMP code.
    pub icmp_code: u8,
    /// Source of the packet quoted by an ICMP error.
    pub inner_src: Ip,
    /// Destination of the packet quoted by an ICMP error.
    pub inner_dst: Ip,
    /// Source port of the quoted packet.
    pub inner_sport: Port,
    /// Destination port of the quoted packet.
    pub inner_dport: Port,
    /// Offset of the quoted IP header.
    pub inner_l3: u32,
    /// Offset of the quoted transport header.
    pub inner_l4: u32,
    /// Protocol of the quoted packet.
    pub inner_proto: u32,
    /// Identity of the source.
    pub identity_src: u32,
    /// Identity of the destination.
    pub identity_dst: u32,
    /// Service id; 0 = none.
    pub service: u32,
    /// Backend id; 0 = none.
    pub backend: u32,
    /// Generation of the service.
    pub generation: u32,
    /// Interface index of the egress device.
    pub out_ifindex: u32,
    /// Current tick ([`crate::conntrack::tick`]).
    pub now: u32,
    /// MTU of the egress route, bytes.
    pub out_mtu: u32,
    /// Next hop, if the egress device is an uplink.
    pub next_hop: Ip,
    /// `nat_ip` of the connection entry.
    pub nat_ip: Ip,
    /// `snat_ip` of the connection entry.
    pub snat_ip: Ip,
    /// Port of `nat_ip`.
    pub nat_port: Port,
    /// Port of `snat_ip`.
    pub snat_port: Port,
    /// Flags of the connection entry ([`crate::conntrack::flags`]).
    pub entry_flags: u32,
    /// Interface index of the device that replies must leave on; 0 = by route.
    pub reply_ifindex: u32,
    /// Key of the packet's tuple.
    pub key: ConntrackKey,
    /// Key of the translated tuple (the flow entry).
    pub flow_key: ConntrackKey,
    /// Scratch key of the frontend table.
    pub frontend_key: FrontendKey,
    /// Scratch key of the slot table and of the Maglev tables.
    pub slot_key: SlotKey,
    /// Key of the packet in the fragment table.
    pub fragment_key: FragmentKey,
    /// Number that selects a slot or an entry of the Maglev table (modulo its
    /// size): a hash or a random number.
    pub choice: u32,
    /// Added to `choice` for each further try.
    pub choice_step: u32,
    /// Reserved, zero; aligns `value`.
    pub reserved: u32,
    /// Connection entry to be inserted.
    pub value: ConntrackValue,
    /// Always zero. Follows `value` when it is inserted into the connection table
    /// of a layout whose values are larger.
    pub value_padding: [u64; VALUE_PADDING_WORDS],
}

/// Words (8 bytes) by which the connection values of another layout may be
/// larger than those of this one.
pub const VALUE_PADDING_WORDS: usize = 8;

/// Flags of [`Context`].
pub mod flags {
    /// IPv6 (else IPv4).
    pub const V6: u32 = 1;
    /// First fragment of several.
    pub const FRAGMENT_FIRST: u32 = 2;
    /// A later fragment: it has no transport header.
    pub const FRAGMENT_LATER: u32 = 4;
    /// An ICMP error that quotes a packet.
    pub const ICMP_ERROR: u32 = 8;
    /// IPv4 "don't fragment" (always set for IPv6).
    pub const DONT_FRAGMENT: u32 = 16;
    /// The source is translated.
    pub const SRC_CHANGED: u32 = 32;
    /// The destination is translated.
    pub const DST_CHANGED: u32 = 64;
    /// IPv4 options or IPv6 extension headers are present.
    pub const HAS_OPTIONS: u32 = 128;
    /// The source address is end `a` of the conntrack key.
    pub const SRC_IS_A: u32 = 256;
    /// The packet has the direction of the connection's first packet.
    pub const ORIGIN: u32 = 512;
    /// The connection's source is translated.
    pub const SNAT: u32 = 1024;
    /// The packet arrived on an uplink from outside the cluster: replies leave on
    /// the same uplink.
    pub const REPLY_VIA_INGRESS: u32 = 2048;
    /// The source must become an address of the node.
    pub const SNAT_TO_NODE: u32 = 4096;
    /// The source must get another port: its own is taken for the destination.
    pub const SNAT_NEW_PORT: u32 = 8192;
}
