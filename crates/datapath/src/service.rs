//! The service stage: the first packet of a connection to a Service gets a
//! backend, or a refusal.

use beeline_abi::context::{Context, flags};
use beeline_abi::ip::proto;
use beeline_abi::service::{FrontendKey, SCOPE_INTERNAL, ServiceValue, SlotKey, address_flags};
use beeline_abi::{DropReason, Ip};

use crate::Stop;
use crate::conntrack::{flow_is_taken, flow_key, hairpin_client, set_dst, set_src};
use crate::platform::{Platform, Step};

/// Slots that are tried, one after the other from a random one on, before
/// giving up: a slot may vanish between two lookups when a new generation is
/// published, and a tuple may be taken.
const TRIES_MAX: u32 = 3;

/// Chooses a backend if the destination is a Service.
#[inline(always)]
pub fn choose<P: Platform>(env: &mut P, ctx: &mut Context) -> Result<(), Stop> {
    if ctx.flags & flags::ICMP_ERROR != 0 {
        return Ok(());
    }
    let Some(address) = env.service_address(&ctx.dst) else { return Ok(()) };
    ctx.frontend_key =
        FrontendKey { class: address.class, port: ctx.dport, proto: ctx.proto, scope: SCOPE_INTERNAL };
    if ctx.proto == proto::ICMP || ctx.proto == proto::ICMPV6 {
        ctx.frontend_key.port = beeline_abi::Port(0);
    }
    let Some(frontend) = env.frontend(&ctx.frontend_key) else {
        if address.flags & address_flags::EXCLUSIVE != 0 {
            return Err(Stop::Refuse(DropReason::NoServicePort));
        }
        return Ok(());
    };
    ctx.service = frontend.service;
    let first = env.random();
    let mut i = 0;
    let mut outcome = DropReason::ServiceInconsistent;
    while i < TRIES_MAX {
        let choice = first.wrapping_add(i);
        i += 1;
        let service = env.service(frontend.service).ok_or(Stop::Drop(DropReason::ServiceInconsistent))?;
        if service.slots == 0 {
            return Err(Stop::Refuse(DropReason::NoBackend));
        }
        match try_slot(env, ctx, &service, choice) {
            Ok(()) => return Ok(()),
            Err(reason) => outcome = reason,
        }
    }
    Err(Stop::Drop(outcome))
}

/// Takes the chosen slot and sets the translation.
#[inline(always)]
fn try_slot<P: Platform>(
    env: &mut P,
    ctx: &mut Context,
    service: &ServiceValue,
    choice: u32,
) -> Result<(), DropReason> {
    let slot = choice % service.slots;
    ctx.slot_key = SlotKey { service: ctx.service, generation: service.generation, slot };
    let chosen = env.slot(&ctx.slot_key).ok_or(DropReason::ServiceInconsistent)?;
    let backend = env.backend(chosen.backend).ok_or(DropReason::ServiceInconsistent)?;
    if ctx.proto == proto::SCTP && backend.port != ctx.dport {
        // The CRC32c of SCTP covers the ports (RFC 9260 section 6.8) and no
        // helper recomputes it.
        return Err(DropReason::SctpPortChange);
    }
    ctx.backend = chosen.backend;
    ctx.generation = service.generation;
    set_dst(ctx, backend.ip, backend.port);
    set_hairpin(ctx, backend.ip);
    flow_key(ctx);
    if flow_is_taken(env, ctx) {
        return Err(DropReason::TupleClash);
    }
    env.step(Step::Service {
        service: ctx.service,
        slots: service.slots,
        backend: chosen.backend,
        ip: backend.ip,
        port: backend.port,
    });
    Ok(())
}

/// A pod that is its own backend sees a stand-in as the client: a packet
/// from itself would be refused by its own stack.
#[inline(always)]
fn set_hairpin(ctx: &mut Context, backend: Ip) {
    if backend == ctx.src {
        set_src(ctx, hairpin_client(ctx), ctx.sport);
        ctx.flags |= flags::SNAT;
    } else {
        ctx.src_after = ctx.src;
        ctx.flags &= !(flags::SNAT | flags::SRC_CHANGED);
    }
}
