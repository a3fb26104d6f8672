//! `beeline conntrack`: the connection tracking table.

mod filter;
mod top;
mod view;

use std::process::ExitCode;

use anyhow::Result;
use beeline_abi::conntrack::{ConntrackKey, ConntrackValue, TICK_SHIFT, flags, tick};
use beeline_abi::ip::proto;
use clap::Subcommand;
use serde::Serialize;

pub use filter::{Filter, Query, for_each_target};
pub use top::Top;
pub use view::{View, own_addresses};

use crate::names::protocol;
use crate::output::{self, Format, Row, grouped};
use crate::target::Target;

const TCP_FIN: u8 = 1;
const TCP_RST: u8 = 4;

/// Subcommands.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List connections
    List(Filter),
    /// Rank clients, servers or Services by connections or bytes
    Top(Top),
}

/// A connection tracking entry.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Connection {
    node: String,
    protocol: String,
    /// Source of the original direction.
    origin: String,
    /// Destination of the original direction.
    destination: String,
    /// `service` entries translate requests, `flow` entries carry the rest.
    entry: &'static str,
    /// NAT of this entry, if any.
    translated: Option<String>,
    state: &'static str,
    /// Remaining time in seconds; negative if expired.
    expires_in_s: i64,
    packets_origin: u64,
    packets_reply: u64,
    bytes_origin: u64,
    bytes_reply: u64,
    service: u32,
    backend: u32,
    /// Client pod.
    client_pod: Option<String>,
    /// Server pod.
    server_pod: Option<String>,
    service_name: Option<String>,
}

impl Row for Connection {
    const HEADER: &'static [&'static str] = &[
        "NODE",
        "PROTO",
        "SOURCE",
        "DESTINATION",
        "NAT",
        "STATE",
        "EXPIRES",
        "ORIGINAL PACKETS",
        "REPLY PACKETS",
    ];
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

/// `beeline conntrack ...`.
pub fn run(verb: &Verb, targets: &[Target], format: Format) -> Result<ExitCode> {
    match verb {
        Verb::List(filter) => list(filter, targets, format),
        Verb::Top(top) => {
            let (rows, code) = for_each_target(&top.filter, targets, |target, live, query| {
                let (own, entries) = (own_addresses(live)?, live.connections()?);
                let views = entries.iter().map(|(key, value)| (View::of(key, value, &own), value));
                let matching = views.filter(|(view, value)| query.matches(view, value));
                Ok(top::count(&target.label, top.by, matching, query.names))
            })?;
            let rows = top::sort_and_truncate(rows, top.sort, top.limit);
            output::print(&rows, format, "No connections found.")?;
            Ok(code)
        }
    }
}

fn list(filter: &Filter, targets: &[Target], format: Format) -> Result<ExitCode> {
    let (mut rows, code) = for_each_target(filter, targets, |target, live, query| {
        let (own, entries) = (own_addresses(live)?, live.connections()?);
        let views = entries.iter().map(|(key, value)| (View::of(key, value, &own), key, value));
        let matching = views.filter(|(view, _, value)| query.matches(view, value));
        Ok(matching.map(|(view, key, value)| connection(&target.label, key, &view, value, query)).collect())
    })?;
    rows.sort_by(|a, b| (&a.node, &a.protocol, &a.origin).cmp(&(&b.node, &b.protocol, &b.origin)));
    output::print(&rows, format, "No connections found.")?;
    Ok(code)
}

fn connection(
    node: &str,
    key: &ConntrackKey,
    view: &View,
    value: &ConntrackValue,
    Query { names, now, .. }: &Query<'_>,
) -> Connection {
    // The addresses of the packets that match this entry.
    let (origin, destination) =
        if view.is_reply_entry { (view.snat_src, view.server) } else { (view.client, view.original_dst) };
    Connection {
        node: node.to_owned(),
        protocol: protocol(key.proto),
        origin: view.format(origin),
        destination: view.format(destination),
        entry: if value.flags & flags::DNAT != 0 { "service" } else { "flow" },
        translated: translation(view),
        state: state(key.proto, value),
        expires_in_s: seconds_left(value.expires, *now),
        packets_origin: value.packets_origin,
        packets_reply: value.packets_reply,
        bytes_origin: value.bytes_origin,
        bytes_reply: value.bytes_reply,
        service: value.service,
        backend: value.backend,
        client_pod: names.pod(view.client.0).map(str::to_owned),
        server_pod: names.pod(view.server.0).map(str::to_owned),
        service_name: names.service(value.service).map(str::to_owned),
    }
}

/// NAT that this entry applies: to requests, or to replies if it is the reply
/// entry.
fn translation(view: &View) -> Option<String> {
    let mut parts = Vec::new();
    if view.is_reply_entry {
        if view.original_dst != view.server {
            parts.push(format!("reply SNAT to {}", view.format(view.original_dst)));
        }
        if view.is_snatted() {
            parts.push(format!("reply DNAT to {}", view.format(view.client)));
        }
    } else {
        if view.original_dst != view.server {
            parts.push(format!("DNAT to {}", view.format(view.server)));
        }
        if view.is_snatted() {
            parts.push(format!("SNAT to {}", crate::names::socket_address(view.snat_src.0, view.snat_src.1)));
        }
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// Whether a reply has been seen.
fn is_replied(value: &ConntrackValue) -> bool {
    value.flags & flags::REPLIED != 0
}

fn state(protocol: u8, value: &ConntrackValue) -> &'static str {
    let closed = (value.tcp_origin | value.tcp_reply) & TCP_RST != 0
        || value.tcp_origin & value.tcp_reply & TCP_FIN != 0;
    match is_replied(value) {
        _ if protocol == proto::TCP && closed => "closing",
        true if protocol == proto::TCP => "established",
        true => "replied",
        false => "unreplied",
    }
}

/// Seconds until a tick; negative if it is in the past.
pub fn seconds_left(tick: u32, now: u32) -> i64 {
    ((i64::from(tick) - i64::from(now)) << TICK_SHIFT) / 1_000_000_000
}

/// The present tick of the datapath.
pub fn now() -> u32 {
    tick(monotonic_ns())
}

/// `CLOCK_MONOTONIC` in nanoseconds; 0 if it cannot be read.
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
    use std::collections::HashSet;

    use super::view::tests::entry;
    use super::*;
    use crate::names::Directory;

    fn row(entry: &(ConntrackKey, ConntrackValue)) -> Connection {
        let view = View::of(&entry.0, &entry.1, &HashSet::from(["172.30.0.11".parse().unwrap()]));
        let names = Directory::default();
        let query = Query { filter: &Filter::default(), names: &names, now: 100 };
        connection("node-1", &entry.0, &view, &entry.1, &query)
    }

    #[test]
    fn unit_a_service_connection_is_shown_from_the_client_side() {
        let (client, vip, backend) = ("10.244.1.5:40000", "10.96.0.7:80", "10.244.2.9:8080");
        let row = row(&entry(client, vip, flags::DNAT | flags::REPLIED, backend, "0.0.0.0:0"));
        assert_eq!((row.origin.as_str(), row.destination.as_str()), (client, vip));
        assert_eq!((row.translated.as_deref(), row.state), (Some("DNAT to 10.244.2.9:8080"), "established"));
        assert_eq!((row.expires_in_s, row.entry), (10, "service"));
    }

    #[test]
    fn unit_snat_is_shown_in_both_directions() {
        let (client, vip) = ("198.51.100.7:5000", "172.30.0.11:30080");
        let (source, backend) = ("172.30.0.11:61000", "10.244.2.9:8080");
        let first = row(&entry(client, vip, flags::DNAT | flags::SNAT, backend, source));
        assert_eq!(first.translated.as_deref(), Some("DNAT to 10.244.2.9:8080, SNAT to 172.30.0.11:61000"));
        let second = row(&entry(source, backend, flags::REPLY_SNAT | flags::SNAT, vip, client));
        let expected = "reply SNAT to 172.30.0.11:30080, reply DNAT to 198.51.100.7:5000";
        assert_eq!(second.translated.as_deref(), Some(expected));
        assert_eq!((second.origin.as_str(), second.destination.as_str()), (source, backend));
    }
}
