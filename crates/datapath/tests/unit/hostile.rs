//! Whatever comes, the packet path ends with a verdict, and what it sends on
//! is well formed. proptest prints the seed of a failure.

use crate::world::{FAMILIES, POD_IFINDEX, UPLINK, World, ipv4_fragment};
use beeline_abi::DropReason;
use beeline_abi::counter::hook;
use beeline_datapath::Verdict;
use beeline_datapath::native::build::{Build, Transport, check};
use proptest::prelude::*;

fn transport() -> impl Strategy<Value = Transport> {
    prop_oneof![
        (any::<u16>(), prop_oneof![Just(80), any::<u16>()], any::<u8>(), any::<u32>()).prop_map(
            |(sport, dport, flags, sequence)| Transport::Tcp {
                sport,
                dport,
                flags,
                sequence,
                acknowledged: 5
            }
        ),
        (any::<u16>(), prop_oneof![Just(80), any::<u16>()])
            .prop_map(|(sport, dport)| Transport::Udp { sport, dport }),
        (any::<bool>(), any::<u16>()).prop_map(|(reply, id)| Transport::Echo { reply, id }),
        (143..=255_u8).prop_map(Transport::Other), // without meaning to us, without checksum
    ]
}

/// Behind the end of the packet the frame is padding, whatever it looks like.
#[test]
fn unit_headers_behind_the_end_of_the_packet_are_not_read() {
    let [v4, v6] = FAMILIES;
    let mut world = World::new(v6);
    let mut padded = Build::new(v6.pod, v6.far, Transport::Udp { sport: 7, dport: 80 }).frame();
    padded[18..20].fill(0); // the packet ends with its header
    for next in [0, 44, 51] {
        padded[20] = next;
        let sent = world.pod_frame(padded.clone());
        assert_eq!(sent.verdict, Verdict::Drop { reason: DropReason::Malformed }, "{next}: {sent:#?}");
    }

    // A first fragment with half a TCP header.
    let mut world = World::new(v4);
    let tcp = Transport::Tcp { sport: 7, dport: 80, flags: 2, sequence: 1, acknowledged: 0 };
    let mut build = Build::new(v4.pod, v4.far, tcp);
    build.payload = vec![0; 40];
    let mut tiny = ipv4_fragment(&build.frame(), 0, 8, 77);
    tiny.resize(60, 0);
    let sent = world.pod_frame(tiny);
    assert_eq!(sent.verdict, Verdict::Drop { reason: DropReason::Malformed }, "{sent:#?}");
    let sent = world.pod_frame(ipv4_fragment(&build.frame(), 0, 24, 78));
    assert!(!matches!(sent.verdict, Verdict::Drop { .. }), "{sent:#?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn unit_garbage_ends_with_a_verdict(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ethertype in prop_oneof![Just([0x08, 0x00]), Just([0x86, 0xdd]), Just([0x08, 0x06]), any::<[u8; 2]>()],
        at in 0..3_u8,
        family in 0..2_usize,
    ) {
        let mut world = World::new(FAMILIES[family]);
        let mut frame = bytes;
        if frame.len() >= 14 {
            frame[12..14].copy_from_slice(&ethertype);
        }
        let ifindex = if at == hook::FROM_UPLINK { UPLINK } else { POD_IFINDEX };
        world.send(at, ifindex, frame);
    }

    /// A good packet with a few bytes broken or its end cut off.
    #[test]
    fn unit_damaged_packets_end_with_a_verdict(
        transport in transport(),
        payload in proptest::collection::vec(any::<u8>(), 0..64),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        keep in any::<prop::sample::Index>(),
        at in 0..3_u8,
        family in 0..2_usize,
        to_service in any::<bool>(),
    ) {
        let f = FAMILIES[family];
        let mut world = World::new(f);
        let mut build = Build::new(f.pod, if to_service { f.service } else { f.far }, transport);
        build.payload = payload;
        let mut frame = build.frame();
        for (index, byte) in damage {
            let index = index.index(frame.len());
            frame[index] = byte;
        }
        frame.truncate(keep.index(frame.len()) + 1);
        let ifindex = if at == hook::FROM_UPLINK { UPLINK } else { POD_IFINDEX };
        world.send(at, ifindex, frame);
    }

    #[test]
    fn unit_forwarded_packets_are_well_formed(
        transport in transport(),
        payload in proptest::collection::vec(any::<u8>(), 0..64),
        destination in 0..6_usize,
        family in 0..2_usize,
        endpoints in 0..3_usize,
        ttl in 1..=255_u8,
    ) {
        let f = FAMILIES[family];
        let mut world = World::new(f);
        world.backends(&[(f.far, 8080), (f.neighbour, 80), (f.pod, 1)][..endpoints]);
        let destinations = [f.neighbour, f.far, f.node, f.external, f.service, f.free_service];
        let mut build = Build::new(f.pod, destinations[destination], transport);
        (build.payload, build.ttl) = (payload, ttl);
        let sent = world.pod_sends(build);
        if !matches!(sent.verdict, Verdict::Drop { .. }) {
            prop_assert_eq!(check(&sent.frame), Ok(()), "{:#?}", sent);
        }
    }

    /// The reply to a translated packet arrives as from the address that was
    /// asked, whatever the ports.
    #[test]
    fn unit_reply_translation_inverts_request_translation(
        sport in 1..=u16::MAX,
        udp in any::<bool>(),
        backend_port in 1..=u16::MAX,
        payload in proptest::collection::vec(any::<u8>(), 0..64),
        family in 0..2_usize,
        hairpin in any::<bool>(),
    ) {
        let f = FAMILIES[family];
        let mut world = World::new(f);
        world.backends(&[(if hairpin { f.pod } else { f.far }, backend_port)]);
        let transport = |sport, dport, flags| {
            if udp { Transport::Udp { sport, dport } }
            else { Transport::Tcp { sport, dport, flags, sequence: 1, acknowledged: 1 } }
        };
        let mut request = Build::new(f.pod, f.service, transport(sport, 80, 2));
        request.payload.clone_from(&payload);
        let there = world.pod_sends(request.clone());
        let (src, dst, _, _) = beeline_datapath::native::build::addresses(&there.frame[14..]).expect("a packet");
        let mut reply = Build::new(dst, src, transport(backend_port, sport, 18));
        reply.payload = payload;
        let back = if hairpin { world.pod_sends(reply) } else { world.uplink_receives(reply) };
        prop_assert_eq!(check(&back.frame), Ok(()), "{:#?}", back);
        let (src, dst, _, header) = beeline_datapath::native::build::addresses(&back.frame[14..]).expect("a packet");
        prop_assert_eq!((src, dst), (f.service, f.pod), "{:#?}", back);
        let ports = &back.frame[14 + header..14 + header + 4];
        prop_assert_eq!(ports, [80_u16.to_be_bytes(), sport.to_be_bytes()].concat(), "{:#?}", back);
    }
}
