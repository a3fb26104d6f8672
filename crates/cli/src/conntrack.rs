//! `beeline conntrack`: the table of connections.

mod filter;
mod top;
mod view;

use std::process::ExitCode;

use anyhow::Result;
use beeline_abi::conntrack::{ConntrackKey, ConntrackValue, TICK_SHIFT, flags, tick};
use beeline_abi::ip::proto;
use clap::Subcommand;
use serde::Serialize;

pub use filter::{Filter, Question, ask};
pub use top::Top;
pub use view::{View, own_addresses};

use crate::names::protocol;
use crate::output::{self, Format, Row, grouped};
use crate::place::Place;

const TCP_FIN: u8 = 1;
const TCP_RST: u8 = 4;

/// What to show.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Connections
    List(Filter),
    /// Who has most connections
    Top(Top),
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
    /// The pod that began.
    client_pod: Option<String>,
    /// The pod that serves.
    server_pod: Option<String>,
    service_name: Option<String>,
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

/// `beeline conntrack ...`.
pub fn run(verb: &Verb, places: &[Place], format: Format) -> Result<ExitCode> {
    match verb {
        Verb::List(filter) => list(filter, places, format),
        Verb::Top(top) => {
            let (rows, code) = ask(&top.filter, places, |place, live, question| {
                let (own, entries) = (own_addresses(live)?, live.connections()?);
                let views = entries.iter().map(|(key, value)| (View::of(key, value, &own), value));
                let wanted = views.filter(|(view, value)| question.admits(view, value));
                Ok(top::count(&place.label, top.by, wanted, question.names))
            })?;
            let rows = top::first(rows, top.sort, top.limit);
            output::print(&rows, format, "No connection is tracked.")?;
            Ok(code)
        }
    }
}

fn list(filter: &Filter, places: &[Place], format: Format) -> Result<ExitCode> {
    let (mut rows, code) = ask(filter, places, |place, live, question| {
        let (own, entries) = (own_addresses(live)?, live.connections()?);
        let views = entries.iter().map(|(key, value)| (View::of(key, value, &own), key, value));
        let wanted = views.filter(|(view, _, value)| question.admits(view, value));
        Ok(wanted.map(|(view, key, value)| connection(&place.label, key, &view, value, question)).collect())
    })?;
    rows.sort_by(|a, b| (&a.node, &a.protocol, &a.origin).cmp(&(&b.node, &b.protocol, &b.origin)));
    output::print(&rows, format, "No connection is tracked.")?;
    Ok(code)
}

fn connection(
    node: &str,
    key: &ConntrackKey,
    view: &View,
    value: &ConntrackValue,
    Question { names, now, .. }: &Question<'_>,
) -> Connection {
    // What is on the wire where this entry is found.
    let (origin, destination) =
        if view.is_second { (view.seen, view.server) } else { (view.client, view.asked) };
    Connection {
        node: node.to_owned(),
        protocol: protocol(key.proto),
        origin: view.shown(origin),
        destination: view.shown(destination),
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

/// What becomes of the ends: of the requests, or of the replies by the entry
/// that these find.
fn translation(view: &View) -> Option<String> {
    let mut words = Vec::new();
    if view.is_second {
        if view.asked != view.server {
            words.push(format!("replies from {}", view.shown(view.asked)));
        }
        if view.has_other_source() {
            words.push(format!("replies to {}", view.shown(view.client)));
        }
    } else {
        if view.asked != view.server {
            words.push(format!("to {}", view.shown(view.server)));
        }
        if view.has_other_source() {
            words.push(format!("as {}", crate::names::socket_address(view.seen.0, view.seen.1)));
        }
    }
    (!words.is_empty()).then(|| words.join(" "))
}

/// Has the responder answered?
fn is_answered(value: &ConntrackValue) -> bool {
    value.flags & flags::REPLIED != 0
}

fn state(protocol: u8, value: &ConntrackValue) -> &'static str {
    let closed = (value.tcp_origin | value.tcp_reply) & TCP_RST != 0
        || value.tcp_origin & value.tcp_reply & TCP_FIN != 0;
    match is_answered(value) {
        _ if protocol == proto::TCP && closed => "closing",
        true if protocol == proto::TCP => "established",
        true => "replied",
        false => "opening",
    }
}

/// Seconds until a tick; negative = it is past.
pub fn seconds_left(tick: u32, now: u32) -> i64 {
    ((i64::from(tick) - i64::from(now)) << TICK_SHIFT) / 1_000_000_000
}

/// Now, in the datapath's ticks.
pub fn now() -> u32 {
    tick(monotonic_ns())
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
    use std::collections::HashSet;

    use super::view::tests::entry;
    use super::*;
    use crate::names::Directory;

    fn row(entry: &(ConntrackKey, ConntrackValue)) -> Connection {
        let view = View::of(&entry.0, &entry.1, &HashSet::from(["172.30.0.11".parse().unwrap()]));
        let names = Directory::default();
        let question = Question { filter: &Filter::default(), names: &names, now: 100 };
        connection("node-1", &entry.0, &view, &entry.1, &question)
    }

    #[test]
    fn unit_a_service_connection_reads_as_its_client_sees_it() {
        let (client, vip, backend) = ("10.244.1.5:40000", "10.96.0.7:80", "10.244.2.9:8080");
        let row = row(&entry(client, vip, flags::DNAT | flags::REPLIED, backend, "0.0.0.0:0"));
        assert_eq!((row.origin.as_str(), row.destination.as_str()), (client, vip));
        assert_eq!((row.translated.as_deref(), row.state), (Some("to 10.244.2.9:8080"), "established"));
        assert_eq!((row.expires_in_s, row.entry), (10, "service"));
    }

    #[test]
    fn unit_a_translated_source_is_told_in_both_directions() {
        let (client, vip) = ("198.51.100.7:5000", "172.30.0.11:30080");
        let (source, backend) = ("172.30.0.11:61000", "10.244.2.9:8080");
        let first = row(&entry(client, vip, flags::DNAT | flags::SNAT, backend, source));
        assert_eq!(first.translated.as_deref(), Some("to 10.244.2.9:8080 as 172.30.0.11:61000"));
        let second = row(&entry(source, backend, flags::REPLY_SNAT | flags::SNAT, vip, client));
        let told = "replies from 172.30.0.11:30080 replies to 198.51.100.7:5000";
        assert_eq!(second.translated.as_deref(), Some(told));
        assert_eq!((second.origin.as_str(), second.destination.as_str()), (source, backend));
    }
}
