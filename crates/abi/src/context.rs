//! What is known about the packet in hand: the one struct that the stages of
//! the packet path share. It lives in per-CPU scratch memory, so that the
//! stages can be cut apart by tail calls without handing anything over.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::conntrack::{ConntrackKey, ConntrackValue};
use crate::fragment::FragmentKey;
use crate::service::{FrontendKey, SlotKey};
use crate::{Ip, Mac, Port};

/// The packet in hand. Offsets count bytes from the start of the frame.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Context {
    /// Source as it arrived.
    pub src: Ip,
    /// Destination as it arrived.
    pub dst: Ip,
    /// Source after translation.
    pub src_after: Ip,
    /// Destination after translation.
    pub dst_after: Ip,
    /// Source port as it arrived; identifier for ICMP echo.
    pub sport: Port,
    /// Destination port as it arrived; identifier for ICMP echo.
    pub dport: Port,
    /// Source port after translation.
    pub sport_after: Port,
    /// Destination port after translation.
    pub dport_after: Port,
    /// The hook that runs; see [`crate::counter::hook`].
    pub hook: u8,
    /// IP protocol.
    pub proto: u8,
    /// TCP flags.
    pub tcp_flags: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Device of the hook.
    pub ifindex: u32,
    /// See [`flags`].
    pub flags: u32,
    /// Offset of the IP header.
    pub l3: u32,
    /// Offset of the transport header.
    pub l4: u32,
    /// Bytes of the IP packet (header included).
    pub l3_bytes: u32,
    /// Bytes of the transport header.
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
    /// Source of the packet that an ICMP error quotes.
    pub inner_src: Ip,
    /// Destination of the packet that an ICMP error quotes.
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
    /// Device to send to.
    pub out_ifindex: u32,
    /// The tick of the packet.
    pub now: u32,
    /// MTU of the way out, bytes.
    pub out_mtu: u32,
    /// Next hop, when the way out is an uplink.
    pub next_hop: Ip,
    /// Translation found in the connection table.
    pub nat_ip: Ip,
    /// Second translation found in the connection table.
    pub snat_ip: Ip,
    /// Port of `nat_ip`.
    pub nat_port: Port,
    /// Port of `snat_ip`.
    pub snat_port: Port,
    /// Flags of the entry found.
    pub entry_flags: u32,
    /// Device by which the packet has to leave; 0 = as the routes say.
    pub reply_ifindex: u32,
    /// Key in hand.
    pub key: ConntrackKey,
    /// Second key in hand (the flow entry of a translated connection).
    pub flow_key: ConntrackKey,
    /// Key in hand.
    pub frontend_key: FrontendKey,
    /// Key in hand.
    pub slot_key: SlotKey,
    /// Key in hand.
    pub fragment_key: FragmentKey,
    /// Where a service's slots or shares are entered.
    pub choice: u32,
    /// What is added to `choice` for another try.
    pub choice_step: u32,
    /// Reserved, zero; aligns `value`.
    pub reserved: u32,
    /// Entry about to be written.
    pub value: ConntrackValue,
    /// Zero, always: what an entry ends with that is written into the table
    /// of a layout whose values are larger.
    pub value_padding: [u64; VALUE_PADDING_WORDS],
}

/// Words (8 bytes) by which values of another layout's connection table may
/// be larger than those of this one.
pub const VALUE_PADDING_WORDS: usize = 8;

/// Flags of [`Context`].
pub mod flags {
    /// IPv6 (else IPv4).
    pub const V6: u32 = 1;
    /// First fragment of several.
    pub const FRAGMENT_FIRST: u32 = 2;
    /// A later fragment: there is no transport header.
    pub const FRAGMENT_LATER: u32 = 4;
    /// An ICMP error that quotes a packet.
    pub const ICMP_ERROR: u32 = 8;
    /// IPv4 "don't fragment" (always set for IPv6).
    pub const DONT_FRAGMENT: u32 = 16;
    /// The source has changed.
    pub const SRC_CHANGED: u32 = 32;
    /// The destination has changed.
    pub const DST_CHANGED: u32 = 64;
    /// IPv4 options or IPv6 extension headers are present.
    pub const HAS_OPTIONS: u32 = 128;
    /// The source address is end `a` of the conntrack key.
    pub const SRC_IS_A: u32 = 256;
    /// The packet goes in the direction of the connection's first packet.
    pub const ORIGIN: u32 = 512;
    /// The second end of the connection is translated, too.
    pub const SNAT: u32 = 1024;
    /// The packet came from outside by an uplink: its answers leave by it.
    pub const REPLY_VIA_INGRESS: u32 = 2048;
    /// The source is to become the node's.
    pub const SNAT_TO_NODE: u32 = 4096;
    /// The source is to get another port: its own is taken towards the
    /// destination.
    pub const SNAT_NEW_PORT: u32 = 8192;
}
