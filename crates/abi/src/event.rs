//! Events: sampled records in the ring buffer (`BPF_MAP_TYPE_RINGBUF`).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Ip, Port};

/// Version of [`Event`]. Readers skip other versions.
pub const EVENT_VERSION: u8 = 1;

/// One record, with the tuple before and after translation. Both are equal if
/// nothing was translated. Addresses and ports are in network byte order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Event {
    /// [`EVENT_VERSION`].
    pub version: u8,
    /// One of [`kind`].
    pub kind: u8,
    /// Observation point: one of [`crate::counter::hook`].
    pub hook: u8,
    /// [`crate::DropReason`] for drops, else 0.
    pub reason: u8,
    /// CPU that saw the packet.
    pub cpu: u32,
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub time_ns: u64,
    /// Sequence number on this CPU.
    pub sequence: u64,
    /// Number of events of this CPU that were lost so far (rate limit or full
    /// buffer). The count is exact.
    pub lost: u64,
    /// Interface index of the hook's device.
    pub ifindex: u32,
    /// Length of the frame in bytes.
    pub length: u32,
    /// Identity of the source; see [`crate::endpoint::identity`].
    pub identity_src: u32,
    /// Identity of the destination.
    pub identity_dst: u32,
    /// Service id; 0 = none.
    pub service: u32,
    /// Backend id; 0 = none.
    pub backend: u32,
    /// Source before translation.
    pub src: Ip,
    /// Destination before translation.
    pub dst: Ip,
    /// Source after translation.
    pub src_after: Ip,
    /// Destination after translation.
    pub dst_after: Ip,
    /// Source port (ICMP: type and code as two bytes).
    pub sport: Port,
    /// Destination port (ICMP echo: identifier).
    pub dport: Port,
    /// Source port after translation.
    pub sport_after: Port,
    /// Destination port after translation.
    pub dport_after: Port,
    /// IP protocol.
    pub proto: u8,
    /// TCP flags.
    pub tcp_flags: u8,
    /// Ethertype, network byte order.
    pub ethertype: u16,
    /// Reserved, zero.
    pub reserved: u32,
}

/// Kinds of event.
pub mod kind {
    /// A packet was dropped.
    pub const DROP: u8 = 1;
    /// A new connection. Not implemented.
    pub const FLOW_NEW: u8 = 2;
}

/// Per-CPU state of the event stream.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct EventState {
    /// Last sequence number.
    pub sequence: u64,
    /// Number of lost events.
    pub lost: u64,
    /// Tick of the current rate limit window.
    pub window: u32,
    /// Number of events written in this window.
    pub written: u32,
}
