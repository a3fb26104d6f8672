//! The connection table.
//!
//! A key holds both ends in a fixed order, so that either direction of a flow
//! finds the same entry with one lookup. A translated connection has two
//! entries: the *service* entry (client and virtual address, found by the
//! request) and the *flow* entry (client and backend, found by what is on the
//! wire in both directions); each names the translation that its packets
//! need.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Ip, Mac, Port};

/// Key of the connection table. `(port_a, ip_a) <= (port_b, ip_b)`, compared
/// as stored.
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
pub struct ConntrackKey {
    /// The lesser end.
    pub ip_a: Ip,
    /// The greater end.
    pub ip_b: Ip,
    /// Port of the lesser end; the identifier for ICMP echo.
    pub port_a: Port,
    /// Port of the greater end; the identifier for ICMP echo.
    pub port_b: Port,
    /// IP protocol.
    pub proto: u8,
    /// Reserved, zero.
    pub zone: u8,
    /// Reserved, zero.
    pub reserved: u16,
}

/// Value of the connection table: 128 bytes, the first 64 are what a packet
/// of an established connection reads.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ConntrackValue {
    /// What to translate to: the backend (service entry) or the virtual
    /// address that replies must come from (flow entry).
    pub nat_ip: Ip,
    /// Port of `nat_ip`, network byte order.
    pub nat_port: Port,
    /// See [`flags`].
    pub flags: u16,
    /// The entry is dead from this tick on (see [`tick`]).
    pub expires: u32,
    /// Service id; 0 = plain flow.
    pub service: u32,
    /// Backend id; 0 = plain flow.
    pub backend: u32,
    /// Generation of the service when the backend was chosen.
    pub generation: u32,
    /// Device on which the first packet arrived.
    pub ingress_ifindex: u32,
    /// TCP flags seen from the originator, or-ed.
    pub tcp_origin: u8,
    /// TCP flags seen from the responder, or-ed.
    pub tcp_reply: u8,
    /// Source MAC of the first packet.
    pub ingress_mac: Mac,
    /// Identity of the originator.
    pub identity_origin: u32,
    /// Identity of the responder.
    pub identity_reply: u32,
    /// Policy revision that allowed the flow.
    pub policy_revision: u32,
    /// Tick of the first packet.
    pub created: u32,
    /// Packets from the originator.
    pub packets_origin: u64,
    /// Bytes (whole frames) from the originator.
    pub bytes_origin: u64,
    /// Packets from the responder.
    pub packets_reply: u64,
    /// Bytes (whole frames) from the responder.
    pub bytes_reply: u64,
    /// The second translation, with [`flags::SNAT`]. Service entry: the
    /// source that requests get. Flow entry: the client, to whom replies go.
    pub snat_ip: Ip,
    /// Port of `snat_ip`, network byte order.
    pub snat_port: Port,
    /// Reserved, zero.
    pub reserved: [u16; 7],
}

/// Flags of [`ConntrackValue`].
pub mod flags {
    /// The originator is end `a` of the key.
    pub const ORIGIN_A: u16 = 1;
    /// Service entry: requests are translated to `nat_ip`:`nat_port`.
    pub const DNAT: u16 = 2;
    /// Flow entry: replies are given `nat_ip`:`nat_port` as their source.
    pub const REPLY_SNAT: u16 = 4;
    /// The source is translated, too: see `snat_ip`. A client that is its
    /// own backend sees a stand-in, clients of other nodes' backends and of
    /// the outside are given an address of this node.
    pub const SNAT: u16 = 8;
    /// Dispatched by direct server return.
    pub const DSR: u16 = 16;
    /// The backend was chosen by affinity.
    pub const AFFINITY: u16 = 32;
    /// The responder has answered.
    pub const REPLIED: u16 = 64;
    /// The connection came in by an uplink (`ingress_ifindex`): replies leave
    /// by it.
    pub const REPLY_VIA_INGRESS: u16 = 128;
}

/// Shift from nanoseconds of `CLOCK_MONOTONIC` to ticks: one tick is
/// 2^30 ns, about 1.07 s. A shift, because eBPF divides slowly.
pub const TICK_SHIFT: u32 = 30;

/// The tick of a moment of `CLOCK_MONOTONIC`.
#[inline(always)]
pub const fn tick(monotonic_ns: u64) -> u32 {
    (monotonic_ns >> TICK_SHIFT) as u32
}

/// Ticks that cover at least `seconds`.
pub const fn ticks_from_seconds(seconds: u32) -> u32 {
    let ns = seconds as u64 * 1_000_000_000;
    (ns.div_ceil(1 << TICK_SHIFT)) as u32
}

/// The kernel's timer (`struct bpf_timer` of linux/bpf.h): the map's type
/// information must show it by this name.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct bpf_timer {
    /// The kernel's own.
    pub opaque: [u64; 2],
}

/// The only element of the `sweep` array: the timer that takes expired
/// entries out of the connection tables, and what it found.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SweepValue {
    /// The timer; user space reads zeros.
    pub timer: bpf_timer,
    /// Sweeps so far.
    pub sweeps: u64,
    /// Entries taken out so far.
    pub removed: u64,
    /// Entries that lived at the last whole sweep, both tables together.
    pub live: u64,
    /// How long the last sweep took, nanoseconds.
    pub duration_ns: u64,
    /// Entries taken out by the running or last sweep.
    pub removed_now: u64,
    /// Entries found alive by the running or last sweep.
    pub live_now: u64,
}

/// Time between the end of a sweep and the next, nanoseconds: ten ticks.
pub const SWEEP_INTERVAL_NS: u64 = 10 << TICK_SHIFT;
/// A sweep holds up its CPU: after so many removals it stops, and the next
/// one comes after [`SWEEP_PAUSE_NS`].
pub const SWEEP_REMOVALS_MAX: u64 = 2_048;
/// Pause of a sweep that is not done, nanoseconds: about 17 ms.
pub const SWEEP_PAUSE_NS: u64 = 1 << 24;
