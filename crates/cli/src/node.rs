//! `beeline node`: nodes as programmed in the datapath.

use std::collections::HashMap;
use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::Result;
use beeline_abi::Ip;
use beeline_abi::address::{AddressKey, AddressValue, kind};
use beeline_abi::node::{NodeValue, mode};
use clap::Subcommand;
use serde::Serialize;

use crate::gather;
use crate::live::Live;
use crate::names::Directory;
use crate::output::{self, Format, Row};
use crate::target::Target;

/// Subcommands.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List nodes with their addresses, pod CIDRs and routing mode
    List,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct NodeRow {
    node: String,
    id: u32,
    name: Option<String>,
    own: bool,
    mode: &'static str,
    addresses: Vec<IpAddr>,
    pod_cidrs: Vec<String>,
    /// In bytes; 0: the MTU of the route applies.
    path_mtu: u16,
}

impl Row for NodeRow {
    const HEADER: &'static [&'static str] =
        &["NODE", "ID", "NAME", "MODE", "ADDRESSES", "POD CIDRS", "PATH MTU"];
    fn cells(&self) -> Vec<String> {
        let joined = |list: Vec<String>| list.join(" ");
        vec![
            self.node.clone(),
            self.id.to_string(),
            self.name.clone().unwrap_or_else(|| "-".into()),
            if self.own { "local" } else { self.mode }.into(),
            joined(self.addresses.iter().map(ToString::to_string).collect()),
            joined(self.pod_cidrs.clone()),
            if self.path_mtu == 0 { "from route".into() } else { self.path_mtu.to_string() },
        ]
    }
}

/// `beeline node list`.
pub fn list(targets: &[Target], format: Format) -> Result<ExitCode> {
    let (rows, code) = gather(targets, |target| {
        let names = Directory::fetch(target);
        let live = Live::open(target)?;
        Ok(rows(&target.label, &live.nodes()?, &live.addresses()?, &names))
    });
    output::print(&rows, format, "No nodes found.")?;
    Ok(code)
}

fn rows(
    label: &str,
    nodes: &[(u32, NodeValue)],
    addresses: &[(AddressKey, AddressValue)],
    names: &Directory,
) -> Vec<NodeRow> {
    let mut pod_cidrs_of: HashMap<u32, Vec<String>> = HashMap::new();
    for (key, value) in addresses.iter().filter(|(_, v)| matches!(v.kind, kind::LOCAL_POD | kind::REMOTE_POD))
    {
        pod_cidrs_of.entry(value.node).or_default().push(prefix(key));
    }
    let own = |id: u32| addresses.iter().any(|(_, v)| v.kind == kind::LOCAL_NODE && v.node == id);
    let mut rows: Vec<NodeRow> = nodes
        .iter()
        .map(|(id, value)| {
            let addresses: Vec<IpAddr> = [value.ipv4, value.ipv6]
                .into_iter()
                .filter(|ip| *ip != Ip::UNSPECIFIED)
                .map(IpAddr::from)
                .collect();
            let mut pod_cidrs = pod_cidrs_of.remove(id).unwrap_or_default();
            pod_cidrs.sort();
            NodeRow {
                node: label.to_owned(),
                id: *id,
                name: addresses.iter().find_map(|ip| names.node(*ip)).map(str::to_owned),
                own: own(*id),
                mode: mode_name(value.mode),
                addresses,
                pod_cidrs,
                path_mtu: value.path_mtu,
            }
        })
        .collect();
    rows.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
    rows
}

fn mode_name(number: u8) -> &'static str {
    match number {
        mode::NATIVE => "native",
        mode::TUNNEL => "tunnel",
        _ => "unknown",
    }
}

/// A prefix in CIDR notation. The map counts bits of the 128-bit form.
fn prefix(key: &AddressKey) -> String {
    let bits = if key.ip.is_v4() { key.prefix_bits.saturating_sub(96) } else { key.prefix_bits };
    format!("{}/{bits}", key.ip)
}

#[cfg(test)]
mod tests {
    use super::*;
    use beeline_api::Names;

    #[test]
    fn unit_a_node_is_listed_with_its_pod_cidrs() {
        let ip = |text: &str| Ip::from(text.parse::<IpAddr>().unwrap());
        let value = NodeValue { mode: mode::NATIVE, ipv4: ip("172.30.0.12"), ..Default::default() };
        let pod_cidr = |text: &str, bits| {
            let key = AddressKey { prefix_bits: bits, ip: ip(text) };
            (key, AddressValue { kind: kind::REMOTE_POD, node: 2, ..Default::default() })
        };
        let names = Directory::new(Names {
            nodes: vec![("172.30.0.12".parse().unwrap(), "node-2".into())],
            ..Default::default()
        });
        let rows = rows(
            "node-1",
            &[(2, value)],
            &[pod_cidr("10.244.2.0", 120), pod_cidr("fd00:10:244:2::", 64)],
            &names,
        );
        assert_eq!(rows[0].name.as_deref(), Some("node-2"));
        assert_eq!(rows[0].pod_cidrs, ["10.244.2.0/24", "fd00:10:244:2::/64"]);
        assert_eq!(rows[0].cells()[3], "native");
    }
}
