//! The connection table.
//!
//! A key holds both ends in a fixed order, so both directions of a flow find
//! the same entry with one lookup. A translated connection has two entries: the
//! *service* entry, keyed by the tuple before translation (client and Service
//! address), and the *flow* entry, keyed by the tuple after translation (client
//! and backend). Each holds the translation for the packets that match it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Ip, Mac, Port};

/// Key of the connection table. `(port_a, ip_a) <= (port_b, ip_b)`, compared
/// as the stored words.
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
    /// IP protocol number (IANA).
    pub proto: u8,
    /// Reserved, zero.
    pub zone: u8,
    /// Reserved, zero.
    pub reserved: u16,
}

/// Value of the connection table: 128 bytes. A packet of an established
/// connection reads the first 64.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ConntrackValue {
    /// Service entry: the backend, the new destination of requests. Flow entry:
    /// the Service address, the new source of replies.
    pub nat_ip: Ip,
    /// Port of `nat_ip`, network byte order.
    pub nat_port: Port,
    /// See [`flags`].
    pub flags: u16,
    /// Tick from which on the entry has expired (see [`tick`]).
    pub expires: u32,
    /// Service id; 0 = not translated by a Service.
    pub service: u32,
    /// Backend id; 0 = not translated by a Service.
    pub backend: u32,
    /// Generation of the service when the backend was chosen.
    pub generation: u32,
    /// Interface index of the device that the first packet arrived on.
    pub ingress_ifindex: u32,
    /// TCP flags seen from the originator, ORed.
    pub tcp_origin: u8,
    /// TCP flags seen from the responder, ORed.
    pub tcp_reply: u8,
    /// Source MAC of the first packet.
    pub ingress_mac: Mac,
    /// Identity of the originator.
    pub identity_origin: u32,
    /// Identity of the responder.
    pub identity_reply: u32,
    /// Reserved for network policy, zero.
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
    /// Source translation, valid with [`flags::SNAT`]. Service entry: the new
    /// source of requests. Flow entry: the client, the new destination of
    /// replies.
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
    /// Flow entry: the source of replies becomes `nat_ip`:`nat_port`.
    pub const REPLY_SNAT: u16 = 4;
    /// The source is translated as well: see `snat_ip`. It becomes the hairpin
    /// address for a pod that is its own backend, and an address of this node
    /// for masquerading and for external clients of a backend on another node.
    pub const SNAT: u16 = 8;
    /// Forwarded by direct server return. Not implemented.
    pub const DSR: u16 = 16;
    /// The backend was chosen by session affinity. Not written today.
    pub const AFFINITY: u16 = 32;
    /// The responder has replied.
    pub const REPLIED: u16 = 64;
    /// The connection arrived on an uplink (`ingress_ifindex`): replies leave on
    /// the same one.
    pub const REPLY_VIA_INGRESS: u16 = 128;
}

/// Shift from nanoseconds of `CLOCK_MONOTONIC` to ticks: one tick is
/// 2^30 ns, about 1.07 s. A shift is cheaper in eBPF than a division.
pub const TICK_SHIFT: u32 = 30;

/// The tick of a `CLOCK_MONOTONIC` time in nanoseconds. Wraps after about 146
/// years of uptime.
#[inline(always)]
pub const fn tick(monotonic_ns: u64) -> u32 {
    (monotonic_ns >> TICK_SHIFT) as u32
}

/// Converts seconds to ticks, rounded up.
pub const fn ticks_from_seconds(seconds: u32) -> u32 {
    let ns = seconds as u64 * 1_000_000_000;
    (ns.div_ceil(1 << TICK_SHIFT)) as u32
}

/// Mirrors `struct bpf_timer` of linux/bpf.h (Linux 5.15). The kernel finds it
/// by this name in the map's BTF.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct bpf_timer {
    /// Opaque kernel data.
    pub opaque: [u64; 2],
}

/// The only element of the sweep array: the timer that deletes expired entries
/// from the connection tables, and its statistics.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SweepValue {
    /// The timer. The kernel returns zeros to user space.
    pub timer: bpf_timer,
    /// Number of sweeps.
    pub sweeps: u64,
    /// Number of entries deleted by all sweeps.
    pub removed: u64,
    /// Live entries of both tables at the end of the last complete sweep.
    pub live: u64,
    /// Duration of the last sweep, nanoseconds.
    pub duration_ns: u64,
    /// Entries deleted by the current or last sweep.
    pub removed_now: u64,
    /// Live entries found by the current or last sweep.
    pub live_now: u64,
}

/// Time from the end of a sweep to the next, nanoseconds: ten ticks.
pub const SWEEP_INTERVAL_NS: u64 = 10 << TICK_SHIFT;
/// Maximum number of entries that one sweep deletes, because it occupies its
/// CPU. The next sweep then follows after [`SWEEP_PAUSE_NS`].
pub const SWEEP_REMOVALS_MAX: u64 = 2_048;
/// Time to the next sweep after one that reached its maximum, nanoseconds:
/// about 17 ms.
pub const SWEEP_PAUSE_NS: u64 = 1 << 24;
