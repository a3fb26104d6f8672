//! The snat stage: translates the source of connections that leave the cluster, or
//! whose replies must return through this node, to an address of the node and a
//! port that is free for the destination.

use beeline_abi::config::{ConfigValue, flags as config};
use beeline_abi::context::{Context, flags};
use beeline_abi::counter::hook;
use beeline_abi::ip::proto;
use beeline_abi::{DropReason, Ip, Port};

use crate::Stop;
use crate::conntrack::{flow_is_taken, flow_key, is_echo, set_src};
use crate::platform::{Platform, Step};

/// Maximum number of ports that are tried for a connection. If 90 % of the ports
/// are taken, about one connection in 30 finds none free in 32 tries.
const TRIES_MAX: u32 = 32;

/// Translates the source of the first packet of a connection, if needed.
///
/// # Errors
///
/// A [`Stop`] with the drop reason.
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

/// Whether masquerading applies: it is enabled and a pod sends to an address
/// outside the cluster. All prefixes of the address table belong to the cluster
/// or are excluded from masquerading.
#[inline(always)]
fn is_masqueraded<P: Platform>(env: &P, ctx: &Context, settings: &ConfigValue) -> bool {
    let enabled = if ctx.flags & flags::V6 != 0 { config::MASQUERADE_IPV6 } else { config::MASQUERADE_IPV4 };
    ctx.hook == hook::FROM_POD && settings.flags & enabled != 0 && env.address(&ctx.dst_after).is_none()
}

/// The source address that the host's routing selects for the destination (RFC
/// 6724), or the node's address if it selects none.
#[inline(always)]
fn node_address<P: Platform>(env: &mut P, ctx: &mut Context, settings: &ConfigValue) -> Ip {
    let chosen = env.source_address(ctx);
    if !chosen.is_unspecified() {
        return chosen;
    }
    if ctx.flags & flags::V6 != 0 { settings.node_ipv6 } else { settings.node_ipv4 }
}

/// Sets the source to `ctx.src_after` and the first port that is free for the
/// destination: the client's port if it is in the node's range, then others of
/// the range from a random one on. If the port cannot change (SCTP, whose
/// checksum covers the ports, RFC 9260 section 6.8; protocols without ports), only
/// the client's port is tried.
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

/// Distance between tried ports: a prime, larger than the usual runs of
/// consecutive taken ports.
const STRIDE: u32 = 1_009;

#[inline(always)]
fn apply_port(ctx: &mut Context, port: Port) {
    set_src(ctx, ctx.src_after, port);
    if is_echo(ctx) {
        ctx.dport_after = port;
    }
    ctx.flags |= flags::SNAT;
}
