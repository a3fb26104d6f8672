//! The lab's addresses. Every lab has namespaces of its own, so all labs use
//! the same ones.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use beeline_abi::Mac;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The largest number of nodes for which the address plan has addresses.
pub const NODES_MAX: u32 = 100;

/// Prefix length of the underlay network that connects the nodes, IPv4.
pub const UNDERLAY_BITS_IPV4: u8 = 24;

/// Prefix length of the underlay network that connects the nodes, IPv6.
pub const UNDERLAY_BITS_IPV6: u8 = 64;

/// Port of the API server in the control plane's namespace.
pub const API_PORT: u16 = 6443;

/// Device that connects a namespace to the switch.
pub const UPLINK: &str = "eth0";

/// The largest number of uplinks of a node.
pub const UPLINKS_MAX: u32 = 4;

/// Device name of an uplink, counted from 0.
pub fn uplink(number: u32) -> String {
    format!("eth{number}")
}

/// Pod CIDR of the cluster, IPv4.
pub const CLUSTER_CIDR_IPV4: &str = "10.244.0.0/16";

/// Pod CIDR of the cluster, IPv6.
pub const CLUSTER_CIDR_IPV6: &str = "fd00:10:244::/48";

/// Service CIDR, IPv4.
pub const SERVICE_CIDR_IPV4: &str = "10.96.0.0/16";

/// Service CIDR, IPv6.
pub const SERVICE_CIDR_IPV6: &str = "fd00:10:96::/112";

/// The n-th address of each Service CIDR, IPv4 first.
pub fn service_addresses(number: u32) -> Vec<IpAddr> {
    let ranges = [SERVICE_CIDR_IPV4, SERVICE_CIDR_IPV6].into_iter().filter_map(|range| range.parse().ok());
    let numbered = ranges.map(|range: IpNet| match range.network() {
        IpAddr::V4(base) => IpAddr::V4((u32::from(base) + number).into()),
        IpAddr::V6(base) => IpAddr::V6((u128::from(base) + u128::from(number)).into()),
    });
    numbered.collect()
}

/// One address per family on the underlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// IPv4.
    pub ipv4: Ipv4Addr,
    /// IPv6.
    pub ipv6: Ipv6Addr,
}

impl Pair {
    const fn host(number: u8) -> Pair {
        Pair::on(0, number)
    }

    const fn on(subnet: u8, number: u8) -> Pair {
        Pair {
            ipv4: Ipv4Addr::new(172, 30, subnet, number),
            ipv6: Ipv6Addr::new(0xfd00, 0x172, 0x30, subnet as u16, 0, 0, 0, bcd(number)),
        }
    }

    /// Both addresses with the underlay's prefix lengths.
    pub fn with_prefixes(self) -> [(IpAddr, u8); 2] {
        [(self.ipv4.into(), UNDERLAY_BITS_IPV4), (self.ipv6.into(), UNDERLAY_BITS_IPV6)]
    }

    /// Both addresses.
    pub fn addresses(self) -> [IpAddr; 2] {
        [self.ipv4.into(), self.ipv6.into()]
    }

    /// MAC address that the device with these addresses gets when it is
    /// created. It is the same after a reboot, so neighbour entries stay
    /// valid.
    pub fn mac(self) -> Mac {
        let [_, _, subnet, host] = self.ipv4.octets();
        Mac([0x02, 0xbe, 0xe1, 0, subnet, host])
    }

    /// The address of the same family as `like`.
    pub fn of_family(self, like: IpAddr) -> IpAddr {
        match like {
            IpAddr::V4(_) => self.ipv4.into(),
            IpAddr::V6(_) => self.ipv6.into(),
        }
    }
}

/// Encodes the decimal digits as hexadecimal, so that `::200` matches `.200`.
const fn bcd(number: u8) -> u16 {
    let number = number as u16;
    ((number / 100) << 8) | ((number / 10 % 10) << 4) | (number % 10)
}

/// The router.
pub const ROUTER: Pair = Pair::host(1);

/// The router's addresses on the network behind it.
pub const ROUTER_BEHIND: Pair = Pair::on(1, 1);

/// The network that a node is connected to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subnet {
    /// The network of the control plane and the client.
    #[default]
    Direct,
    /// A separate network, connected to the first one by the router.
    BehindRouter,
}

impl Subnet {
    /// The router's addresses on this network.
    pub fn gateway(self) -> Pair {
        match self {
            Subnet::Direct => ROUTER,
            Subnet::BehindRouter => ROUTER_BEHIND,
        }
    }
}

/// A host's addresses on the network of an additional uplink (1 and above).
/// The host part is the same as on the first network.
pub fn in_network(uplink: u32, first: Pair) -> Pair {
    assert!((1..UPLINKS_MAX).contains(&uplink), "the caller checks the number of uplinks");
    Pair::on(1 + uplink as u8, first.ipv4.octets()[3])
}

/// All addresses of a node, by uplink.
pub fn of_node(number: u32, subnet: Subnet, uplinks: u32) -> Vec<Pair> {
    let first = node_on(number, subnet);
    std::iter::once(first).chain((1..uplinks).map(|uplink| in_network(uplink, first))).collect()
}

/// The control plane.
pub const CONTROL_PLANE: Pair = Pair::host(2);

/// The host outside the cluster.
pub const CLIENT: Pair = Pair::host(200);

/// Addresses of node number `number` (from 1) on the first network.
pub fn node(number: u32) -> Pair {
    node_on(number, Subnet::Direct)
}

/// Addresses of node number `number` (from 1).
pub fn node_on(number: u32, subnet: Subnet) -> Pair {
    assert!((1..=NODES_MAX).contains(&number), "the caller checks the number of nodes");
    match subnet {
        Subnet::Direct => Pair::host(10 + number as u8),
        Subnet::BehindRouter => Pair::on(1, 10 + number as u8),
    }
}

/// The number of the node with this name.
pub fn node_number(name: &str) -> Option<u32> {
    let number = name.strip_prefix("node-")?.parse().ok()?;
    (node_name(number) == name && (1..=NODES_MAX).contains(&number)).then_some(number)
}

/// The name of node number `number` (from 1).
pub fn node_name(number: u32) -> String {
    format!("node-{number}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_services_are_numbered_in_both_families() {
        let shown: Vec<String> = service_addresses(10).iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["10.96.0.10", "fd00:10:96::a"]);
    }

    #[test]
    fn unit_host_parts_match_in_both_families() {
        assert_eq!(ROUTER.ipv6.to_string(), "fd00:172:30::1");
        assert_eq!(CLIENT.ipv4.to_string(), "172.30.0.200");
        assert_eq!(CLIENT.ipv6.to_string(), "fd00:172:30::200");
        assert_eq!(node(1).ipv4.to_string(), "172.30.0.11");
        assert_eq!(node(1).ipv6.to_string(), "fd00:172:30::11");
        let second = of_node(1, Subnet::BehindRouter, 2)[1];
        assert_eq!(
            (second.ipv4.to_string(), second.ipv6.to_string()),
            ("172.30.2.11".into(), "fd00:172:30:2::11".into())
        );
    }

    #[test]
    fn unit_a_node_has_one_number_and_one_name() {
        assert_eq!(node_number("node-7"), Some(7));
        for wrong in ["node-0", "node-07", "node-101", "node-", "node-x", "web-1"] {
            assert_eq!(node_number(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn unit_no_two_hosts_share_an_address() {
        let mut all: Vec<Pair> = (1..=NODES_MAX).map(node).collect();
        all.extend((1..=NODES_MAX).map(|number| node_on(number, Subnet::BehindRouter)));
        all.extend([ROUTER, ROUTER_BEHIND, CONTROL_PLANE, CLIENT]);
        for uplink in 1..UPLINKS_MAX {
            all.extend((1..=NODES_MAX).map(|number| in_network(uplink, node(number))));
            all.extend([ROUTER, CLIENT].map(|host| in_network(uplink, host)));
        }
        let mut seen: Vec<_> = all.iter().flat_map(|pair| pair.addresses()).collect();
        let count = seen.len();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), count);
    }
}
