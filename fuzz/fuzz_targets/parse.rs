//! Parses a frame and compares the result with another packet parser: if both
//! recognise IP, addresses and ports must be equal.

#![no_main]

use beeline_abi::context::{Context, flags};
use beeline_abi::{DropReason, Ip, Port};
use beeline_datapath::native::{MemoryTables, Native, NativeFrame, NextHop};
use beeline_datapath::parse::{self, Frame};
use beeline_datapath::platform::Route;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use libfuzzer_sys::fuzz_target;

/// IP protocol 51 (RFC 4302).
const AUTHENTICATION: u8 = 51;

fuzz_target!(|bytes: &[u8]| {
    let Ok((Frame::Ip, context)) = read(bytes) else { return };
    let Ok(packet) = SlicedPacket::from_ethernet(bytes) else { return };
    compare(&context, &packet);
});

fn read(bytes: &[u8]) -> Result<(Frame, Context), DropReason> {
    let next_hop = NextHop {
        route: Route::Found,
        ifindex: 2,
        next_hop: Ip::UNSPECIFIED,
        source: Ip::UNSPECIFIED,
        mtu: 1500,
    };
    let mut routes = move |_: &Context, _: u32| next_hop;
    let mut native = Native::new(NativeFrame::new(bytes), MemoryTables::default(), &mut routes, 1000);
    let mut context = Context::default();
    let frame = parse::frame(&mut native, &mut context)?;
    assert_eq!(native.frame.bytes, bytes, "reading changes nothing");
    Ok((frame, context))
}

fn compare(context: &Context, packet: &SlicedPacket) {
    match &packet.net {
        Some(NetSlice::Ipv4(ip)) => {
            assert_eq!(context.src, Ip::from_v4(ip.header().source()), "{context:?}");
            assert_eq!(context.dst, Ip::from_v4(ip.header().destination()), "{context:?}");
            assert_eq!(context.ttl, ip.header().ttl(), "{context:?}");
        }
        Some(NetSlice::Ipv6(ip)) => {
            assert_eq!(context.src, Ip::from_octets(ip.header().source()), "{context:?}");
            assert_eq!(context.dst, Ip::from_octets(ip.header().destination()), "{context:?}");
            assert_eq!(context.ttl, ip.header().hop_limit(), "{context:?}");
        }
        other => panic!("IP for us, {other:?} for the other: {context:?}"),
    }
    // Over IPv4 we treat an authentication header as the protocol; etherparse
    // parses the header after it.
    if context.proto == AUTHENTICATION && matches!(packet.net, Some(NetSlice::Ipv4(_))) {
        return;
    }
    // With a payload length of 0 etherparse parses to the end of the frame.
    if let Some(NetSlice::Ipv6(ip)) = &packet.net
        && ip.header().payload_length() == 0
    {
        return;
    }
    let later = context.flags & flags::FRAGMENT_LATER != 0;
    let ends = match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => (tcp.source_port(), tcp.destination_port()),
        Some(TransportSlice::Udp(udp)) => (udp.source_port(), udp.destination_port()),
        _ => return,
    };
    assert!(!later, "{context:?}");
    assert_eq!((context.sport, context.dport), (Port::new(ends.0), Port::new(ends.1)), "{context:?}");
}
