//! The guard stage: a pod may send only from its own addresses (anti-spoofing).

use beeline_abi::context::{Context, flags};
use beeline_abi::endpoint::flags::NO_GUARD;
use beeline_abi::ip::proto;
use beeline_abi::{DropReason, Ip, Mac, address};

use crate::parse::{ETHERNET_BYTES, byte, halves};
use crate::platform::{Platform, Step};
use crate::{Stop, Verdict};

/// Checks the source address and source MAC of a pod's packet, and that the
/// destination is valid in a forwarded packet. Neighbour discovery, router
/// solicitation and multicast listener reports are passed to the host.
///
/// # Errors
///
/// A [`Stop`] with the drop reason, or [`Stop::Host`].
#[inline(always)]
pub fn source<P: Platform>(env: &mut P, ctx: &mut Context) -> Result<(), Stop> {
    if ctx.flags & flags::V6 != 0 && ctx.proto == proto::ICMPV6 && is_link_control(ctx.icmp_type) {
        return link_control(env, ctx);
    }
    let endpoint = env.endpoint(&ctx.src).ok_or(Stop::Drop(DropReason::SpoofedAddress))?;
    if endpoint.flags & NO_GUARD == 0 {
        if endpoint.ifindex != ctx.ifindex {
            return Err(Stop::Drop(DropReason::SpoofedAddress));
        }
        if endpoint.pod_mac != ctx.mac_src {
            return Err(Stop::Drop(DropReason::SpoofedMac));
        }
    }
    ctx.identity_src = endpoint.identity;
    env.step(Step::GuardPassed);
    destination(ctx)
}

/// Router and neighbour discovery (RFC 4861) and MLD (RFC 2710, RFC 3810).
#[inline(always)]
const fn is_link_control(icmp_type: u8) -> bool {
    matches!(icmp_type, 130..=137 | 143)
}

/// Packets that stay on the link. Valid sources are `::` (duplicate address
/// detection), link-local addresses and the pod's own address.
#[inline(always)]
fn link_control<P: Platform>(env: &mut P, ctx: &mut Context) -> Result<(), Stop> {
    let own_link_local = ctx.src.0[0] & LINK_LOCAL_MASK == LINK_LOCAL_V6;
    if !ctx.src.is_unspecified() && !own_link_local {
        owns(env, ctx, ctx.src, DropReason::SpoofedAddress)?;
    }
    // The target of a neighbour advertisement (136) is an address that the
    // sender claims to have.
    if ctx.icmp_type == 136 {
        let target = env.load::<4>(ctx.l4 + 8).ok_or(Stop::Drop(DropReason::Malformed))?;
        let target = Ip(target);
        if target.0[0] & LINK_LOCAL_MASK != LINK_LOCAL_V6 {
            owns(env, ctx, target, DropReason::SpoofedNeighbour)?;
        }
    }
    Err(Stop::Host)
}

#[inline(always)]
fn owns<P: Platform>(env: &mut P, ctx: &Context, ip: Ip, reason: DropReason) -> Result<(), Stop> {
    match env.endpoint(&ip) {
        Some(endpoint) if endpoint.ifindex == ctx.ifindex || endpoint.flags & NO_GUARD != 0 => Ok(()),
        _ => Err(Stop::Drop(reason)),
    }
}

const LINK_LOCAL_MASK: u32 = 0xffc0_0000_u32.to_be();
const LINK_LOCAL_V6: u32 = 0xfe80_0000_u32.to_be();

/// Drops destinations that are not valid in a forwarded packet (RFC 1122 section
/// 3.2.1.3, RFC 4291 section 2.5). Link-local destinations other than the pods'
/// gateway are passed to the host (metadata services, node-local DNS).
#[inline(always)]
fn destination(ctx: &Context) -> Result<(), Stop> {
    if ctx.flags & flags::V6 != 0 {
        let first = byte(ctx.dst.0[0], 0);
        if first == 0xff || is_v6_loopback_or_unspecified(&ctx.dst) {
            return Err(Stop::Drop(DropReason::Martian));
        }
        if ctx.dst.0[0] & LINK_LOCAL_MASK == LINK_LOCAL_V6
            && ctx.dst != Ip::from_octets(beeline_abi::GATEWAY_IPV6)
        {
            return Err(Stop::Host);
        }
    } else {
        let word = ctx.dst.v4_word();
        let first = byte(word, 0);
        if first == 0 || first == 127 || first >= 224 {
            return Err(Stop::Drop(DropReason::Martian));
        }
        if first == 169 && byte(word, 1) == 254 && ctx.dst != Ip::from_v4(beeline_abi::GATEWAY_IPV4) {
            return Err(Stop::Host);
        }
    }
    Ok(())
}

#[inline(always)]
fn is_v6_loopback_or_unspecified(ip: &Ip) -> bool {
    ip.0[0] == 0 && ip.0[1] == 0 && ip.0[2] == 0 && u32::from_be(ip.0[3]) <= 1
}

/// Checks ARP from a pod (RFC 826): the sender's addresses must be its own, or
/// unspecified in a probe (RFC 5227). The host replies to it.
#[inline(always)]
pub fn arp<P: Platform>(env: &mut P, ctx: &mut Context) -> Result<Verdict, Stop> {
    let head: [u32; 7] = env.load(ETHERNET_BYTES).ok_or(Stop::Drop(DropReason::Malformed))?;
    // Ethernet (1), IPv4 (0x0800), lengths 6 and 4.
    if head[0] != 0x0001_0800_u32.to_be() || halves(head[1]).0 != 0x0604_u16.to_be() {
        return Err(Stop::Drop(DropReason::UnsupportedProtocol));
    }
    let mac = [head[2].to_ne_bytes(), head[3].to_ne_bytes()];
    let sender_mac = Mac([mac[0][0], mac[0][1], mac[0][2], mac[0][3], mac[1][0], mac[1][1]]);
    let (_, high) = halves(head[3]);
    let (low, _) = halves(head[4]);
    let sender = Ip::from_v4_word(crate::parse::join(high, low));
    ctx.src = sender;
    ctx.dst = Ip::from_v4_word(head[6]);
    if sender_mac != ctx.mac_src {
        return Err(Stop::Drop(DropReason::SpoofedNeighbour));
    }
    if sender.v4_word() != 0 {
        owns(env, ctx, sender, DropReason::SpoofedNeighbour)?;
    }
    Ok(Verdict::ToHost)
}

/// Drops packets from an uplink that have the source address of a local pod, and
/// sets the identity of the source.
#[inline(always)]
pub fn external<P: Platform>(env: &mut P, ctx: &mut Context) -> Result<(), Stop> {
    match env.address(&ctx.src) {
        Some(value) if value.kind == address::kind::LOCAL_POD => Err(Stop::Drop(DropReason::SpoofedAddress)),
        Some(value) => {
            ctx.identity_src = value.identity;
            Ok(())
        }
        None => {
            ctx.identity_src = beeline_abi::endpoint::identity::WORLD;
            Ok(())
        }
    }
}
