//! What happens to a packet: bytes, tables and time in, verdict out.
//!
//! The same code runs in the kernel and in user space; what differs is the
//! [`platform::Platform`] it is given. One function per hook:
//! [`from_pod`], [`to_pod`], [`from_uplink`] and [`to_uplink`]. The order of
//! the stages is parse, guard, conntrack, service, source, policy, rewrite,
//! route.
#![no_std]

#[cfg(feature = "native")]
extern crate std;

pub mod conntrack;
pub mod event;
pub mod guard;
pub mod icmp;
pub mod maglev;
#[cfg(feature = "native")]
pub mod native;
pub mod parse;
pub mod platform;
pub mod policy;
pub mod reject;
pub mod rewrite;
pub mod route;
pub mod service;
mod slots;
pub mod snat;
pub mod socket;

use beeline_abi::address::kind;
use beeline_abi::context::{Context, flags};
use beeline_abi::counter::{hook, outcome};
use beeline_abi::endpoint::identity;
use beeline_abi::service::{SCOPE_EXTERNAL, SCOPE_INTERNAL};
use beeline_abi::{DropReason, Ip};

use crate::parse::Frame;
use crate::platform::{Platform, Step};

/// What the body has to do with the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Leave it to the host's network stack.
    ToHost,
    /// Leave it to the host's network stack, which answers with an ICMP
    /// error (time exceeded, too big) or fragments it.
    ToHostError,
    /// Move it into the pod behind this device (`bpf_redirect_peer`; what the
    /// host sends goes through the device).
    ToPod {
        /// Host side of the pod's veth.
        ifindex: u32,
    },
    /// Send it out of this device (`bpf_redirect_neigh`).
    Forward {
        /// The uplink.
        ifindex: u32,
        /// The neighbour; its family may differ from the packet's.
        next_hop: Ip,
    },
    /// The packet was refused and has become the answer to itself: return it
    /// to the pod, by the uplink, or to the host that it came from.
    Reject {
        /// Why the packet was refused.
        reason: DropReason,
    },
    /// Drop it.
    Drop {
        /// Why.
        reason: DropReason,
    },
}

impl Verdict {
    /// The outcome under which a hook counts this verdict; none for drops.
    #[inline(always)]
    pub const fn outcome(self) -> Option<u8> {
        match self {
            Verdict::ToHost => Some(outcome::TO_HOST),
            Verdict::ToHostError => Some(outcome::TO_HOST_ERROR),
            Verdict::ToPod { .. } => Some(outcome::TO_LOCAL_POD),
            Verdict::Forward { .. } => Some(outcome::TO_UPLINK),
            Verdict::Reject { .. } => Some(outcome::ANSWERED),
            Verdict::Drop { .. } => None,
        }
    }

    /// Why the packet was refused, if it was.
    #[inline(always)]
    pub const fn reason(self) -> Option<DropReason> {
        match self {
            Verdict::Reject { reason } | Verdict::Drop { reason } => Some(reason),
            _ => None,
        }
    }
}

/// How a stage ends the packet's way early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The host's stack takes it.
    Host,
    /// It is refused and the sender is told.
    Reject(DropReason),
    /// It does not fit into `ctx.out_mtu` bytes and the sender is told.
    TooBig,
    /// Its TTL has run out and the sender is told.
    TtlExceeded,
    /// It is dropped.
    Drop(DropReason),
}

/// Runs one hook over the packet of `env`. `ctx.hook` and `ctx.ifindex` are
/// set by the caller; everything else of `ctx` is scratch.
#[inline(always)]
pub fn run<P: Platform>(env: &mut P, ctx: &mut Context) -> Verdict {
    ctx.now = env.tick();
    let result = match ctx.hook {
        hook::FROM_POD => from_pod(env, ctx),
        hook::TO_POD => to_pod(env, ctx),
        hook::TO_UPLINK => to_uplink(env, ctx),
        _ => from_uplink(env, ctx),
    };
    env.barrier(ctx);
    let verdict = match result {
        Ok(verdict) => verdict,
        Err(Stop::Host) => Verdict::ToHost,
        Err(Stop::Drop(reason)) => Verdict::Drop { reason },
        Err(Stop::Reject(reason)) => reject::reject(env, ctx, reason),
        Err(Stop::TooBig) => reject::icmp_error(env, ctx, DropReason::TooBig),
        Err(Stop::TtlExceeded) => reject::icmp_error(env, ctx, DropReason::TtlExceeded),
    };
    env.step(Step::Verdict(verdict));
    verdict
}

/// A packet that a pod sends (tc ingress of the host side of its veth).
#[inline(always)]
pub fn from_pod<P: Platform>(env: &mut P, ctx: &mut Context) -> Result<Verdict, Stop> {
    match parse::frame(env, ctx) {
        Ok(Frame::Ip) => {}
        Ok(Frame::Arp) => return guard::arp(env, ctx),
        Ok(Frame::Other) => return Err(Stop::Drop(DropReason::UnsupportedProtocol)),
        Err(reason) => return Err(Stop::Drop(reason)),
    }
    env.barrier(ctx);
    guard::source(env, ctx)?;
    parse::fragment(env, ctx).map_err(Stop::Drop)?;
    env.barrier(ctx);
    if !conntrack::lookup(env, ctx) {
        service::leave_to_host(env, ctx)?;
        env.barrier(ctx);
        service::choose(env, ctx, SCOPE_INTERNAL)?;
        env.barrier(ctx);
        snat::choose(env, ctx)?;
        policy::check(env, ctx)?;
        env.barrier(ctx);
        conntrack::create(env, ctx)?;
    }
    env.barrier(ctx);
    rewrite::apply(env, ctx).map_err(Stop::Drop)?;
    route::from_pod(env, ctx)
}

/// A packet that the host's stack sends to a pod (tc egress of the host side
/// of its veth). The kernel has routed it; it only needs its translation.
#[inline(always)]
pub fn to_pod<P: Platform>(env: &mut P, ctx: &mut Context) -> Result<Verdict, Stop> {
    match parse::frame(env, ctx) {
        Ok(Frame::Ip) => {}
        _ => return Err(Stop::Host),
    }
    env.barrier(ctx);
    if parse::fragment(env, ctx).is_err() {
        return Err(Stop::Host);
    }
    env.barrier(ctx);
    if !conntrack::lookup(env, ctx) {
        service::leave_to_host(env, ctx)?;
        policy::check(env, ctx)?;
        conntrack::create(env, ctx)?;
    }
    env.barrier(ctx);
    rewrite::apply(env, ctx).map_err(Stop::Drop)?;
    Ok(Verdict::ToHost)
}

/// A packet that arrives at the node (tc ingress of an uplink): for a pod on
/// it, for a Service or a translated source, or the host's.
#[inline(always)]
pub fn from_uplink<P: Platform>(env: &mut P, ctx: &mut Context) -> Result<Verdict, Stop> {
    match parse::frame(env, ctx) {
        Ok(Frame::Ip) => {}
        _ => return Err(Stop::Host),
    }
    env.barrier(ctx);
    let for_pod = match env.address(&ctx.dst).map_or(0, |address| address.kind) {
        kind::LOCAL_POD => true,
        kind::REMOTE_POD | kind::REMOTE_NODE | kind::SERVICE_RANGE => return Err(Stop::Host),
        _ => false,
    };
    match parse::fragment(env, ctx) {
        Err(reason) if for_pod => return Err(Stop::Drop(reason)),
        Err(_) => return Err(Stop::Host),
        Ok(()) => {}
    }
    env.barrier(ctx);
    if !conntrack::lookup(env, ctx) {
        env.barrier(ctx);
        if for_pod {
            service::leave_to_host(env, ctx)?;
        } else {
            external_service(env, ctx)?;
        }
        guard::external(env, ctx)?;
        policy::check(env, ctx)?;
        env.barrier(ctx);
        conntrack::create(env, ctx)?;
    }
    env.barrier(ctx);
    if !for_pod && ctx.flags & (flags::SRC_CHANGED | flags::DST_CHANGED) == 0 {
        return Err(Stop::Host);
    }
    route::forward(env, ctx)
}

/// A new connection from outside to a Service. Everything else that is for an
/// address of the node is the host's, and is not tracked.
#[inline(always)]
fn external_service<P: Platform>(env: &mut P, ctx: &mut Context) -> Result<(), Stop> {
    service::choose(env, ctx, SCOPE_EXTERNAL)?;
    if ctx.flags & flags::DST_CHANGED == 0 {
        return Err(Stop::Host);
    }
    ctx.flags |= flags::REPLY_VIA_INGRESS;
    env.barrier(ctx);
    snat::choose(env, ctx)
}

/// A packet that leaves the node (tc egress of an uplink). What was forwarded
/// has had its translation; what the host sends may be the answer of a backend
/// in the host's network, an ICMP error about a translated packet, or for a
/// Service that no socket hook has seen (a socket of the kernel's own, one
/// outside the cgroups, hooks that are off): no address of a Service leaves.
#[inline(always)]
pub fn to_uplink<P: Platform>(env: &mut P, ctx: &mut Context) -> Result<Verdict, Stop> {
    if !env.is_from_host() {
        return Err(Stop::Host);
    }
    match parse::frame(env, ctx) {
        Ok(Frame::Ip) => {}
        _ => return Err(Stop::Host),
    }
    env.barrier(ctx);
    if parse::fragment(env, ctx).is_err() {
        return Err(Stop::Host);
    }
    env.barrier(ctx);
    if !conntrack::lookup(env, ctx) {
        env.barrier(ctx);
        host_service(env, ctx)?;
        env.barrier(ctx);
        conntrack::create(env, ctx)?;
        ctx.flags |= flags::ORIGIN;
    }
    env.barrier(ctx);
    // The host has routed it to the Service, or its answer by another device
    // than the one that the question came in by.
    let needs_other_route = (ctx.flags & flags::ORIGIN != 0 && ctx.flags & flags::DST_CHANGED != 0)
        || (ctx.reply_ifindex != 0
            && ctx.reply_ifindex != ctx.ifindex
            && ctx.flags & flags::SRC_CHANGED != 0);
    if needs_other_route {
        return route::forward(env, ctx);
    }
    rewrite::apply(env, ctx).map_err(Stop::Drop)?;
    Ok(Verdict::ToHost)
}

/// A new connection of the host to a Service. Everything else that the host
/// sends is its own matter, and is not tracked.
#[inline(always)]
fn host_service<P: Platform>(env: &mut P, ctx: &mut Context) -> Result<(), Stop> {
    service::leave_to_host(env, ctx)?;
    service::choose(env, ctx, SCOPE_INTERNAL)?;
    env.barrier(ctx);
    if ctx.flags & flags::DST_CHANGED != 0 {
        ctx.identity_src = identity::HOST;
        // A port that the host's sockets do not have: what one of them asks of
        // the backend itself could not be told from this.
        ctx.flags |= flags::SNAT_NEW_PORT;
        snat::choose(env, ctx)?;
        return policy::check(env, ctx);
    }
    let kind = env.address(&ctx.dst).map_or(0, |address| address.kind);
    if kind == kind::SERVICE_RANGE && ctx.flags & flags::ICMP_ERROR == 0 {
        return Err(Stop::Reject(DropReason::NoServicePort));
    }
    Err(Stop::Host)
}
