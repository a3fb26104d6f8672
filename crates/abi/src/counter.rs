//! Per-CPU counters: the outcomes and drop reasons of every hook.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// One counter.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct CounterValue {
    /// Packets (a segmentation-offload packet counts as one).
    pub packets: u64,
    /// Bytes of whole frames.
    pub bytes: u64,
}

/// Hooks by number, in the order of their counters.
pub mod hook {
    /// tc ingress of a pod's host-side veth: packets sent by the pod.
    pub const FROM_POD: u8 = 0;
    /// tc egress of a pod's host-side veth: packets from the host stack.
    pub const TO_POD: u8 = 1;
    /// tc ingress of an uplink.
    pub const FROM_UPLINK: u8 = 2;
    /// tc egress of an uplink.
    pub const TO_UPLINK: u8 = 3;
    /// Socket hooks of a cgroup: connect, sendmsg, recvmsg, getpeername.
    pub const SOCKET: u8 = 4;
    /// Number of hooks.
    pub const COUNT: u8 = 5;

    /// The name that metrics and the CLI use.
    pub const fn name(hook: u8) -> &'static str {
        match hook {
            FROM_POD => "from_pod",
            TO_POD => "to_pod",
            FROM_UPLINK => "from_uplink",
            TO_UPLINK => "to_uplink",
            SOCKET => "socket",
            _ => "unknown",
        }
    }
}

/// Outcomes of packets that a hook did not drop.
pub mod outcome {
    /// Redirected to a pod on this node.
    pub const TO_LOCAL_POD: u8 = 0;
    /// Redirected out of an uplink.
    pub const TO_UPLINK: u8 = 1;
    /// Passed to the host's network stack.
    pub const TO_HOST: u8 = 2;
    /// Rejected with a reply (RST, ICMP error, `ECONNREFUSED` at socket hooks).
    pub const ANSWERED: u8 = 3;
    /// Passed to the host's network stack, which sends an ICMP error or
    /// fragments the packet.
    pub const TO_HOST_ERROR: u8 = 4;
    /// Sent without a connection entry because the table is full. Counted in
    /// addition to the packet's outcome.
    pub const UNTRACKED: u8 = 5;
    /// A socket's address was translated to a backend's.
    pub const SOCKET_TRANSLATED: u8 = 6;
    /// SNAT used another port because the first one tried is taken for the
    /// destination. Counted in addition to the packet's outcome.
    pub const PORT_TAKEN: u8 = 7;
    /// Reserved number of outcomes; not all are in use.
    pub const COUNT: u8 = 16;

    /// The name that metrics and the CLI use.
    pub const fn name(outcome: u8) -> &'static str {
        match outcome {
            TO_LOCAL_POD => "to_local_pod",
            TO_UPLINK => "to_uplink",
            TO_HOST => "to_host",
            ANSWERED => "answered",
            TO_HOST_ERROR => "to_host_error",
            UNTRACKED => "untracked",
            SOCKET_TRANSLATED => "socket_translated",
            PORT_TAKEN => "port_taken",
            _ => "unknown",
        }
    }
}

/// Counters per hook: outcomes, then drop reasons.
pub const COUNTERS_PER_HOOK: u32 = 128;
/// Offset of the drop reasons in the counters of a hook.
pub const DROPS_OFFSET: u32 = 64;
/// Number of elements of the counter array.
pub const COUNTERS: u32 = COUNTERS_PER_HOOK * hook::COUNT as u32;

/// Index of the counter of an outcome at a hook.
#[inline(always)]
pub const fn outcome_index(hook: u8, outcome: u8) -> u32 {
    hook as u32 * COUNTERS_PER_HOOK + outcome as u32
}

/// Index of the counter of a drop reason at a hook.
#[inline(always)]
pub const fn drop_index(hook: u8, reason: u8) -> u32 {
    hook as u32 * COUNTERS_PER_HOOK + DROPS_OFFSET + reason as u32
}
