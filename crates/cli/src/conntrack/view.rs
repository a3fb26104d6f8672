//! A connection tracking entry from the client's point of view.

use std::collections::HashSet;
use std::net::IpAddr;

use anyhow::Result;
use beeline_abi::address::kind;
use beeline_abi::conntrack::{ConntrackKey, ConntrackValue, flags};
use beeline_abi::ip::proto;

use crate::live::Live;
use crate::names::socket_address;

/// Address and port, or the identifier of an ICMP echo.
pub type AddressPort = (IpAddr, u16);

/// A connection, read from one of its entries. A translated connection has two
/// entries: one matches its requests, the other its replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// IP protocol.
    pub proto: u8,
    /// Client, before source NAT.
    pub client: AddressPort,
    /// Destination before NAT.
    pub original_dst: AddressPort,
    /// Server: the backend, or the original destination without destination NAT.
    pub server: AddressPort,
    /// Source as the server sees it: the SNAT address, or the client without source NAT.
    pub snat_src: AddressPort,
    /// This is the reply entry of a translated connection.
    pub is_reply_entry: bool,
}

impl View {
    /// Reads an entry. `own` holds the addresses of the node that has the table.
    pub fn of(key: &ConntrackKey, value: &ConntrackValue, own: &HashSet<IpAddr>) -> View {
        let a = (IpAddr::from(key.ip_a), key.port_a.get());
        let b = (IpAddr::from(key.ip_b), key.port_b.get());
        let (origin, destination) = if value.flags & flags::ORIGIN_A != 0 { (a, b) } else { (b, a) };
        let nat = (IpAddr::from(value.nat_ip), value.nat_port.get());
        let snat = (IpAddr::from(value.snat_ip), value.snat_port.get());
        let has = |flag| value.flags & flag != 0;
        // Without destination NAT both entries have the same flags; the origin of
        // the reply entry is then an address of the node.
        let is_reply_entry =
            has(flags::REPLY_SNAT) || (has(flags::SNAT) && !has(flags::DNAT) && own.contains(&origin.0));
        let other = if has(flags::SNAT) { snat } else { origin };
        let (client, snat_src) = if is_reply_entry { (other, origin) } else { (origin, other) };
        let (original_dst, server) = match (has(flags::REPLY_SNAT), has(flags::DNAT)) {
            (true, _) => (nat, destination),
            (_, true) => (destination, nat),
            _ => (destination, destination),
        };
        View { proto: key.proto, client, original_dst, server, snat_src, is_reply_entry }
    }

    /// Whether source NAT applies.
    pub fn is_snatted(&self) -> bool {
        self.snat_src != self.client
    }

    /// All addresses of the connection, before and after NAT.
    pub fn addresses(&self) -> [IpAddr; 4] {
        [self.client.0, self.original_dst.0, self.server.0, self.snat_src.0]
    }

    /// Formats an address and port; the port is omitted for ICMP.
    pub fn format(&self, (ip, port): AddressPort) -> String {
        let icmp = matches!(self.proto, proto::ICMP | proto::ICMPV6);
        socket_address(ip, if icmp { 0 } else { port })
    }
}

/// The addresses of the node itself.
pub fn own_addresses(live: &Live) -> Result<HashSet<IpAddr>> {
    let entries = live.addresses()?;
    let own = entries.into_iter().filter(|(_, value)| value.kind == kind::LOCAL_NODE);
    Ok(own.map(|(key, _)| IpAddr::from(key.ip)).collect())
}

#[cfg(test)]
pub mod tests {
    use beeline_abi::{Ip, Port};

    use super::*;

    fn end(text: &str) -> AddressPort {
        let end: std::net::SocketAddr = text.parse().unwrap();
        (end.ip(), end.port())
    }

    /// An entry from `origin` to `destination`.
    pub fn entry(
        origin: &str,
        destination: &str,
        bits: u16,
        nat: &str,
        second: &str,
    ) -> (ConntrackKey, ConntrackValue) {
        let ((a, ap), (b, bp)) = (end(origin), end(destination));
        let key = ConntrackKey {
            ip_a: Ip::from(a),
            ip_b: Ip::from(b),
            port_a: Port::new(ap),
            port_b: Port::new(bp),
            proto: proto::TCP,
            ..Default::default()
        };
        let ((nat_ip, nat_port), (snat_ip, snat_port)) = (end(nat), end(second));
        let value = ConntrackValue {
            flags: flags::ORIGIN_A | bits,
            nat_ip: nat_ip.into(),
            nat_port: Port::new(nat_port),
            snat_ip: snat_ip.into(),
            snat_port: Port::new(snat_port),
            expires: 110,
            ..Default::default()
        };
        (key, value)
    }

    #[test]
    fn unit_both_entries_of_a_connection_give_the_same_view() {
        let own = HashSet::from(["172.30.0.11".parse().unwrap()]);
        let (client, vip) = ("198.51.100.7:5000", "172.30.0.11:30080");
        let (source, backend) = ("172.30.0.11:61000", "10.244.2.9:8080");
        let both = [
            entry(client, vip, flags::DNAT | flags::SNAT, backend, source),
            entry(source, backend, flags::REPLY_SNAT | flags::SNAT, vip, client),
        ];
        let [first, second] = both.map(|(key, value)| View::of(&key, &value, &own));
        assert!(!first.is_reply_entry && second.is_reply_entry);
        assert_eq!(View { is_reply_entry: false, ..second }, first);
        assert_eq!(
            (first.format(first.client), first.format(first.snat_src)),
            (client.into(), source.into())
        );
        assert_eq!(
            (first.format(first.original_dst), first.format(first.server)),
            (vip.into(), backend.into())
        );
    }

    #[test]
    fn unit_a_masqueraded_connection_starts_at_the_pod() {
        let own = HashSet::from(["172.30.0.11".parse().unwrap()]);
        let (pod, outside, source) = ("10.244.1.5:4000", "198.51.100.7:53", "172.30.0.11:61001");
        let both = [
            entry(pod, outside, flags::SNAT, "0.0.0.0:0", source),
            entry(source, outside, flags::SNAT, "0.0.0.0:0", pod),
        ];
        let [first, second] = both.map(|(key, value)| View::of(&key, &value, &own));
        assert_eq!(View { is_reply_entry: false, ..second }, first);
        assert_eq!((first.client, first.server, first.snat_src), (end(pod), end(outside), end(source)));
        assert!(second.is_reply_entry && first.is_snatted());
    }

    #[test]
    fn unit_a_flow_without_nat_has_one_entry() {
        let (key, value) = entry("10.244.1.5:4000", "10.244.2.6:80", 0, "0.0.0.0:0", "0.0.0.0:0");
        let view = View::of(&key, &value, &HashSet::new());
        assert_eq!((view.client, view.original_dst), (view.snat_src, view.server));
        assert!(!view.is_reply_entry && !view.is_snatted());
    }
}
