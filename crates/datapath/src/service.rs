//! The service stage: selects a backend for the first packet of a connection to a
//! Service, or rejects it.

use beeline_abi::address::kind;
use beeline_abi::config::{ConfigValue, flags as config};
use beeline_abi::conntrack::ticks_from_seconds;
use beeline_abi::context::{Context, flags};
use beeline_abi::counter::hook;
use beeline_abi::ip::proto;
use beeline_abi::service::{
    AffinityKey, AffinityValue, CLASS_NODE, CLASS_NODE_IPV6, FrontendKey, SCOPE_EXTERNAL, ServiceValue,
    SlotValue, address_flags, service_flags,
};
use beeline_abi::{DropReason, Ip};

use crate::conntrack::{flow_is_taken, flow_key, hairpin_address, is_echo, set_dst, set_src, tcp};
use crate::platform::{Platform, Step};
use crate::{Stop, backend_slots, maglev};

/// Maximum number of slots that are tried. A slot may disappear between two
/// lookups when a new generation is published, and a tuple may be taken.
const TRIES_MAX: u32 = 3;

/// Selects a backend if the destination is a frontend for clients of `scope`
/// (`beeline_abi::service::SCOPE_INTERNAL` or `SCOPE_EXTERNAL`).
///
/// # Errors
///
/// A [`Stop`] that rejects or drops the packet or passes it to the host.
#[inline(always)]
pub fn choose<P: Platform>(env: &mut P, ctx: &mut Context, scope: u8) -> Result<(), Stop> {
    if ctx.flags & flags::ICMP_ERROR != 0 {
        return Ok(());
    }
    let Some(address) = env.service_address(&ctx.dst) else { return Ok(()) };
    ctx.frontend_key = FrontendKey { class: address.class, port: ctx.dport, proto: ctx.proto, scope };
    if is_echo(ctx) {
        ctx.frontend_key.port = beeline_abi::Port(0);
    }
    let mut found = env.frontend(&ctx.frontend_key);
    if found.is_none() && address.flags & address_flags::ALSO_NODE != 0 {
        ctx.frontend_key.class = node_class(&ctx.dst);
        found = env.frontend(&ctx.frontend_key);
    }
    let Some(frontend) = found else {
        if address.flags & address_flags::EXCLUSIVE != 0 {
            return Err(Stop::Reject(DropReason::NoServicePort));
        }
        return Ok(());
    };
    if frontend.source_ranges != 0 && !env.source_allowed(frontend.source_ranges, &ctx.src) {
        return Err(Stop::Drop(DropReason::SourceRangeDenied));
    }
    // TCP of an established connection without an entry here started before
    // Beeline (kube-proxy), or does not exist: leave it to the host.
    if scope == SCOPE_EXTERNAL && is_mid_connection(ctx) {
        return Err(Stop::Host);
    }
    ctx.service = frontend.service;
    env.barrier(ctx);
    balance(env, ctx)
}

/// During the takeover from kube-proxy, both directions of established TCP
/// connections without an entry here are left to the host, whose conntrack table
/// has their backend.
#[inline(always)]
pub fn leave_to_host<P: Platform>(env: &P, ctx: &Context) -> Result<(), Stop> {
    let is_active = env.config().is_some_and(|settings| settings.flags & config::TAKE_OVER != 0);
    if is_active && ctx.flags & flags::ICMP_ERROR == 0 && is_mid_connection(ctx) {
        return Err(Stop::Host);
    }
    Ok(())
}

#[inline(always)]
fn is_mid_connection(ctx: &Context) -> bool {
    ctx.proto == proto::TCP && ctx.tcp_flags & (tcp::SYN | tcp::ACK) != tcp::SYN
}

/// The class of the node addresses of the family of `ip`.
#[inline(always)]
pub(crate) fn node_class(ip: &Ip) -> u32 {
    if ip.is_v4() { CLASS_NODE } else { CLASS_NODE_IPV6 }
}

/// Tries the client's backend by session affinity, then further choices.
#[inline(always)]
fn balance<P: Platform>(env: &mut P, ctx: &mut Context) -> Result<(), Stop> {
    let Some(settings) = env.config() else { return Err(Stop::Drop(DropReason::NotConfigured)) };
    let mut service = service_of(env, ctx)?;
    let mut preferred = first_choice(env, ctx, &service);
    let mut i = 0;
    loop {
        let choice = ctx.choice;
        ctx.choice = choice.wrapping_add(ctx.choice_step);
        i += 1;
        ctx.generation = service.generation;
        let backend = match preferred.take() {
            Some(preferred) => Some(preferred),
            None => maglev::select(env, &mut ctx.slot_key, ctx.service, &service, choice),
        };
        let Err(stop) = try_backend(env, ctx, &settings, backend, service.slots) else { break };
        if i < TRIES_MAX {
            service = service_of(env, ctx)?;
            continue;
        }
        if stop != Stop::Drop(DropReason::TupleClash) {
            return Err(stop);
        }
        // The client's port is taken for every backend tried: change it.
        ctx.flags |= flags::SNAT_NEW_PORT;
        return Ok(());
    }
    if service.affinity_s != 0 {
        store_affinity(env, ctx);
    }
    Ok(())
}

/// The Service of the packet, if it has slots.
#[inline(always)]
fn service_of<P: Platform>(env: &P, ctx: &Context) -> Result<ServiceValue, Stop> {
    let service = env.service(ctx.service).ok_or(Stop::Drop(DropReason::ServiceInconsistent))?;
    if service.slots == 0 {
        return Err(no_slots(&service));
    }
    Ok(service)
}

/// Sets the first choice and the step to the next ones. A hash is tried again
/// unchanged, even if a tuple is taken. Returns the client's backend by session
/// affinity.
#[inline(always)]
fn first_choice<P: Platform>(env: &mut P, ctx: &mut Context, service: &ServiceValue) -> Option<SlotValue> {
    (ctx.choice, ctx.choice_step) = (env.random(), 1);
    if maglev::is_consistent(service) {
        (ctx.choice, ctx.choice_step) = (maglev::hash(ctx, service), 0);
    }
    affinity_backend(env, ctx, service)
}

#[inline(always)]
fn no_slots(service: &ServiceValue) -> Stop {
    if service.flags & service_flags::LOCAL != 0 {
        Stop::Drop(DropReason::NoLocalBackend)
    } else {
        Stop::Reject(DropReason::NoBackend)
    }
}

/// Sets the translation to a backend if its tuple is free.
#[inline(always)]
fn try_backend<P: Platform>(
    env: &mut P,
    ctx: &mut Context,
    settings: &ConfigValue,
    backend: Option<SlotValue>,
    slots: u32,
) -> Result<(), Stop> {
    let backend = backend.ok_or(Stop::Drop(DropReason::ServiceInconsistent))?;
    if ctx.proto == proto::SCTP && backend.port != ctx.dport {
        // The CRC32c of SCTP covers the ports (RFC 9260 section 6.8) and no
        // helper recomputes it.
        return Err(Stop::Drop(DropReason::SctpPortChange));
    }
    if ctx.hook == hook::TO_UPLINK && is_local_node(env, &backend.ip) {
        // Its reply would pass no hook that translates it back.
        return Err(Stop::Drop(DropReason::HostBackend));
    }
    let id = backend.backend;
    ctx.backend = id;
    set_dst(ctx, backend.ip, backend.port);
    env.step(Step::Service { service: ctx.service, slots, backend: id, ip: backend.ip, port: backend.port });
    if ctx.frontend_key.scope == SCOPE_EXTERNAL {
        let known = env.backend(id).ok_or(Stop::Drop(DropReason::ServiceInconsistent))?;
        if known.node != settings.node {
            // Its replies must return through this node.
            ctx.flags |= flags::SNAT_TO_NODE;
            return Ok(());
        }
    }
    ctx.flags &= !flags::SNAT_TO_NODE;
    set_hairpin(ctx, backend.ip);
    flow_key(ctx);
    if flow_is_taken(env, ctx) {
        return Err(Stop::Drop(DropReason::TupleClash));
    }
    Ok(())
}

#[inline(always)]
fn is_local_node<P: Platform>(env: &P, ip: &Ip) -> bool {
    env.address(ip).is_some_and(|address| address.kind == kind::LOCAL_NODE)
}

/// A pod that is its own backend sees the hairpin address as the client: its
/// network stack would drop a packet with its own source address.
#[inline(always)]
fn set_hairpin(ctx: &mut Context, backend: Ip) {
    if backend == ctx.src {
        set_src(ctx, hairpin_address(ctx), ctx.sport);
        ctx.flags |= flags::SNAT;
    } else {
        ctx.src_after = ctx.src;
        ctx.sport_after = ctx.sport;
        ctx.flags &= !(flags::SNAT | flags::SRC_CHANGED);
    }
}

/// The client's backend by `ClientIP` session affinity, if it has not expired and
/// the backend still accepts new connections.
#[inline(always)]
fn affinity_backend<P: Platform>(env: &P, ctx: &mut Context, service: &ServiceValue) -> Option<SlotValue> {
    if service.affinity_s == 0 {
        return None;
    }
    let preferred = env.affinity(&affinity_key(ctx))?;
    if ctx.now.wrapping_sub(preferred.used) > ticks_from_seconds(service.affinity_s) {
        return None;
    }
    backend_slots::accepting(env, &mut ctx.slot_key, ctx.service, preferred.backend)
}

#[inline(always)]
fn store_affinity<P: Platform>(env: &mut P, ctx: &Context) {
    env.affinity_insert(&affinity_key(ctx), &AffinityValue { backend: ctx.backend, used: ctx.now });
}

#[inline(always)]
fn affinity_key(ctx: &Context) -> AffinityKey {
    AffinityKey { client: ctx.src, service: ctx.service, is_cookie: 0 }
}
