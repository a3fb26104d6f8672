//! `beeline nat`: source NAT in use on this node, and port utilisation.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use serde::Serialize;

use crate::conntrack::{Filter, Query, View, for_each_target, own_addresses, seconds_left};
use crate::live::Live;
use crate::names::{protocol, socket_address};
use crate::output::{self, Format, Row, grouped};
use crate::target::Target;

/// Subcommands.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List connections with source NAT
    List(Filter),
    /// Show the destinations with the highest NAT port utilisation
    Top(Top),
}

/// Arguments of `nat top`.
#[derive(Debug, Args)]
pub struct Top {
    /// Maximum number of lines
    #[arg(short = 'n', long, default_value_t = 20, value_name = "LINES")]
    limit: usize,
    #[command(flatten)]
    filter: Filter,
}

/// A source NAT mapping.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct SnatMapping {
    node: String,
    protocol: String,
    client: String,
    /// Translated source address and port.
    source: String,
    destination: String,
    pod: Option<String>,
    service: Option<String>,
    /// Remaining time in seconds; negative if expired.
    expires_in_s: i64,
}

impl Row for SnatMapping {
    const HEADER: &'static [&'static str] =
        &["NODE", "PROTO", "CLIENT", "SNAT ADDRESS", "DESTINATION", "POD", "SERVICE", "EXPIRES"];
    fn cells(&self) -> Vec<String> {
        let or_dash = |name: &Option<String>| name.clone().unwrap_or_else(|| "-".into());
        vec![
            self.node.clone(),
            self.protocol.clone(),
            self.client.clone(),
            self.source.clone(),
            self.destination.clone(),
            or_dash(&self.pod),
            or_dash(&self.service),
            format!("{} s", self.expires_in_s),
        ]
    }
}

/// The NAT ports of one node address towards one destination.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Pool {
    node: String,
    protocol: String,
    source: IpAddr,
    destination: String,
    ports_taken: u64,
    /// Size of the NAT port range.
    ports: u64,
    clients: u64,
}

impl Row for Pool {
    const HEADER: &'static [&'static str] =
        &["NODE", "PROTO", "SNAT ADDRESS", "DESTINATION", "PORTS USED", "PORTS", "UTILISATION", "CLIENTS"];
    fn cells(&self) -> Vec<String> {
        vec![
            self.node.clone(),
            self.protocol.clone(),
            self.source.to_string(),
            self.destination.clone(),
            grouped(self.ports_taken),
            grouped(self.ports),
            format!("{} %", self.ports_taken * 100 / self.ports.max(1)),
            grouped(self.clients),
        ]
    }
}

/// `beeline nat ...`.
pub fn run(verb: &Verb, targets: &[Target], format: Format) -> Result<ExitCode> {
    match verb {
        Verb::List(filter) => {
            let (mut rows, code) = for_each_target(filter, targets, list)?;
            rows.sort_by(|a, b| (&a.node, &a.protocol, &a.source).cmp(&(&b.node, &b.protocol, &b.source)));
            output::print(&rows, format, "No SNAT mappings found.")?;
            Ok(code)
        }
        Verb::Top(top) => {
            let (mut rows, code) = for_each_target(&top.filter, targets, |target, live, query| {
                let config = live.pinned().config()?;
                let views = translated(live, query)?;
                let ports = (config.nat_port_first, config.nat_port_last);
                Ok(pools(&target.label, views.into_iter().map(|(view, ..)| view), ports))
            })?;
            rows.sort_by(|a, b| {
                (b.ports_taken, &a.node, &a.destination).cmp(&(a.ports_taken, &b.node, &b.destination))
            });
            rows.truncate(top.limit);
            output::print(&rows, format, "No SNAT mappings found.")?;
            Ok(code)
        }
    }
}

/// The SNAT connections of a node, each once, with Service id and expiry tick.
fn translated(live: &Live, query: &Query<'_>) -> Result<Vec<(View, u32, u32)>> {
    let (own, entries) = (own_addresses(live)?, live.connections()?);
    let views = entries.iter().map(|(key, value)| (View::of(key, value, &own), value));
    let matching =
        views.filter(|(view, value)| !view.is_reply_entry && view.is_snatted() && query.matches(view, value));
    Ok(matching.map(|(view, value)| (view, value.service, value.expires)).collect())
}

fn list(target: &Target, live: &Live, query: &Query<'_>) -> Result<Vec<SnatMapping>> {
    let names = query.names;
    let row = |(view, service, expires): (View, u32, u32)| SnatMapping {
        node: target.label.clone(),
        protocol: protocol(view.proto),
        client: view.format(view.client),
        source: socket_address(view.snat_src.0, view.snat_src.1),
        destination: view.format(view.server),
        pod: names.pod(view.client.0).map(str::to_owned),
        service: names.service(service).map(str::to_owned),
        expires_in_s: seconds_left(expires, query.now),
    };
    Ok(translated(live, query)?.into_iter().map(row).collect())
}

fn pools(node: &str, views: impl Iterator<Item = View>, (first, last): (u16, u16)) -> Vec<Pool> {
    type Usage = (HashSet<u16>, HashSet<IpAddr>);
    let mut pools: HashMap<(u8, IpAddr, String), Usage> = HashMap::new();
    // A port outside the range is the client's own port and uses none of the range.
    for view in views.filter(|view| (first..=last).contains(&view.snat_src.1)) {
        let (used_ports, clients) =
            pools.entry((view.proto, view.snat_src.0, view.format(view.server))).or_default();
        used_ports.insert(view.snat_src.1);
        clients.insert(view.client.0);
    }
    let pool = |((proto, source, destination), (used_ports, clients)): ((u8, IpAddr, String), Usage)| Pool {
        node: node.to_owned(),
        protocol: protocol(proto),
        source,
        destination,
        ports_taken: used_ports.len() as u64,
        ports: u64::from(last.saturating_sub(first)) + 1,
        clients: clients.len() as u64,
    };
    pools.into_iter().map(pool).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_only_ports_in_the_nat_range_are_counted_per_destination() {
        let end = |ip: &str, port: u16| (ip.parse::<IpAddr>().unwrap(), port);
        let view = |client: &str, port: u16, server: &str| View {
            proto: 6,
            client: end(client, port),
            original_dst: end(server, 443),
            server: end(server, 443),
            snat_src: end("172.30.0.11", port),
            is_reply_entry: false,
        };
        let views = [
            view("10.244.1.5", 61_000, "198.51.100.7"),
            view("10.244.1.6", 61_001, "198.51.100.7"),
            view("10.244.1.6", 40_000, "198.51.100.7"),
            view("10.244.1.6", 61_000, "198.51.100.8"),
        ];
        let mut pools = pools("node-1", views.into_iter(), (61_000, 61_099));
        pools.sort_by_key(|pool| pool.destination.clone());
        assert_eq!(pools[0].destination, "198.51.100.7:443");
        assert_eq!((pools[0].ports_taken, pools[0].ports, pools[0].clients), (2, 100, 2));
        assert_eq!(pools[0].cells()[6], "2 %");
        assert_eq!((pools[1].ports_taken, pools[1].clients), (1, 1));
    }
}
