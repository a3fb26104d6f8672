//! The last stage: to a pod on this node, out of an uplink, or to the host.

use beeline_abi::address::kind;
use beeline_abi::context::{Context, flags};
use beeline_abi::counter::hook;
use beeline_abi::endpoint::EndpointValue;
use beeline_abi::{DropReason, Mac};

use crate::platform::{Platform, Route, Step};
use crate::rewrite::decrement_ttl;
use crate::{Stop, Verdict, rewrite};

/// Where a pod's packet goes.
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

/// Where a packet from an uplink, or from the host to a Service, goes on. A translated one that does not fit,
/// or has no hop left, is answered before it is rewritten: the host could not
/// tell the client, whom it does not know.
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
    // IPv4 that may be fragmented is the kernel's, unless its source is the
    // node's now: the kernel takes nothing from itself. What the host sends it
    // has fragmented already, for a longer packet.
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

/// Asks the host's routing. False: the packet is larger than the way's MTU.
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

/// Into a pod on this node.
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

/// The pod's MAC as destination, the gateway's as source: six bytes each, as
/// three words.
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

/// By the host's routes.
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

/// Bytes of the largest IP packet that this one becomes on the wire.
#[inline(always)]
fn largest_segment<P: Platform>(env: &P, ctx: &Context) -> u32 {
    let payload = env.segment_payload();
    if payload == 0 || ctx.flags & flags::FRAGMENT_LATER != 0 {
        return ctx.l3_bytes;
    }
    ctx.l4 - ctx.l3 + ctx.l4_header_bytes + payload
}
