//! Drop events: rate-limited, with sequence numbers and an exact count of lost
//! events.

use aya_ebpf::helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns};
use beeline_abi::DropReason;
use beeline_abi::context::Context;
use beeline_abi::event::{Event, EventState};
use beeline_datapath::event::drop_event;

use crate::maps;
use beeline_abi::conntrack::tick;

/// Writes the event of a drop, unless the rate limit is reached or the buffer is
/// full.
#[inline(always)]
pub fn drop(ctx: &Context, reason: DropReason, length: u32) {
    let Some(state) = maps::EVENT_STATE.get_ptr_mut(0) else { return };
    // SAFETY: an element of this CPU; programs do not preempt each other.
    let state: &mut EventState = unsafe { &mut *state };
    state.sequence += 1;
    // SAFETY: has no preconditions.
    let time_ns = unsafe { bpf_ktime_get_ns() };
    if !allowed(state, tick(time_ns)) {
        state.lost += 1;
        return;
    }
    let Some(mut entry) = maps::EVENTS.reserve_untyped::<Event>(0) else {
        state.lost += 1;
        return;
    };
    state.written += 1;
    let event = entry.write(drop_event(ctx, reason, length));
    event.time_ns = time_ns;
    // SAFETY: has no preconditions.
    event.cpu = unsafe { bpf_get_smp_processor_id() };
    event.sequence = state.sequence;
    event.lost = state.lost;
    entry.submit(0);
}

/// The rate limit, in fixed windows of one tick.
#[inline(always)]
fn allowed(state: &mut EventState, now: u32) -> bool {
    if state.window != now {
        state.window = now;
        state.written = 0;
    }
    match maps::CONFIG.get(0) {
        Some(config) => state.written < config.events_per_s,
        None => false,
    }
}
