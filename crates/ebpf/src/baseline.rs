//! The minimum work for a connection to a Service: the required map lookups and
//! nothing else. Benchmarks load it next to the shipped programs, with the same
//! maps. The agent never loads it.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use beeline_abi::conntrack::ConntrackValue;
use beeline_abi::context::Context;
use beeline_abi::ip::proto;
use beeline_abi::service::{FrontendKey, SCOPE_INTERNAL, SlotKey};
use beeline_abi::{Ip, Port};
use beeline_datapath::conntrack::{key_of, tcp};
use beeline_datapath::parse::{ETHERNET_BYTES, IPV4_BYTES};
use beeline_datapath::platform::{Packet, Platform, Tables};

use crate::maps;
use crate::platform::Kernel;
use crate::skb::Skb;

/// A TCP packet over IPv4 without options. With SYN: frontend (its address,
/// then its port), service, slot, and an entry of the connection table; without
/// it: that entry. Returns 0 if all of it was there.
#[classifier]
pub fn baseline(packet: TcContext) -> i32 {
    let Some(ctx) = maps::SCRATCH.get_ptr_mut(0) else { return 1 };
    // SAFETY: an element of this CPU; programs do not preempt each other.
    let ctx: &mut Context = unsafe { &mut *ctx };
    i32::from(run(&mut Kernel::new(Skb(packet.skb.skb)), ctx).is_none())
}

#[inline(always)]
fn run(env: &mut Kernel, ctx: &mut Context) -> Option<()> {
    let header: [u32; 5] = env.load(ETHERNET_BYTES)?;
    let sport = Port(env.load_u16(ETHERNET_BYTES + IPV4_BYTES)?);
    let dport = Port(env.load_u16(ETHERNET_BYTES + IPV4_BYTES + 2)?);
    let flags = u16::from_be(env.load_u16(ETHERNET_BYTES + IPV4_BYTES + 12)?) as u8;
    (ctx.src, ctx.dst) = (Ip::from_v4_word(header[3]), Ip::from_v4_word(header[4]));
    let (src, dst) = (ctx.src, ctx.dst);
    key_of(&mut ctx.key, src, sport, dst, dport, proto::TCP);
    if flags & tcp::SYN == 0 {
        return env.conntrack(&ctx.key).map(|_| ());
    }
    let class = env.service_address(&ctx.dst)?.class;
    ctx.frontend_key = FrontendKey { class, port: dport, proto: proto::TCP, scope: SCOPE_INTERNAL };
    let id = env.frontend(&ctx.frontend_key)?.service;
    let service = env.service(id)?;
    let slot = env.random() % service.slots;
    ctx.slot_key = SlotKey { service: id, generation: service.generation, slot };
    let backend = env.slot(&ctx.slot_key)?.backend;
    let expires = env.tick() + env.config()?.ticks_tcp_opening;
    ctx.value = ConntrackValue { expires, service: id, backend, ..ConntrackValue::default() };
    env.conntrack_insert(&ctx.key, &ctx.value).then_some(())
}
