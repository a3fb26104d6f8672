//! Every drop has a reason, is counted exactly, and is reported with the names
//! of pod and Service.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

mod traffic;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use beeline_lab_net::address::Pair;
use traffic::cluster::{Cluster, Endpoint, FAMILIES, NO_SERVICE_PORT, SERVICE_UDP_PORT, UDP_PORT};
use traffic::frame::{self, Mac};

/// Packets of each kind: few, so that all of them stay below the limit of
/// events per second (`ConfigValue::events_per_s`).
const PACKETS: u64 = 5;
/// The host side of each pod's veth pair.
const GATEWAY_MAC: Mac = [0x02, 0xbe, 0xe1, 0, 0, 1];
/// An unused address in the pod CIDR of node-1.
const NOBODY: Pair = pair([10, 244, 1, 250], [0xfd00, 0x10, 0x244, 1, 0, 0, 0, 0x250]);
/// An address behind a prohibit route of node-1.
const FORBIDDEN: Pair = pair([198, 51, 100, 9], [0x2001, 0xdb8, 0, 0, 0, 0, 0, 9]);
/// An unused address.
const FOREIGN: Pair = pair([203, 0, 113, 7], [0x2001, 0xdb8, 7, 0, 0, 0, 0, 7]);

const fn pair(v4: [u8; 4], v6: [u16; 8]) -> Pair {
    let [a, b, c, d, e, f, g, h] = v6;
    Pair {
        ipv4: std::net::Ipv4Addr::new(v4[0], v4[1], v4[2], v4[3]),
        ipv6: std::net::Ipv6Addr::new(a, b, c, d, e, f, g, h),
    }
}

#[test]
fn lab_every_drop_is_counted_and_reported_with_names() {
    let cluster = Cluster::up("drops");
    let alpha = cluster.endpoint("alpha");
    let mac = own_mac(alpha);
    cluster
        .endpoint("node-1")
        .shell("ip route add blackhole 198.51.100.0/24 && ip route add prohibit 2001:db8::/64");
    for family in FAMILIES {
        let own = family.of(alpha.addresses);
        let (beta, gamma) =
            (family.of(cluster.endpoint("beta").addresses), family.of(cluster.endpoint("gamma").addresses));
        let alpha_name = Some("default/alpha");

        // Spoofed source addresses of a pod and of a stranger, and a spoofed
        // MAC address.
        for lie in [beta, family.of(FOREIGN)] {
            let expected = ExpectedDrop {
                src: lie,
                dst: gamma,
                src_name: alpha_name,
                dst_name: Some("default/gamma"),
                service: None,
            };
            let send = || send_frames(&frame::udp(mac, GATEWAY_MAC, lie, gamma, UDP_PORT));
            drops(&cluster, alpha, "node-1 from_pod spoofed_address", &expected, send);
        }
        let expected = ExpectedDrop {
            src: own,
            dst: gamma,
            src_name: alpha_name,
            dst_name: Some("default/gamma"),
            service: None,
        };
        let send = || send_frames(&frame::udp([2, 0, 0, 0, 0, 9], GATEWAY_MAC, own, gamma, UDP_PORT));
        drops(&cluster, alpha, "node-1 from_pod spoofed_mac", &expected, send);

        // No endpoint: detected by the sender's node, and by the destination's
        // node for packets from outside.
        let nobody = family.of(NOBODY);
        let expected =
            ExpectedDrop { src: own, dst: nobody, src_name: alpha_name, dst_name: None, service: None };
        drops(&cluster, alpha, "node-1 from_pod no_endpoint", &expected, || send_datagrams(nobody, UDP_PORT));
        let client = cluster.endpoint("client");
        let expected = ExpectedDrop {
            src: family.of(client.addresses),
            dst: nobody,
            src_name: None,
            dst_name: None,
            service: None,
        };
        drops(&cluster, client, "node-1 from_uplink no_endpoint", &expected, || {
            send_datagrams(nobody, UDP_PORT)
        });

        // A prohibit route.
        let forbidden = family.of(FORBIDDEN);
        let expected =
            ExpectedDrop { src: own, dst: forbidden, src_name: alpha_name, dst_name: None, service: None };
        drops(&cluster, alpha, "node-1 from_pod route_prohibited", &expected, || {
            send_datagrams(forbidden, UDP_PORT)
        });

        // Services: rejected, which is reported as well.
        let nobodys = family.of(cluster.service_of_nobody().addresses);
        let expected = ExpectedDrop {
            src: own,
            dst: nobodys,
            src_name: alpha_name,
            dst_name: None,
            service: Some("default/to-nobody:53/UDP"),
        };
        drops(&cluster, alpha, "node-1 from_pod no_backend", &expected, || {
            send_datagrams(nobodys, SERVICE_UDP_PORT)
        });
        let betas = family.of(cluster.service("beta", "alpha").addresses);
        let expected = ExpectedDrop {
            src: own,
            dst: betas,
            src_name: alpha_name,
            dst_name: None,
            service: Some("default/to-beta"),
        };
        drops(&cluster, alpha, "node-1 from_pod no_service_port", &expected, || {
            send_datagrams(betas, NO_SERVICE_PORT)
        });
    }
    // Spoofed neighbour discovery.
    let beta = cluster.endpoint("beta").addresses.ipv4;
    let expected = ExpectedDrop {
        src: beta.into(),
        dst: beta.into(),
        src_name: Some("default/alpha"),
        dst_name: Some("default/beta"),
        service: None,
    };
    let send = || send_frames(&frame::arp(mac, beta));
    drops(&cluster, alpha, "node-1 from_pod spoofed_neighbour", &expected, send);
    cluster.down();
}

/// Fields of the last sampled drop.
#[derive(Debug)]
struct ExpectedDrop {
    src: IpAddr,
    dst: IpAddr,
    src_name: Option<&'static str>,
    dst_name: Option<&'static str>,
    service: Option<&'static str>,
}

/// Sends packets and checks counters and events: exactly this number of
/// packets for this reason at this hook, and no other drops.
fn drops(
    cluster: &Cluster,
    from: &Endpoint,
    counter: &str,
    expected: &ExpectedDrop,
    send: impl FnOnce() + Send,
) {
    let before = Shown::of(cluster).counters;
    from.netns.enter(send).unwrap();
    let mut after = Shown::of(cluster);
    cluster.lab.wait_until(&format!("{counter} is reported: {expected:?}"), Duration::from_secs(5), || {
        after = Shown::of(cluster);
        after.is_reported(counter, expected)
    });
    let mut new = after.counters;
    for (counter, packets) in &before {
        *new.get_mut(counter).unwrap() -= packets;
    }
    new.retain(|_, packets| *packets > 0);
    assert_eq!(new, BTreeMap::from([(counter.to_owned(), PACKETS)]), "{expected:?}");
}

/// Output of `beeline drops`.
struct Shown {
    /// Counters by node, hook and reason.
    counters: BTreeMap<String, u64>,
    recent: Vec<serde_json::Value>,
}

impl Shown {
    fn of(cluster: &Cluster) -> Shown {
        let shown: serde_json::Value = cluster.lab.cli_json(&["drops"]);
        let text = |row: &serde_json::Value, key: &str| row[key].as_str().unwrap().to_owned();
        let counters = shown["counters"].as_array().unwrap().iter().map(|row| {
            let counter_name = [text(row, "node"), text(row, "hook"), text(row, "what")].join(" ");
            (counter_name, row["packets"].as_u64().unwrap())
        });
        Shown { counters: counters.collect(), recent: shown["recent"].as_array().unwrap().clone() }
    }

    /// Whether the last event of the node is the expected one, with all names.
    fn is_reported(&self, counter: &str, expected: &ExpectedDrop) -> bool {
        self.recent.iter().any(|drop| {
            let text = |key: &str| drop[key].as_str();
            let counter_name =
                [text("node"), text("hook"), text("reason")].map(Option::unwrap_or_default).join(" ");
            let address = |key: &str| text(key).and_then(|text| text.parse::<IpAddr>().ok());
            counter_name == counter
                && address("src") == Some(expected.src)
                && address("dst") == Some(expected.dst)
                && text("src_name") == expected.src_name
                && text("dst_name") == expected.dst_name
                && text("service_name") == expected.service
        })
    }
}

fn own_mac(endpoint: &Endpoint) -> Mac {
    let shown: serde_json::Value = serde_json::from_str(&endpoint.shell("ip -j link show eth0")).unwrap();
    let mut bytes = shown[0]["address"].as_str().unwrap().split(':');
    std::array::from_fn(|_| u8::from_str_radix(bytes.next().unwrap(), 16).unwrap())
}

fn send_frames(frame: &[u8]) {
    for _ in 0..PACKETS {
        frame::send("eth0", frame).unwrap();
    }
}

fn send_datagrams(to: IpAddr, port: u16) {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    // Not connected: an ICMP error for one datagram would be reported on the
    // next call.
    let socket = UdpSocket::bind(any).unwrap();
    for _ in 0..PACKETS {
        socket.send_to(b"is anybody there?", SocketAddr::new(to, port)).unwrap();
    }
}
