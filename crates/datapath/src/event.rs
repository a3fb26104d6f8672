//! Builds an event record from the current packet.

use beeline_abi::context::{Context, flags};
use beeline_abi::event::{EVENT_VERSION, Event, kind};
use beeline_abi::ip::proto;
use beeline_abi::{DropReason, Port};

use crate::parse::join;

/// The event of a drop; `length` is that of the frame in bytes. The caller sets
/// time, CPU, sequence number and lost count.
#[inline(always)]
pub fn drop_event(ctx: &Context, reason: DropReason, length: u32) -> Event {
    let mut event = Event {
        version: EVENT_VERSION,
        kind: kind::DROP,
        hook: ctx.hook,
        reason: reason as u8,
        ifindex: ctx.ifindex,
        length,
        identity_src: ctx.identity_src,
        identity_dst: ctx.identity_dst,
        service: ctx.service,
        backend: ctx.backend,
        src: ctx.src,
        dst: ctx.dst,
        src_after: ctx.src_after,
        dst_after: ctx.dst_after,
        sport: ctx.sport,
        dport: ctx.dport,
        sport_after: ctx.sport_after,
        dport_after: ctx.dport_after,
        proto: ctx.proto,
        tcp_flags: ctx.tcp_flags,
        ethertype: ctx.ethertype,
        ..Event::default()
    };
    if (ctx.proto == proto::ICMP || ctx.proto == proto::ICMPV6) && ctx.flags & flags::FRAGMENT_LATER == 0 {
        let (type_code, _) =
            crate::parse::halves(join(u16::from_be_bytes([ctx.icmp_type, ctx.icmp_code]).to_be(), 0));
        event.sport = Port(type_code);
    }
    event
}
