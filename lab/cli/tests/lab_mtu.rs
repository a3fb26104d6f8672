//! ICMP errors for packets that are too big or whose TTL has expired: the pod
//! receives them from its node, quoting its own packet.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

mod traffic;

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use beeline_lab_net::address::Pair;
use traffic::cluster::{
    Cluster, Endpoint, FAMILIES, Family, SERVICE_TCP_PORT, SERVICE_UDP_PORT, Target, UDP_PORT, shell,
};
use traffic::errors::{Fragmenting, IcmpError, next_error, path_mtu, set_ttl, udp_socket};

/// Reduced MTU of the uplinks in bytes.
const LOWERED: u32 = 1400;
/// Fits the pods' MTU of 1500, but not that of the uplinks.
const TOO_BIG: usize = 1440;
const STREAM_BYTES: usize = 1 << 20;
const TIMEOUT: Duration = Duration::from_secs(10);

#[test]
fn lab_a_pod_has_the_mtu_of_its_nodes_uplink() {
    let cluster = Cluster::up("mtu");
    ["node-1", "node-2", "client"].iter().for_each(|host| lower(&cluster, host));
    let alpha = cluster.endpoint("alpha");
    for family in FAMILIES {
        stream_learns_the_mtu(&cluster, alpha, family);
        for to in [cluster.target("gamma"), cluster.target("client"), cluster.service("gamma", "alpha")] {
            // Flush the path MTU that the stream has learned.
            alpha.shell("ip route flush cache && ip -6 route flush cache");
            datagram_is_refused_with_the_mtu(&cluster, alpha, &to, family);
        }
    }
    alpha.shell("ip route flush cache");
    for to in [cluster.target("gamma"), cluster.service("gamma", "alpha")] {
        datagram_that_may_be_fragmented_arrives(alpha, &to);
    }
    cluster.down();
}

/// Both ends of the link: a device drops larger packets from its peer.
fn lower(cluster: &Cluster, host: &str) {
    cluster.endpoint(host).shell(&format!("ip link set eth0 mtu {LOWERED}"));
    shell(&cluster.switch, &format!("ip link set {host} mtu {LOWERED}"));
}

/// Through a Service: the error quotes the translated packet and must be
/// translated back for the pod.
fn stream_learns_the_mtu(cluster: &Cluster, from: &Endpoint, family: Family) {
    let service = cluster.service("gamma", from.name);
    let address = SocketAddr::new(family.of(service.addresses), SERVICE_TCP_PORT);
    let sent: Vec<u8> = (0..STREAM_BYTES).map(|at| 0x80 | (at / 7) as u8).collect();
    let exchange = || {
        let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        let before = path_mtu(&stream, address.is_ipv6());
        let mut echoed = Vec::new();
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                (&stream).write_all(&sent)?;
                stream.shutdown(Shutdown::Write)
            });
            (&stream).read_to_end(&mut echoed)?;
            sender.join().unwrap()
        })?;
        Ok::<_, std::io::Error>((before, path_mtu(&stream, address.is_ipv6()), echoed))
    };
    let (before, after, echoed) = from.netns.enter(exchange).unwrap().unwrap_or_else(|error| {
        panic!("{} -> {} ({address}): {error}", from.name, service.name);
    });
    assert_eq!((before, after), (1500, LOWERED), "the path's MTU before and after: {address}");
    assert!(echoed == sent, "{address}: {} of {STREAM_BYTES} bytes came back, or others", echoed.len());
}

fn datagram_is_refused_with_the_mtu(cluster: &Cluster, from: &Endpoint, to: &Target, family: Family) {
    let address = udp_address(to, family);
    let error = from.netns.enter(|| {
        let socket = udp_socket(address, Fragmenting::Forbidden);
        socket.send(&[7; TOO_BIG]).unwrap();
        next_error(&socket)
    });
    let (kind, code) = if address.is_ipv4() { (3, 4) } else { (2, 0) };
    let expected =
        IcmpError { kind, code, info: LOWERED, from: family.of(cluster.endpoint("node-1").addresses) };
    assert_eq!(error.unwrap(), Some(expected), "{} -> {} ({address})", from.name, to.name);
}

/// IPv4 only: in IPv6 only the sender fragments.
fn datagram_that_may_be_fragmented_arrives(from: &Endpoint, to: &Target) {
    let address = udp_address(to, Family::V4);
    let sent: Vec<u8> = (0..TOO_BIG).map(|at| (at / 3) as u8).collect();
    let mut echoed = vec![0; TOO_BIG + 1];
    let length = from.netns.enter(|| {
        let socket = udp_socket(address, Fragmenting::Allowed);
        socket.send(&sent)?;
        socket.recv(&mut echoed)
    });
    let length = length.unwrap().unwrap_or_else(|error| panic!("{} -> {}: {error}", from.name, to.name));
    assert!(echoed[..length] == sent, "{}: {length} bytes came back, or others", to.name);
}

/// As with traceroute: every node on the path is a hop.
#[test]
fn lab_an_expired_ttl_is_answered_with_icmp() {
    let cluster = Cluster::up("ttl");
    let (node_1, node_2) = (cluster.endpoint("node-1").addresses, cluster.endpoint("node-2").addresses);
    let service = cluster.service("gamma", "alpha");
    for family in FAMILIES {
        let trace = |from: &str, to: &Target, hops: &[Pair]| {
            let hops: Vec<IpAddr> = hops.iter().map(|hop| family.of(*hop)).collect();
            every_hop_answers(cluster.endpoint(from), to, family, &hops);
        };
        trace("alpha", &cluster.target("beta"), &[node_1]);
        trace("alpha", &cluster.target("gamma"), &[node_1, node_2]);
        trace("alpha", &service, &[node_1, node_2]);
        trace("alpha", &cluster.target("client"), &[node_1]);
        trace("client", &cluster.target("gamma"), &[node_2]);
        trace("alpha", &cluster.target("node-1"), &[]);
    }
    cluster.down();
}

/// With TTL 1, 2, ... each hop responds in turn, then the destination.
fn every_hop_answers(from: &Endpoint, to: &Target, family: Family, hops: &[IpAddr]) {
    let address = udp_address(to, family);
    let (kind, code) = if address.is_ipv4() { (11, 0) } else { (3, 0) };
    let way = || format!("{} -> {} ({address})", from.name, to.name);
    let send = |ttl: u8| -> UdpSocket {
        let socket = udp_socket(address, Fragmenting::Allowed);
        set_ttl(&socket, ttl);
        socket.send(b"how far?").unwrap();
        socket
    };
    for (hop, ttl) in hops.iter().zip(1..) {
        let error = from.netns.enter(|| next_error(&send(ttl))).unwrap();
        let expected = Some(IcmpError { kind, code, info: 0, from: *hop });
        assert_eq!(error, expected, "{} with a TTL of {ttl}", way());
    }
    let ttl = hops.len() as u8 + 1;
    let mut answer = [0; 16];
    let length = from.netns.enter(|| send(ttl).recv(&mut answer)).unwrap();
    let length = length.unwrap_or_else(|error| panic!("{} with a TTL of {ttl}: {error}", way()));
    assert_eq!(&answer[..length], b"how far?", "{}", way());
}

fn udp_address(to: &Target, family: Family) -> SocketAddr {
    let port = if to.is_service() { SERVICE_UDP_PORT } else { UDP_PORT };
    SocketAddr::new(family.of(to.addresses), port)
}
