//! The lab's network: a switch, and hosts that hang on it. The switch holds
//! two networks, which the router joins. Every link is made inside the
//! namespaces that it joins: nothing of it ever appears in the machine's own.

use std::net::{IpAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use beeline_kernel::netns::NetNs;
use ipnet::IpNet;

use crate::address::{self, Pair, Side, UPLINK};
use crate::paths::LabPaths;
use crate::record::PlaceRecord;
use crate::{cgroup, wire};

/// The router's device on the network behind it, and its port.
const ROUTER_BEHIND: (&str, &str) = ("eth1", "router-behind");

/// The hosts outside the cluster, which know the way to every pod.
pub const OUTSIDE: [&str; 3] = ["client", "router", "control-plane"];

/// The bridge in the switch's namespace.
pub fn bridge(side: Side) -> &'static str {
    match side {
        Side::Direct => "switch",
        Side::BehindRouter => "behind",
    }
}

/// The bridge of the network of an uplink from 1 on.
fn further_bridge(uplink: u32) -> String {
    format!("network-{}", uplink + 1)
}

/// The port of the switch that a node's uplink ends in.
pub fn port(node: u32, uplink: u32) -> String {
    match uplink {
        0 => address::node_name(node),
        _ => format!("{}-{}", address::node_name(node), address::uplink(uplink)),
    }
}

/// What a host on the switch is.
struct Host {
    name: String,
    netns: PathBuf,
    side: Side,
    address: Pair,
    forwards: bool,
    /// Its devices on further networks, and their addresses.
    further: Vec<(u32, String, Pair)>,
}

/// Makes the switch and every host on it.
pub fn build(paths: &LabPaths, nodes: &[(u32, Side)], uplinks: u32) -> Result<()> {
    std::fs::create_dir_all(paths.netns("switch").parent().context("the folder of the namespaces")?)?;
    let switch = wire::new_namespace(&paths.netns("switch"))?;
    for side in [Side::Direct, Side::BehindRouter] {
        wire::bridge(&switch, bridge(side)).context("cannot make the switch")?;
    }
    for uplink in 1..uplinks {
        wire::bridge(&switch, &further_bridge(uplink)).context("cannot make a further network")?;
    }
    // One thread each: most of the time is the kernel's.
    let mut hosts = outside(paths, uplinks);
    hosts.extend(nodes.iter().map(|(number, side)| node(paths, *number, *side, uplinks)));
    std::thread::scope(|scope| {
        let made: Vec<_> = hosts.iter().map(|host| scope.spawn(|| join(host, &switch))).collect();
        made.into_iter().try_for_each(|one| one.join().unwrap_or_else(|_| anyhow::bail!("a thread panicked")))
    })?;
    let router = NetNs::open(paths.netns("router"))?;
    join_behind(&router, &switch).context("cannot join the router to the network behind it")
}

/// Makes one more node, or one that was switched off.
pub fn add_node(paths: &LabPaths, number: u32, side: Side, uplinks: u32) -> Result<()> {
    let switch = NetNs::open(paths.netns("switch"))?;
    join(&node(paths, number, side, uplinks), &switch)
}

/// Pulls every cable of a node out of the switch.
pub fn unplug(paths: &LabPaths, number: u32, uplinks: u32) -> Result<()> {
    let switch = NetNs::open(paths.netns("switch"))?;
    (0..uplinks).try_for_each(|uplink| wire::unplug(&switch, &port(number, uplink)))
}

/// The control plane is on the first network alone: the router leads to it.
fn outside(paths: &LabPaths, uplinks: u32) -> Vec<Host> {
    // The router's eth1 is on the network behind it.
    let further = |address: Pair, first_device: u32| {
        let one =
            |uplink| (uplink, address::uplink(first_device + uplink), address::in_network(uplink, address));
        (1..uplinks).map(one).collect()
    };
    let host = |name: &str, address, forwards, further| Host {
        name: name.to_owned(),
        netns: paths.netns(name),
        side: Side::Direct,
        address,
        forwards,
        further,
    };
    vec![
        host("router", address::ROUTER, true, further(address::ROUTER, 1)),
        host("client", address::CLIENT, false, further(address::CLIENT, 0)),
        host("control-plane", address::CONTROL_PLANE, false, Vec::new()),
    ]
}

fn node(paths: &LabPaths, number: u32, side: Side, uplinks: u32) -> Host {
    let name = address::node_name(number);
    let netns = paths.node(&name).netns();
    let addresses = address::of_node(number, side, uplinks);
    let further = (1..uplinks).map(|uplink| (uplink, address::uplink(uplink), addresses[uplink as usize]));
    // Forwarding is the agent's to switch on, as on any fresh machine.
    Host { name, netns, side, address: addresses[0], forwards: false, further: further.collect() }
}

fn join_behind(router: &NetNs, switch: &NetNs) -> Result<()> {
    let (device, port) = ROUTER_BEHIND;
    wire::cable(router, (device, address::ROUTER_BEHIND.mac()), switch, port, bridge(Side::BehindRouter))?;
    let addresses = address::ROUTER_BEHIND.with_prefixes();
    addresses.into_iter().try_for_each(|(ip, bits)| wire::address(router, device, ip, bits))
}

fn join(host: &Host, switch: &NetNs) -> Result<()> {
    let make = || -> Result<()> {
        let folder = host.netns.parent().context("the namespace's folder")?;
        std::fs::create_dir_all(folder)?;
        let netns = wire::new_namespace(&host.netns)?;
        wire::host_settings(&netns, host.forwards)?;
        wire::cable(&netns, (UPLINK, host.address.mac()), switch, &host.name, bridge(host.side))?;
        address_host(&netns, host.address, host.side)?;
        host.further.iter().try_for_each(|further| join_further(host, further, &netns, switch))
    };
    make().with_context(|| format!("cannot make {}", host.name))
}

/// On a further network a host has addresses, and no way out.
fn join_further(host: &Host, further: &(u32, String, Pair), netns: &NetNs, switch: &NetNs) -> Result<()> {
    let (uplink, device, address) = further;
    let port = format!("{}-eth{uplink}", host.name);
    wire::cable(netns, (device, address.mac()), switch, &port, &further_bridge(*uplink))?;
    address.with_prefixes().into_iter().try_for_each(|(ip, bits)| wire::address(netns, device, ip, bits))
}

/// Gives a host its addresses and the router as its way out.
pub fn address_host(netns: &NetNs, address: Pair, side: Side) -> Result<()> {
    for (ip, bits) in address.with_prefixes() {
        wire::address(netns, UPLINK, ip, bits)?;
    }
    if address == address::ROUTER {
        return Ok(());
    }
    side.gateway().addresses().into_iter().try_for_each(|gateway| wire::default_route(netns, UPLINK, gateway))
}

/// Tells the hosts outside the cluster the way to a node's pods: to the node
/// itself from its own network, by the router from the other.
pub fn route_to_pods(paths: &LabPaths, ranges: &[IpNet], node: u32, side: Side) -> Result<()> {
    for host in OUTSIDE {
        let netns = NetNs::open(paths.netns(host))?;
        let own = address::node_on(node, side);
        let (device, gateway) = match (side, host) {
            (Side::Direct, _) => (UPLINK, own),
            (Side::BehindRouter, "router") => (ROUTER_BEHIND.0, own),
            (Side::BehindRouter, _) => (UPLINK, address::ROUTER),
        };
        for range in ranges {
            wire::route(&netns, device, *range, gateway.of_family(range.addr()))
                .with_context(|| format!("{host}: cannot route {range} to {}", address::node_name(node)))?;
        }
    }
    Ok(())
}

/// Takes the way to a node's pods away again.
pub fn forget_pods(paths: &LabPaths, ranges: &[IpNet]) -> Result<()> {
    for host in OUTSIDE {
        let netns = NetNs::open(paths.netns(host))?;
        ranges.iter().try_for_each(|range| wire::remove_route(&netns, *range))?;
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
