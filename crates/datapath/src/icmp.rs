//! ICMP errors belong to the connection of the packet that they quote, and are
//! translated in the reverse direction of that packet.

use beeline_abi::Ip;
use beeline_abi::conntrack::flags as entry;
use beeline_abi::context::{Context, flags};
use beeline_abi::ip::proto;

use crate::conntrack::{key_of, load};
use crate::parse::join;
use crate::platform::{Platform, Step};
use crate::rewrite::{
    ICMP_CHECKSUM, ICMP_IDENTIFIER, address_difference, difference, half, ipv4_checksum_change,
    store_address, sum_add,
};

/// Looks up the connection of the quoted packet and sets the translation of the
/// outer addresses. `key`, `nat_ip` and `snat_ip` stay in `ctx` for
/// [`translate_quoted`]. Returns false if the connection is unknown.
#[inline(always)]
pub fn lookup_error<P: Platform>(env: &mut P, ctx: &mut Context) -> bool {
    let src_is_a = key_of(
        &mut ctx.key,
        ctx.inner_src,
        ctx.inner_sport,
        ctx.inner_dst,
        ctx.inner_dport,
        ctx.inner_proto as u8,
    );
    let now = ctx.now;
    let Some(value) = env.conntrack(&ctx.key) else { return false };
    if value.expires <= now {
        return false;
    }
    let inner_is_origin = (value.flags & entry::ORIGIN_A != 0) == src_is_a;
    load(ctx, value, inner_is_origin);
    env.step(Step::ConntrackHit { origin: inner_is_origin, service: ctx.service });
    translate_outer(ctx, inner_is_origin);
    true
}

/// Translates the outer addresses. An error about a request comes from the
/// backend or from a router on the path: only the backend's address is
/// translated. An error about a reply is sent to the Service address, which
/// becomes the backend's.
#[inline(always)]
fn translate_outer(ctx: &mut Context, inner_is_origin: bool) {
    let has_snat = ctx.entry_flags & entry::SNAT as u32 != 0;
    let service = if inner_is_origin { entry::REPLY_SNAT } else { entry::DNAT } as u32;
    if ctx.entry_flags & (service | entry::SNAT as u32) == 0 {
        return;
    }
    if inner_is_origin {
        if ctx.src == ctx.inner_dst {
            ctx.src_after = ctx.nat_ip;
            ctx.flags |= flags::SRC_CHANGED;
        }
        if has_snat {
            ctx.dst_after = ctx.snat_ip;
        }
    } else {
        if ctx.dst == ctx.inner_src {
            ctx.dst_after = ctx.nat_ip;
        }
        if has_snat {
            ctx.src_after = ctx.snat_ip;
            ctx.flags |= flags::SRC_CHANGED;
        }
    }
    // The quoted packet must be rewritten even if the outer addresses stay; the
    // flag makes the rewrite stage do so.
    ctx.flags |= flags::DST_CHANGED;
}

/// Rewrites the quoted packet: the destination of a request (and its source if
/// that was translated), the source of a reply. `outer_change` is the checksum
/// difference of the outer addresses, which are in the ICMPv6 pseudo-header.
/// Returns `None` if the packet cannot be written.
#[inline(always)]
pub fn translate_quoted<P: Platform>(env: &mut P, ctx: &mut Context, outer_change: u32) -> Option<()> {
    let v6 = ctx.flags & flags::V6 != 0;
    let inner_is_origin = ctx.flags & flags::ORIGIN != 0;
    let has_snat = ctx.entry_flags & entry::SNAT as u32 != 0;
    let (mut src, mut dst) = (ctx.inner_src, ctx.inner_dst);
    let (mut sport, mut dport) = (ctx.inner_sport, ctx.inner_dport);
    if inner_is_origin {
        (dst, dport) = (ctx.nat_ip, ctx.nat_port);
        if has_snat {
            (src, sport) = (ctx.snat_ip, ctx.snat_port);
        }
    } else {
        (src, sport) = (ctx.nat_ip, ctx.nat_port);
        if has_snat {
            (dst, dport) = (ctx.snat_ip, ctx.snat_port);
        }
    }
    let addresses = quoted_addresses(env, ctx, &src, &dst, v6)?;
    let mut inside = if v6 { addresses } else { 0 };
    match ctx.inner_proto as u8 {
        proto::TCP | proto::UDP | proto::SCTP => {
            let old = join(ctx.inner_sport.0, ctx.inner_dport.0);
            let new = join(sport.0, dport.0);
            env.store(ctx.inner_l4, &[new])?;
            inside = sum_add(inside, difference(old, new));
        }
        // Only the requester's identifier of an echo can have changed.
        proto::ICMP | proto::ICMPV6 => {
            let new = if inner_is_origin { sport } else { dport };
            env.store_u16(ctx.inner_l4 + ICMP_IDENTIFIER, new.0)?;
            inside = sum_add(inside, difference(half(ctx.inner_sport.0), half(new.0)));
        }
        _ => {}
    }
    let at = ctx.l4 + ICMP_CHECKSUM;
    if v6 {
        env.checksum_change(at, outer_change, true, false)?;
    }
    env.checksum_change(at, inside, false, false)
}

/// Rewrites the addresses of the quoted packet. The IPv4 header checksum changes
/// by the opposite, so the sum of the quoted IPv4 header stays the same.
#[inline(always)]
fn quoted_addresses<P: Platform>(env: &mut P, ctx: &Context, src: &Ip, dst: &Ip, v6: bool) -> Option<u32> {
    let (src_at, dst_at) = if v6 { (8, 24) } else { (12, 16) };
    let mut change = 0;
    if *src != ctx.inner_src {
        store_address(env, ctx.inner_l3 + src_at, src, v6)?;
        change = sum_add(change, address_difference(&ctx.inner_src, src, v6));
    }
    if *dst != ctx.inner_dst {
        store_address(env, ctx.inner_l3 + dst_at, dst, v6)?;
        change = sum_add(change, address_difference(&ctx.inner_dst, dst, v6));
    }
    if !v6 {
        ipv4_checksum_change(env, ctx.inner_l3, change)?;
    }
    Some(change)
}
