//! `beeline conntrack top`: clients, servers or Services by connections or bytes.

use std::collections::HashMap;

use beeline_abi::conntrack::ConntrackValue;
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::filter::Filter;
use super::view::View;
use crate::names::{Directory, protocol};
use crate::output::{Row, grouped};

/// Arguments of `conntrack top`.
#[derive(Debug, Args)]
pub struct Top {
    /// Group connections by
    #[arg(long, value_enum, default_value_t = GroupBy::Client)]
    pub by: GroupBy,
    /// Sort by
    #[arg(long, value_enum, default_value_t = Sort::Connections)]
    pub sort: Sort,
    /// Maximum number of lines
    #[arg(short = 'n', long, default_value_t = 20, value_name = "LINES")]
    pub limit: usize,
    #[command(flatten)]
    pub filter: Filter,
}

/// Grouping of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GroupBy {
    /// Client pod or address
    Client,
    /// Server pod or address
    Server,
    /// Service port, or `none`
    Service,
}

/// Sort order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Sort {
    /// Most connections
    Connections,
    /// Most connections without a reply
    Unanswered,
    /// Most bytes in both directions
    Bytes,
}

/// A client, server or Service on one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TopRow {
    node: String,
    who: String,
    protocol: String,
    connections: u64,
    unanswered: u64,
    packets: u64,
    bytes: u64,
}

impl Row for TopRow {
    const HEADER: &'static [&'static str] =
        &["NODE", "NAME", "PROTO", "CONNECTIONS", "UNANSWERED", "PACKETS", "BYTES"];
    fn cells(&self) -> Vec<String> {
        vec![
            self.node.clone(),
            self.who.clone(),
            self.protocol.clone(),
            grouped(self.connections),
            grouped(self.unanswered),
            grouped(self.packets),
            grouped(self.bytes),
        ]
    }
}

/// Counts the connections of a node. A translated connection has two entries:
/// it is counted once, and the packets of both entries are added up.
pub fn count<'a>(
    node: &str,
    by: GroupBy,
    entries: impl Iterator<Item = (View, &'a ConntrackValue)>,
    names: &Directory,
) -> Vec<TopRow> {
    let mut groups: HashMap<(String, u8), TopRow> = HashMap::new();
    for (view, value) in entries {
        let who = match by {
            GroupBy::Client => pod_or_node(view.client.0, names),
            GroupBy::Server => pod_or_node(view.server.0, names),
            GroupBy::Service if value.service == 0 => "none".to_owned(),
            GroupBy::Service => names
                .service(value.service)
                .map_or_else(|| format!("service {}", value.service), str::to_owned),
        };
        let row = groups.entry((who, view.proto)).or_default();
        if !view.is_reply_entry {
            row.connections += 1;
            row.unanswered += u64::from(!super::is_replied(value));
        }
        row.packets += value.packets_origin + value.packets_reply;
        row.bytes += value.bytes_origin + value.bytes_reply;
    }
    let finish = |((who, proto), row): ((String, u8), TopRow)| TopRow {
        node: node.to_owned(),
        who,
        protocol: protocol(proto),
        ..row
    };
    groups.into_iter().map(finish).collect()
}

fn pod_or_node(ip: std::net::IpAddr, names: &Directory) -> String {
    names.pod_or_node(ip).map_or_else(|| ip.to_string(), str::to_owned)
}

/// Sorts the rows and keeps the first `limit`.
pub fn sort_and_truncate(mut rows: Vec<TopRow>, sort: Sort, limit: usize) -> Vec<TopRow> {
    let weight = |row: &TopRow| match sort {
        Sort::Connections => row.connections,
        Sort::Unanswered => row.unanswered,
        Sort::Bytes => row.bytes,
    };
    rows.sort_by(|a, b| {
        let names = |row: &TopRow| (row.node.clone(), row.who.clone(), row.protocol.clone());
        weight(b).cmp(&weight(a)).then_with(|| names(a).cmp(&names(b)))
    });
    rows.truncate(limit);
    rows
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use beeline_abi::conntrack::flags;
    use beeline_api::Names;

    use super::super::view::tests::entry;
    use super::*;

    #[test]
    fn unit_a_translated_connection_counts_once_with_all_its_packets() {
        let (client, vip, backend) = ("10.244.1.5:4000", "10.96.0.7:80", "10.244.2.9:8080");
        let mut both = [
            entry(client, vip, flags::DNAT | flags::REPLIED, backend, "0.0.0.0:0"),
            entry(client, backend, flags::REPLY_SNAT | flags::REPLIED, vip, "0.0.0.0:0"),
            entry("10.244.1.6:4000", backend, 0, "0.0.0.0:0", "0.0.0.0:0"),
        ];
        (both[0].1.packets_origin, both[0].1.bytes_origin) = (3, 300);
        (both[1].1.packets_reply, both[1].1.bytes_reply) = (2, 5_000);
        (both[0].1.service, both[1].1.service) = (3, 3);
        let names = Directory::new(Names {
            pods: vec![("10.244.1.5".parse().unwrap(), "shop/client".into())],
            services: vec![(3, "shop/web:http".into())],
            ..Default::default()
        });
        let rows = |by, sort| {
            let own = HashSet::new();
            let entries = both.iter().map(|(key, value)| (View::of(key, value, &own), value));
            sort_and_truncate(count("node-1", by, entries, &names), sort, 10)
        };
        let clients = rows(GroupBy::Client, Sort::Bytes);
        assert_eq!((clients[0].who.as_str(), clients[0].connections), ("shop/client", 1));
        assert_eq!((clients[0].packets, clients[0].bytes, clients[0].unanswered), (5, 5_300, 0));
        assert_eq!((clients[1].who.as_str(), clients[1].unanswered), ("10.244.1.6", 1));
        let servers = rows(GroupBy::Server, Sort::Connections);
        assert_eq!((servers.len(), servers[0].who.as_str(), servers[0].connections), (1, "10.244.2.9", 2));
        let services = rows(GroupBy::Service, Sort::Connections);
        assert_eq!(
            services.iter().map(|row| row.who.as_str()).collect::<Vec<_>>(),
            ["none", "shop/web:http"]
        );
    }
}
