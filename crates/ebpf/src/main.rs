//! The eBPF programs, one function per hook. Each runs `beeline_datapath` for the
//! packet and acts on the verdict.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod baseline;
mod events;
mod maps;
mod platform;
mod skb;
mod sockets;
mod sweep;

use core::mem::{size_of, zeroed};

use aya_ebpf::bindings::{BPF_F_INGRESS, TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_redir_neigh};
use aya_ebpf::helpers::{bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use beeline_abi::Ip;
use beeline_abi::context::Context;
use beeline_abi::counter::{drop_index, hook, outcome_index};
use beeline_datapath::Verdict;
use beeline_datapath::platform::Packet;

use crate::platform::{Kernel, count};
use crate::skb::Skb;

const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;

/// tc ingress of the host side of a pod's veth: packets sent by the pod.
#[classifier]
pub fn from_pod(packet: TcContext) -> i32 {
    run(&packet, hook::FROM_POD)
}

/// tc egress of the host side of a pod's veth: packets that the host's stack
/// sends to the pod.
#[classifier]
pub fn to_pod(packet: TcContext) -> i32 {
    run(&packet, hook::TO_POD)
}

/// tc ingress of an uplink.
#[classifier]
pub fn from_uplink(packet: TcContext) -> i32 {
    run(&packet, hook::FROM_UPLINK)
}

/// tc egress of an uplink.
#[classifier]
pub fn to_uplink(packet: TcContext) -> i32 {
    run(&packet, hook::TO_UPLINK)
}

/// Starts the sweep of the connection tables. Never attached; the loader runs it
/// once. Returns 0 or a negative errno.
#[classifier]
pub fn sweep(_packet: TcContext) -> i32 {
    sweep::start()
}

#[inline(always)]
fn run(packet: &TcContext, hook: u8) -> i32 {
    // SAFETY: the kernel hands a valid context to the program.
    if hook == hook::TO_UPLINK && unsafe { (*packet.skb.skb).ingress_ifindex } != 0 {
        return TC_ACT_UNSPEC; // forwarded, and translated when it came in
    }
    let Some(ctx) = maps::SCRATCH.get_ptr_mut(0) else { return TC_ACT_UNSPEC };
    // SAFETY: an element of this CPU; programs do not preempt each other.
    let ctx: &mut Context = unsafe { &mut *ctx };
    let skb = Skb::readable(packet.skb.skb);
    ctx.hook = hook;
    // SAFETY: the kernel hands a valid context to the program.
    ctx.ifindex = unsafe { (*skb.0).ifindex };
    let length = skb.length();
    let mut env = Kernel::new(skb);
    let verdict = beeline_datapath::run(&mut env, ctx);
    if let Some(outcome) = verdict.outcome() {
        count(outcome_index(hook, outcome), length);
    }
    if let Some(reason) = verdict.reason() {
        count(drop_index(hook, reason as u8), length);
        events::drop(ctx, reason, length);
    }
    act(ctx, verdict)
}

/// Acts on the verdict. Packets for the host also pass to the next programs at the
/// hook (`TC_ACT_UNSPEC`, which is `TCX_NEXT`, Linux 6.6).
#[inline(always)]
fn act(ctx: &Context, verdict: Verdict) -> i32 {
    match verdict {
        Verdict::ToHost | Verdict::ToHostError => TC_ACT_UNSPEC,
        // SAFETY: redirecting has no preconditions; if the device was deleted, the
        // kernel drops and counts the packet. `bpf_redirect_peer` is not available
        // at egress hooks.
        Verdict::ToPod { ifindex } if ctx.hook == hook::TO_UPLINK => unsafe {
            bpf_redirect(ifindex, 0) as i32
        },
        // SAFETY: as above.
        Verdict::ToPod { ifindex } => unsafe { bpf_redirect_peer(ifindex, 0) as i32 },
        // SAFETY: as above.
        Verdict::Reject { .. } if ctx.hook == hook::FROM_POD => unsafe {
            bpf_redirect_peer(ctx.ifindex, 0) as i32
        },
        // SAFETY: as above.
        Verdict::Reject { .. } if ctx.hook == hook::TO_UPLINK => unsafe {
            bpf_redirect(ctx.ifindex, BPF_F_INGRESS as u64) as i32
        },
        // SAFETY: as above.
        Verdict::Reject { .. } => unsafe { bpf_redirect(ctx.ifindex, 0) as i32 },
        Verdict::Forward { ifindex, next_hop } => forward(ifindex, &next_hop),
        Verdict::Drop { .. } => TC_ACT_SHOT,
    }
}

#[inline(always)]
fn forward(ifindex: u32, next_hop: &Ip) -> i32 {
    // SAFETY: plain data; all-zero is valid.
    let mut neighbour: bpf_redir_neigh = unsafe { zeroed() };
    if next_hop.is_v4() {
        neighbour.nh_family = AF_INET;
        neighbour.__bindgen_anon_1.ipv4_nh = next_hop.v4_word();
    } else {
        neighbour.nh_family = AF_INET6;
        neighbour.__bindgen_anon_1.ipv6_nh = next_hop.0;
    }
    // SAFETY: parameters of the size that is named.
    unsafe { bpf_redirect_neigh(ifindex, &raw mut neighbour, size_of::<bpf_redir_neigh>() as i32, 0) as i32 }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: the compiler removes all panics; the verifier would reject any that
    // remained.
    unsafe { core::hint::unreachable_unchecked() }
}

/// GPL-only helpers require a GPL-compatible license.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
