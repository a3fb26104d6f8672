//! The conntrack stage: looks up the connection of a packet or creates it. Its
//! lifetime is decided in `conntrack/lifetime.rs`.

mod lifetime;

use beeline_abi::conntrack::{ConntrackKey, ConntrackValue, flags as entry};
use beeline_abi::context::{Context, flags};
use beeline_abi::counter::hook;
use beeline_abi::ip::proto;
use beeline_abi::{DropReason, GATEWAY_IPV4, HAIRPIN_IPV6, Ip, Port};

use self::lifetime::{State, account, is_closed, is_port_reuse, tcp_lifetime};
use crate::platform::{Platform, Step};
use crate::{Stop, backend_slots, icmp};

/// TCP flags (RFC 9293 section 3.1).
pub mod tcp {
    #![allow(missing_docs, reason = "each is the control bit of that name")]
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const ACK: u8 = 0x10;
}

/// Builds the key of a tuple in its fixed order. Returns true if the source is
/// end `a`. The order is independent of the direction, so both directions of a
/// connection have the same key.
#[inline(always)]
pub fn key_of(key: &mut ConntrackKey, src: Ip, sport: Port, dst: Ip, dport: Port, protocol: u8) -> bool {
    let src_is_a = precedes(src, sport, dst, dport);
    key.proto = protocol;
    key.zone = 0;
    key.reserved = 0;
    if src_is_a {
        (key.ip_a, key.port_a, key.ip_b, key.port_b) = (src, sport, dst, dport);
    } else {
        (key.ip_a, key.port_a, key.ip_b, key.port_b) = (dst, dport, src, sport);
    }
    src_is_a
}

/// The order of two ends: by port, then by address, word by word as stored.
#[inline(always)]
fn precedes(src: Ip, sport: Port, dst: Ip, dport: Port) -> bool {
    if sport.0 != dport.0 {
        return sport.0 < dport.0;
    }
    let mut i = 0;
    while i < 4 {
        if src.0[i] != dst.0[i] {
            return src.0[i] < dst.0[i];
        }
        i += 1;
    }
    true
}

/// Looks up the packet's connection, updates its state and counters, and applies
/// its translation to `ctx`. Returns false if there is no live connection.
#[inline(always)]
pub fn lookup<P: Platform>(env: &mut P, ctx: &mut Context) -> bool {
    if ctx.flags & flags::ICMP_ERROR != 0 {
        return icmp::lookup_error(env, ctx);
    }
    let src_is_a = key_of(&mut ctx.key, ctx.src, ctx.sport, ctx.dst, ctx.dport, ctx.proto);
    if src_is_a {
        ctx.flags |= flags::SRC_IS_A;
    }
    let Some(config) = env.config() else { return false };
    let now = ctx.now;
    let bytes = env.length() as u64;
    let tcp_flags = ctx.tcp_flags;
    let is_tcp = ctx.proto == proto::TCP;
    let is_icmp = ctx.proto == proto::ICMP || ctx.proto == proto::ICMPV6;
    let Some(value) = env.conntrack(&ctx.key) else { return false };
    if value.expires <= now {
        return false;
    }
    let origin = (value.flags & entry::ORIGIN_A != 0) == src_is_a;
    if is_tcp && origin && is_port_reuse(value, tcp_flags) {
        return false;
    }
    if origin && ctx.hook == hook::FROM_POD && ctx.proto == proto::UDP && value.flags & entry::REPLY_SNAT != 0
    {
        // The pod sends to the backend directly, from a port that it used before
        // to reach the backend through a Service. This starts a new connection,
        // whose replies must not be translated.
        return false;
    }
    let before = State::of(value);
    account(value, origin, tcp_flags, bytes);
    let lifetime = if is_tcp {
        tcp_lifetime(value, &config)
    } else if is_icmp {
        config.ticks_icmp
    } else if value.flags & entry::REPLIED != 0 {
        config.ticks_udp
    } else {
        config.ticks_udp_unreplied
    };
    let expires = now + lifetime;
    if value.expires != expires {
        value.expires = expires;
    }
    let after = State::of(value);
    load(ctx, value, origin);
    if backend_is_stale(env, ctx, origin) {
        ctx.flags &= !flags::ORIGIN;
        (ctx.service, ctx.backend, ctx.entry_flags) = (0, 0, 0);
        return false;
    }
    env.step(Step::ConntrackHit { origin, service: ctx.service });
    translate(ctx, origin);
    if after != before && ctx.flags & (flags::SRC_CHANGED | flags::DST_CHANGED) != 0 {
        sync_twin(env, ctx, after);
    }
    true
}

/// Whether a UDP request needs another backend because the one of its connection
/// no longer serves the Service. The entry stays until the new one replaces it.
#[inline(always)]
fn backend_is_stale<P: Platform>(env: &P, ctx: &mut Context, origin: bool) -> bool {
    if ctx.proto != proto::UDP || !origin || ctx.entry_flags & entry::DNAT as u32 == 0 || ctx.backend == 0 {
        return false;
    }
    !backend_slots::is_serving(env, &mut ctx.slot_key, ctx.service, ctx.backend, &ctx.nat_ip, ctx.nat_port)
}

/// A translated connection has one entry per direction, and each sees only the
/// packets of its own direction. Copies changed state (TCP flags, or the lifetime
/// at most once per tick) to the other entry, found by the translated tuple.
#[inline(always)]
fn sync_twin<P: Platform>(env: &mut P, ctx: &mut Context, state: State) {
    flow_key(ctx);
    let (service, backend) = (ctx.service, ctx.backend);
    let Some(twin) = env.conntrack(&ctx.flow_key) else { return };
    if twin.service != service || twin.backend != backend {
        return; // another connection has taken the tuple
    }
    twin.expires = state.expires;
    twin.tcp_origin = twin.tcp_origin & !tcp::RST | state.tcp_origin;
    twin.tcp_reply = twin.tcp_reply & !tcp::RST | state.tcp_reply;
    twin.flags |= state.replied;
}

/// Loads an entry's translation, flags and ids into `ctx`.
#[inline(always)]
pub(crate) fn load(ctx: &mut Context, value: &ConntrackValue, origin: bool) {
    ctx.nat_ip = value.nat_ip;
    ctx.nat_port = value.nat_port;
    ctx.snat_ip = value.snat_ip;
    ctx.snat_port = value.snat_port;
    ctx.entry_flags = value.flags as u32;
    ctx.service = value.service;
    ctx.backend = value.backend;
    if origin {
        ctx.flags |= flags::ORIGIN;
    } else if value.flags & entry::REPLY_VIA_INGRESS != 0 {
        ctx.reply_ifindex = value.ingress_ifindex;
    }
}

/// Applies the entry's translation to the tuple in `ctx`.
#[inline(always)]
fn translate(ctx: &mut Context, origin: bool) {
    if origin && ctx.entry_flags & entry::REPLY_SNAT as u32 != 0 {
        return; // already translated at another hook
    }
    if origin {
        if ctx.entry_flags & entry::DNAT as u32 != 0 {
            set_dst(ctx, ctx.nat_ip, ctx.nat_port);
        }
        if ctx.entry_flags & entry::SNAT as u32 != 0 {
            set_snat(ctx, true);
        }
    } else {
        if ctx.entry_flags & entry::REPLY_SNAT as u32 != 0 {
            set_src(ctx, ctx.nat_ip, ctx.nat_port);
        }
        if ctx.entry_flags & entry::SNAT as u32 != 0 {
            set_snat(ctx, false);
        }
    }
}

#[inline(always)]
pub(crate) fn set_dst(ctx: &mut Context, ip: Ip, port: Port) {
    ctx.dst_after = ip;
    ctx.dport_after = port;
    ctx.flags |= flags::DST_CHANGED;
}

#[inline(always)]
pub(crate) fn set_src(ctx: &mut Context, ip: Ip, port: Port) {
    ctx.src_after = ip;
    ctx.sport_after = port;
    ctx.flags |= flags::SRC_CHANGED;
}

/// Applies the source translation: to the source of requests, to the destination
/// of replies. The identifier of an ICMP echo is both ports ([`ConntrackKey`]).
#[inline(always)]
fn set_snat(ctx: &mut Context, origin: bool) {
    if origin {
        set_src(ctx, ctx.snat_ip, ctx.snat_port);
    } else {
        set_dst(ctx, ctx.snat_ip, ctx.snat_port);
    }
    if is_echo(ctx) {
        (ctx.sport_after, ctx.dport_after) = (ctx.snat_port, ctx.snat_port);
    }
}

#[inline(always)]
pub(crate) fn is_echo(ctx: &Context) -> bool {
    ctx.proto == proto::ICMP || ctx.proto == proto::ICMPV6
}

/// The hairpin address in the packet's family: the source that a pod sees when it
/// reaches itself through a Service.
#[inline(always)]
pub(crate) fn hairpin_address(ctx: &Context) -> Ip {
    if ctx.flags & flags::V6 != 0 { Ip::from_octets(HAIRPIN_IPV6) } else { Ip::from_v4(GATEWAY_IPV4) }
}

/// Creates the connection of the packet: one entry without translation, two with
/// it. If the table is full, an untranslated packet still passes and is counted
/// as untracked.
///
/// # Errors
///
/// [`DropReason::NotConfigured`], or [`DropReason::ConntrackFull`] for a
/// translated connection.
#[inline(always)]
pub fn create<P: Platform>(env: &mut P, ctx: &mut Context) -> Result<(), Stop> {
    if ctx.flags & flags::ICMP_ERROR != 0 {
        return Ok(());
    }
    env.step(Step::ConntrackNew);
    let Some(config) = env.config() else { return Err(Stop::Drop(DropReason::NotConfigured)) };
    let lifetime = match ctx.proto {
        proto::TCP if ctx.tcp_flags & tcp::RST != 0 => config.ticks_tcp_closing,
        proto::TCP => config.ticks_tcp_opening,
        proto::ICMP | proto::ICMPV6 => config.ticks_icmp,
        _ => config.ticks_udp_unreplied,
    };
    new_value(env, ctx, lifetime);
    if ctx.flags & (flags::DST_CHANGED | flags::SRC_CHANGED) == 0 {
        if !env.conntrack_insert(&ctx.key, &ctx.value) {
            env.count_untracked(ctx);
        }
        return Ok(());
    }
    create_translated(env, ctx)
}

/// A value for the first packet of a connection, without translation.
#[inline(always)]
fn new_value<P: Platform>(env: &mut P, ctx: &mut Context, lifetime: u32) {
    let length = env.length() as u64;
    ctx.value = ConntrackValue {
        flags: if ctx.flags & flags::SRC_IS_A != 0 { entry::ORIGIN_A } else { 0 },
        expires: ctx.now + lifetime,
        service: ctx.service,
        backend: ctx.backend,
        generation: ctx.generation,
        ingress_ifindex: ctx.ifindex,
        tcp_origin: ctx.tcp_flags,
        ingress_mac: ctx.mac_src,
        identity_origin: ctx.identity_src,
        identity_reply: ctx.identity_dst,
        created: ctx.now,
        packets_origin: 1,
        bytes_origin: length,
        ..ConntrackValue::default()
    };
}

/// Inserts the flow entry first, so that a service entry never exists without it.
/// Both hold the whole translation; their flags say which part applies.
#[inline(always)]
fn create_translated<P: Platform>(env: &mut P, ctx: &mut Context) -> Result<(), Stop> {
    let shared = if ctx.flags & flags::SNAT != 0 { entry::SNAT } else { 0 }
        | if ctx.flags & flags::REPLY_VIA_INGRESS != 0 { entry::REPLY_VIA_INGRESS } else { 0 };
    let request =
        ctx.value.flags | shared | if ctx.flags & flags::DST_CHANGED != 0 { entry::DNAT } else { 0 };
    let src_is_a = flow_key(ctx);
    ctx.value.flags = shared
        | if ctx.flags & flags::DST_CHANGED != 0 { entry::REPLY_SNAT } else { 0 }
        | if src_is_a { entry::ORIGIN_A } else { 0 };
    ctx.value.nat_ip = ctx.dst;
    ctx.value.nat_port = ctx.dport;
    ctx.value.snat_ip = ctx.src;
    ctx.value.snat_port = ctx.sport;
    if !env.conntrack_insert(&ctx.flow_key, &ctx.value) {
        return Err(Stop::Drop(DropReason::ConntrackFull));
    }
    ctx.value.flags = request;
    ctx.value.nat_ip = ctx.dst_after;
    ctx.value.nat_port = ctx.dport_after;
    ctx.value.snat_ip = ctx.src_after;
    ctx.value.snat_port = ctx.sport_after;
    if !env.conntrack_insert(&ctx.key, &ctx.value) {
        return Err(Stop::Drop(DropReason::ConntrackFull));
    }
    Ok(())
}

/// Builds the key of the translated tuple into `ctx.flow_key`.
#[inline(always)]
pub(crate) fn flow_key(ctx: &mut Context) -> bool {
    key_of(&mut ctx.flow_key, ctx.src_after, ctx.sport_after, ctx.dst_after, ctx.dport_after, ctx.proto)
}

/// Whether another live connection uses the translated tuple.
#[inline(always)]
pub(crate) fn flow_is_taken<P: Platform>(env: &mut P, ctx: &mut Context) -> bool {
    let (dst, dport, src, sport, now) = (ctx.dst, ctx.dport, ctx.src, ctx.sport, ctx.now);
    let Some(value) = env.conntrack(&ctx.flow_key) else { return false };
    let ours =
        value.nat_ip == dst && value.nat_port == dport && value.snat_ip == src && value.snat_port == sport;
    value.expires > now && !ours && !(value.tcp_origin != 0 && is_closed(value))
}
