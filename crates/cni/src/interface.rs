//! The interface of a pod: a veth pair whose pod side is created in the network
//! namespace of the pod and configured there.
//!
//! The host side stays down and without addresses. The agent attaches the
//! programs before it sets the host side up, so that no packet bypasses them.

use std::net::IpAddr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use beeline_abi::Mac;
use beeline_api::{Allocation, Attachment};
use beeline_kernel::netlink::{Link, Netlink, NetlinkError, Route, Veth, VethEnd};
use beeline_kernel::netns::{self, NetNs, NetNsError};
use beeline_kernel::sysctl;
use ipnet::IpNet;

use crate::error::{CniError, Code};

/// How long to wait for carrier after the agent set the host side up.
const CARRIER_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval at which the state of the interface is read.
const CARRIER_POLL_INTERVAL: Duration = Duration::from_millis(1);

/// The network namespace of the pod. Entering it needs a new thread, so the
/// netlink socket and the cookie are kept.
#[derive(Debug)]
pub struct PodNamespace {
    netns: NetNs,
    netlink: Netlink,
    cookie: u64,
}

/// The veth pair that [`create`] created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VethPair {
    /// Index of the host side, in the node's network namespace.
    pub host_ifindex: u32,
    /// MAC of the pod side.
    pub pod_mac: String,
}

impl PodNamespace {
    /// Opens `CNI_NETNS`. Fails if it is the network namespace of the node.
    pub fn open(path: Option<&Path>) -> Result<PodNamespace, CniError> {
        let path = path.ok_or_else(|| CniError::new(Code::InvalidEnvironment, "CNI_NETNS is missing"))?;
        let netns = NetNs::open(path).map_err(|error| {
            CniError::new(Code::UnknownContainer, error.to_string()).with_details(
                "CNI_NETNS must be the path of the pod's network namespace; the pod may have been deleted",
            )
        })?;
        let own = NetNs::current().and_then(|own| own.identity()).map_err(namespace_failed)?;
        if netns.identity().map_err(namespace_failed)? == own {
            let message = format!("CNI_NETNS {} is the node's own network namespace", path.display());
            return Err(CniError::new(Code::InvalidEnvironment, message).with_details(
                "pods with hostNetwork get no interface; the runtime must not call the plugin for them",
            ));
        }
        let (netlink, cookie) =
            netns.enter(|| (Netlink::open(), netns::current_cookie())).map_err(namespace_failed)?;
        let cookie = cookie.map_err(|error| {
            let message = format!(
                "cannot read the cookie (SO_NETNS_COOKIE) of network namespace {}: {error}",
                path.display()
            );
            CniError::new(Code::InputOutput, message)
        })?;
        Ok(PodNamespace { netns, netlink: netlink.map_err(failed)?, cookie })
    }

    /// Fails if either end of the veth pair exists. It must not be replaced,
    /// and the rollback of a failed ADD would delete it.
    pub fn refuse_existing(&mut self, attachment: &Attachment) -> Result<(), CniError> {
        let host = attachment.host_interface();
        let exists = |name: &str, location: &str| {
            CniError::new(Code::Interface, format!("interface {name} already exists in {location}"))
                .with_details(
                    "the runtime called ADD twice without DEL; call DEL for this container and interface first",
                )
        };
        if find(&mut self.netlink, &attachment.interface)?.is_some() {
            return Err(exists(&attachment.interface, self.netns.name()));
        }
        if find(&mut node_netlink()?, &host)?.is_some() {
            return Err(exists(&host, "the node's network namespace"));
        }
        Ok(())
    }

    /// `SO_NETNS_COOKIE`.
    pub fn cookie(&self) -> u64 {
        self.cookie
    }
}

/// Creates the veth pair and configures the pod side. The host side stays down.
pub fn create(
    namespace: &mut PodNamespace,
    interface: &str,
    allocation: &Allocation,
    addresses: &[(IpAddr, IpAddr)],
) -> Result<VethPair, CniError> {
    let gateway_mac = Mac::parse(&allocation.host_mac).ok_or_else(|| {
        CniError::new(
            Code::Agent,
            format!("the agent returned an invalid MAC address: {:?}", allocation.host_mac),
        )
        .with_details("compare the versions of beeline-cni and beeline-agent")
    })?;
    let mut host = node_netlink()?;
    host.create_veth(&Veth {
        local: VethEnd { name: &allocation.host_interface, mac: Some(gateway_mac) },
        peer: VethEnd { name: interface, mac: None },
        mtu: allocation.mtu,
        peer_netns: Some(&namespace.netns),
    })
    .map_err(failed)?;
    let host_ifindex = host.index(&allocation.host_interface).map_err(failed)?;
    let link = namespace.netlink.link(interface).map_err(failed)?;
    let pod_mac = link.mac.map(|mac| mac.to_string()).unwrap_or_default();
    prepare_ipv6(namespace, interface, addresses)?;
    let pod = &mut namespace.netlink;
    pod.set_up(link.index, true).map_err(failed)?;
    for pair in addresses {
        configure_address(pod, link.index, *pair, gateway_mac, allocation.mtu).map_err(failed)?;
    }
    Ok(VethPair { host_ifindex, pod_mac })
}

/// Waits until the pod side is operational (`IFF_RUNNING`), which is a moment
/// after the host side was set up.
pub fn wait_running(namespace: &mut PodNamespace, interface: &str) -> Result<(), CniError> {
    let deadline = Instant::now() + CARRIER_TIMEOUT;
    while !namespace.netlink.link(interface).map_err(failed)?.running {
        if Instant::now() > deadline {
            let message = format!(
                "interface {interface} has no carrier {} s after the agent set its host side up",
                CARRIER_TIMEOUT.as_secs()
            );
            return Err(CniError::new(Code::TryAgain, message)
                .with_details("the host side may have been set down or deleted; see the agent's log"));
        }
        thread::sleep(CARRIER_POLL_INTERVAL);
    }
    Ok(())
}

/// Deletes the veth pair. It is no error if it does not exist.
pub fn delete(host_interface: &str) -> Result<(), CniError> {
    node_netlink()?.delete_link(host_interface).map_err(failed)
}

/// Checks that the interface, its addresses and its default routes exist.
pub fn check(
    namespace: &mut PodNamespace,
    attachment: &Attachment,
    addresses: &[IpAddr],
) -> Result<(), CniError> {
    let pod = &mut namespace.netlink;
    let location = namespace.netns.name();
    let link = checked_link(pod, &attachment.interface, location)?;
    let host =
        checked_link(&mut node_netlink()?, &attachment.host_interface(), "the node's network namespace")?;
    if link.peer.map(|peer| peer.index) != Some(host.index) {
        return Err(mismatch(format!("{} in {location} is not the veth peer of {}", link.name, host.name)));
    }
    check_addresses(pod, &link, addresses)?;
    check_routes(pod, &link, addresses)
}

fn configure_address(
    pod: &mut Netlink,
    ifindex: u32,
    (ip, gateway): (IpAddr, IpAddr),
    gateway_mac: Mac,
    mtu: u32,
) -> Result<(), NetlinkError> {
    pod.add_address(ifindex, IpNet::from(ip))?;
    pod.set_neighbour(ifindex, gateway, gateway_mac)?;
    let route =
        Route { onlink: true, mtu: Some(mtu), source: Some(ip), ..Route::default_via(gateway, ifindex) };
    pod.add_route(&route)
}

/// Enables IPv6, which some runtimes disable in a new namespace, and disables
/// router advertisements and duplicate address detection, which a
/// point-to-point link to the node does not need.
fn prepare_ipv6(
    namespace: &PodNamespace,
    interface: &str,
    addresses: &[(IpAddr, IpAddr)],
) -> Result<(), CniError> {
    if addresses.iter().all(|(ip, _)| ip.is_ipv4()) {
        return Ok(());
    }
    let written = namespace.netns.enter(|| {
        let interface = interface.replace('.', "/");
        [("disable_ipv6", "0"), ("accept_ra", "0"), ("accept_dad", "0")]
            .iter()
            .try_for_each(|(name, value)| sysctl::set(&format!("net.ipv6.conf.{interface}.{name}"), value))
    });
    written.map_err(namespace_failed)?.map_err(|error| CniError::new(Code::Interface, error.to_string()))
}

fn checked_link(netlink: &mut Netlink, name: &str, location: &str) -> Result<Link, CniError> {
    let link = find(netlink, name)?
        .ok_or_else(|| mismatch(format!("interface {name} does not exist in {location}")))?;
    if !link.up {
        return Err(mismatch(format!("interface {name} in {location} is down")));
    }
    Ok(link)
}

fn check_addresses(pod: &mut Netlink, link: &Link, addresses: &[IpAddr]) -> Result<(), CniError> {
    let present = pod.addresses().map_err(failed)?;
    let has =
        |ip: &IpAddr| present.iter().any(|found| found.ifindex == link.index && found.net.addr() == *ip);
    match addresses.iter().find(|ip| !has(ip)) {
        Some(ip) => Err(mismatch(format!("interface {} no longer has the address {ip}", link.name))),
        None => Ok(()),
    }
}

fn check_routes(pod: &mut Netlink, link: &Link, addresses: &[IpAddr]) -> Result<(), CniError> {
    let present = pod.routes().map_err(failed)?;
    let is_default = |route: &Route, ip: &IpAddr| {
        route.destination.prefix_len() == 0
            && route.ifindex == link.index
            && route.destination.addr().is_ipv4() == ip.is_ipv4()
    };
    match addresses.iter().find(|ip| !present.iter().any(|route| is_default(route, ip))) {
        Some(ip) => {
            let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
            Err(mismatch(format!("the pod no longer has a default route for {family} on {}", link.name)))
        }
        None => Ok(()),
    }
}

fn find(netlink: &mut Netlink, name: &str) -> Result<Option<Link>, CniError> {
    match netlink.link(name) {
        Ok(link) => Ok(Some(link)),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

fn node_netlink() -> Result<Netlink, CniError> {
    Netlink::open().map_err(failed)
}

fn failed(error: NetlinkError) -> CniError {
    CniError::new(Code::Interface, error.to_string())
}

fn namespace_failed(error: NetNsError) -> CniError {
    CniError::new(Code::InputOutput, error.to_string())
}

fn mismatch(what: String) -> CniError {
    CniError::new(Code::Mismatch, what)
        .with_details("delete the pod, so that its controller replaces it with a new interface")
}
