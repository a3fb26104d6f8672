//! Packets of the host to a Service that passed no socket hook: they leave
//! translated, or not at all.

use beeline_abi::DropReason;
use beeline_abi::counter::hook;
use beeline_datapath::Verdict;
use beeline_datapath::native::build::{Build, Transport, check};
use beeline_datapath::platform::Route;

use crate::external::tuple;
use crate::world::{FAMILIES, Family, UPLINK, World};

const SYN: u8 = 2;
const ACK: u8 = 16;
const PORT: u16 = 40000;
/// `ConfigValue::defaults`.
const NAT_PORTS: std::ops::RangeInclusive<u16> = 61_000..=65_535;

fn tcp(sport: u16, dport: u16, flags: u8) -> Transport {
    Transport::Tcp { sport, dport, flags, sequence: 1000, acknowledged: 0 }
}

fn udp(sport: u16, dport: u16) -> Transport {
    Transport::Udp { sport, dport }
}

fn asks(f: Family, transport: Transport) -> Build {
    Build::new(f.node, f.service, transport)
}

#[test]
fn unit_host_to_service_reaches_a_pod_and_the_reply_returns() {
    for f in FAMILIES {
        for is_tcp in [true, false] {
            let from = |port, dport, flags| if is_tcp { tcp(port, dport, flags) } else { udp(port, dport) };
            let request = |dport, flags| from(PORT, dport, flags);
            let mut world = World::new(f);
            let there = world.host_sends(asks(f, request(80, SYN)));
            assert_eq!(
                there.verdict,
                Verdict::Forward { ifindex: UPLINK, next_hop: f.next_hop },
                "{there:#?}"
            );
            let port = tuple(&there).1;
            assert!(NAT_PORTS.contains(&port), "no port of the host's sockets: {there:#?}");
            assert_eq!(tuple(&there), (f.node, port, f.far, 8080), "{there:#?}");
            // It passes the hook once more on its way out.
            let again = world.host_sends(Build::new(f.node, f.far, from(port, 8080, SYN)));
            assert_eq!((again.verdict, tuple(&again)), (Verdict::ToHost, tuple(&there)), "{again:#?}");
            let back = world.uplink_receives(Build::new(f.far, f.node, from(8080, port, SYN | ACK)));
            assert_eq!(back.verdict, Verdict::ToHost, "{back:#?}");
            assert_eq!(tuple(&back), (f.service, 80, f.node, PORT), "{back:#?}");
            let next = world.host_sends(asks(f, request(80, ACK)));
            assert_eq!(next.verdict, there.verdict, "{next:#?}");
            assert_eq!(tuple(&next), tuple(&there), "{next:#?}");
        }
    }
}

#[test]
fn unit_the_host_reaches_pods_of_its_own_node_through_a_service() {
    for f in FAMILIES {
        let mut world = World::new(f);
        world.backends(&[(f.neighbour, 8080)]);
        let (_, ifindex, mac) = world.pods()[1];
        let there = world.host_sends(asks(f, tcp(PORT, 80, SYN)));
        assert_eq!(there.verdict, Verdict::ToPod { ifindex }, "{there:#?}");
        let port = tuple(&there).1;
        assert_eq!(tuple(&there), (f.node, port, f.neighbour, 8080), "{there:#?}");
        assert_eq!(there.frame[..6], mac.0, "{there:#?}");
        let mut build = Build::new(f.neighbour, f.node, tcp(8080, port, SYN | ACK));
        build.mac_src = mac;
        let back = world.send(hook::FROM_POD, ifindex, build.frame());
        assert_eq!(back.verdict, Verdict::ToHost, "{back:#?}");
        assert_eq!(tuple(&back), (f.service, 80, f.node, PORT), "{back:#?}");
    }
}

#[test]
fn unit_no_service_address_leaves_the_node() {
    for f in FAMILIES {
        let refused = |world: &mut World, build: Build, reason| {
            let reply = world.host_sends(build);
            assert_eq!(reply.verdict, Verdict::Reject { reason }, "{reply:#?}");
            check(&reply.frame).unwrap_or_else(|error| panic!("{error}: {reply:#?}"));
        };
        let mut world = World::new(f);
        let other_port = asks(f, tcp(PORT, 81, SYN));
        refused(&mut world, other_port, DropReason::NoServicePort);
        let no_service = Build::new(f.node, f.free_service, tcp(PORT, 80, SYN));
        refused(&mut world, no_service, DropReason::NoServicePort);
        world.backends(&[]);
        refused(&mut world, asks(f, tcp(PORT, 80, SYN)), DropReason::NoBackend);
        refused(&mut world, asks(f, udp(PORT, 80)), DropReason::NoBackend);
        // What is for nobody's Service is the host's alone.
        for dst in [f.external, f.far, f.next_hop] {
            let own = world.host_sends(Build::new(f.node, dst, tcp(PORT, 80, SYN)));
            assert_eq!((own.verdict, own.untracked), (Verdict::ToHost, 0), "{own:#?}");
            assert!(world.tables.conntrack.is_empty(), "{:#?}", world.tables.conntrack);
        }
    }
}

#[test]
fn unit_a_host_network_backend_is_not_used_for_the_host() {
    for f in FAMILIES {
        let mut world = World::new(f);
        world.backends(&[(f.node, 6443)]);
        let alone = world.host_sends(asks(f, tcp(PORT, 80, SYN)));
        assert_eq!(alone.verdict, Verdict::Drop { reason: DropReason::HostBackend }, "{alone:#?}");
        world.backends(&[(f.node, 6443), (f.next_hop, 6443)]);
        for random in 0..2 {
            world.random = random;
            let port = PORT + random as u16;
            let there = world.host_sends(asks(f, tcp(port, 80, SYN)));
            assert_eq!((tuple(&there).2, tuple(&there).3), (f.next_hop, 6443), "{there:#?}");
        }
    }
}

#[test]
fn unit_the_host_gets_too_big_for_a_datagram_above_the_mtu() {
    for f in FAMILIES {
        let mut world = World::new(f);
        world.route = Route::TooBig;
        let mut long = asks(f, udp(PORT, 80));
        long.payload = vec![7; 1420];
        long.dont_fragment = false;
        let reply = world.host_sends(long);
        assert_eq!(reply.verdict, Verdict::Reject { reason: DropReason::TooBig }, "{reply:#?}");
        check(&reply.frame).unwrap_or_else(|error| panic!("{error}: {reply:#?}"));
    }
}
