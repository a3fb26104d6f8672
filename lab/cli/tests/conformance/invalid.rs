//! A TCP segment far outside the window of its connection. Connection tracking
//! that marks it invalid passes it on untranslated, the client answers the
//! unknown peer with a reset, and the connection fails
//! (kubernetes/kubernetes#74839).

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use serde_json::{Value, json};

use super::fixture::Fixture;

const PORT: u16 = 9_999;
const WAIT: Duration = Duration::from_secs(5);
/// TCP control bits (RFC 9293 section 3.1).
const ACK: u8 = 0x10;
const RST: u8 = 0x04;

/// Without socket hooks, so that packets are translated; the server is on
/// another node, then on the client's node.
pub fn connections_survive_invalid_segments(fixture: &Fixture) {
    for name in ["two", "one"] {
        fixture.patch(
            &format!("/api/v1/namespaces/default/pods/{name}"),
            json!({"metadata": {"labels": {"boom": name}}}),
        );
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("boom-{name}")},
            "spec": {"selector": {"boom": name}, "ports": [{"port": 85, "targetPort": PORT}]}});
        fixture.apply(&service.to_string());
        play(fixture, name);
    }
}

fn play(fixture: &Fixture, name: &str) {
    let (client, server) = (fixture.lab.pod("asker").netns(), fixture.lab.pod(name).netns());
    let listener = server.enter(|| TcpListener::bind(("0.0.0.0", PORT))).unwrap().unwrap();
    let address: SocketAddr = format!("{}:85", fixture.cluster_ip(&format!("boom-{name}"))).parse().unwrap();
    let mut near = None;
    fixture.eventually("the server is reached", || {
        near = client.enter(|| TcpStream::connect_timeout(&address, WAIT)).unwrap().ok();
        near.is_some()
    });
    let (mut near, (mut far, seen)) = (near.unwrap(), listener.accept().unwrap());
    for stream in [&near, &far] {
        stream.set_read_timeout(Some(WAIT)).unwrap();
    }
    exchange(&mut near, &mut far, "before");
    let (from, to) = (far.local_addr().unwrap(), seen);
    let raw =
        server.enter(|| socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), SockProtocol::Tcp));
    // Raw sockets support the same calls as UDP sockets.
    let raw = UdpSocket::from(raw.unwrap().unwrap());
    for (number, flags) in [(1_u32, ACK), (2, RST | ACK), (3, ACK)] {
        // Far outside every window.
        let segment = segment(from, to, number.wrapping_mul(0x4000_0000).wrapping_add(0x1000_0000), flags);
        let before = replies(fixture, name);
        raw.send_to(&segment, SocketAddr::new(to.ip(), 0)).unwrap();
        fixture.eventually("the segment passes as a reply", || replies(fixture, name) > before);
        exchange(&mut near, &mut far, &format!("after segment {number} to {name}"));
    }
}

/// Packets of the server for which the client's node has reversed the
/// translation.
fn replies(fixture: &Fixture, name: &str) -> u64 {
    let service = format!("default/boom-{name}");
    let words = ["conntrack", "list", "--service", &service, "--node", "node-1"];
    let rows: Vec<Value> = fixture.lab.cli_json(&words);
    let flows = rows.iter().filter(|row| row["entry"] == "flow");
    flows.map(|row| row["packets_reply"].as_u64().unwrap()).sum()
}

/// Exchanges data in both directions.
fn exchange(near: &mut TcpStream, far: &mut TcpStream, when: &str) {
    let mut once = |from: bool| -> std::io::Result<()> {
        let (from, to) = if from { (&mut *near, &mut *far) } else { (&mut *far, &mut *near) };
        from.write_all(b"still there")?;
        to.read_exact(&mut [0; 11])
    };
    for from in [true, false] {
        once(from).unwrap_or_else(|error| panic!("{when}: {error}"));
    }
}

/// A TCP header with four bytes of data (RFC 9293 section 3.1).
fn segment(from: SocketAddr, to: SocketAddr, sequence: u32, flags: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(from.port().to_be_bytes());
    bytes.extend(to.port().to_be_bytes());
    bytes.extend(sequence.to_be_bytes());
    bytes.extend(1_u32.to_be_bytes());
    bytes.extend([5 << 4, flags, 0x10, 0, 0, 0, 0, 0]);
    bytes.extend(b"boom");
    let sum = checksum(v4(from.ip()), v4(to.ip()), &bytes);
    bytes[16..18].copy_from_slice(&sum.to_be_bytes());
    bytes
}

fn v4(ip: IpAddr) -> Ipv4Addr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip,
        IpAddr::V6(ip) => panic!("{ip} is IPv6"),
    }
}

/// Checksum of pseudo-header and segment (RFC 9293 section 3.1).
fn checksum(from: Ipv4Addr, to: Ipv4Addr, segment: &[u8]) -> u16 {
    let pseudo = [from.octets(), to.octets(), [0, 6, 0, segment.len() as u8]].concat();
    let words = pseudo.chunks(2).chain(segment.chunks(2));
    let sum = words.fold(0_u32, |sum, word| sum + u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}
