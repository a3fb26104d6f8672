//! The parse stage fills [`Context`] from the bytes of a frame: Ethernet, ARP, IPv4, IPv6 with extension
//! headers, TCP, UDP, ICMP, ICMPv6 and fragments.

use beeline_abi::context::{Context, flags};
use beeline_abi::fragment::{FragmentKey, FragmentValue};
use beeline_abi::ip::proto;
use beeline_abi::{DropReason, Ip, Mac, Port};

use crate::platform::{Platform, Step};

/// Bytes of an Ethernet header.
pub const ETHERNET_BYTES: u32 = 14;
/// Bytes of an IPv4 header without options.
pub const IPV4_BYTES: u32 = 20;
/// Bytes of an IPv6 header without extensions.
pub const IPV6_BYTES: u32 = 40;
/// Maximum number of extension headers that are parsed (RFC 8200 section 4.1
/// lists seven kinds; normal traffic has fewer).
const EXTENSION_HEADERS_MAX: usize = 6;

const ETHERTYPE_IPV4: u16 = 0x0800_u16.to_be();
const ETHERTYPE_ARP: u16 = 0x0806_u16.to_be();
const ETHERTYPE_IPV6: u16 = 0x86dd_u16.to_be();

/// What kind of frame it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// IPv4 or IPv6; `ctx` is filled.
    Ip,
    /// ARP; only the Ethernet part of `ctx` is filled.
    Arp,
    /// Something else.
    Other,
}

/// The two 16-bit halves of a word in memory order, each in network byte order.
#[inline(always)]
pub(crate) const fn halves(word: u32) -> (u16, u16) {
    if cfg!(target_endian = "little") {
        (word as u16, (word >> 16) as u16)
    } else {
        ((word >> 16) as u16, word as u16)
    }
}

/// Joins two 16-bit halves to a word in memory order.
#[inline(always)]
pub(crate) const fn join(first: u16, second: u16) -> u32 {
    if cfg!(target_endian = "little") {
        (first as u32) | ((second as u32) << 16)
    } else {
        ((first as u32) << 16) | second as u32
    }
}

/// Byte `index` of a word in memory order.
#[inline(always)]
pub(crate) const fn byte(word: u32, index: u32) -> u8 {
    (u32::from_be(word) >> (24 - 8 * index)) as u8
}

/// Parses the headers of a frame into `ctx`.
///
/// # Errors
///
/// The reason to drop the frame.
#[inline(always)]
pub fn frame<P: Platform>(env: &mut P, ctx: &mut Context) -> Result<Frame, DropReason> {
    let ethernet: [u32; 3] = env.load(0).ok_or(DropReason::Malformed)?;
    let ethertype = env.load_u16(12).ok_or(DropReason::Malformed)?;
    let e = [ethernet[0].to_ne_bytes(), ethernet[1].to_ne_bytes(), ethernet[2].to_ne_bytes()];
    ctx.mac_dst = Mac([e[0][0], e[0][1], e[0][2], e[0][3], e[1][0], e[1][1]]);
    ctx.mac_src = Mac([e[1][2], e[1][3], e[2][0], e[2][1], e[2][2], e[2][3]]);
    ctx.ethertype = ethertype;
    reset(ctx);
    match ethertype {
        ETHERTYPE_IPV4 => ipv4(env, ctx)?,
        ETHERTYPE_IPV6 => ipv6(env, ctx)?,
        ETHERTYPE_ARP => return Ok(Frame::Arp),
        _ => return Ok(Frame::Other),
    }
    ctx.src_after = ctx.src;
    ctx.dst_after = ctx.dst;
    if ctx.flags & flags::FRAGMENT_LATER == 0 {
        transport(env, ctx)?;
    }
    ctx.sport_after = ctx.sport;
    ctx.dport_after = ctx.dport;
    env.step(Step::Parsed { src: ctx.src, dst: ctx.dst, proto: ctx.proto });
    Ok(Frame::Ip)
}

/// Clears what the previous packet left in `ctx`.
#[inline(always)]
fn reset(ctx: &mut Context) {
    ctx.flags = 0;
    ctx.l3 = ETHERNET_BYTES;
    ctx.l4 = 0;
    ctx.l4_header_bytes = 0;
    ctx.src = Ip::UNSPECIFIED;
    ctx.dst = Ip::UNSPECIFIED;
    ctx.sport = Port(0);
    ctx.dport = Port(0);
    ctx.proto = 0;
    ctx.tcp_flags = 0;
    ctx.icmp_type = 0;
    ctx.icmp_code = 0;
    ctx.service = 0;
    ctx.backend = 0;
    ctx.generation = 0;
    ctx.identity_src = 0;
    ctx.identity_dst = 0;
    ctx.entry_flags = 0;
    ctx.reply_ifindex = 0;
}

#[inline(always)]
fn ipv4<P: Platform>(env: &mut P, ctx: &mut Context) -> Result<(), DropReason> {
    let header: [u32; 5] = env.load(ETHERNET_BYTES).ok_or(DropReason::Malformed)?;
    let version_ihl = byte(header[0], 0);
    let header_bytes = (version_ihl & 0x0f) as u32 * 4;
    if version_ihl >> 4 != 4 || header_bytes < IPV4_BYTES {
        return Err(DropReason::Malformed);
    }
    let available = env.length() - ETHERNET_BYTES;
    let mut total = u16::from_be(halves(header[0]).1) as u32;
    if total == 0 && env.segment_payload() != 0 {
        total = available; // a segmentation-offload packet of more than 64 KB
    }
    if total < header_bytes || total > available {
        return Err(DropReason::Malformed);
    }
    ctx.l3_bytes = total;
    ctx.l4 = ETHERNET_BYTES + header_bytes;
    if header_bytes > IPV4_BYTES {
        ctx.flags |= flags::HAS_OPTIONS;
    }
    ctx.ttl = byte(header[2], 0);
    ctx.proto = byte(header[2], 1);
    ctx.src = Ip::from_v4_word(header[3]);
    ctx.dst = Ip::from_v4_word(header[4]);
    let (id, fragment) = halves(header[1]);
    let fragment = u16::from_be(fragment);
    if fragment & 0x4000 != 0 {
        ctx.flags |= flags::DONT_FRAGMENT;
    }
    fragment_flags(ctx, fragment & 0x1fff != 0, fragment & 0x2000 != 0, id as u32);
    Ok(())
}

#[inline(always)]
fn fragment_flags(ctx: &mut Context, later: bool, more: bool, id: u32) {
    if later {
        ctx.flags |= flags::FRAGMENT_LATER;
    } else if more {
        ctx.flags |= flags::FRAGMENT_FIRST;
    } else {
        return;
    }
    ctx.fragment_key = FragmentKey { src: ctx.src, dst: ctx.dst, id, proto: ctx.proto as u32 };
}

#[inline(always)]
fn ipv6<P: Platform>(env: &mut P, ctx: &mut Context) -> Result<(), DropReason> {
    let header: [u32; 10] = env.load(ETHERNET_BYTES).ok_or(DropReason::Malformed)?;
    if byte(header[0], 0) >> 4 != 6 {
        return Err(DropReason::Malformed);
    }
    let available = env.length() - ETHERNET_BYTES;
    let mut total = u16::from_be(halves(header[1]).0) as u32 + IPV6_BYTES;
    if total == IPV6_BYTES && env.segment_payload() != 0 {
        total = available;
    }
    if total > available {
        return Err(DropReason::Malformed);
    }
    ctx.flags |= flags::V6 | flags::DONT_FRAGMENT;
    ctx.l3_bytes = total;
    ctx.ttl = byte(header[1], 3);
    ctx.src = Ip([header[2], header[3], header[4], header[5]]);
    ctx.dst = Ip([header[6], header[7], header[8], header[9]]);
    if ctx.src.is_v4() || ctx.dst.is_v4() {
        // IPv4-mapped addresses (RFC 4291 section 2.5.5.2) are not valid on the
        // wire, and would be mistaken for IPv4 here.
        return Err(DropReason::Martian);
    }
    extension_headers(env, ctx, byte(header[1], 2))?;
    if ctx.l4 > ctx.l3 + ctx.l3_bytes {
        // The rest of the frame is padding, not headers.
        return Err(DropReason::Malformed);
    }
    Ok(())
}

/// Walks the extension headers (RFC 8200 section 4) to the transport header.
#[inline(always)]
fn extension_headers<P: Platform>(env: &mut P, ctx: &mut Context, first: u8) -> Result<(), DropReason> {
    let mut next = first;
    let mut offset = ETHERNET_BYTES + IPV6_BYTES;
    let mut i = 0;
    while i < EXTENSION_HEADERS_MAX {
        i += 1;
        match next {
            0 | 43 | 60 | 135 => {
                let (head, _) = halves(env.load::<1>(offset).ok_or(DropReason::Malformed)?[0]);
                let head = u16::from_be(head);
                next = (head >> 8) as u8;
                offset += ((head & 0xff) as u32 + 1) * 8;
            }
            51 => {
                let (head, _) = halves(env.load::<1>(offset).ok_or(DropReason::Malformed)?[0]);
                let head = u16::from_be(head);
                next = (head >> 8) as u8;
                offset += ((head & 0xff) as u32 + 2) * 4;
            }
            44 => {
                let header: [u32; 2] = env.load(offset).ok_or(DropReason::Malformed)?;
                next = byte(header[0], 0);
                ctx.proto = next;
                offset += 8;
                let place = u16::from_be(halves(header[0]).1);
                fragment_flags(ctx, place & 0xfff8 != 0, place & 1 != 0, header[1]);
                if ctx.flags & flags::FRAGMENT_LATER != 0 {
                    // What follows is payload, not headers.
                    ctx.l4 = offset;
                    ctx.flags |= flags::HAS_OPTIONS;
                    return Ok(());
                }
            }
            _ => {
                ctx.proto = next;
                ctx.l4 = offset;
                if offset != ETHERNET_BYTES + IPV6_BYTES {
                    ctx.flags |= flags::HAS_OPTIONS;
                }
                return Ok(());
            }
        }
        if offset > OFFSET_MAX {
            return Err(DropReason::HeaderChainTooLong);
        }
    }
    Err(DropReason::HeaderChainTooLong)
}

/// Maximum offset of a header in the frame, bytes. One less than a power of two,
/// so that the kernel can mask offsets with it.
pub const OFFSET_MAX: u32 = 511;

#[inline(always)]
fn transport<P: Platform>(env: &mut P, ctx: &mut Context) -> Result<(), DropReason> {
    let end = ctx.l3 + ctx.l3_bytes;
    let whole = ctx.flags & flags::FRAGMENT_FIRST == 0;
    match ctx.proto {
        proto::TCP => {
            let header: [u32; 4] = env.load(ctx.l4).ok_or(DropReason::Malformed)?;
            (ctx.sport, ctx.dport) = ports(header[0]);
            ctx.l4_header_bytes = (byte(header[3], 0) >> 4) as u32 * 4;
            ctx.tcp_flags = byte(header[3], 1);
            // A first fragment may lack TCP options, but not the rest of the header
            // (RFC 1858: tiny fragments are used to evade filters).
            let present = if whole { ctx.l4_header_bytes } else { 20 };
            if ctx.l4_header_bytes < 20 || ctx.l4 + present > end {
                return Err(DropReason::Malformed);
            }
        }
        proto::UDP => {
            let header: [u32; 2] = env.load(ctx.l4).ok_or(DropReason::Malformed)?;
            (ctx.sport, ctx.dport) = ports(header[0]);
            ctx.l4_header_bytes = 8;
            if ctx.l4 + 8 > end {
                return Err(DropReason::Malformed);
            }
        }
        proto::SCTP => {
            let header: [u32; 3] = env.load(ctx.l4).ok_or(DropReason::Malformed)?;
            (ctx.sport, ctx.dport) = ports(header[0]);
            ctx.l4_header_bytes = 12;
            if ctx.l4 + 12 > end {
                return Err(DropReason::Malformed);
            }
        }
        proto::ICMP if ctx.flags & flags::V6 == 0 => icmp(env, ctx, end)?,
        proto::ICMPV6 if ctx.flags & flags::V6 != 0 => icmp(env, ctx, end)?,
        _ => {}
    }
    Ok(())
}

#[inline(always)]
fn ports(word: u32) -> (Port, Port) {
    let (sport, dport) = halves(word);
    (Port(sport), Port(dport))
}

#[inline(always)]
fn icmp<P: Platform>(env: &mut P, ctx: &mut Context, end: u32) -> Result<(), DropReason> {
    let header: [u32; 2] = env.load(ctx.l4).ok_or(DropReason::Malformed)?;
    if ctx.l4 + 8 > end {
        return Err(DropReason::Malformed);
    }
    ctx.icmp_type = byte(header[0], 0);
    ctx.icmp_code = byte(header[0], 1);
    ctx.l4_header_bytes = 8;
    let v6 = ctx.flags & flags::V6 != 0;
    let (echo, error) = match (v6, ctx.icmp_type) {
        (false, 0 | 8) | (true, 128 | 129) => (true, false),
        // RFC 792: unreachable, time exceeded, parameter problem; RFC 4443
        // section 2.1: the first four types.
        (false, 3 | 11 | 12) | (true, 1..=4) => (false, true),
        _ => (false, false),
    };
    if echo {
        let (id, _) = halves(header[1]);
        ctx.sport = Port(id);
        ctx.dport = Port(id);
    } else if error && ctx.flags & flags::FRAGMENT_FIRST == 0 {
        quoted(env, ctx, end, v6);
    }
    Ok(())
}

/// Parses the packet that an ICMP error quotes. If that fails, the message is
/// treated as an ordinary packet and left to the receiver.
#[inline(always)]
fn quoted<P: Platform>(env: &mut P, ctx: &mut Context, end: u32, v6: bool) {
    let at = ctx.l4 + 8;
    ctx.inner_l3 = at;
    if v6 {
        let Some(header) = env.load::<10>(at) else { return };
        if byte(header[0], 0) >> 4 != 6 {
            return;
        }
        ctx.inner_src = Ip([header[2], header[3], header[4], header[5]]);
        ctx.inner_dst = Ip([header[6], header[7], header[8], header[9]]);
        ctx.inner_proto = byte(header[1], 2) as u32;
        ctx.inner_l4 = at + IPV6_BYTES;
    } else {
        let Some(header) = env.load::<5>(at) else { return };
        let version_ihl = byte(header[0], 0);
        if version_ihl >> 4 != 4 || version_ihl & 0x0f < 5 || u16::from_be(halves(header[1]).1) & 0x1fff != 0
        {
            return;
        }
        ctx.inner_src = Ip::from_v4_word(header[3]);
        ctx.inner_dst = Ip::from_v4_word(header[4]);
        ctx.inner_proto = byte(header[2], 1) as u32;
        ctx.inner_l4 = at + (version_ihl & 0x0f) as u32 * 4;
    }
    let Some(header) = env.load::<2>(ctx.inner_l4) else { return };
    if ctx.inner_l4 + 8 > end {
        return;
    }
    match ctx.inner_proto as u8 {
        proto::TCP | proto::UDP | proto::SCTP => (ctx.inner_sport, ctx.inner_dport) = ports(header[0]),
        proto::ICMP | proto::ICMPV6 => {
            let (id, _) = halves(header[1]);
            ctx.inner_sport = Port(id);
            ctx.inner_dport = Port(id);
        }
        _ => return,
    }
    ctx.flags |= flags::ICMP_ERROR;
}

/// Stores the ports of a first fragment, and looks them up for a later one.
///
/// # Errors
///
/// [`DropReason::FragmentUnknown`] if the first fragment was not seen.
#[inline(always)]
pub fn fragment<P: Platform>(env: &mut P, ctx: &mut Context) -> Result<(), DropReason> {
    if ctx.flags & flags::FRAGMENT_FIRST != 0 {
        let value = FragmentValue { sport: ctx.sport, dport: ctx.dport, seen: ctx.now };
        env.fragment_insert(&ctx.fragment_key, &value);
    } else if ctx.flags & flags::FRAGMENT_LATER != 0 {
        let first = env.fragment(&ctx.fragment_key).ok_or(DropReason::FragmentUnknown)?;
        // Reassembly times out after 60 s (RFC 8200 section 4.5). An older entry
        // belongs to another packet with the same identifier.
        if ctx.now.wrapping_sub(first.seen) > 60 {
            return Err(DropReason::FragmentUnknown);
        }
        ctx.sport = first.sport;
        ctx.dport = first.dport;
        ctx.sport_after = first.sport;
        ctx.dport_after = first.dport;
    }
    Ok(())
}
