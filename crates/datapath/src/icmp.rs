//! ICMP errors belong to the connection of the packet that they quote, and
//! are translated like it, in the other direction.

use beeline_abi::Ip;
use beeline_abi::conntrack::flags as entry;
use beeline_abi::context::{Context, flags};
use beeline_abi::ip::proto;

use crate::conntrack::{hairpin_client, key_of, note};
use crate::parse::join;
use crate::platform::{Platform, Step};
use crate::rewrite::{
    ICMP_CHECKSUM, address_difference, difference, ipv4_checksum_change, store_address, sum_add,
};

/// Finds the connection of the quoted packet and takes down the translation
/// of the outer addresses. `key`, `nat_ip` and `origin_ip` stay in `ctx` for
/// [`translate_quoted`]. False: the quoted packet is of no known connection.
#[inline(always)]
pub fn follow_error<P: Platform>(env: &mut P, ctx: &mut Context) -> bool {
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
    note(ctx, value, inner_is_origin);
    env.step(Step::ConntrackHit { origin: inner_is_origin, service: ctx.service });
    outer(ctx, inner_is_origin);
    true
}

/// The outer addresses. An error about a request comes from the backend or
/// from a router on the way to it: only the backend's address is translated.
/// An error about a reply goes to the virtual address, that is the backend.
#[inline(always)]
fn outer(ctx: &mut Context, inner_is_origin: bool) {
    let hairpin = ctx.entry_flags & entry::HAIRPIN != 0;
    if inner_is_origin && ctx.entry_flags & entry::REPLY_SNAT != 0 {
        if ctx.src == ctx.inner_dst {
            ctx.src_after = ctx.nat_ip;
            ctx.flags |= flags::SRC_CHANGED;
        }
        if hairpin {
            ctx.dst_after = ctx.origin_ip;
        }
        // Also without a change of its own the message must be rewritten
        // inside; the flag leads there.
        ctx.flags |= flags::DST_CHANGED;
    } else if !inner_is_origin && ctx.entry_flags & entry::DNAT != 0 {
        if ctx.dst == ctx.inner_src {
            ctx.dst_after = ctx.nat_ip;
        }
        ctx.flags |= flags::DST_CHANGED;
        if hairpin {
            ctx.src_after = hairpin_client(ctx);
            ctx.flags |= flags::SRC_CHANGED;
        }
    }
}

/// Rewrites the quoted packet: of a request its destination (and, hairpin,
/// its source), of a reply its source. `outer_change` is what the outer
/// addresses changed, part of ICMPv6's pseudo-header.
#[inline(always)]
pub fn translate_quoted<P: Platform>(env: &mut P, ctx: &mut Context, outer_change: u32) -> Option<()> {
    let v6 = ctx.flags & flags::V6 != 0;
    let inner_is_origin = ctx.flags & flags::ORIGIN != 0;
    let (mut src, mut dst) = (ctx.inner_src, ctx.inner_dst);
    let (mut sport, mut dport) = (ctx.inner_sport, ctx.inner_dport);
    if inner_is_origin {
        (dst, dport) = (ctx.nat_ip, ctx.nat_port);
        if ctx.entry_flags & entry::HAIRPIN != 0 {
            src = ctx.origin_ip;
        }
    } else {
        (src, sport) = (ctx.nat_ip, ctx.nat_port);
        if ctx.entry_flags & entry::HAIRPIN != 0 {
            dst = hairpin_client(ctx);
        }
    }
    let addresses = quoted_addresses(env, ctx, &src, &dst, v6)?;
    let has_ports = matches!(ctx.inner_proto as u8, proto::TCP | proto::UDP | proto::SCTP);
    let mut inside = if v6 { addresses } else { 0 };
    if has_ports {
        let old = join(ctx.inner_sport.0, ctx.inner_dport.0);
        let new = join(sport.0, dport.0);
        env.store(ctx.inner_l4, &[new])?;
        inside = sum_add(inside, difference(old, new));
    }
    let at = ctx.l4 + ICMP_CHECKSUM;
    if v6 {
        env.checksum_change(at, outer_change, true, false)?;
    }
    env.checksum_change(at, inside, false, false)
}

/// The addresses of the quoted packet. For IPv4 its header checksum changes
/// by the opposite, so that the sum over the quoted header stays the same.
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
