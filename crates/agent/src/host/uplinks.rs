//! Selects the uplinks: the devices named by the value `devices`, or by default
//! the devices with a default route or a node address. Pure.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Observed;
use beeline_kernel::netlink::Link;

/// A device towards other nodes and external networks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Interface index.
    pub ifindex: u32,
    /// Name.
    pub name: String,
    /// MTU in bytes.
    pub mtu: u32,
    /// On-link subnets of both families.
    pub subnets: Vec<IpNet>,
}

/// Selects the uplinks. An entry of `devices` may end with `+`, which matches
/// any suffix; empty = detect. `node_ips` are the addresses of this node's Node
/// object (`InternalIP` and `ExternalIP`). `before` are the interface indices
/// of the current uplinks: a detected uplink stays while its device exists,
/// because a default route may flap.
pub fn choose(observed: &Observed, devices: &[String], node_ips: &[IpAddr], before: &[u32]) -> Vec<Uplink> {
    let chosen = |link: &&Link| {
        if !devices.is_empty() {
            return devices.iter().any(|pattern| names(pattern, &link.name));
        }
        can_be(link) && (before.contains(&link.index) || is_detected(observed, link.index, node_ips))
    };
    observed.links.iter().filter(chosen).map(|link| uplink(observed, link)).collect()
}

/// Entries of `devices` that match no device.
pub fn missing<'a>(observed: &Observed, devices: &'a [String]) -> Vec<&'a str> {
    let exists = |pattern: &str| observed.links.iter().any(|link| names(pattern, &link.name));
    devices.iter().map(String::as_str).filter(|pattern| !exists(pattern)).collect()
}

fn names(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('+') {
        Some(prefix) => name.starts_with(prefix),
        None => pattern == name,
    }
}

/// Loopback, members of bridges and bonds, and pod devices are never uplinks.
fn can_be(link: &Link) -> bool {
    !link.loopback && link.master.is_none() && !super::desired::is_pod_link(link)
}

fn is_detected(observed: &Observed, ifindex: u32, node_ips: &[IpAddr]) -> bool {
    let default = observed.routes.iter().any(|route| {
        route.destination.prefix_len() == 0
            && route.ifindex == ifindex
            && route.table == beeline_kernel::netlink::table::MAIN
            && route.kind == beeline_kernel::netlink::RouteKind::Unicast
    });
    let addresses = || observed.addresses.iter().filter(|address| address.ifindex == ifindex);
    default || addresses().any(|address| node_ips.contains(&address.net.addr()))
}

fn uplink(observed: &Observed, link: &Link) -> Uplink {
    let of_link = observed.addresses.iter().filter(|address| address.ifindex == link.index);
    let mut subnets: Vec<IpNet> =
        of_link.filter(|address| !address.local_scope).map(|address| address.net.trunc()).collect();
    subnets.sort();
    subnets.dedup();
    Uplink { ifindex: link.index, name: link.name.clone(), mtu: link.mtu, subnets }
}

#[cfg(test)]
mod tests {
    use super::*;
    use beeline_kernel::netlink::{Address, Route};

    fn link(index: u32, name: &str) -> Link {
        Link { index, name: name.into(), mtu: 1500, ..Link::default() }
    }

    fn node() -> Observed {
        let address = |ifindex, net: &str, local_scope| Address {
            ifindex,
            net: net.parse().unwrap(),
            local_scope,
            unusable: false,
        };
        Observed {
            links: vec![
                Link { loopback: true, ..link(1, "lo") },
                link(2, "eth0"),
                link(3, "eth1"),
                Link { master: Some(5), ..link(4, "eth2") },
                link(5, "br0"),
                Link { kind: "veth".into(), ..link(6, "bee0123456789ab") },
            ],
            addresses: vec![
                address(2, "10.0.0.5/24", false),
                address(2, "fe80::5/64", true),
                address(3, "192.168.7.5/24", false),
                address(6, "fe80::6/64", true),
            ],
            routes: vec![
                Route::default_via("10.0.0.1".parse().unwrap(), 2),
                Route::new("0.0.0.0/0".parse().unwrap(), 6),
            ],
            ..Observed::default()
        }
    }

    fn chosen(devices: &[&str], node_ips: &[&str], before: &[u32]) -> Vec<String> {
        let devices: Vec<String> = devices.iter().map(|name| (*name).to_owned()).collect();
        let node_ips: Vec<IpAddr> = node_ips.iter().map(|ip| ip.parse().unwrap()).collect();
        choose(&node(), &devices, &node_ips, before).into_iter().map(|uplink| uplink.name).collect()
    }

    #[test]
    fn unit_a_default_route_or_a_node_address_makes_an_uplink() {
        assert_eq!(chosen(&[], &[], &[]), ["eth0"]);
        assert_eq!(chosen(&[], &["192.168.7.5"], &[]), ["eth0", "eth1"]);
    }

    #[test]
    fn unit_configured_devices_override_detection() {
        assert_eq!(chosen(&["eth1"], &["10.0.0.5"], &[2]), ["eth1"]);
        assert_eq!(chosen(&["eth+"], &[], &[]), ["eth0", "eth1", "eth2"]);
        let devices = ["eth0".to_owned(), "wlan+".to_owned()];
        assert_eq!(missing(&node(), &devices), ["wlan+"]);
    }

    #[test]
    fn unit_a_detected_uplink_stays_while_its_device_exists() {
        assert_eq!(chosen(&[], &[], &[3, 99]), ["eth0", "eth1"]);
    }

    #[test]
    fn unit_an_uplink_knows_its_subnets_without_link_local_ones() {
        let uplink = &choose(&node(), &[], &[], &[])[0];
        assert_eq!(uplink.subnets, ["10.0.0.0/24".parse().unwrap()]);
    }
}
