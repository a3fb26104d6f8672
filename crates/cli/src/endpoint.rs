//! `beeline endpoint`: local pod endpoints as programmed in the datapath.

use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::Result;
use beeline_abi::Ip;
use beeline_abi::endpoint::{EndpointValue, flags};
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
    /// List pod addresses with their devices
    List,
}

#[derive(Debug, Serialize)]
struct Endpoint {
    node: String,
    address: IpAddr,
    pod: Option<String>,
    ifindex: u32,
    pod_mac: String,
    mtu: u16,
    identity: u32,
    netns_cookie: u64,
    guarded: bool,
}

impl Row for Endpoint {
    const HEADER: &'static [&'static str] =
        &["NODE", "ADDRESS", "POD", "IFINDEX", "MAC", "MTU", "ANTI-SPOOFING"];
    fn cells(&self) -> Vec<String> {
        vec![
            self.node.clone(),
            self.address.to_string(),
            self.pod.clone().unwrap_or_else(|| "-".into()),
            self.ifindex.to_string(),
            self.pod_mac.clone(),
            self.mtu.to_string(),
            if self.guarded { "on" } else { "off" }.into(),
        ]
    }
}

/// `beeline endpoint list`.
pub fn list(targets: &[Target], format: Format) -> Result<ExitCode> {
    let (rows, code) = gather(targets, |target| {
        let names = Directory::fetch(target);
        let mut entries = Live::open(target)?.endpoints()?;
        entries.sort_by_key(|(ip, _)| IpAddr::from(*ip));
        Ok(entries.iter().map(|(ip, value)| row(&target.label, *ip, value, &names)).collect())
    });
    output::print(&rows, format, "No endpoints found.")?;
    Ok(code)
}

fn row(node: &str, ip: Ip, value: &EndpointValue, names: &Directory) -> Endpoint {
    let address = IpAddr::from(ip);
    Endpoint {
        node: node.to_owned(),
        address,
        pod: names.pod(address).map(str::to_owned),
        ifindex: value.ifindex,
        pod_mac: value.pod_mac.to_string(),
        mtu: value.mtu,
        identity: value.identity,
        netns_cookie: value.netns_cookie,
        guarded: value.flags & flags::NO_GUARD == 0,
    }
}
