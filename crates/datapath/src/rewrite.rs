//! The rewrite stage: writes the translation into the packet and decrements the
//! TTL. Checksums are updated incrementally (RFC 1624).

use beeline_abi::context::{Context, flags};
use beeline_abi::ip::proto;
use beeline_abi::{DropReason, Ip};

use crate::icmp;
use crate::parse::join;
use crate::platform::{Packet, Platform, Step};

/// Offset of the checksum in a TCP header (RFC 9293).
pub(crate) const TCP_CHECKSUM: u32 = 16;
/// Offset of the checksum in a UDP header (RFC 768).
pub(crate) const UDP_CHECKSUM: u32 = 6;
/// Offset of the checksum in an ICMP or ICMPv6 header.
pub(crate) const ICMP_CHECKSUM: u32 = 2;
/// Offset of the identifier in an ICMP or ICMPv6 echo.
pub(crate) const ICMP_IDENTIFIER: u32 = 4;
/// Offset of the checksum in an IPv4 header.
const IPV4_CHECKSUM: u32 = 10;

/// Adds two ones' complement sums of 32 bits.
#[inline(always)]
pub(crate) const fn sum_add(a: u32, b: u32) -> u32 {
    let wide = a as u64 + b as u64;
    (wide as u32).wrapping_add((wide >> 32) as u32)
}

/// Folds a sum to 16 bits.
#[inline(always)]
pub(crate) const fn sum_fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}

/// The change of a sum when one word replaces another.
#[inline(always)]
pub(crate) const fn difference(from: u32, to: u32) -> u32 {
    sum_add(!from, to)
}

/// The change of a sum when one address replaces another.
#[inline(always)]
pub(crate) fn address_difference(from: &Ip, to: &Ip, v6: bool) -> u32 {
    let mut sum = difference(from.0[3], to.0[3]);
    if v6 {
        let mut i = 0;
        while i < 3 {
            sum = sum_add(sum, difference(from.0[i], to.0[i]));
            i += 1;
        }
    }
    sum
}

/// A 16-bit word as a summand.
#[inline(always)]
pub(crate) const fn half(word: u16) -> u32 {
    join(word, 0)
}

/// Writes the translation of `ctx` into the packet.
///
/// # Errors
///
/// [`DropReason::RewriteFailed`] if the packet cannot be written.
#[inline(always)]
pub fn apply<P: Platform>(env: &mut P, ctx: &mut Context) -> Result<(), DropReason> {
    if ctx.flags & (flags::SRC_CHANGED | flags::DST_CHANGED) == 0 {
        return Ok(());
    }
    translate(env, ctx).ok_or(DropReason::RewriteFailed)?;
    env.step(Step::Rewritten { src: ctx.src_after, dst: ctx.dst_after });
    Ok(())
}

#[inline(always)]
fn translate<P: Platform>(env: &mut P, ctx: &mut Context) -> Option<()> {
    let v6 = ctx.flags & flags::V6 != 0;
    let mut pseudo = 0;
    if ctx.flags & flags::SRC_CHANGED != 0 {
        pseudo = sum_add(pseudo, address_difference(&ctx.src, &ctx.src_after, v6));
        let at = ctx.l3 + if v6 { 8 } else { 12 };
        store_address(env, at, &ctx.src_after, v6)?;
    }
    if ctx.flags & flags::DST_CHANGED != 0 {
        pseudo = sum_add(pseudo, address_difference(&ctx.dst, &ctx.dst_after, v6));
        let at = ctx.l3 + if v6 { 24 } else { 16 };
        store_address(env, at, &ctx.dst_after, v6)?;
    }
    if !v6 {
        ipv4_checksum_change(env, ctx.l3, pseudo)?;
    }
    if ctx.flags & flags::FRAGMENT_LATER != 0 {
        return Some(());
    }
    if ctx.flags & flags::ICMP_ERROR != 0 {
        return icmp::translate_quoted(env, ctx, pseudo);
    }
    transport(env, ctx, pseudo)
}

/// Writes an address of the packet's family.
#[inline(always)]
pub(crate) fn store_address<P: Packet>(env: &mut P, at: u32, ip: &Ip, v6: bool) -> Option<()> {
    if v6 { env.store(at, &ip.0) } else { env.store(at, &[ip.0[3]]) }
}

/// Updates the IPv4 header checksum in place (RFC 1624); it is never offloaded.
#[inline(always)]
pub(crate) fn ipv4_checksum_change<P: Packet>(env: &mut P, l3: u32, change: u32) -> Option<()> {
    let old = env.load_u16(l3 + IPV4_CHECKSUM)?;
    let new = !sum_fold(sum_add(half(!old), change));
    env.store_u16(l3 + IPV4_CHECKSUM, new)
}

/// Rewrites the ports and the transport checksum.
#[inline(always)]
fn transport<P: Platform>(env: &mut P, ctx: &mut Context, pseudo: u32) -> Option<()> {
    let (at, zero_is_none) = match ctx.proto {
        proto::TCP => (TCP_CHECKSUM, false),
        proto::UDP => (UDP_CHECKSUM, true),
        proto::ICMP | proto::ICMPV6 => return identifier(env, ctx, pseudo),
        _ => return Some(()),
    };
    let at = ctx.l4 + at;
    env.checksum_change(at, pseudo, true, zero_is_none)?;
    let old = join(ctx.sport.0, ctx.dport.0);
    let new = join(ctx.sport_after.0, ctx.dport_after.0);
    if old == new {
        return Some(());
    }
    env.store(ctx.l4, &[new])?;
    env.checksum_change(at, difference(old, new), false, zero_is_none)
}

/// Rewrites the identifier of an ICMP echo, which is used as its port. The ICMPv6
/// checksum includes the pseudo-header, that of ICMP does not (RFC 4443 section
/// 2.3, RFC 792).
#[inline(always)]
fn identifier<P: Platform>(env: &mut P, ctx: &mut Context, pseudo: u32) -> Option<()> {
    let at = ctx.l4 + ICMP_CHECKSUM;
    if ctx.proto == proto::ICMPV6 {
        env.checksum_change(at, pseudo, true, false)?;
    }
    let new = ctx.sport_after;
    if new.0 == ctx.sport.0 {
        return Some(());
    }
    env.store_u16(ctx.l4 + ICMP_IDENTIFIER, new.0)?;
    env.checksum_change(at, difference(half(ctx.sport.0), half(new.0)), false, false)
}

/// Decrements the TTL or hop limit, which must be at least 1. Returns `None` if
/// the packet cannot be written.
#[inline(always)]
pub fn decrement_ttl<P: Platform>(env: &mut P, ctx: &mut Context) -> Option<()> {
    if ctx.flags & flags::V6 != 0 {
        return env.store_u8(ctx.l3 + 7, ctx.ttl - 1);
    }
    let old = env.load_u16(ctx.l3 + 8)?;
    let new = u16::from_be(old).wrapping_sub(0x0100).to_be();
    env.store_u8(ctx.l3 + 8, ctx.ttl - 1)?;
    ipv4_checksum_change(env, ctx.l3, difference(half(old), half(new)))
}
