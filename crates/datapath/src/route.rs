//! The route stage, which is the last: to a local pod, out of an uplink, or to the
//! host.

use beeline_abi::address::kind;
use beeline_abi::context::{Context, flags};
use beeline_abi::counter::hook;
use beeline_abi::endpoint::EndpointValue;
use beeline_abi::{DropReason, Mac};

use crate::platform::{Platform, Route, Step};
use crate::rewrite::decrement_ttl;
use crate::{Stop, Verdict, rewrite};

/// Routes a packet of a pod.
#[inline(always)]
pub fn from_pod<P: Platform>(env: &mut P, ctx: &mut Context) -> Result<Verdict, Stop> {
    if let Some(address) = env.address(&ctx.dst_after) {
        ctx.identity_dst = address.identity;
        match address.kind {
            kind::LOCAL_POD => return to_local_pod(env, ctx),
            kind::LOCAL_NODE => return Ok(Verdict::ToHost),
            kind::SERVICE_RANGE => return Err(Stop::Reject(DropReason::NoServicePort)),
            _ => {}
        }
    }
    forward_by_route(env, ctx)
}

/// Routes a packet from an uplink, or from the host to a Service. A translated
/// packet that exceeds the MTU or whose TTL has expired is rejected before it is
/// rewritten, because the ICMP error must quote what the client sent.
#[inline(always)]
pub fn forward<P: Platform>(env: &mut P, ctx: &mut Context) -> Result<Verdict, Stop> {
    let kind = env.address(&ctx.dst_after).map_or(0, |address| address.kind);
    let mut endpoint = EndpointValue::default();
    let mut fits = true;
    if kind == kind::LOCAL_POD {
        endpoint = env.endpoint(&ctx.dst_after).ok_or(Stop::Drop(DropReason::NoEndpoint))?;
        ctx.identity_dst = endpoint.identity;
        ctx.out_mtu = endpoint.mtu as u32;
        env.step(Step::LocalPod { ifindex: endpoint.ifindex });
        fits = ctx.out_mtu == 0 || largest_segment(env, ctx) <= ctx.out_mtu;
    } else if kind != kind::LOCAL_NODE {
        fits = route_lookup(env, ctx)?;
    }
    let translated = ctx.flags & (flags::SRC_CHANGED | flags::DST_CHANGED) != 0;
    let has_ttl = ctx.ttl > 1 || kind == kind::LOCAL_NODE;
    if translated && !has_ttl {
        return Err(Stop::TtlExceeded);
    }
    // The kernel fragments IPv4 without DF. It drops packets whose source is an
    // address of the node, so those are rejected. Packets of the host were
    // already fragmented by it, for the larger MTU of its own route.
    let must_reject = ctx.flags & (flags::DONT_FRAGMENT | flags::SRC_CHANGED) != 0;
    if translated && !fits && (must_reject || ctx.hook == hook::TO_UPLINK) {
        return Err(Stop::TooBig);
    }
    rewrite::apply(env, ctx).map_err(Stop::Drop)?;
    if kind == kind::LOCAL_NODE {
        return Ok(Verdict::ToHost);
    }
    if !fits || !has_ttl {
        return Ok(Verdict::ToHostError);
    }
    decrement_ttl(env, ctx).ok_or(Stop::Drop(DropReason::RewriteFailed))?;
    if kind == kind::LOCAL_POD {
        write_ethernet(env, &endpoint).ok_or(Stop::Drop(DropReason::RewriteFailed))?;
        return Ok(Verdict::ToPod { ifindex: endpoint.ifindex });
    }
    Ok(Verdict::Forward { ifindex: ctx.out_ifindex, next_hop: ctx.next_hop })
}

/// Looks up the route. Returns false if the packet is larger than its MTU.
#[inline(always)]
fn route_lookup<P: Platform>(env: &mut P, ctx: &mut Context) -> Result<bool, Stop> {
    let bytes = largest_segment(env, ctx);
    let route = env.lookup(ctx, bytes);
    env.step(Step::Routed { route, ifindex: ctx.out_ifindex, next_hop: ctx.next_hop });
    match route {
        Route::Found => Ok(true),
        Route::TooBig => Ok(false),
        Route::Host | Route::None => Err(Stop::Drop(DropReason::NoRoute)),
        Route::Prohibited => Err(Stop::Drop(DropReason::RouteProhibited)),
    }
}

/// Delivers the packet to a pod on this node.
#[inline(always)]
pub fn to_local_pod<P: Platform>(env: &mut P, ctx: &mut Context) -> Result<Verdict, Stop> {
    let endpoint = env.endpoint(&ctx.dst_after).ok_or(Stop::Drop(DropReason::NoEndpoint))?;
    ctx.identity_dst = endpoint.identity;
    env.step(Step::LocalPod { ifindex: endpoint.ifindex });
    if ctx.ttl <= 1 || (endpoint.mtu != 0 && largest_segment(env, ctx) > endpoint.mtu as u32) {
        return Ok(Verdict::ToHostError);
    }
    decrement_ttl(env, ctx).ok_or(Stop::Drop(DropReason::RewriteFailed))?;
    write_ethernet(env, &endpoint).ok_or(Stop::Drop(DropReason::RewriteFailed))?;
    Ok(Verdict::ToPod { ifindex: endpoint.ifindex })
}

/// Writes the Ethernet addresses: the pod's as destination, the gateway's as
/// source.
#[inline(always)]
fn write_ethernet<P: Platform>(env: &mut P, endpoint: &EndpointValue) -> Option<()> {
    let d = endpoint.pod_mac.0;
    let Mac(s) = beeline_abi::GATEWAY_MAC;
    env.store(
        0,
        &[
            u32::from_ne_bytes([d[0], d[1], d[2], d[3]]),
            u32::from_ne_bytes([d[4], d[5], s[0], s[1]]),
            u32::from_ne_bytes([s[2], s[3], s[4], s[5]]),
        ],
    )
}

/// Forwards the packet by the host's routes.
#[inline(always)]
fn forward_by_route<P: Platform>(env: &mut P, ctx: &mut Context) -> Result<Verdict, Stop> {
    let bytes = largest_segment(env, ctx);
    let route = env.lookup(ctx, bytes);
    env.step(Step::Routed { route, ifindex: ctx.out_ifindex, next_hop: ctx.next_hop });
    match route {
        Route::Found => {}
        Route::TooBig => return Ok(Verdict::ToHostError),
        Route::Host => return Ok(Verdict::ToHost),
        Route::Prohibited => return Err(Stop::Drop(DropReason::RouteProhibited)),
        Route::None => return Err(Stop::Drop(DropReason::NoRoute)),
    }
    if ctx.ttl <= 1 {
        return Ok(Verdict::ToHostError);
    }
    decrement_ttl(env, ctx).ok_or(Stop::Drop(DropReason::RewriteFailed))?;
    Ok(Verdict::Forward { ifindex: ctx.out_ifindex, next_hop: ctx.next_hop })
}

/// Length in bytes of the largest IP packet on the wire, after segmentation.
#[inline(always)]
fn largest_segment<P: Platform>(env: &P, ctx: &Context) -> u32 {
    let payload = env.segment_payload();
    if payload == 0 || ctx.flags & flags::FRAGMENT_LATER != 0 {
        return ctx.l3_bytes;
    }
    ctx.l4 - ctx.l3 + ctx.l4_header_bytes + payload
}
