//! What the packet path asks of the body it runs in.

use beeline_abi::address::AddressValue;
use beeline_abi::config::ConfigValue;
use beeline_abi::conntrack::{ConntrackKey, ConntrackValue};
use beeline_abi::context::Context;
use beeline_abi::endpoint::EndpointValue;
use beeline_abi::fragment::{FragmentKey, FragmentValue};
use beeline_abi::service::{
    AffinityKey, AffinityValue, BackendValue, FrontendKey, FrontendValue, ServiceAddressValue, ServiceValue,
    SlotKey, SlotValue,
};
use beeline_abi::{DropReason, Ip};

use crate::Verdict;

/// The bytes of the frame. Words are read and written exactly as they stand
/// in memory (native load of network-order bytes).
pub trait Packet {
    /// Bytes of the frame.
    fn length(&self) -> u32;
    /// Payload bytes per segment of a segmentation-offload packet; 0 = one
    /// ordinary packet.
    fn segment_payload(&self) -> u32;
    /// `N` 32-bit words at an offset; none if the frame is shorter.
    fn load<const N: usize>(&self, offset: u32) -> Option<[u32; N]>;
    /// One 16-bit word at an offset.
    fn load_u16(&self, offset: u32) -> Option<u16>;
    /// Overwrites `N` 32-bit words.
    fn store<const N: usize>(&mut self, offset: u32, words: &[u32; N]) -> Option<()>;
    /// Overwrites a 16-bit word.
    fn store_u16(&mut self, offset: u32, word: u16) -> Option<()>;
    /// Overwrites a byte.
    fn store_u8(&mut self, offset: u32, byte: u8) -> Option<()>;
    /// Changes the transport checksum at an offset by a difference
    /// (ones' complement sum of the new words minus the old). `pseudo`: the
    /// changed words are part of the pseudo-header (RFC 9293 section 3.1).
    /// `zero_is_none`: 0 means "no checksum" (UDP, RFC 768).
    fn checksum_change(
        &mut self,
        offset: u32,
        difference: u32,
        pseudo: bool,
        zero_is_none: bool,
    ) -> Option<()>;
    /// Whether the checksum at an offset still holds only the pseudo-header's
    /// sum, to be completed by a device (`CHECKSUM_PARTIAL`).
    fn checksum_is_partial(&mut self, offset: u32) -> bool;
    /// Cuts the frame to a length.
    fn truncate(&mut self, length: u32) -> Option<()>;
    /// Makes room between the Ethernet and the IP header.
    fn insert_after_ethernet(&mut self, bytes: u32) -> Option<()>;
}

/// The tables (see `beeline_abi::maps`).
#[expect(missing_docs, reason = "each is a lookup in the table of that name")]
pub trait Tables {
    fn config(&self) -> Option<ConfigValue>;
    fn address(&self, ip: &Ip) -> Option<AddressValue>;
    fn endpoint(&self, ip: &Ip) -> Option<EndpointValue>;
    fn service_address(&self, ip: &Ip) -> Option<ServiceAddressValue>;
    fn frontend(&self, key: &FrontendKey) -> Option<FrontendValue>;
    fn service(&self, id: u32) -> Option<ServiceValue>;
    fn slot(&self, key: &SlotKey) -> Option<SlotValue>;
    /// The backend id at a place of a chunk of shares.
    fn maglev(&self, segment: &SlotKey, index: u32) -> Option<u32>;
    fn backend(&self, id: u32) -> Option<BackendValue>;
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentValue>;
    /// Remembers a first fragment.
    fn fragment_insert(&mut self, key: &FragmentKey, value: &FragmentValue);
    /// The entry in place (current table, then the previous one).
    fn conntrack(&mut self, key: &ConntrackKey) -> Option<&mut ConntrackValue>;
    /// Whether a set of source ranges lets a client in.
    fn source_allowed(&self, set: u32, client: &Ip) -> bool;
    /// The backend that a client keeps.
    fn affinity(&self, key: &AffinityKey) -> Option<AffinityValue>;
    /// Remembers it; best effort.
    fn affinity_insert(&mut self, key: &AffinityKey, value: &AffinityValue);
    /// Writes a new entry; false if the table is full.
    fn conntrack_insert(&mut self, key: &ConntrackKey, value: &ConntrackValue) -> bool;
}

/// The host's routing.
pub trait Routing {
    /// Looks up the route of `ctx.src_after` to `ctx.dst_after` for a packet
    /// whose largest segment has `bytes` (IP header included), arriving at
    /// `ctx.ifindex`, out of `ctx.reply_ifindex` where that is set and leads
    /// there. Fills `ctx.out_ifindex`, `ctx.next_hop` and, if it is too big,
    /// `ctx.out_mtu`.
    fn lookup(&mut self, ctx: &mut Context, bytes: u32) -> Route;
    /// The node's source address towards `ctx.dst_after`; unspecified if the
    /// routing does not say.
    fn source_address(&mut self, ctx: &mut Context) -> Ip;
}

/// What the host's routing says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// There is a way out.
    Found,
    /// There is a way out, but the packet is larger than its MTU.
    TooBig,
    /// The host itself is the destination, or decides by itself.
    Host,
    /// A blackhole, unreachable or prohibit route.
    Prohibited,
    /// Forwarding is off on the incoming device, or the route cannot be used.
    None,
}

/// Everything a body provides.
pub trait Platform: Packet + Tables + Routing {
    /// The present tick (`beeline_abi::conntrack::tick`).
    fn tick(&self) -> u32;
    /// A random number.
    fn random(&mut self) -> u32;
    /// A cut between stages: what the next one needs, it reads from `ctx`
    /// anew. So the kernel's verifier meets every stage in one state, instead
    /// of once for each way through the stages before it.
    fn barrier(&self, ctx: &mut Context);
    /// The node itself made the packet: it came in by no device.
    fn is_from_host(&self) -> bool;
    /// Counts a packet that was let through although the connection table is
    /// full.
    fn count_untracked(&mut self, ctx: &Context);
    /// Counts a connection whose first choice of a translated source port is
    /// taken towards its destination: how often tells how full the ports are.
    fn count_port_taken(&mut self, ctx: &Context);
    /// Takes down a step of the way; free in the kernel.
    fn step(&mut self, step: Step);
}

/// A step on a packet's way, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The frame was understood.
    Parsed {
        /// Source.
        src: Ip,
        /// Destination.
        dst: Ip,
        /// Protocol.
        proto: u8,
    },
    /// The sender may use its source address.
    GuardPassed,
    /// An entry of the connection table matched.
    ConntrackHit {
        /// The packet goes in the direction of the first one.
        origin: bool,
        /// Service id; 0 = plain flow.
        service: u32,
    },
    /// A new connection.
    ConntrackNew,
    /// A Service was chosen.
    Service {
        /// Its id.
        service: u32,
        /// Number of its endpoints.
        slots: u32,
        /// Backend id chosen.
        backend: u32,
        /// Backend address.
        ip: Ip,
        /// Backend port, network byte order.
        port: beeline_abi::Port,
    },
    /// The source becomes an address and port of the node.
    Snat {
        /// Address.
        ip: Ip,
        /// Port, network byte order.
        port: beeline_abi::Port,
    },
    /// Addresses were rewritten.
    Rewritten {
        /// Source now.
        src: Ip,
        /// Destination now.
        dst: Ip,
    },
    /// A pod on this node.
    LocalPod {
        /// Host side of its veth.
        ifindex: u32,
    },
    /// The host's routing was asked.
    Routed {
        /// What it said.
        route: Route,
        /// Device.
        ifindex: u32,
        /// Next hop.
        next_hop: Ip,
    },
    /// The packet is refused.
    Rejected(DropReason),
    /// The end of the way at this hook.
    Verdict(Verdict),
}
