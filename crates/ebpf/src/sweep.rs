//! Deletes expired entries from the connection tables, from a kernel timer
//! (`bpf_timer`, Linux 5.15). It runs without the agent.

use core::ffi::c_void;

use aya_ebpf::bindings::bpf_timer;
use aya_ebpf::helpers::{
    bpf_for_each_map_elem, bpf_ktime_get_ns, bpf_map_delete_elem, bpf_timer_init, bpf_timer_set_callback,
    bpf_timer_start,
};
use beeline_abi::conntrack::{
    ConntrackKey, ConntrackValue, SWEEP_INTERVAL_NS, SWEEP_PAUSE_NS, SWEEP_REMOVALS_MAX, SweepValue, tick,
};

use crate::maps::{self, ConntrackTable};

const CLOCK_MONOTONIC: u64 = 1;
const EBUSY: i64 = 16;

/// Starts the timer, or sets the callback of a running one to this object's code.
/// Returns 0 or a negative errno.
#[inline(always)]
pub fn start() -> i32 {
    let Some(sweep) = maps::SWEEP.get_ptr_mut(0) else { return -1 };
    let timer = sweep.cast::<bpf_timer>();
    let map = (&raw const maps::SWEEP).cast_mut().cast::<c_void>();
    // SAFETY: the timer is the first field of an element of that map. If it is
    // already initialised, the helper returns EBUSY and the timer is reused.
    unsafe {
        let made = bpf_timer_init(timer, map, CLOCK_MONOTONIC);
        if made != 0 && made != -EBUSY {
            return made as i32;
        }
        let set = bpf_timer_set_callback(timer, sweep_all as *mut c_void);
        if set != 0 {
            return set as i32;
        }
        bpf_timer_start(timer, SWEEP_INTERVAL_NS, 0) as i32
    }
}

/// The argument of the callback. The counters are in the map: here, the verifier
/// would track every value that they can have.
struct Walk {
    now: u32,
    sweep: *mut SweepValue,
}

extern "C" fn sweep_all(_map: *mut c_void, _key: *const u32, sweep: *mut SweepValue) -> i32 {
    // SAFETY: has no preconditions.
    let begin = unsafe { bpf_ktime_get_ns() };
    let mut walk = Walk { now: tick(begin), sweep };
    // SAFETY: the kernel hands the element that holds the timer; nothing else
    // writes these fields.
    unsafe {
        (*sweep).removed_now = 0;
        (*sweep).live_now = 0;
        walk_table(maps::CONNTRACK.get(0), &mut walk);
        walk_table(maps::CONNTRACK_PREVIOUS.get(0), &mut walk);
        (*sweep).sweeps += 1;
        (*sweep).removed += (*sweep).removed_now;
        (*sweep).duration_ns = bpf_ktime_get_ns() - begin;
        let done = (*sweep).removed_now < SWEEP_REMOVALS_MAX;
        if done {
            (*sweep).live = (*sweep).live_now;
        }
        let pause = if done { SWEEP_INTERVAL_NS } else { SWEEP_PAUSE_NS };
        bpf_timer_start(sweep.cast::<bpf_timer>(), pause, 0);
    }
    0
}

#[inline(always)]
fn walk_table(table: Option<&ConntrackTable>, walk: &mut Walk) {
    let Some(table) = table else { return };
    let table = core::ptr::from_ref(table).cast_mut().cast::<c_void>();
    // SAFETY: a map, a callback for its elements, and the callback's argument.
    unsafe { bpf_for_each_map_elem(table, visit as *mut c_void, core::ptr::from_mut(walk).cast(), 0) };
}

/// Deletes the element if it has expired. A result other than 0 ends the walk.
extern "C" fn visit(
    table: *mut c_void,
    key: *const ConntrackKey,
    value: *const ConntrackValue,
    walk: *mut Walk,
) -> i64 {
    // SAFETY: the kernel passes an element of the map and the argument given by
    // `walk_table`.
    unsafe {
        let sweep = (*walk).sweep;
        if (*value).expires > (*walk).now {
            (*sweep).live_now += 1;
            return 0;
        }
        bpf_map_delete_elem(table, key.cast());
        (*sweep).removed_now += 1;
        i64::from((*sweep).removed_now >= SWEEP_REMOVALS_MAX)
    }
}
