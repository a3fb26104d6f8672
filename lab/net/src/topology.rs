//! The lab's network: hosts connected to a switch. The switch has two
//! networks, connected by the router. Devices are created inside the
//! namespaces of the lab and never appear in the host's own.

use std::net::{IpAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use beeline_kernel::netns::NetNs;
use ipnet::IpNet;

use crate::address::{self, Pair, Subnet, UPLINK};
use crate::netdev;
use crate::paths::LabPaths;

/// The router's device and switch port on the network behind it.
const ROUTER_BEHIND: (&str, &str) = ("eth1", "router-behind");

/// The hosts outside the cluster, which have routes to the pods.
pub const OUTSIDE: [&str; 3] = ["client", "router", "control-plane"];

/// The bridge in the switch's namespace.
pub fn bridge(subnet: Subnet) -> &'static str {
    match subnet {
        Subnet::Direct => "switch",
        Subnet::BehindRouter => "behind",
    }
}

/// The bridge of an additional network (uplink 1 and above).
fn additional_bridge(uplink: u32) -> String {
    format!("network-{}", uplink + 1)
}

/// The switch port of a node's uplink.
pub fn port(node: u32, uplink: u32) -> String {
    match uplink {
        0 => address::node_name(node),
        _ => format!("{}-{}", address::node_name(node), address::uplink(uplink)),
    }
}

/// A host on the switch.
struct Host {
    name: String,
    netns: PathBuf,
    subnet: Subnet,
    address: Pair,
    forwards: bool,
    /// Its devices on additional networks, with their addresses.
    further: Vec<(u32, String, Pair)>,
}

/// Creates the switch and all hosts.
pub fn build(paths: &LabPaths, nodes: &[(u32, Subnet)], uplinks: u32) -> Result<()> {
    std::fs::create_dir_all(paths.netns("switch").parent().context("the directory of the namespaces")?)?;
    let switch = netdev::new_namespace(&paths.netns("switch"))?;
    for subnet in [Subnet::Direct, Subnet::BehindRouter] {
        netdev::bridge(&switch, bridge(subnet)).context("cannot create the switch")?;
    }
    for uplink in 1..uplinks {
        netdev::bridge(&switch, &additional_bridge(uplink)).context("cannot create an additional network")?;
    }
    // One thread per host: most of the time is spent in the kernel.
    let mut hosts = outside(paths, uplinks);
    hosts.extend(nodes.iter().map(|(number, subnet)| node(paths, *number, *subnet, uplinks)));
    std::thread::scope(|scope| {
        let made: Vec<_> = hosts.iter().map(|host| scope.spawn(|| connect_host(host, &switch))).collect();
        made.into_iter().try_for_each(|one| one.join().unwrap_or_else(|_| anyhow::bail!("a thread panicked")))
    })?;
    let router = NetNs::open(paths.netns("router"))?;
    connect_router(&router, &switch).context("cannot connect the router to the network behind it")
}

/// Creates an additional node, or one that was powered off.
pub fn add_node(paths: &LabPaths, number: u32, subnet: Subnet, uplinks: u32) -> Result<()> {
    let switch = NetNs::open(paths.netns("switch"))?;
    connect_host(&node(paths, number, subnet, uplinks), &switch)
}

/// Deletes all switch ports of a node.
pub fn unplug(paths: &LabPaths, number: u32, uplinks: u32) -> Result<()> {
    let switch = NetNs::open(paths.netns("switch"))?;
    (0..uplinks).try_for_each(|uplink| netdev::delete_port(&switch, &port(number, uplink)))
}

/// The control plane is only on the first network; the others reach it through
/// the router.
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
        subnet: Subnet::Direct,
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

fn node(paths: &LabPaths, number: u32, subnet: Subnet, uplinks: u32) -> Host {
    let name = address::node_name(number);
    let netns = paths.node(&name).netns();
    let addresses = address::of_node(number, subnet, uplinks);
    let further = (1..uplinks).map(|uplink| (uplink, address::uplink(uplink), addresses[uplink as usize]));
    // The agent enables forwarding, as on a fresh machine.
    Host { name, netns, subnet, address: addresses[0], forwards: false, further: further.collect() }
}

fn connect_router(router: &NetNs, switch: &NetNs) -> Result<()> {
    let (device, port) = ROUTER_BEHIND;
    netdev::connect_to_bridge(
        router,
        (device, address::ROUTER_BEHIND.mac()),
        switch,
        port,
        bridge(Subnet::BehindRouter),
    )?;
    let addresses = address::ROUTER_BEHIND.with_prefixes();
    addresses.into_iter().try_for_each(|(ip, bits)| netdev::address(router, device, ip, bits))
}

fn connect_host(host: &Host, switch: &NetNs) -> Result<()> {
    let make = || -> Result<()> {
        let directory = host.netns.parent().context("the namespace's directory")?;
        std::fs::create_dir_all(directory)?;
        let netns = netdev::new_namespace(&host.netns)?;
        netdev::set_host_sysctls(&netns, host.forwards)?;
        netdev::connect_to_bridge(
            &netns,
            (UPLINK, host.address.mac()),
            switch,
            &host.name,
            bridge(host.subnet),
        )?;
        address_host(&netns, host.address, host.subnet)?;
        host.further.iter().try_for_each(|further| connect_additional(host, further, &netns, switch))
    };
    make().with_context(|| format!("cannot create {}", host.name))
}

/// On additional networks a host has addresses but no default route.
fn connect_additional(
    host: &Host,
    further: &(u32, String, Pair),
    netns: &NetNs,
    switch: &NetNs,
) -> Result<()> {
    let (uplink, device, address) = further;
    let port = format!("{}-eth{uplink}", host.name);
    netdev::connect_to_bridge(netns, (device, address.mac()), switch, &port, &additional_bridge(*uplink))?;
    address.with_prefixes().into_iter().try_for_each(|(ip, bits)| netdev::address(netns, device, ip, bits))
}

/// Adds a host's addresses and its default routes via the router.
pub fn address_host(netns: &NetNs, address: Pair, subnet: Subnet) -> Result<()> {
    for (ip, bits) in address.with_prefixes() {
        netdev::address(netns, UPLINK, ip, bits)?;
    }
    if address == address::ROUTER {
        return Ok(());
    }
    subnet
        .gateway()
        .addresses()
        .into_iter()
        .try_for_each(|gateway| netdev::default_route(netns, UPLINK, gateway))
}

/// Adds routes to a node's pods on the hosts outside the cluster: via the node
/// on its own network, via the router otherwise.
pub fn add_pod_routes(paths: &LabPaths, ranges: &[IpNet], node: u32, subnet: Subnet) -> Result<()> {
    for host in OUTSIDE {
        let netns = NetNs::open(paths.netns(host))?;
        let own = address::node_on(node, subnet);
        let (device, gateway) = match (subnet, host) {
            (Subnet::Direct, _) => (UPLINK, own),
            (Subnet::BehindRouter, "router") => (ROUTER_BEHIND.0, own),
            (Subnet::BehindRouter, _) => (UPLINK, address::ROUTER),
        };
        for range in ranges {
            netdev::route(&netns, device, *range, gateway.of_family(range.addr())).with_context(|| {
                format!("{host}: cannot add the route to {range} via {}", address::node_name(node))
            })?;
        }
    }
    Ok(())
}

/// Removes the routes to a node's pods.
pub fn remove_pod_routes(paths: &LabPaths, ranges: &[IpNet]) -> Result<()> {
    for host in OUTSIDE {
        let netns = NetNs::open(paths.netns(host))?;
        ranges.iter().try_for_each(|range| netdev::remove_route(&netns, *range))?;
    }
    Ok(())
}

/// Opens a TCP listener in a namespace.
pub fn listen(netns: &Path, ip: IpAddr, port: u16) -> Result<TcpListener> {
    let namespace = NetNs::open(netns)?;
    let bound = netdev::in_netns(&namespace, move || TcpListener::bind((ip, port)).map_err(Into::into));
    bound.with_context(|| format!("cannot listen on {ip} port {port} in {}", netns.display()))
}
