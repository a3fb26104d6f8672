//! The interfaces that the packet path needs from the kernel or from user space.

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

/// The bytes of the frame. Words are read and written in memory order, without
/// byte swapping. Offsets are bytes from the Ethernet header. Methods return
/// `None` if the access is out of bounds or the kernel refuses it.
pub trait Packet {
    /// Length of the frame in bytes.
    fn length(&self) -> u32;
    /// Payload bytes per segment of a segmentation-offload packet; 0 = one
    /// ordinary packet.
    fn segment_payload(&self) -> u32;
    /// `N` 32-bit words at an offset; `None` if the frame is shorter.
    fn load<const N: usize>(&self, offset: u32) -> Option<[u32; N]>;
    /// One 16-bit word at an offset.
    fn load_u16(&self, offset: u32) -> Option<u16>;
    /// Overwrites `N` 32-bit words.
    fn store<const N: usize>(&mut self, offset: u32, words: &[u32; N]) -> Option<()>;
    /// Overwrites a 16-bit word.
    fn store_u16(&mut self, offset: u32, word: u16) -> Option<()>;
    /// Overwrites a byte.
    fn store_u8(&mut self, offset: u32, byte: u8) -> Option<()>;
    /// Updates the transport checksum at an offset by `difference` (ones'
    /// complement sum of the new words minus the old, RFC 1624). `pseudo`: the
    /// changed words are in the pseudo-header (RFC 9293 section 3.1).
    /// `zero_is_none`: 0 means "no checksum" (UDP, RFC 768).
    fn checksum_change(
        &mut self,
        offset: u32,
        difference: u32,
        pseudo: bool,
        zero_is_none: bool,
    ) -> Option<()>;
    /// Whether the checksum at an offset holds only the sum of the pseudo-header
    /// and is completed later by a device (`CHECKSUM_PARTIAL`).
    fn checksum_is_partial(&mut self, offset: u32) -> bool;
    /// Truncates the frame to a length in bytes.
    fn truncate(&mut self, length: u32) -> Option<()>;
    /// Inserts bytes between the Ethernet and the IP header; their content is
    /// undefined.
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
    /// The backend id at an index of a Maglev table segment.
    fn maglev(&self, segment: &SlotKey, index: u32) -> Option<u32>;
    fn backend(&self, id: u32) -> Option<BackendValue>;
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentValue>;
    /// Stores a first fragment; best effort.
    fn fragment_insert(&mut self, key: &FragmentKey, value: &FragmentValue);
    /// The entry, for update in place (current table, then the previous one).
    fn conntrack(&mut self, key: &ConntrackKey) -> Option<&mut ConntrackValue>;
    /// Whether a set of source ranges allows a client.
    fn source_allowed(&self, set: u32, client: &Ip) -> bool;
    /// The backend of a client with session affinity.
    fn affinity(&self, key: &AffinityKey) -> Option<AffinityValue>;
    /// Stores it; best effort.
    fn affinity_insert(&mut self, key: &AffinityKey, value: &AffinityValue);
    /// Inserts or replaces an entry; false if the table is full.
    fn conntrack_insert(&mut self, key: &ConntrackKey, value: &ConntrackValue) -> bool;
}

/// The host's routing.
pub trait Routing {
    /// Looks up the route from `ctx.src_after` to `ctx.dst_after` for a packet
    /// that arrived on `ctx.ifindex` and whose largest segment has `bytes` bytes
    /// (IP header included). Prefers a route out of `ctx.reply_ifindex` if that is
    /// set. Fills `ctx.out_ifindex`, `ctx.next_hop` and, if the packet is too big,
    /// `ctx.out_mtu`.
    fn lookup(&mut self, ctx: &mut Context, bytes: u32) -> Route;
    /// The node's source address for `ctx.dst_after`; unspecified if unknown.
    fn source_address(&mut self, ctx: &mut Context) -> Ip;
}

/// The result of a route lookup in the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// There is a route.
    Found,
    /// There is a route, but the packet is larger than its MTU.
    TooBig,
    /// The destination is the host itself, or its network stack must route the
    /// packet.
    Host,
    /// A blackhole, unreachable or prohibit route.
    Prohibited,
    /// Forwarding is disabled on the ingress device, or the route is unusable.
    None,
}

/// Everything that the packet path needs.
pub trait Platform: Packet + Tables + Routing {
    /// The current tick (`beeline_abi::conntrack::tick`).
    fn tick(&self) -> u32;
    /// A random number.
    fn random(&mut self) -> u32;
    /// A verifier barrier between stages: the next stage reads `ctx` again. The
    /// kernel's verifier then checks each stage in one state, instead of once per
    /// path through the earlier stages.
    fn barrier(&self, ctx: &mut Context);
    /// Whether the node itself sent the packet: it has no ingress device.
    fn is_from_host(&self) -> bool;
    /// Counts a packet that passes untracked because the connection table is full.
    fn count_untracked(&mut self, ctx: &Context);
    /// Counts a connection whose first SNAT port is taken for its destination. The
    /// rate shows how full the port range is.
    fn count_port_taken(&mut self, ctx: &Context);
    /// Records a step; does nothing in the kernel.
    fn step(&mut self, step: Step);
}

/// A step of the packet path, for traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The frame was parsed.
    Parsed {
        /// Source.
        src: Ip,
        /// Destination.
        dst: Ip,
        /// Protocol.
        proto: u8,
    },
    /// The guard accepted the source address.
    GuardPassed,
    /// An entry of the connection table matched.
    ConntrackHit {
        /// The packet has the direction of the connection's first packet.
        origin: bool,
        /// Service id; 0 = not translated by a Service.
        service: u32,
    },
    /// A new connection.
    ConntrackNew,
    /// A backend of a Service was selected.
    Service {
        /// Its id.
        service: u32,
        /// Number of its slots.
        slots: u32,
        /// Id of the selected backend.
        backend: u32,
        /// Backend address.
        ip: Ip,
        /// Backend port, network byte order.
        port: beeline_abi::Port,
    },
    /// The source is translated to this address and port.
    Snat {
        /// Address.
        ip: Ip,
        /// Port, network byte order.
        port: beeline_abi::Port,
    },
    /// Addresses were rewritten.
    Rewritten {
        /// Source after translation.
        src: Ip,
        /// Destination after translation.
        dst: Ip,
    },
    /// The destination is a pod on this node.
    LocalPod {
        /// Interface index of the host side of its veth.
        ifindex: u32,
    },
    /// The host's routes were looked up.
    Routed {
        /// The result.
        route: Route,
        /// Interface index of the egress device.
        ifindex: u32,
        /// Next hop.
        next_hop: Ip,
    },
    /// The packet is rejected.
    Rejected(DropReason),
    /// The verdict of the hook.
    Verdict(Verdict),
}
