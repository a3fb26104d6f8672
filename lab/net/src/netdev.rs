//! Network devices, addresses, routes and sysctls in namespaces. Nothing here
//! changes the namespace of the caller.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result};
use beeline_abi::Mac;
use beeline_kernel::netlink::{Netlink, Route, Veth, VethEnd, protocol};
use beeline_kernel::netns::NetNs;
use beeline_kernel::{packet_loss, sysctl};
use ipnet::IpNet;

/// MTU of every link, bytes.
pub const MTU: u32 = 1500;

/// Creates a network namespace, bound to a path, with its loopback device up.
pub fn new_namespace(path: &Path) -> Result<NetNs> {
    let netns = NetNs::create_bound(path)?;
    let mut netlink = Netlink::open_in(&netns)?;
    let loopback = netlink.index("lo")?;
    netlink.set_up(loopback, true)?;
    Ok(netns)
}

/// Creates a pod's network namespace as container runtimes do before they call
/// the plugin: loopback up, IPv6 disabled by default on new devices.
pub fn pod_namespace(path: &Path) -> Result<()> {
    let netns = new_namespace(path)?;
    set_sysctls(&netns, &[("net.ipv6.conf.default.disable_ipv6", "1")])
}

/// Sets the sysctls of a host before it has a device. Some settings are
/// inherited from the host's initial namespace, so they are set explicitly.
pub fn set_host_sysctls(netns: &NetNs, forwards: bool) -> Result<()> {
    let forwarding = if forwards { "1" } else { "0" };
    set_sysctls(
        netns,
        &[
            ("net.ipv4.ip_forward", forwarding),
            ("net.ipv6.conf.all.forwarding", forwarding),
            ("net.ipv6.conf.all.disable_ipv6", "0"),
            ("net.ipv6.conf.default.disable_ipv6", "0"),
            // Skip duplicate address detection: addresses are usable at once.
            ("net.ipv6.conf.default.accept_dad", "0"),
            // The default of systemd.
            ("net.ipv4.conf.all.rp_filter", "0"),
            ("net.ipv4.conf.default.rp_filter", "2"),
        ],
    )
}

/// Creates a bridge without addresses.
pub fn bridge(netns: &NetNs, name: &str) -> Result<()> {
    set_sysctls(netns, &[("net.ipv6.conf.default.disable_ipv6", "1")])?;
    let mut netlink = Netlink::open_in(netns)?;
    netlink.create_bridge(name, MTU)?;
    let index = netlink.index(name)?;
    Ok(netlink.set_up(index, true)?)
}

/// Connects a host to a bridge with a veth pair: `device`, with this MAC
/// address, in the host's namespace, `port` in the bridge's.
pub fn connect_to_bridge(
    host: &NetNs,
    device: (&str, Mac),
    switch: &NetNs,
    port: &str,
    bridge: &str,
) -> Result<()> {
    let (device, mac) = device;
    let mut switch = Netlink::open_in(switch)?;
    switch.create_veth(&Veth {
        local: VethEnd { name: port, mac: None },
        peer: VethEnd { name: device, mac: Some(mac) },
        mtu: MTU,
        peer_netns: Some(host),
    })?;
    let (port, bridge) = (switch.index(port)?, switch.index(bridge)?);
    switch.set_master(port, Some(bridge))?;
    switch.set_up(port, true)?;
    let mut host = Netlink::open_in(host)?;
    let device = host.index(device)?;
    Ok(host.set_up(device, true)?)
}

/// Deletes a device and its veth peer. A missing device is not an error.
pub fn delete_port(switch: &NetNs, port: &str) -> Result<()> {
    Ok(Netlink::open_in(switch)?.delete_link(port)?)
}

/// Moves a port to another bridge of the switch.
pub fn move_to_bridge(switch: &NetNs, port: &str, bridge: &str) -> Result<()> {
    let mut netlink = Netlink::open_in(switch)?;
    let (port, bridge) = (netlink.index(port)?, netlink.index(bridge)?);
    Ok(netlink.set_master(port, Some(bridge))?)
}

/// Sets a device up or down; its veth peer gains or loses carrier.
pub fn set_up(netns: &NetNs, device: &str, up: bool) -> Result<()> {
    let mut netlink = Netlink::open_in(netns)?;
    let index = netlink.index(device)?;
    Ok(netlink.set_up(index, up)?)
}

/// Sets the MTU of a device, bytes.
pub fn set_mtu(netns: &NetNs, device: &str, mtu: u32) -> Result<()> {
    let mut netlink = Netlink::open_in(netns)?;
    let index = netlink.index(device)?;
    Ok(netlink.set_mtu(index, mtu)?)
}

/// Sets the packet loss of a device, for both directions.
pub fn set_loss(netns: &NetNs, device: &str, percent: f64) -> Result<()> {
    let mut netlink = Netlink::open_in(netns)?;
    let index = netlink.index(device)?;
    Ok(packet_loss::set(&mut netlink, index, percent)?)
}

/// Removes an address and the routes that depend on it. A missing address is
/// not an error.
pub fn remove_address(netns: &NetNs, device: &str, ip: IpAddr, prefix_length: u8) -> Result<()> {
    let mut netlink = Netlink::open_in(netns)?;
    let index = netlink.index(device)?;
    Ok(netlink.delete_address(index, IpNet::new(ip, prefix_length)?)?)
}

/// Adds an address to a device.
pub fn address(netns: &NetNs, device: &str, ip: IpAddr, prefix_length: u8) -> Result<()> {
    let mut netlink = Netlink::open_in(netns)?;
    let index = netlink.index(device)?;
    Ok(netlink.add_address(index, IpNet::new(ip, prefix_length)?)?)
}

/// Adds the default route of the gateway's address family.
pub fn default_route(netns: &NetNs, device: &str, gateway: IpAddr) -> Result<()> {
    let mut netlink = Netlink::open_in(netns)?;
    let index = netlink.index(device)?;
    set_static_route(&mut netlink, Route::default_via(gateway, index))
}

/// Sets a route, replacing the one to the same destination.
pub fn route(netns: &NetNs, device: &str, destination: IpNet, gateway: IpAddr) -> Result<()> {
    let mut netlink = Netlink::open_in(netns)?;
    let index = netlink.index(device)?;
    set_static_route(&mut netlink, Route::new(destination, index).via(gateway))
}

/// Deletes every route to a destination.
pub fn remove_route(netns: &NetNs, destination: IpNet) -> Result<()> {
    let mut netlink = Netlink::open_in(netns)?;
    let routes = netlink.routes()?;
    let mut found = routes.iter().filter(|route| route.destination == destination.trunc());
    found.try_for_each(|route| netlink.delete_route(route).map_err(Into::into))
}

/// With protocol static, so that the agent does not treat it as its own. (For
/// IPv6, replacing a route via another device would add a second one.)
fn set_static_route(netlink: &mut Netlink, route: Route) -> Result<()> {
    let route = Route { protocol: protocol::STATIC, ..route };
    let old = netlink.routes()?.into_iter();
    let is_old = |one: &Route| {
        one.destination == route.destination && one.protocol == protocol::STATIC && *one != route
    };
    old.filter(is_old).try_for_each(|one| netlink.delete_route(&one))?;
    Ok(netlink.replace_route(&route)?)
}

/// Runs `work` in a network namespace, in a new thread.
pub fn in_netns<T: Send>(netns: &NetNs, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    netns.enter(work).context("cannot enter the namespace")?
}

fn set_sysctls(netns: &NetNs, settings: &[(&str, &str)]) -> Result<()> {
    in_netns(netns, || {
        settings.iter().try_for_each(|(name, value)| sysctl::set(name, value).map_err(Into::into))
    })
}
