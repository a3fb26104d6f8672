//! `beeline conntrack`: the table of connections.

use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::Result;
use beeline_abi::conntrack::{ConntrackKey, ConntrackValue, TICK_SHIFT, flags, tick};
use beeline_abi::ip::proto;
use clap::{Args, Subcommand};
use serde::Serialize;

use crate::gather;
use crate::live::Live;
use crate::names::{protocol, socket_address};
use crate::output::{self, Format, Row, grouped};
use crate::place::Place;

const TCP_FIN: u8 = 1;
const TCP_RST: u8 = 4;

/// What to show.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Connections
    List(Filter),
}

/// Which connections.
#[derive(Debug, Args)]
pub struct Filter {
    /// Only those with this address
    #[arg(long)]
    pub address: Option<IpAddr>,
    /// Expired entries too, which the datapath reclaims
    #[arg(long)]
    pub expired: bool,
}

/// An entry.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Connection {
    node: String,
    protocol: String,
    /// Who began.
    origin: String,
    /// To whom.
    destination: String,
    /// `service` entries translate requests, `flow` entries carry the rest.
    entry: &'static str,
    /// What is translated to, if anything.
    translated: Option<String>,
    state: &'static str,
    /// Seconds left; negative = expired.
    expires_in_s: i64,
    packets_origin: u64,
    packets_reply: u64,
    bytes_origin: u64,
    bytes_reply: u64,
    service: u32,
    backend: u32,
}

impl Row for Connection {
    const HEADER: &'static [&'static str] =
        &["NODE", "PROTO", "FROM", "TO", "TRANSLATED", "STATE", "EXPIRES", "PACKETS", "REPLIES"];
    fn cells(&self) -> Vec<String> {
        vec![
            self.node.clone(),
            self.protocol.clone(),
            self.origin.clone(),
            self.destination.clone(),
            self.translated.clone().unwrap_or_else(|| "-".into()),
            self.state.into(),
            format!("{} s", self.expires_in_s),
            grouped(self.packets_origin),
            grouped(self.packets_reply),
        ]
    }
}

/// `beeline conntrack list`.
pub fn list(filter: &Filter, places: &[Place], format: Format) -> Result<ExitCode> {
    let now = tick(monotonic_ns());
    let (mut rows, code) = gather(places, |place| {
        let entries = Live::open(place)?.connections()?;
        let wanted = entries.iter().filter(|(key, value)| filter.admits(key, value, now));
        Ok(wanted.map(|(key, value)| connection(&place.label, key, value, now)).collect())
    });
    rows.sort_by(|a, b| (&a.node, &a.protocol, &a.origin).cmp(&(&b.node, &b.protocol, &b.origin)));
    output::print(&rows, format, "No connection is tracked.")?;
    Ok(code)
}

impl Filter {
    fn admits(&self, key: &ConntrackKey, value: &ConntrackValue, now: u32) -> bool {
        let alive = self.expired || value.expires > now;
        alive
            && self.address.is_none_or(|ip| {
                [key.ip_a, key.ip_b, value.nat_ip].into_iter().any(|end| IpAddr::from(end) == ip)
            })
    }
}

fn connection(node: &str, key: &ConntrackKey, value: &ConntrackValue, now: u32) -> Connection {
    let a = (IpAddr::from(key.ip_a), key.port_a.get());
    let b = (IpAddr::from(key.ip_b), key.port_b.get());
    let (origin, destination) = if value.flags & flags::ORIGIN_A != 0 { (a, b) } else { (b, a) };
    let icmp = matches!(key.proto, proto::ICMP | proto::ICMPV6);
    let shown = |(ip, port): (IpAddr, u16)| socket_address(ip, if icmp { 0 } else { port });
    let nat = (IpAddr::from(value.nat_ip), value.nat_port.get());
    let translated = if value.flags & flags::DNAT != 0 {
        Some(format!("to {}", shown(nat)))
    } else if value.flags & flags::REPLY_SNAT != 0 {
        Some(format!("replies from {}", shown(nat)))
    } else {
        None
    };
    Connection {
        node: node.to_owned(),
        protocol: protocol(key.proto),
        origin: shown(origin),
        destination: shown(destination),
        entry: if value.flags & flags::DNAT != 0 { "service" } else { "flow" },
        translated,
        state: state(key.proto, value),
        expires_in_s: seconds(i64::from(value.expires) - i64::from(now)),
        packets_origin: value.packets_origin,
        packets_reply: value.packets_reply,
        bytes_origin: value.bytes_origin,
        bytes_reply: value.bytes_reply,
        service: value.service,
        backend: value.backend,
    }
}

fn state(protocol: u8, value: &ConntrackValue) -> &'static str {
    let closed = (value.tcp_origin | value.tcp_reply) & TCP_RST != 0
        || value.tcp_origin & value.tcp_reply & TCP_FIN != 0;
    match value.flags & flags::REPLIED != 0 {
        _ if protocol == proto::TCP && closed => "closing",
        true if protocol == proto::TCP => "established",
        true => "replied",
        false => "opening",
    }
}

fn seconds(ticks: i64) -> i64 {
    (ticks << TICK_SHIFT) / 1_000_000_000
}

/// `CLOCK_MONOTONIC`, the clock of the datapath; 0 if the system has none.
fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid timespec for the call to fill in.
    unsafe {
        libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now);
    }
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use beeline_abi::{Ip, Port};

    #[test]
    fn unit_a_service_connection_reads_as_its_client_sees_it() {
        let ip = |text: &str| Ip::from(text.parse::<IpAddr>().unwrap());
        let key = ConntrackKey {
            ip_a: ip("10.96.0.7"),
            ip_b: ip("10.244.1.5"),
            port_a: Port::new(80),
            port_b: Port::new(40_000),
            proto: proto::TCP,
            ..Default::default()
        };
        let value = ConntrackValue {
            nat_ip: ip("10.244.2.9"),
            nat_port: Port::new(8080),
            flags: flags::DNAT | flags::REPLIED,
            expires: 110,
            ..Default::default()
        };
        let row = connection("node-1", &key, &value, 100);
        assert_eq!((row.origin.as_str(), row.destination.as_str()), ("10.244.1.5:40000", "10.96.0.7:80"));
        assert_eq!((row.translated.as_deref(), row.state), (Some("to 10.244.2.9:8080"), "established"));
        assert_eq!(row.expires_in_s, 10);

        let filter = |address: &str| Filter { address: Some(address.parse().unwrap()), expired: false };
        assert!(
            filter("10.244.2.9").admits(&key, &value, 100) && !filter("10.244.9.9").admits(&key, &value, 100)
        );
        assert!(!filter("10.244.2.9").admits(&key, &value, 110), "an expired entry is not shown");
    }
}
