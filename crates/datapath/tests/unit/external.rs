//! Clients outside the cluster: NodePorts and load balancers, SNAT, masquerading,
//! and ICMP errors.

use crate::world::{FAMILIES, Family, POD_IFINDEX, Sent, UPLINK, World};
use beeline_abi::config::flags as config;
use beeline_abi::counter::hook;
use beeline_abi::ip::proto;
use beeline_abi::service::{
    CLASS_NODE, CLASS_NODE_IPV6, FrontendKey, FrontendValue, SCOPE_EXTERNAL, SCOPE_INTERNAL, SLOT_BY_BACKEND,
    SOURCE_SET_BITS, ServiceAddressValue, SlotKey, SlotValue, SourceRangeKey, SourceRangeValue,
    address_flags, backend_state, service_flags, slot_flags,
};
use beeline_abi::{DropReason, Ip, Port};
use beeline_datapath::Verdict;
use beeline_datapath::native::build::{Build, Transport, check};
use beeline_datapath::platform::Step;

const SYN: u8 = 2;
const ACK: u8 = 16;
const NODE_PORT: u16 = 30080;

fn tcp(sport: u16, dport: u16, flags: u8) -> Transport {
    Transport::Tcp { sport, dport, flags, sequence: 1000, acknowledged: 0 }
}

fn udp(sport: u16, dport: u16) -> Transport {
    Transport::Udp { sport, dport }
}

/// Addresses and protocol of an IP packet, which may be cut short.
fn ends(packet: &[u8]) -> (Ip, Ip, u8) {
    let ip = |at: usize| Ip::from_octets(std::array::from_fn(|i| packet[at + i]));
    let v4 = |at: usize| Ip::from_v4(std::array::from_fn(|i| packet[at + i]));
    if packet[0] >> 4 == 4 { (v4(12), v4(16), packet[9]) } else { (ip(8), ip(24), packet[6]) }
}

/// What follows the IP header.
fn transport(packet: &[u8]) -> &[u8] {
    &packet[if packet[0] >> 4 == 4 { 20 } else { 40 }..]
}

/// Addresses and ports of a frame whose checksums hold; the identifier of an
/// echo stands for both ports.
pub fn tuple(sent: &Sent) -> (Ip, u16, Ip, u16) {
    check(&sent.frame).unwrap_or_else(|error| panic!("{error}: {sent:#?}"));
    let (src, dst, protocol) = ends(&sent.frame[14..]);
    let head = transport(&sent.frame[14..]);
    let port = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    match protocol {
        proto::ICMP | proto::ICMPV6 => (src, port(4), dst, port(4)),
        _ => (src, port(0), dst, port(2)),
    }
}

/// A node with a NodePort for the Service 1; this node has the number 1.
fn node_port(f: Family) -> World {
    let mut world = World::new(f);
    if let Some(config) = &mut world.tables.config {
        config.node = 1;
        (config.node_ipv4, config.node_ipv6) = (f.node, f.node);
    }
    let class = if f.pod.is_v4() { CLASS_NODE } else { CLASS_NODE_IPV6 };
    world.tables.service_address.insert(f.node, ServiceAddressValue { class, flags: 0 });
    for scope in [SCOPE_INTERNAL, SCOPE_EXTERNAL] {
        for protocol in [proto::TCP, proto::UDP, proto::SCTP] {
            let key = FrontendKey { class, port: Port::new(NODE_PORT), proto: protocol, scope };
            world.tables.frontend.insert(key, FrontendValue { service: 1, ..FrontendValue::default() });
        }
    }
    world
}

/// The backends of the Service are of this node.
fn are_here(world: &mut World) {
    world.tables.backend.values_mut().for_each(|backend| backend.node = 1);
}

fn masquerading(f: Family) -> World {
    let mut world = node_port(f);
    if let Some(config) = &mut world.tables.config {
        config.flags = config::MASQUERADE_IPV4 | config::MASQUERADE_IPV6;
    }
    world
}

fn asks(f: Family, transport: Transport) -> Build {
    Build::new(f.external, f.node, transport)
}

#[test]
fn unit_an_external_client_reaches_a_local_pod_with_its_own_address() {
    for f in FAMILIES {
        let mut world = node_port(f);
        world.backends(&[(f.pod, 8080)]);
        are_here(&mut world);
        let there = world.uplink_receives(asks(f, tcp(40000, NODE_PORT, SYN)));
        assert_eq!(there.verdict, Verdict::ToPod { ifindex: POD_IFINDEX }, "{there:#?}");
        assert_eq!(tuple(&there), (f.external, 40000, f.pod, 8080), "{there:#?}");
        let back = world.pod_sends(Build::new(f.pod, f.external, tcp(8080, 40000, SYN | ACK)));
        assert_eq!(back.verdict, Verdict::Forward { ifindex: UPLINK, next_hop: f.next_hop }, "{back:#?}");
        assert_eq!(tuple(&back), (f.node, NODE_PORT, f.external, 40000), "{back:#?}");
    }
}

#[test]
fn unit_a_remote_backend_replies_through_this_node() {
    for f in FAMILIES {
        for (ask, answer) in [
            (tcp(40000, NODE_PORT, SYN), (|port| tcp(8080, port, SYN | ACK)) as fn(u16) -> Transport),
            (udp(40000, NODE_PORT), |port| udp(8080, port)),
        ] {
            let mut world = node_port(f);
            let there = world.uplink_receives(asks(f, ask.clone()));
            assert_eq!(
                there.verdict,
                Verdict::Forward { ifindex: UPLINK, next_hop: f.next_hop },
                "{there:#?}"
            );
            let (src, sport, dst, dport) = tuple(&there);
            assert_eq!((src, dst, dport), (f.node, f.far, 8080), "{there:#?}");
            assert!((1024..30000).contains(&sport) || sport >= 61000, "a port of the range: {there:#?}");
            let back = world.uplink_receives(Build::new(f.far, f.node, answer(sport)));
            assert_eq!(tuple(&back), (f.node, NODE_PORT, f.external, 40000), "{back:#?}");
            assert!(matches!(back.verdict, Verdict::Forward { .. }), "{back:#?}");
            let again = world.uplink_receives(asks(f, ask));
            assert_eq!(tuple(&again), (src, sport, dst, dport), "the connection keeps its port: {again:#?}");
            assert!(again.steps.iter().any(|step| matches!(step, Step::ConntrackHit { origin: true, .. })));
        }
    }
}

#[test]
fn unit_other_ports_of_the_node_are_left_to_the_host() {
    for f in FAMILIES {
        let mut world = node_port(f);
        let ssh = world.uplink_receives(asks(f, tcp(40000, 22, SYN)));
        assert_eq!(ssh.verdict, Verdict::ToHost, "{ssh:#?}");
        let mid_flow = world.uplink_receives(asks(f, tcp(40000, NODE_PORT, ACK)));
        assert_eq!(mid_flow.verdict, Verdict::ToHost, "a connection from before us: {mid_flow:#?}");
        assert!(world.tables.conntrack.is_empty(), "{world:#?}");
    }
}

#[test]
fn unit_during_takeover_connections_of_kube_proxy_are_left_to_the_host() {
    for f in FAMILIES {
        let mut world = node_port(f);
        if let Some(config) = &mut world.tables.config {
            config.flags = config::TAKE_OVER;
        }
        let to_service = |flags| Build::new(f.pod, f.service, tcp(40000, 80, flags));
        let answer = |flags| Build::new(f.pod, f.external, tcp(8080, 40000, flags));
        let (syn_ack, middle) = (SYN | ACK, [ACK, 1 | ACK, 4]);
        for flags in middle.into_iter().chain([syn_ack]) {
            for ask in [to_service(flags), answer(flags)] {
                let sent = world.pod_sends(ask);
                assert_eq!(sent.verdict, Verdict::ToHost, "{flags}: {sent:#?}");
            }
            let to_pod = Build::new(f.external, f.pod, tcp(40000, 8080, flags));
            let wire = world.uplink_receives(to_pod.clone());
            assert_eq!(wire.verdict, Verdict::ToHost, "{flags}: {wire:#?}");
            let routed = world.send(hook::TO_POD, POD_IFINDEX, to_pod.frame());
            assert_eq!(routed.verdict, Verdict::ToHost, "{flags}: {routed:#?}");
            assert!(world.tables.conntrack.is_empty(), "{flags}: not ours to follow: {world:#?}");
        }
        let begun = world.pod_sends(to_service(SYN));
        assert_ne!(tuple(&begun).2, f.service, "new connections are ours: {begun:#?}");
        let goes_on = world.pod_sends(to_service(ACK));
        assert_eq!(tuple(&goes_on), tuple(&begun), "and stay ours: {goes_on:#?}");
        if let Some(config) = &mut world.tables.config {
            config.flags = 0;
        }
        let stray = world.pod_sends(Build::new(f.pod, f.service, tcp(40001, 80, ACK)));
        assert_ne!(stray.verdict, Verdict::ToHost, "nobody else translates: {stray:#?}");
    }
}

#[test]
fn unit_without_endpoints_the_reject_comes_from_the_frontend_address() {
    for f in FAMILIES {
        let mut world = node_port(f);
        world.backends(&[]);
        let refused = world.uplink_receives(asks(f, tcp(40000, NODE_PORT, SYN)));
        assert_eq!(refused.verdict, Verdict::Reject { reason: DropReason::NoBackend }, "{refused:#?}");
        assert_eq!(tuple(&refused), (f.node, NODE_PORT, f.external, 40000), "{refused:#?}");
        if let Some(service) = world.tables.service.get_mut(&1) {
            service.flags = service_flags::LOCAL;
        }
        let dropped = world.uplink_receives(asks(f, tcp(40000, NODE_PORT, SYN)));
        assert_eq!(dropped.verdict, Verdict::Drop { reason: DropReason::NoLocalBackend }, "{dropped:#?}");
    }
}

#[test]
fn unit_a_load_balancer_address_is_exclusive_and_enforces_source_ranges() {
    for f in FAMILIES {
        let mut world = node_port(f);
        let balanced = if f.pod.is_v4() {
            Ip::from_v4([192, 0, 2, 80])
        } else {
            Ip([0x2001_0db8_u32.to_be(), 0, 0, 80_u32.to_be()])
        };
        let class = ServiceAddressValue { class: 40, flags: address_flags::EXCLUSIVE };
        world.tables.service_address.insert(balanced, class);
        let key = FrontendKey { class: 40, port: Port::new(80), proto: proto::TCP, scope: SCOPE_EXTERNAL };
        world.tables.frontend.insert(key, FrontendValue { service: 1, flags: 0, source_ranges: 7 });
        let ask = Build::new(f.external, balanced, tcp(40000, 80, SYN));
        let key = FrontendKey { scope: SCOPE_INTERNAL, ..key };
        world.tables.frontend.insert(key, FrontendValue { service: 1, flags: 0, source_ranges: 7 });
        let pod = world.pod_sends(Build::new(f.pod, balanced, tcp(40000, 80, SYN)));
        assert_eq!(
            pod.verdict,
            Verdict::Drop { reason: DropReason::SourceRangeDenied },
            "pods, too: {pod:#?}"
        );
        let stranger = world.uplink_receives(ask.clone());
        assert_eq!(
            stranger.verdict,
            Verdict::Drop { reason: DropReason::SourceRangeDenied },
            "{stranger:#?}"
        );
        let range = SourceRangeKey { prefix_bits: SOURCE_SET_BITS + 128, set: 7, ip: f.external };
        world.tables.source_range.insert(range, SourceRangeValue { allowed: 1 });
        let guest = world.uplink_receives(ask);
        assert!(matches!(guest.verdict, Verdict::Forward { .. }), "{guest:#?}");
        let other_port = world.uplink_receives(Build::new(f.external, balanced, tcp(40000, 81, SYN)));
        assert_eq!(
            other_port.verdict,
            Verdict::Reject { reason: DropReason::NoServicePort },
            "{other_port:#?}"
        );
    }
}

#[test]
fn unit_replies_of_a_host_network_backend_come_from_the_service() {
    for f in FAMILIES {
        let mut world = node_port(f);
        world.backends(&[(f.node, 9100)]);
        are_here(&mut world);
        let there = world.uplink_receives(asks(f, tcp(40000, NODE_PORT, SYN)));
        assert_eq!(there.verdict, Verdict::ToHost, "{there:#?}");
        assert_eq!(tuple(&there), (f.external, 40000, f.node, 9100), "{there:#?}");
        let back = world.host_sends(Build::new(f.node, f.external, tcp(9100, 40000, SYN | ACK)));
        assert_eq!(back.verdict, Verdict::ToHost, "{back:#?}");
        assert_eq!(tuple(&back), (f.node, NODE_PORT, f.external, 40000), "{back:#?}");
        let astray = world.host_sends_by(UPLINK + 1, Build::new(f.node, f.external, tcp(9100, 40000, ACK)));
        assert_eq!(
            astray.verdict,
            Verdict::Forward { ifindex: UPLINK, next_hop: f.next_hop },
            "it leaves by the device that the question came in by: {astray:#?}"
        );
        assert_eq!(tuple(&astray), (f.node, NODE_PORT, f.external, 40000), "{astray:#?}");
        let own = world.host_sends(Build::new(f.node, f.external, tcp(9100, 40001, ACK)));
        assert_eq!(tuple(&own), (f.node, 9100, f.external, 40001), "not the Service's: {own:#?}");
    }
}

#[test]
fn unit_pods_reach_external_addresses_as_the_node() {
    for f in FAMILIES {
        let echo = |reply, id| Transport::Echo { reply, id };
        let ways: [(Transport, &dyn Fn(u16) -> Transport); 3] = [
            (tcp(40000, 443, SYN), &|port| tcp(443, port, SYN | ACK)),
            (udp(40000, 53), &|port| udp(53, port)),
            (echo(false, 7), &|port| echo(true, port)),
        ];
        for (ask, answer) in ways {
            let mut world = masquerading(f);
            let there = world.pod_sends(Build::new(f.pod, f.external, ask.clone()));
            let (src, port, dst, _) = tuple(&there);
            assert_eq!((src, dst), (f.node, f.external), "{there:#?}");
            let back = world.uplink_receives(Build::new(f.external, f.node, answer(port)));
            assert_eq!(back.verdict, Verdict::ToPod { ifindex: POD_IFINDEX }, "{back:#?}");
            let (src, _, dst, own_port) = tuple(&back);
            let own = if matches!(ask, Transport::Echo { .. }) { 7 } else { 40000 };
            assert_eq!((src, dst, own_port), (f.external, f.pod, own), "{back:#?}");
            let mut plain = World::new(f);
            let there = plain.pod_sends(Build::new(f.pod, f.external, ask));
            assert_eq!(tuple(&there).0, f.pod, "not asked for: {there:#?}");
        }
    }
}

#[test]
fn unit_cluster_addresses_are_not_masqueraded() {
    for f in FAMILIES {
        let mut world = masquerading(f);
        for dst in [f.far, f.next_hop, f.neighbour] {
            let sent = world.pod_sends(Build::new(f.pod, dst, tcp(40000, 80, SYN)));
            assert_eq!(tuple(&sent).0, f.pod, "{sent:#?}");
        }
        let served = world.pod_sends(Build::new(f.pod, f.service, tcp(40001, 80, SYN)));
        assert_eq!(tuple(&served).0, f.pod, "{served:#?}");
    }
}

#[test]
fn unit_two_pods_with_one_port_get_different_snat_ports() {
    for f in FAMILIES {
        let mut world = masquerading(f);
        world.random = 5;
        let mut seen = Vec::new();
        for (pod, ifindex, mac) in world.pods() {
            let mut ask = Build::new(pod, f.external, udp(20000, 53));
            ask.mac_src = mac;
            let sent = world.send(hook::FROM_POD, ifindex, ask.frame());
            seen.push((pod, ifindex, tuple(&sent).1));
        }
        assert_ne!(seen[0].2, seen[1].2, "{seen:?}");
        for (pod, ifindex, port) in seen {
            let back = world.uplink_receives(Build::new(f.external, f.node, udp(53, port)));
            assert_eq!(back.verdict, Verdict::ToPod { ifindex }, "{back:#?}");
            assert_eq!((tuple(&back).2, tuple(&back).3), (pod, 20000), "{back:#?}");
        }
    }
}

#[test]
fn unit_when_no_port_is_free_established_connections_stay() {
    for f in FAMILIES {
        let mut world = masquerading(f);
        if let Some(config) = &mut world.tables.config {
            (config.nat_port_first, config.nat_port_last) = (61000, 61007);
        }
        let (mut ports, mut taken) = (Vec::new(), 0);
        for sport in 0..8 {
            let sent = world.pod_sends(Build::new(f.pod, f.external, udp(20000 + sport, 53)));
            ports.push(tuple(&sent).1);
            taken += sent.ports_taken;
        }
        assert_eq!(taken, 7, "random is constant: all but the first are counted");
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 8, "eight connections, eight ports: {ports:?}");
        let ninth = world.pod_sends(Build::new(f.pod, f.external, udp(20100, 53)));
        assert_eq!(ninth.verdict, Verdict::Drop { reason: DropReason::NatPortsFull }, "{ninth:#?}");
        let elsewhere = world.pod_sends(Build::new(f.pod, f.external, udp(20100, 54)));
        assert!(matches!(elsewhere.verdict, Verdict::Forward { .. }), "ports count per destination");
        world.tick += 1_000;
        let later = world.pod_sends(Build::new(f.pod, f.external, udp(20100, 53)));
        assert!(matches!(later.verdict, Verdict::Forward { .. }), "expired ones make room: {later:#?}");
    }
}

#[test]
fn unit_icmp_errors_about_translated_sources_reach_the_client() {
    for f in FAMILIES {
        let kind = if f.pod.is_v4() { 3 } else { 1 };
        let mut world = masquerading(f);
        let there = world.pod_sends(Build::new(f.pod, f.external, udp(40000, 53)));
        let mut error = Build::new(
            f.router,
            f.node,
            Transport::IcmpError { kind, code: 4 - u8::from(!f.pod.is_v4()), word: 0 },
        );
        error.payload = there.frame[14..].to_vec();
        let reply = world.uplink_receives(error);
        assert_eq!(reply.verdict, Verdict::ToPod { ifindex: POD_IFINDEX }, "{reply:#?}");
        check(&reply.frame).unwrap_or_else(|error| panic!("{error}: {reply:#?}"));
        let quoted = transport(&reply.frame[14..])[8..].to_vec();
        assert_eq!((ends(&quoted).0, ends(&quoted).1), (f.pod, f.external), "{reply:#?}");
        assert_eq!(transport(&quoted)[..2], 40000_u16.to_be_bytes(), "the pod's own port: {reply:#?}");
    }
}

#[test]
fn unit_too_big_for_a_translated_packet_comes_from_the_service() {
    for f in FAMILIES {
        let mut world = node_port(f);
        world.route = beeline_datapath::platform::Route::TooBig;
        let mut ask = asks(f, udp(40000, NODE_PORT));
        ask.payload = vec![0; 1400];
        ask.dont_fragment = true;
        let reply = world.uplink_receives(ask);
        assert_eq!(reply.verdict, Verdict::Reject { reason: DropReason::TooBig }, "{reply:#?}");
        check(&reply.frame).unwrap_or_else(|error| panic!("{error}: {reply:#?}"));
        let (src, dst, _) = ends(&reply.frame[14..]);
        assert_eq!((src, dst), (f.node, f.external), "{reply:#?}");
        let icmp = transport(&reply.frame[14..]);
        assert_eq!(u32::from_be_bytes([icmp[4], icmp[5], icmp[6], icmp[7]]), 1400, "its MTU: {reply:#?}");
        let (src, dst, _) = ends(&icmp[8..]);
        assert_eq!((src, dst), (f.external, f.node), "what the client sent: {reply:#?}");

        let mut last_hop = asks(f, tcp(40001, NODE_PORT, SYN));
        last_hop.ttl = 1;
        world.route = beeline_datapath::platform::Route::Found;
        let reply = world.uplink_receives(last_hop);
        assert_eq!(reply.verdict, Verdict::Reject { reason: DropReason::TtlExceeded }, "{reply:#?}");
        check(&reply.frame).unwrap_or_else(|error| panic!("{error}: {reply:#?}"));
    }
}

#[test]
fn unit_affinity_keeps_the_backend_while_it_serves() {
    for f in FAMILIES {
        let mut world = World::new(f);
        world.backends(&[(f.far, 8080), (f.neighbour, 8080)]);
        let members: Vec<u32> = world.tables.backend.keys().copied().filter(|id| *id >= 200).collect();
        for id in &members {
            let key = SlotKey { service: 1, generation: SLOT_BY_BACKEND, slot: *id };
            let member = SlotValue::of(*id, &world.tables.backend[id]);
            world.tables.slot.insert(key, member);
        }
        if let Some(service) = world.tables.service.get_mut(&1) {
            service.affinity_s = 600;
        }
        let mut first = None;
        for (sport, random) in (40000..40020).zip(0..) {
            world.random = random;
            let sent = world.pod_sends(Build::new(f.pod, f.service, udp(sport, 80)));
            let backend = tuple(&sent).2;
            assert_eq!(*first.get_or_insert(backend), backend, "{sent:#?}");
        }
        let (Some(kept), Some(other)) =
            (first, first.map(|kept| if kept == f.far { f.neighbour } else { f.far }))
        else {
            panic!("no backend was chosen")
        };
        let gone = world.tables.backend.iter().find(|(id, value)| members.contains(id) && value.ip == kept);
        let gone = *gone.expect("the kept backend").0;
        world.tables.slot.remove(&SlotKey { service: 1, generation: SLOT_BY_BACKEND, slot: gone });
        world.random = u32::from(other == f.neighbour);
        let moved = world.pod_sends(Build::new(f.pod, f.service, udp(41000, 80)));
        assert_eq!(tuple(&moved).2, other, "its backend has left the Service: {moved:#?}");
        world.tick += 700;
        world.random = u32::from(other != f.neighbour);
        let late = world.pod_sends(Build::new(f.pod, f.service, udp(41001, 80)));
        assert_eq!(tuple(&late).2, kept, "the affinity has expired: {late:#?}");
    }
}

#[test]
fn unit_udp_leaves_a_backend_that_terminates_and_tcp_stays() {
    for f in FAMILIES {
        for (transport, mid_flow, leaves) in
            [(udp(40000, 80), udp(40000, 80), true), (tcp(40000, 80, SYN), tcp(40000, 80, ACK), false)]
        {
            let mut world = World::new(f);
            let first = world.pod_sends(Build::new(f.pod, f.service, transport));
            assert_eq!(tuple(&first).2, f.far, "{first:#?}");
            for backend in world.tables.backend.values_mut() {
                backend.state = backend_state::TERMINATING;
            }
            world.backends(&[(f.neighbour, 9090)]);
            let next = world.pod_sends(Build::new(f.pod, f.service, mid_flow));
            let expected = if leaves { f.neighbour } else { f.far };
            assert_eq!(tuple(&next).2, expected, "{next:#?}");
        }
    }
}

#[test]
fn unit_udp_leaves_a_backend_that_only_this_service_removed() {
    for f in FAMILIES {
        let mut world = World::new(f);
        let id = world.tables.backend.iter().find(|(_, value)| value.ip == f.far).map(|(id, _)| *id);
        let id = id.expect("the Service has a backend");
        let member = SlotKey { service: 1, generation: SLOT_BY_BACKEND, slot: id };
        let ask = || Build::new(f.pod, f.service, udp(40000, 80));
        let goes_to = |world: &mut World, expected: Ip, why: &str| {
            let sent = world.pod_sends(ask());
            assert_eq!(tuple(&sent).2, expected, "{why}: {sent:#?}");
        };
        let keep = |world: &mut World, flags: u32| {
            let value = SlotValue { flags, ..SlotValue::of(id, &world.tables.backend[&id]) };
            world.tables.slot.insert(member, value);
            world.tables.service.get_mut(&1).expect("the Service").flags = service_flags::SLOTS_BY_BACKEND;
        };
        keep(&mut world, 0);
        goes_to(&mut world, f.far, "the only one");
        // A hint names another for new clients; this one keeps what it has.
        world.backends(&[(f.neighbour, 9090)]);
        keep(&mut world, slot_flags::QUIESCING);
        goes_to(&mut world, f.far, "it is kept");
        // The last that serves, though it terminates.
        world.tables.backend.get_mut(&id).expect("the backend").state = backend_state::TERMINATING;
        goes_to(&mut world, f.far, "it has a slot by backend id");
        // Another Service still has it: it is in the table, and active.
        world.tables.backend.get_mut(&id).expect("the backend").state = backend_state::ACTIVE;
        world.tables.slot.remove(&member);
        goes_to(&mut world, f.neighbour, "its backend has left");
    }
}
