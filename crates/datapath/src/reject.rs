//! The reject stage: turns the packet into the reply that rejects it, sent from
//! the packet's destination address: RST for TCP (RFC 9293 section 3.5.2), port
//! unreachable for UDP (RFC 1122 section 3.2.2.1, RFC 4443 section 3.1).

use beeline_abi::DropReason;
use beeline_abi::context::{Context, flags};
use beeline_abi::ip::proto;

use crate::Verdict;
use crate::conntrack::tcp;
use crate::parse::{ETHERNET_BYTES, IPV4_BYTES, IPV6_BYTES, halves, join};
use crate::platform::{Platform, Step};
use crate::rewrite::{TCP_CHECKSUM, UDP_CHECKSUM, half, sum_add, sum_fold};

/// Hop limit of the replies (the default of Linux).
const TTL: u8 = 64;
const TCP_BYTES: u32 = 20;
/// Bytes of the rejected packet's transport header that an ICMP error quotes
/// (RFC 792: 64 bits).
const QUOTED_BYTES: u32 = 8;

/// Rejects the packet with a RST or a port unreachable. It is dropped without a
/// reply if it has IP options or extension headers, is a later fragment (TCP: any
/// fragment) or a RST,
/// or is neither TCP nor UDP.
#[inline(always)]
pub fn reject<P: Platform>(env: &mut P, ctx: &mut Context, reason: DropReason) -> Verdict {
    env.step(Step::Rejected(reason));
    let whole = ctx.flags & flags::FRAGMENT_FIRST == 0;
    let written = if ctx.flags & (flags::HAS_OPTIONS | flags::FRAGMENT_LATER) != 0 {
        None
    } else {
        match ctx.proto {
            proto::TCP if whole && ctx.tcp_flags & tcp::RST == 0 => write_reset(env, ctx),
            proto::UDP => write_unreachable(env, ctx),
            _ => None,
        }
    };
    match written {
        Some(()) => Verdict::Reject { reason },
        None => Verdict::Drop { reason },
    }
}

/// Rejects the packet with an ICMP error: too big (RFC 1191, RFC 4443 section
/// 3.2) for [`DropReason::TooBig`], else time exceeded. It is dropped without one
/// if it is an ICMP error or a later fragment (RFC 1122 section 3.2.2), has IP
/// options or extension headers, or is SCTP.
#[inline(always)]
pub fn icmp_error<P: Platform>(env: &mut P, ctx: &mut Context, reason: DropReason) -> Verdict {
    env.step(Step::Rejected(reason));
    let no_reply_flags = flags::HAS_OPTIONS | flags::FRAGMENT_LATER | flags::ICMP_ERROR;
    let v6 = ctx.flags & flags::V6 != 0;
    let too_big = reason as u8 == DropReason::TooBig as u8;
    // Types and codes: 3/4 and 11/0 (RFC 792), 2/0 and 3/0 (RFC 4443).
    let type_code = match (v6, too_big) {
        (false, true) => 0x0304_0000_u32,
        (false, false) => 0x0b00_0000,
        (true, true) => 0x0200_0000,
        (true, false) => 0x0300_0000,
    };
    let word = if too_big { ctx.out_mtu } else { 0 };
    let written = if ctx.flags & no_reply_flags != 0 || ctx.proto == proto::SCTP {
        None
    } else {
        write_icmp_error(env, ctx, type_code.to_be(), word.to_be())
    };
    match written {
        Some(()) => Verdict::Reject { reason },
        None => Verdict::Drop { reason },
    }
}

/// Swaps the Ethernet addresses.
#[inline(always)]
fn swap_ethernet<P: Platform>(env: &mut P, ctx: &Context) -> Option<()> {
    let (d, s) = (ctx.mac_src.0, ctx.mac_dst.0);
    env.store(
        0,
        &[
            u32::from_ne_bytes([d[0], d[1], d[2], d[3]]),
            u32::from_ne_bytes([d[4], d[5], s[0], s[1]]),
            u32::from_ne_bytes([s[2], s[3], s[4], s[5]]),
        ],
    )
}

/// Writes an IP header from the packet's destination to its source, for
/// `payload` bytes of `protocol`. Returns the sum of the pseudo-header.
#[inline(always)]
fn write_ip_header<P: Platform>(env: &mut P, ctx: &Context, protocol: u8, payload: u32) -> Option<u32> {
    let mut pseudo = half((payload as u16).to_be());
    pseudo = sum_add(pseudo, half((protocol as u16).to_be()));
    if ctx.flags & flags::V6 != 0 {
        let (s, d) = (ctx.dst.0, ctx.src.0);
        let second = u32::from_be_bytes([(payload >> 8) as u8, payload as u8, protocol, TTL]).to_be();
        let version = 0x6000_0000_u32.to_be();
        env.store(ETHERNET_BYTES, &[version, second, s[0], s[1], s[2], s[3], d[0], d[1], d[2], d[3]])?;
        let mut i = 0;
        while i < 4 {
            pseudo = sum_add(pseudo, sum_add(s[i], d[i]));
            i += 1;
        }
        return Some(pseudo);
    }
    let (s, d) = (ctx.dst.v4_word(), ctx.src.v4_word());
    let total = IPV4_BYTES + payload;
    let words = [
        (0x4500_0000 | total).to_be(),
        0x0000_4000_u32.to_be(),
        u32::from_be_bytes([TTL, protocol, 0, 0]).to_be(),
        s,
        d,
    ];
    let sum = sum_add(sum_add(words[0], words[1]), sum_add(words[2], sum_add(s, d)));
    let (first, _) = halves(words[2]);
    env.store(ETHERNET_BYTES, &[words[0], words[1], join(first, !sum_fold(sum)), s, d])?;
    Some(sum_add(pseudo, sum_add(s, d)))
}

/// Turns the packet into a RST, with the sequence numbers that RFC 9293 section
/// 3.10.7.1 requires of a closed port.
#[inline(always)]
fn write_reset<P: Platform>(env: &mut P, ctx: &mut Context) -> Option<()> {
    let old: [u32; 4] = env.load(ctx.l4)?;
    let partial = env.checksum_is_partial(ctx.l4 + TCP_CHECKSUM);
    let (sport, dport) = halves(old[0]);
    let (sequence, acknowledged) = (u32::from_be(old[1]), old[2]);
    let payload = ctx.l3 + ctx.l3_bytes - ctx.l4 - ctx.l4_header_bytes;
    let control = (ctx.tcp_flags & tcp::SYN != 0) as u32 + (ctx.tcp_flags & tcp::FIN != 0) as u32;
    let words = if ctx.tcp_flags & tcp::ACK != 0 {
        [join(dport, sport), acknowledged, 0, 0x5004_0000_u32.to_be()]
    } else {
        [join(dport, sport), 0, sequence.wrapping_add(payload + control).to_be(), 0x5014_0000_u32.to_be()]
    };
    env.truncate(ctx.l4 + TCP_BYTES)?;
    let pseudo = write_ip_header(env, ctx, proto::TCP, TCP_BYTES)?;
    let content = sum_add(sum_add(words[0], words[1]), sum_add(words[2], words[3]));
    let checksum = if partial { sum_fold(pseudo) } else { !sum_fold(sum_add(pseudo, content)) };
    env.store(ctx.l4, &[words[0], words[1], words[2], words[3], join(checksum, 0)])?;
    swap_ethernet(env, ctx)
}

/// Turns the packet into an ICMP port unreachable: 3/3 (RFC 792), 1/4 (RFC
/// 4443).
#[inline(always)]
fn write_unreachable<P: Platform>(env: &mut P, ctx: &mut Context) -> Option<()> {
    let v6 = ctx.flags & flags::V6 != 0;
    write_icmp_error(env, ctx, if v6 { 0x0104_0000_u32.to_be() } else { 0x0303_0000_u32.to_be() }, 0)
}

/// Turns the packet into an ICMP error that quotes its IP header and the first
/// eight bytes after it. `type_code` and `word`, the first two words of the
/// header, are in network byte order.
#[inline(always)]
fn write_icmp_error<P: Platform>(env: &mut P, ctx: &mut Context, type_code: u32, word: u32) -> Option<()> {
    let v6 = ctx.flags & flags::V6 != 0;
    let transport: [u32; 2] = env.load(ctx.l4)?;
    let (_, checksum) = halves(transport[1]);
    let partial = ctx.proto == proto::UDP && checksum != 0 && env.checksum_is_partial(ctx.l4 + UDP_CHECKSUM);
    // A partial checksum holds the sum of the pseudo-header. A device completes
    // it, and the sum over the quoted bytes becomes the complement of the
    // current value. The checksum of the reply is computed for that.
    let quoted = if partial { half(!checksum) } else { sum_add(transport[0], transport[1]) };
    let header = if v6 { IPV6_BYTES } else { IPV4_BYTES };
    let quoted_ip = quoted_header_sum(env, v6)?;
    env.truncate(ctx.l4 + QUOTED_BYTES)?;
    env.insert_after_ethernet(header + 8)?;
    let payload = 8 + header + QUOTED_BYTES;
    let protocol = if v6 { proto::ICMPV6 } else { proto::ICMP };
    let pseudo = write_ip_header(env, ctx, protocol, payload)?;
    let mut sum = sum_add(sum_add(sum_add(type_code, word), quoted), quoted_ip);
    if v6 {
        sum = sum_add(sum, pseudo);
    }
    let (head, _) = halves(type_code);
    env.store(ETHERNET_BYTES + header, &[join(head, !sum_fold(sum)), word])?;
    swap_ethernet(env, ctx)
}

/// The sum of the IP header that will be quoted.
#[inline(always)]
fn quoted_header_sum<P: Platform>(env: &mut P, v6: bool) -> Option<u32> {
    let mut sum = 0;
    let mut i = 0;
    if v6 {
        let words: [u32; 10] = env.load(ETHERNET_BYTES)?;
        while i < 10 {
            sum = sum_add(sum, words[i]);
            i += 1;
        }
    } else {
        let words: [u32; 5] = env.load(ETHERNET_BYTES)?;
        while i < 5 {
            sum = sum_add(sum, words[i]);
            i += 1;
        }
    }
    Some(sum)
}
