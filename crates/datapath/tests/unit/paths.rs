//! The packet path on the user-space platform: one small node, local and remote
//! pods, a few Services, both families.

use crate::world::{FAMILIES, NEIGHBOUR_IFINDEX, POD_IFINDEX, UPLINK, World};
use beeline_abi::conntrack::flags as entry;
use beeline_abi::counter::hook;
use beeline_abi::{DropReason, GATEWAY_IPV4, GATEWAY_IPV6, HAIRPIN_IPV6, Ip};
use beeline_datapath::Verdict;
use beeline_datapath::native::build::{Build, Transport, addresses, check};
use beeline_datapath::platform::{Route, Step};

const SYN: u8 = 2;
const ACK: u8 = 16;
const FIN: u8 = 1;
const RST: u8 = 4;

fn tcp(sport: u16, dport: u16, flags: u8) -> Transport {
    Transport::Tcp { sport, dport, flags, sequence: 1000, acknowledged: 0 }
}

fn udp(sport: u16, dport: u16) -> Transport {
    Transport::Udp { sport, dport }
}

fn dst_of(frame: &[u8]) -> Ip {
    addresses(&frame[14..]).expect("a well-formed packet").1
}

fn src_of(frame: &[u8]) -> Ip {
    addresses(&frame[14..]).expect("a well-formed packet").0
}

/// The transport header's first word: source and destination port.
fn ports_of(frame: &[u8]) -> (u16, u16) {
    let l4 = if frame[12] == 8 { 34 } else { 54 };
    let port = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    (port(l4), port(l4 + 2))
}

fn sport_of(frame: &[u8]) -> u16 {
    ports_of(frame).0
}

fn dport_of(frame: &[u8]) -> u16 {
    ports_of(frame).1
}

#[test]
fn unit_a_pod_reaches_a_pod_on_its_node() {
    for f in FAMILIES {
        let mut world = World::new(f);
        let sent = world.pod_sends(Build::new(f.pod, f.neighbour, tcp(40000, 80, SYN)));
        assert_eq!(sent.verdict, Verdict::ToPod { ifindex: NEIGHBOUR_IFINDEX }, "{sent:#?}");
        check(&sent.frame).unwrap_or_else(|error| panic!("{error}: {sent:#?}"));
        assert_eq!(world.ttl(&sent.frame), 63);
        assert!(sent.steps.contains(&Step::ConntrackNew), "{sent:#?}");
        let again = world.pod_sends(Build::new(f.pod, f.neighbour, tcp(40000, 80, ACK)));
        assert!(again.steps.contains(&Step::ConntrackHit { origin: true, service: 0 }), "{again:#?}");
    }
}

#[test]
fn unit_a_pod_reaches_another_node_by_the_host_route_and_the_reply_returns() {
    for f in FAMILIES {
        let mut world = World::new(f);
        let sent = world.pod_sends(Build::new(f.pod, f.far, udp(5000, 53)));
        assert_eq!(sent.verdict, Verdict::Forward { ifindex: UPLINK, next_hop: f.next_hop }, "{sent:#?}");
        let answer = world.uplink_receives(Build::new(f.far, f.pod, udp(53, 5000)));
        assert_eq!(answer.verdict, Verdict::ToPod { ifindex: POD_IFINDEX }, "{answer:#?}");
        assert!(answer.steps.contains(&Step::ConntrackHit { origin: false, service: 0 }), "{answer:#?}");
    }
}

#[test]
fn unit_packets_for_the_node_go_to_the_host() {
    for f in FAMILIES {
        let mut world = World::new(f);
        let to_node = world.pod_sends(Build::new(f.pod, f.node, tcp(40000, 6443, SYN)));
        assert_eq!(to_node.verdict, Verdict::ToHost, "{to_node:#?}");
        let from_outside = world.uplink_receives(Build::new(f.external, f.node, tcp(40000, 22, SYN)));
        assert_eq!(from_outside.verdict, Verdict::ToHost, "{from_outside:#?}");
        assert!(world.tables.conntrack.len() == 1, "the host's own traffic is not tracked: {world:#?}");
    }
}

#[test]
fn unit_a_service_is_translated_in_both_directions() {
    for f in FAMILIES {
        for transport in [tcp(40000, 80, SYN), udp(40000, 80)] {
            let mut world = World::new(f);
            let there = world.pod_sends(Build::new(f.pod, f.service, transport.clone()));
            assert_eq!(
                there.verdict,
                Verdict::Forward { ifindex: UPLINK, next_hop: f.next_hop },
                "{there:#?}"
            );
            check(&there.frame).unwrap_or_else(|error| panic!("{error}: {there:#?}"));
            assert_eq!((src_of(&there.frame), dst_of(&there.frame)), (f.pod, f.far));
            let reply = match transport {
                Transport::Tcp { .. } => tcp(8080, 40000, SYN | ACK),
                _ => udp(8080, 40000),
            };
            let back = world.uplink_receives(Build::new(f.far, f.pod, reply));
            check(&back.frame).unwrap_or_else(|error| panic!("{error}: {back:#?}"));
            assert_eq!((src_of(&back.frame), dst_of(&back.frame)), (f.service, f.pod), "{back:#?}");
            assert_eq!(world.tables.conntrack.len(), 2, "service entry and flow entry: {world:#?}");
        }
    }
}

#[test]
fn unit_a_pod_that_is_its_own_backend_sees_the_hairpin_address() {
    for f in FAMILIES {
        let mut world = World::new(f);
        world.backends(&[(f.pod, 8080)]);
        let there = world.pod_sends(Build::new(f.pod, f.service, tcp(40000, 80, SYN)));
        let hairpin = if f.pod.is_v4() { Ip::from_v4(GATEWAY_IPV4) } else { Ip::from_octets(HAIRPIN_IPV6) };
        assert_eq!(there.verdict, Verdict::ToPod { ifindex: POD_IFINDEX }, "{there:#?}");
        assert_eq!((src_of(&there.frame), dst_of(&there.frame)), (hairpin, f.pod));
        let link_local = !f.pod.is_v4() && hairpin.octets()[0] == 0xfe;
        assert!(!link_local, "an unbound socket would answer from its link-local address");
        let back = world.pod_sends(Build::new(f.pod, hairpin, tcp(8080, 40000, SYN | ACK)));
        assert_eq!(back.verdict, Verdict::ToPod { ifindex: POD_IFINDEX }, "{back:#?}");
        assert_eq!((src_of(&back.frame), dst_of(&back.frame)), (f.service, f.pod));
        check(&back.frame).unwrap_or_else(|error| panic!("{error}: {back:#?}"));
    }
}

#[test]
fn unit_a_service_without_endpoints_rejects() {
    for f in FAMILIES {
        let mut world = World::new(f);
        world.backends(&[]);
        let refused = world.pod_sends(Build::new(f.pod, f.service, tcp(40000, 80, SYN)));
        assert_eq!(refused.verdict, Verdict::Reject { reason: DropReason::NoBackend }, "{refused:#?}");
        check(&refused.frame).unwrap_or_else(|error| panic!("{error}: {refused:#?}"));
        assert_eq!((src_of(&refused.frame), dst_of(&refused.frame)), (f.service, f.pod));
        let header = if f.pod.is_v4() { 34 } else { 54 };
        let reset = &refused.frame[header..];
        assert_eq!(reset[13], RST | ACK, "RFC 9293 section 3.10.7.1: {refused:#?}");
        assert_eq!(reset[8..12], 1001_u32.to_be_bytes(), "the SYN is acknowledged: {refused:#?}");

        let mut datagram = Build::new(f.pod, f.service, udp(40000, 80));
        datagram.payload = vec![7; 100];
        let refused = world.pod_sends(datagram);
        assert_eq!(refused.verdict, Verdict::Reject { reason: DropReason::NoBackend }, "{refused:#?}");
        check(&refused.frame).unwrap_or_else(|error| panic!("{error}: {refused:#?}"));
        let unreachable = if f.pod.is_v4() { [3, 3] } else { [1, 4] };
        assert_eq!(refused.frame[header..header + 2], unreachable, "{refused:#?}");
    }
}

#[test]
fn unit_a_port_that_a_service_does_not_have_is_refused_and_echo_is_dropped() {
    for f in FAMILIES {
        let mut world = World::new(f);
        let refused = world.pod_sends(Build::new(f.pod, f.service, tcp(40000, 81, SYN)));
        assert_eq!(refused.verdict, Verdict::Reject { reason: DropReason::NoServicePort }, "{refused:#?}");
        let echo = world.pod_sends(Build::new(f.pod, f.service, Transport::Echo { reply: false, id: 9 }));
        assert_eq!(echo.verdict, Verdict::Drop { reason: DropReason::NoServicePort }, "{echo:#?}");
        let unallocated = world.pod_sends(Build::new(f.pod, f.free_service, tcp(40000, 80, SYN)));
        assert_eq!(
            unallocated.verdict,
            Verdict::Reject { reason: DropReason::NoServicePort },
            "{unallocated:#?}"
        );
    }
}

#[test]
fn unit_a_reset_is_not_answered_with_a_reset() {
    for f in FAMILIES {
        let mut world = World::new(f);
        world.backends(&[]);
        let sent = world.pod_sends(Build::new(f.pod, f.service, tcp(40000, 80, RST)));
        assert_eq!(sent.verdict, Verdict::Drop { reason: DropReason::NoBackend }, "{sent:#?}");
    }
}

#[test]
fn unit_a_pod_may_use_only_its_own_addresses() {
    for f in FAMILIES {
        let mut world = World::new(f);
        let reason = |sent: &crate::world::Sent| sent.verdict.reason();
        let foreign = world.pod_sends(Build::new(f.neighbour, f.far, udp(1, 2)));
        assert_eq!(reason(&foreign), Some(DropReason::SpoofedAddress), "{foreign:#?}");
        let unknown = world.pod_sends(Build::new(f.external, f.far, udp(1, 2)));
        assert_eq!(reason(&unknown), Some(DropReason::SpoofedAddress), "{unknown:#?}");
        let mut wrong_mac = Build::new(f.pod, f.far, udp(1, 2));
        wrong_mac.mac_src.0[5] ^= 0xff;
        let wrong_mac = world.pod_sends(wrong_mac);
        assert_eq!(reason(&wrong_mac), Some(DropReason::SpoofedMac), "{wrong_mac:#?}");
        let from_outside = world.uplink_receives(Build::new(f.neighbour, f.pod, udp(1, 2)));
        assert_eq!(reason(&from_outside), Some(DropReason::SpoofedAddress), "{from_outside:#?}");
    }
}

#[test]
fn unit_ttl_and_mtu_errors_of_pods_are_left_to_the_host() {
    for f in FAMILIES {
        let mut world = World::new(f);
        let mut dying = Build::new(f.pod, f.far, udp(1, 2));
        dying.ttl = 1;
        assert_eq!(world.pod_sends(dying).verdict, Verdict::ToHostError);
        world.route = Route::TooBig;
        assert_eq!(world.pod_sends(Build::new(f.pod, f.far, udp(1, 2))).verdict, Verdict::ToHostError);
        world.route = Route::None;
        let nowhere = world.pod_sends(Build::new(f.pod, f.far, udp(1, 2)));
        assert_eq!(nowhere.verdict, Verdict::Drop { reason: DropReason::NoRoute }, "{nowhere:#?}");
        world.route = Route::Prohibited;
        let forbidden = world.pod_sends(Build::new(f.pod, f.far, udp(1, 2)));
        assert_eq!(
            forbidden.verdict,
            Verdict::Drop { reason: DropReason::RouteProhibited },
            "{forbidden:#?}"
        );
        let mut wide = Build::new(f.pod, f.neighbour, udp(1, 2));
        wide.payload = vec![0; 2000];
        assert_eq!(world.pod_sends(wide).verdict, Verdict::ToHostError, "wider than the pod's MTU");
    }
}

/// A router far away says that the translated packet is too big: the client
/// knows only the Service's address, so that is what the quote must show.
#[test]
fn unit_an_icmp_error_about_a_translated_packet_quotes_what_the_client_sent() {
    for f in FAMILIES {
        let mut world = World::new(f);
        let there = world.pod_sends(Build::new(f.pod, f.service, udp(40000, 80)));
        let (kind, code) = if f.pod.is_v4() { (3, 4) } else { (2, 0) };
        let mut error = Build::new(f.router, f.pod, Transport::IcmpError { kind, code, word: 1400 });
        error.payload = there.frame[14..].to_vec();
        let delivered = world.uplink_receives(error);
        assert_eq!(delivered.verdict, Verdict::ToPod { ifindex: POD_IFINDEX }, "{delivered:#?}");
        check(&delivered.frame).unwrap_or_else(|error| panic!("{error}: {delivered:#?}"));
        assert_eq!(src_of(&delivered.frame), f.router, "a router keeps its own address: {delivered:#?}");
        let quote = 14 + if f.pod.is_v4() { 20 } else { 40 } + 8;
        let (src, dst, _, header) = addresses(&delivered.frame[quote..]).expect("a quoted packet");
        assert_eq!((src, dst), (f.pod, f.service), "{delivered:#?}");
        let ports = &delivered.frame[quote + header..quote + header + 4];
        assert_eq!(ports, [40000_u16.to_be_bytes(), 80_u16.to_be_bytes()].concat(), "{delivered:#?}");
    }
}

/// The backend refuses: its error comes from the backend's address and must
/// reach the client as from the Service.
#[test]
fn unit_an_icmp_error_of_the_backend_comes_from_the_service() {
    for f in FAMILIES {
        let mut world = World::new(f);
        let there = world.pod_sends(Build::new(f.pod, f.service, udp(40000, 80)));
        let (kind, code) = if f.pod.is_v4() { (3, 3) } else { (1, 4) };
        let mut error = Build::new(f.far, f.pod, Transport::IcmpError { kind, code, word: 0 });
        error.payload = there.frame[14..].to_vec();
        let delivered = world.uplink_receives(error);
        check(&delivered.frame).unwrap_or_else(|error| panic!("{error}: {delivered:#?}"));
        assert_eq!(src_of(&delivered.frame), f.service, "{delivered:#?}");
    }
}

#[test]
fn unit_later_fragments_follow_their_first() {
    let f = FAMILIES[0];
    let mut world = World::new(f);
    let mut datagram = Build::new(f.pod, f.service, udp(40000, 80));
    datagram.dont_fragment = false;
    datagram.payload = (0..64).collect();
    let whole = datagram.frame();
    let orphan = world.pod_frame(crate::world::ipv4_fragment(&whole, 32, 72, 7));
    assert_eq!(orphan.verdict, Verdict::Drop { reason: DropReason::FragmentUnknown }, "{orphan:#?}");
    let first = world.pod_frame(crate::world::ipv4_fragment(&whole, 0, 32, 7));
    let later = world.pod_frame(crate::world::ipv4_fragment(&whole, 32, 72, 7));
    for sent in [&first, &later] {
        assert_eq!(sent.verdict, Verdict::Forward { ifindex: UPLINK, next_hop: f.next_hop }, "{sent:#?}");
        assert_eq!(dst_of(&sent.frame), f.far, "{sent:#?}");
    }
    let mut together = first.frame[..14 + 20 + 32].to_vec();
    together.extend_from_slice(&later.frame[14 + 20..]);
    let whole_again = crate::world::ipv4_whole(&together);
    check(&whole_again).unwrap_or_else(|error| panic!("{error}: {whole_again:02x?}"));
}

#[test]
fn unit_neighbour_discovery_passes_and_spoofing_does_not() {
    let f = FAMILIES[1];
    let mut world = World::new(f);
    let solicitation = |src: Ip, kind: u8, target: Ip| {
        let mut build =
            Build::new(src, Ip::from_octets(GATEWAY_IPV6), Transport::IcmpError { kind, code: 0, word: 0 });
        build.payload = target.octets().to_vec();
        build.ttl = 255;
        build
    };
    let link_local = Ip::from_octets([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
    for (src, kind, target) in [
        (Ip::UNSPECIFIED, 135, f.pod), // duplicate address detection
        (f.pod, 135, f.node),          // who has the node?
        (link_local, 135, f.node),
        (f.pod, 136, f.pod),                     // I have mine
        (link_local, 133, Ip::UNSPECIFIED),      // router solicitation
        (Ip::UNSPECIFIED, 143, Ip::UNSPECIFIED), // MLD report
    ] {
        let sent = world.pod_sends(solicitation(src, kind, target));
        assert_eq!(sent.verdict, Verdict::ToHost, "type {kind} from {src}: {sent:#?}");
    }
    let lie = world.pod_sends(solicitation(f.pod, 136, f.neighbour));
    assert_eq!(lie.verdict, Verdict::Drop { reason: DropReason::SpoofedNeighbour }, "{lie:#?}");
    let foreign = world.pod_sends(solicitation(f.neighbour, 135, f.node));
    assert_eq!(foreign.verdict, Verdict::Drop { reason: DropReason::SpoofedAddress }, "{foreign:#?}");
}

#[test]
fn unit_arp_of_a_pod_names_its_own_address() {
    let f = FAMILIES[0];
    let mut world = World::new(f);
    let own = world.pod_frame(crate::world::arp_request(f.pod, Ip::from_v4(GATEWAY_IPV4)));
    assert_eq!(own.verdict, Verdict::ToHost, "{own:#?}");
    let probe = world.pod_frame(crate::world::arp_request(Ip::from_v4([0; 4]), f.pod));
    assert_eq!(probe.verdict, Verdict::ToHost, "RFC 5227 probe: {probe:#?}");
    let lie = world.pod_frame(crate::world::arp_request(f.neighbour, Ip::from_v4(GATEWAY_IPV4)));
    assert_eq!(lie.verdict, Verdict::Drop { reason: DropReason::SpoofedNeighbour }, "{lie:#?}");
}

#[test]
fn unit_a_full_connection_table_lets_plain_flows_pass_and_counts_them() {
    for f in FAMILIES {
        let mut world = World::new(f);
        world.tables.conntrack_capacity = 0;
        let plain = world.pod_sends(Build::new(f.pod, f.far, udp(1, 2)));
        assert_eq!(plain.verdict, Verdict::Forward { ifindex: UPLINK, next_hop: f.next_hop }, "{plain:#?}");
        assert_eq!(plain.untracked, 1, "{plain:#?}");
        let translated = world.pod_sends(Build::new(f.pod, f.service, udp(1, 80)));
        assert_eq!(
            translated.verdict,
            Verdict::Drop { reason: DropReason::ConntrackFull },
            "{translated:#?}"
        );
    }
}

/// A segment that is out of place (a stranger's guess, a server's leftover) is
/// no end: the other side goes on, rests for longer than an ended connection is
/// kept, and finds its backend again.
#[test]
fn unit_an_ignored_reset_does_not_end_the_connection() {
    for f in FAMILIES {
        let mut world = World::new(f);
        let asks = |flags| Build::new(f.pod, f.service, tcp(40000, 80, flags));
        let answers = |flags| Build::new(f.far, f.pod, tcp(8080, 40000, flags));
        let sent = world.pod_sends(asks(SYN));
        assert_eq!(dst_of(&sent.frame), f.far, "{sent:#?}");
        world.uplink_receives(answers(SYN | ACK));
        world.pod_sends(asks(ACK));
        let reset = world.uplink_receives(answers(RST | ACK));
        assert_eq!(src_of(&reset.frame), f.service, "the client hears it from the Service: {reset:#?}");
        world.pod_sends(asks(ACK));
        world.backends(&[(f.neighbour, 9090)]);
        world.tick += 60;
        let later = world.pod_sends(asks(ACK));
        assert_eq!(dst_of(&later.frame), f.far, "it stays established: {later:#?}");
        let answer = world.uplink_receives(answers(ACK));
        assert_eq!(src_of(&answer.frame), f.service, "and is heard: {answer:#?}");
        // Taken, it is the end.
        world.uplink_receives(answers(RST | ACK));
        world.tick += 60;
        let again = world.pod_sends(asks(SYN));
        assert_eq!(dst_of(&again.frame), f.neighbour, "{again:#?}");
    }
}

#[test]
fn unit_a_closed_connection_may_reopen_with_another_backend() {
    for f in FAMILIES {
        let mut world = World::new(f);
        world.pod_sends(Build::new(f.pod, f.service, tcp(40000, 80, SYN)));
        world.uplink_receives(Build::new(f.far, f.pod, tcp(8080, 40000, SYN | ACK)));
        world.pod_sends(Build::new(f.pod, f.service, tcp(40000, 80, FIN | ACK)));
        world.uplink_receives(Build::new(f.far, f.pod, tcp(8080, 40000, FIN | ACK)));
        world.backends(&[(f.neighbour, 9090)]);
        let kept = world.pod_sends(Build::new(f.pod, f.service, tcp(40000, 80, ACK)));
        assert_eq!(dst_of(&kept.frame), f.far, "what is left of the old one goes there: {kept:#?}");
        let fresh = world.pod_sends(Build::new(f.pod, f.service, tcp(40000, 80, SYN)));
        assert_eq!(dst_of(&fresh.frame), f.neighbour, "{fresh:#?}");
    }
}

#[test]
fn unit_an_entry_expires_and_packets_renew_it() {
    for f in FAMILIES {
        let mut world = World::new(f);
        world.pod_sends(Build::new(f.pod, f.service, udp(40000, 80)));
        world.backends(&[(f.neighbour, 9090)]);
        world.tick += 20;
        let alive = world.pod_sends(Build::new(f.pod, f.service, udp(40000, 80)));
        assert_eq!(dst_of(&alive.frame), f.far, "{alive:#?}");
        world.tick += 20;
        let still = world.pod_sends(Build::new(f.pod, f.service, udp(40000, 80)));
        assert_eq!(dst_of(&still.frame), f.far, "the second packet renewed it: {still:#?}");
        world.tick += 40;
        let moved = world.pod_sends(Build::new(f.pod, f.service, udp(40000, 80)));
        assert_eq!(dst_of(&moved.frame), f.neighbour, "{moved:#?}");
    }
}

/// The client streams, the backend is silent for long, then answers: the
/// entry that translates the answer must have lived on.
#[test]
fn unit_either_direction_keeps_both_entries_alive() {
    for f in FAMILIES {
        for (ask, answer) in
            [(udp(40000, 80), udp(8080, 40000)), (tcp(40000, 80, ACK), tcp(8080, 40000, ACK))]
        {
            let mut world = World::new(f);
            if let Transport::Tcp { .. } = ask {
                world.pod_sends(Build::new(f.pod, f.service, tcp(40000, 80, SYN)));
                world.uplink_receives(Build::new(f.far, f.pod, tcp(8080, 40000, SYN | ACK)));
            }
            for _ in 0..20 {
                world.pod_sends(Build::new(f.pod, f.service, ask.clone()));
                world.tick += 20;
            }
            let back = world.uplink_receives(Build::new(f.far, f.pod, answer.clone()));
            assert_eq!(src_of(&back.frame), f.service, "{back:#?}");
            world.tick += if matches!(ask, Transport::Tcp { .. }) { 80_000 } else { 100 };
            let there = world.pod_sends(Build::new(f.pod, f.service, ask.clone()));
            assert!(!there.steps.contains(&Step::ConntrackNew), "answered connections live long: {there:#?}");
            let back = world.uplink_receives(Build::new(f.far, f.pod, answer));
            assert_eq!(src_of(&back.frame), f.service, "{back:#?}");
        }
    }
}

#[test]
fn unit_the_previous_connection_table_is_read_too() {
    for f in FAMILIES {
        let mut world = World::new(f);
        world.pod_sends(Build::new(f.pod, f.service, udp(40000, 80)));
        world.tables.conntrack_previous = std::mem::take(&mut world.tables.conntrack);
        world.backends(&[(f.neighbour, 9090)]);
        let kept = world.pod_sends(Build::new(f.pod, f.service, udp(40000, 80)));
        assert_eq!(dst_of(&kept.frame), f.far, "{kept:#?}");
    }
}

#[test]
fn unit_two_services_with_one_backend_do_not_share_a_tuple() {
    for f in FAMILIES {
        let mut world = World::new(f);
        world.second_service();
        let first = world.pod_sends(Build::new(f.pod, f.service, tcp(40000, 80, SYN)));
        assert_eq!(dst_of(&first.frame), f.far, "{first:#?}");
        let second = world.pod_sends(Build::new(f.pod, f.free_service, tcp(40000, 80, SYN)));
        check(&second.frame).unwrap_or_else(|error| panic!("{error}: {second:#?}"));
        assert_eq!((src_of(&second.frame), dst_of(&second.frame)), (f.pod, f.far), "{second:#?}");
        let sport = sport_of(&second.frame);
        assert_ne!(sport, 40000, "{second:#?}");
        let back = world.uplink_receives(Build::new(f.far, f.pod, tcp(8080, sport, SYN | ACK)));
        check(&back.frame).unwrap_or_else(|error| panic!("{error}: {back:#?}"));
        assert_eq!((src_of(&back.frame), dport_of(&back.frame)), (f.free_service, 40000), "{back:#?}");
    }
}

/// However unlucky the choice, a free endpoint is found.
#[test]
fn unit_a_taken_tuple_leads_to_another_endpoint() {
    for f in FAMILIES {
        let mut world = World::new(f);
        let other = f.neighbour;
        world.backends(&[(f.far, 8080), (other, 8080)]);
        for (taken, free, sport) in [(f.far, other, 40000), (other, f.far, 40001)] {
            world.pod_sends(Build::new(f.pod, taken, tcp(sport, 8080, SYN)));
            for random in [0, 1, u32::MAX] {
                world.random = random;
                let mut copy = World { family: f, tables: world.tables.clone(), ..world };
                let sent = copy.pod_sends(Build::new(f.pod, f.service, tcp(sport, 80, SYN)));
                assert_eq!(dst_of(&sent.frame), free, "random {random}: {sent:#?}");
            }
        }
    }
}

#[test]
fn unit_host_packets_to_a_pod_pass_and_are_tracked() {
    for f in FAMILIES {
        let mut world = World::new(f);
        let mut probe = Build::new(f.node, f.pod, tcp(50000, 8080, SYN));
        probe.mac_dst = crate::world::POD_MAC;
        let sent = world.send(hook::TO_POD, POD_IFINDEX, probe.frame());
        assert_eq!(sent.verdict, Verdict::ToHost, "{sent:#?}");
        let answer = world.pod_sends(Build::new(f.pod, f.node, tcp(8080, 50000, SYN | ACK)));
        assert_eq!(answer.verdict, Verdict::ToHost, "{answer:#?}");
        let (_, value) = world.tables.conntrack.iter().next().expect("one connection");
        assert!(value.flags & entry::REPLIED != 0, "{value:#?}");
    }
}

#[test]
fn unit_unknown_ethertypes_and_martians_are_dropped_with_a_reason() {
    for f in FAMILIES {
        let mut world = World::new(f);
        let mut frame = Build::new(f.pod, f.far, udp(1, 2)).frame();
        frame[12..14].copy_from_slice(&[0x88, 0xcc]);
        let lldp = world.pod_frame(frame);
        assert_eq!(lldp.verdict, Verdict::Drop { reason: DropReason::UnsupportedProtocol }, "{lldp:#?}");
        for martian in f.martians {
            let sent = world.pod_sends(Build::new(f.pod, *martian, udp(1, 2)));
            assert_eq!(sent.verdict, Verdict::Drop { reason: DropReason::Martian }, "{martian}: {sent:#?}");
        }
    }
}

#[test]
fn unit_a_port_used_through_a_service_may_also_reach_its_backend() {
    for f in FAMILIES {
        let mut world = World::new(f);
        let there = world.pod_sends(Build::new(f.pod, f.service, udp(40000, 80)));
        assert!(matches!(there.verdict, Verdict::Forward { .. }), "{there:#?}");
        let back = world.uplink_receives(Build::new(f.far, f.pod, udp(8080, 40000)));
        assert_eq!(addresses(&back.frame[14..]).unwrap().0, f.service, "{back:#?}");
        // Its socket is closed, and another one has the port.
        let direct = world.pod_sends(Build::new(f.pod, f.far, udp(40000, 8080)));
        assert!(matches!(direct.verdict, Verdict::Forward { .. }), "{direct:#?}");
        let back = world.uplink_receives(Build::new(f.far, f.pod, udp(8080, 40000)));
        assert_eq!(addresses(&back.frame[14..]).unwrap().0, f.far, "as it was asked: {back:#?}");
    }
}
