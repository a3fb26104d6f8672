//! The packet path: takes the bytes of a packet, tables and time, and returns a
//! verdict.
//!
//! The same code runs in the kernel and in user space, over different
//! implementations of [`platform::Platform`]. There is one function per hook:
//! [`from_pod`], [`to_pod`], [`from_uplink`] and [`to_uplink`]. The order of the
//! stages is parse, guard, conntrack, service, snat, policy, rewrite, route.
#![no_std]

#[cfg(feature = "native")]
extern crate std;

mod backend_slots;
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

/// What the caller must do with the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Pass it to the host's network stack.
    ToHost,
    /// Pass it to the host's network stack, which sends an ICMP error (time
    /// exceeded, too big) or fragments the packet.
    ToHostError,
    /// Deliver it to the pod behind this device: `bpf_redirect_peer` (Linux 5.10),
    /// or `bpf_redirect` at an egress hook.
    ToPod {
        /// Interface index of the host side of the pod's veth.
        ifindex: u32,
    },
    /// Send it out of this device (`bpf_redirect_neigh`, Linux 5.10).
    Forward {
        /// Interface index of the uplink.
        ifindex: u32,
        /// The next hop. Its family may differ from the packet's.
        next_hop: Ip,
    },
    /// The packet was rejected and rewritten into a reply: return it to its
    /// sender (pod, uplink or host).
    Reject {
        /// Why the packet was rejected.
        reason: DropReason,
    },
    /// Drop it.
    Drop {
        /// Why.
        reason: DropReason,
    },
}

impl Verdict {
    /// The outcome that a hook counts for this verdict; `None` for drops.
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

    /// Why the packet was rejected or dropped, if it was.
    #[inline(always)]
    pub const fn reason(self) -> Option<DropReason> {
        match self {
            Verdict::Reject { reason } | Verdict::Drop { reason } => Some(reason),
            _ => None,
        }
    }
}

/// Why a stage ends the processing of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Pass the packet to the host's network stack.
    Host,
    /// Reject the packet with a reply.
    Reject(DropReason),
    /// The packet exceeds `ctx.out_mtu` bytes: reject it with an ICMP error.
    TooBig,
    /// The TTL has expired: reject the packet with an ICMP error.
    TtlExceeded,
    /// Drop the packet.
    Drop(DropReason),
}

/// Runs one hook for the packet of `env`. The caller sets `ctx.hook` and
/// `ctx.ifindex`; all other fields of `ctx` are scratch.
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

/// A packet that the host's network stack sends to a pod (tc egress of the host
/// side of its veth). The kernel has routed it; only translation remains.
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

/// A packet that arrives at the node (tc ingress of an uplink): for a local pod,
/// for a Service, for a SNAT mapping, or for the host.
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

/// A new connection from outside the cluster to a Service. All other packets for
/// addresses of the node are passed to the host and not tracked.
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

/// A packet that leaves the node (tc egress of an uplink). Forwarded packets were
/// translated on ingress. Packets of the host may be replies of a host network
/// backend, ICMP errors about translated packets, or packets to a Service that
/// passed no socket hook (kernel sockets, sockets outside the cgroup tree, hooks
/// that are disabled). No packet to a Service address leaves the node
/// untranslated.
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
    // The host routed a request by its Service address, or a reply to another
    // device than the one that the request arrived on.
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

/// A new connection of the host to a Service. All other packets of the host are
/// passed unchanged and not tracked.
#[inline(always)]
fn host_service<P: Platform>(env: &mut P, ctx: &mut Context) -> Result<(), Stop> {
    service::leave_to_host(env, ctx)?;
    service::choose(env, ctx, SCOPE_INTERNAL)?;
    env.barrier(ctx);
    if ctx.flags & flags::DST_CHANGED != 0 {
        ctx.identity_src = identity::HOST;
        // Use a port that no socket of the host has. Otherwise a direct
        // connection from it to the backend would have the same tuple.
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
