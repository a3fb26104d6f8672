//! The source stage: connections that leave the cluster's addresses, or whose
//! answers must come back through this node, get an address of the node and a
//! port that nobody else has towards the same destination.

use beeline_abi::config::{ConfigValue, flags as config};
use beeline_abi::context::{Context, flags};
use beeline_abi::counter::hook;
use beeline_abi::ip::proto;
use beeline_abi::{DropReason, Ip, Port};

use crate::Stop;
use crate::conntrack::{flow_is_taken, flow_key, is_echo, set_src};
use crate::platform::{Platform, Step};

/// Ports that are tried for one connection. With nine in ten taken one
/// connection in thirty finds none of 32 free.
const TRIES_MAX: u32 = 32;

/// Gives the first packet of a connection the source that it needs, if it
/// needs another.
#[inline(always)]
pub fn choose<P: Platform>(env: &mut P, ctx: &mut Context) -> Result<(), Stop> {
    if ctx.flags & (flags::ICMP_ERROR | flags::SNAT) != 0 {
        return Ok(());
    }
    let Some(settings) = env.config() else { return Err(Stop::Drop(DropReason::NotConfigured)) };
    let ip = if ctx.flags & flags::SNAT_NEW_PORT != 0 {
        ctx.src
    } else if ctx.flags & flags::SNAT_TO_NODE != 0 || is_masqueraded(env, ctx, &settings) {
        node_address(env, ctx, &settings)
    } else {
        return Ok(());
    };
    if ip.is_unspecified() {
        return Err(Stop::Drop(DropReason::NoRoute));
    }
    ctx.src_after = ip;
    env.barrier(ctx);
    allocate_port(env, ctx, &settings)
}

/// A pod's packet to the outside, where the configuration says so. Whatever
/// the address table knows belongs to the cluster, or is reached with the
/// pod's own address.
#[inline(always)]
fn is_masqueraded<P: Platform>(env: &P, ctx: &Context, settings: &ConfigValue) -> bool {
    let enabled = if ctx.flags & flags::V6 != 0 { config::MASQUERADE_IPV6 } else { config::MASQUERADE_IPV4 };
    ctx.hook == hook::FROM_POD && settings.flags & enabled != 0 && env.address(&ctx.dst_after).is_none()
}

/// The address that the host's routing chooses towards the destination (RFC
/// 6724), or the node's own where it chooses none.
#[inline(always)]
fn node_address<P: Platform>(env: &mut P, ctx: &mut Context, settings: &ConfigValue) -> Ip {
    let chosen = env.source_address(ctx);
    if !chosen.is_unspecified() {
        return chosen;
    }
    if ctx.flags & flags::V6 != 0 { settings.node_ipv6 } else { settings.node_ipv4 }
}

/// Sets the source to `ctx.src_after` and the first port that is free towards the
/// destination: the client's own, then others of the node's range from a
/// random one on. Where a port can not change (SCTP: its checksum covers the
/// ports, RFC 9260 section 6.8; protocols without ports) only the own one.
#[inline(always)]
fn allocate_port<P: Platform>(env: &mut P, ctx: &mut Context, settings: &ConfigValue) -> Result<(), Stop> {
    let first = settings.nat_port_first as u32;
    let span = (settings.nat_port_last as u32).wrapping_sub(first).wrapping_add(1);
    let own = ctx.sport.get() as u32;
    let can_change = matches!(ctx.proto, proto::TCP | proto::UDP) || is_echo(ctx);
    let in_range = own.wrapping_sub(first) < span;
    let start = if in_range || !can_change { own } else { first + env.random() % span.max(1) };
    let mut i = 0;
    while i < TRIES_MAX {
        let port = if i == 0 { start } else { first + start.wrapping_add(i * STRIDE) % span.max(1) };
        i += 1;
        apply_port(ctx, Port::new(port as u16));
        flow_key(ctx);
        if !flow_is_taken(env, ctx) {
            if i > 1 {
                env.count_port_taken(ctx);
            }
            env.step(Step::Snat { ip: ctx.src_after, port: Port::new(port as u16) });
            return Ok(());
        }
        if !can_change {
            break;
        }
    }
    Err(Stop::Drop(DropReason::NatPortsFull))
}

/// A stride that spreads the tries: a prime, larger than runs of ports that
/// one busy client takes.
const STRIDE: u32 = 1_009;

#[inline(always)]
fn apply_port(ctx: &mut Context, port: Port) {
    set_src(ctx, ctx.src_after, port);
    if is_echo(ctx) {
        ctx.dport_after = port;
    }
    ctx.flags |= flags::SNAT;
}
