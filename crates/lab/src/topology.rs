//! The lab's network: a switch, and hosts that hang on it. Every link is
//! made inside the namespaces that it joins: nothing of it ever appears in
//! the machine's own.

use std::net::{IpAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use beeline_kernel::netns::NetNs;
use ipnet::IpNet;

use crate::address::{self, Pair, UPLINK};
use crate::paths::LabPaths;
use crate::record::PlaceRecord;
use crate::{cgroup, wire};

/// The bridge in the switch's namespace.
const BRIDGE: &str = "switch";

/// What a host on the switch is.
struct Host {
    name: String,
    netns: PathBuf,
    address: Pair,
    forwards: bool,
}

/// Makes the switch and every host on it.
pub fn build(paths: &LabPaths, nodes: u32) -> Result<()> {
    std::fs::create_dir_all(paths.netns("switch").parent().context("the folder of the namespaces")?)?;
    let switch = wire::new_namespace(&paths.netns("switch"))?;
    wire::bridge(&switch, BRIDGE).context("cannot make the switch")?;
    // One thread each: most of the time is the kernel's.
    let hosts = hosts(paths, nodes);
    std::thread::scope(|scope| {
        let made: Vec<_> = hosts.iter().map(|host| scope.spawn(|| join(host, &switch))).collect();
        made.into_iter().try_for_each(|one| one.join().unwrap_or_else(|_| anyhow::bail!("a thread panicked")))
    })
}

fn hosts(paths: &LabPaths, nodes: u32) -> Vec<Host> {
    let outside = |name: &str, address, forwards| Host {
        name: name.to_owned(),
        netns: paths.netns(name),
        address,
        forwards,
    };
    let mut hosts = vec![
        outside("router", address::ROUTER, true),
        outside("client", address::CLIENT, false),
        outside("control-plane", address::CONTROL_PLANE, false),
    ];
    hosts.extend((1..=nodes).map(|number| {
        let name = address::node_name(number);
        let netns = paths.node(&name).netns();
        // Forwarding is the agent's to switch on, as on any fresh machine.
        Host { name, netns, address: address::node(number), forwards: false }
    }));
    hosts
}

fn join(host: &Host, switch: &NetNs) -> Result<()> {
    let make = || -> Result<()> {
        let folder = host.netns.parent().context("the namespace's folder")?;
        std::fs::create_dir_all(folder)?;
        let netns = wire::new_namespace(&host.netns)?;
        wire::host_settings(&netns, host.forwards)?;
        wire::cable(&netns, UPLINK, switch, &host.name, BRIDGE)?;
        for (ip, bits) in host.address.with_prefixes() {
            wire::address(&netns, UPLINK, ip, bits)?;
        }
        if host.address != address::ROUTER {
            for gateway in address::ROUTER.addresses() {
                wire::default_route(&netns, UPLINK, gateway)?;
            }
        }
        Ok(())
    };
    make().with_context(|| format!("cannot make {}", host.name))
}

/// Tells a host outside the cluster the way to a node's pods.
pub fn route_to_pods(netns: &Path, ranges: &[IpNet], node: u32) -> Result<()> {
    let netns = NetNs::open(netns)?;
    for range in ranges {
        let gateway = address::node(node).of_family(range.addr());
        wire::route(&netns, UPLINK, *range, gateway)
            .with_context(|| format!("cannot route {range} to {}", address::node_name(node)))?;
    }
    Ok(())
}

/// Listens inside a namespace.
pub fn listen(netns: &Path, ip: IpAddr, port: u16) -> Result<TcpListener> {
    let namespace = NetNs::open(netns)?;
    let bound = wire::inside(&namespace, move || TcpListener::bind((ip, port)).map_err(Into::into));
    bound.with_context(|| format!("cannot listen on {ip} port {port} in {}", netns.display()))
}

/// The record of a host and its cgroup, which is made.
pub fn place(netns: PathBuf, cgroup: PathBuf, address: Option<Pair>) -> Result<PlaceRecord> {
    cgroup::create(&cgroup)?;
    let addresses = address.map(|pair| pair.addresses().to_vec()).unwrap_or_default();
    Ok(PlaceRecord { netns, cgroup, addresses })
}
