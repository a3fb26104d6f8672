//! Which netlink changes require a sync of the host. Pure.
//!
//! Changes that accompany every pod are filtered out, because reading the whole
//! host costs more than the rest of a CNI call: devices that the plugin has
//! just created or deleted, their link-local addresses and routes, and changes
//! by the agent itself.

use std::collections::BTreeSet;
use std::net::IpAddr;

use beeline_abi::GATEWAY_MAC;
use beeline_kernel::netlink::{Change, Link, Neighbour, Route, protocol, table};

use super::desired::is_pod_link;
use crate::endpoints::Endpoint;

/// Drops changes that a later change of the same device supersedes: a device
/// that was created and then set up is up.
pub fn latest(changes: Vec<Change>) -> Vec<Change> {
    let mut seen = BTreeSet::new();
    let mut latest: Vec<Change> = changes
        .into_iter()
        .rev()
        .filter(|change| match change {
            Change::Link(link) => seen.insert(link.index),
            Change::LinkDeleted(link) => {
                seen.insert(link.index);
                true
            }
            _ => true,
        })
        .collect();
    latest.reverse();
    latest
}

/// Whether this change requires a sync of the host. `pod_on` returns the pod
/// connected by a device.
pub fn is_relevant<'a>(change: &Change, pod_on: impl Fn(u32) -> Option<&'a Endpoint>) -> bool {
    match change {
        Change::Link(link) if is_pod_link(link) => {
            pod_on(link.index).is_some_and(|pod| !is_configured(link, pod))
        }
        Change::LinkDeleted(link) if is_pod_link(link) => pod_on(link.index).is_some(),
        Change::Link(_) | Change::LinkDeleted(_) | Change::Overrun => true,
        Change::Address(address) | Change::AddressDeleted(address) => !is_link_local(&address.net.addr()),
        Change::Route(route) => is_in_main_table(route) && route.protocol != protocol::BEELINE,
        Change::RouteDeleted(route) => {
            is_in_main_table(route) && (!is_pod_route(route) || pod_on(route.ifindex).is_some())
        }
        Change::Neighbour(neighbour) => pod_on(neighbour.ifindex)
            .is_some_and(|pod| is_address_of(neighbour, pod) && !resolves_to(neighbour, pod)),
        Change::NeighbourDeleted(neighbour) => {
            pod_on(neighbour.ifindex).is_some_and(|pod| is_address_of(neighbour, pod))
        }
    }
}

fn is_configured(link: &Link, pod: &Endpoint) -> bool {
    link.up && link.mac == Some(GATEWAY_MAC) && link.name == pod.host_interface()
}

/// Routes of the agent, and routes that decide about uplinks, are in the main
/// table and are not link-local.
fn is_in_main_table(route: &Route) -> bool {
    route.table == table::MAIN && !is_link_local(&route.destination.addr())
}

/// A host route of the agent to a pod: removed with the pod.
fn is_pod_route(route: &Route) -> bool {
    route.protocol == protocol::BEELINE
        && route.destination.prefix_len() == route.destination.max_prefix_len()
}

fn is_address_of(neighbour: &Neighbour, pod: &Endpoint) -> bool {
    pod.addresses.contains(&neighbour.ip)
}

fn resolves_to(neighbour: &Neighbour, pod: &Endpoint) -> bool {
    let mac = pod.link.map(|link| link.pod_mac);
    neighbour.permanent && neighbour.mac.map(|mac| mac.0) == mac
}

/// The kernel adds link-local addresses and routes for every device.
fn is_link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(_) => false,
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoints::{Link as PodLink, PodReference};
    use beeline_abi::Mac;
    use beeline_api::Attachment;
    use beeline_kernel::netlink::Address;
    use ipnet::IpNet;

    const POD: u32 = 7;
    const UPLINK: u32 = 2;
    const OTHER: u32 = 9;
    const POD_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

    fn pod() -> Endpoint {
        Endpoint {
            attachment: Attachment { container_id: "c".into(), interface: "eth0".into() },
            pod: PodReference::default(),
            addresses: vec!["10.244.1.5".parse().unwrap(), "fd00:1::5".parse().unwrap()],
            id: 1,
            mtu: 1500,
            link: Some(PodLink { host_ifindex: POD, pod_mac: POD_MAC, netns_cookie: 3 }),
        }
    }

    /// The device of the pod, or a similar one that belongs to no pod.
    fn device(index: u32) -> Link {
        let name = pod().host_interface();
        Link { index, name, kind: "veth".into(), mac: Some(GATEWAY_MAC), up: true, ..Link::default() }
    }

    fn uplink() -> Link {
        Link { index: UPLINK, name: "eth0".into(), kind: "veth".into(), ..Link::default() }
    }

    fn route(destination: &str, ifindex: u32, protocol: u8) -> Route {
        Route { protocol, ..Route::new(destination.parse::<IpNet>().unwrap(), ifindex) }
    }

    fn address(net: &str) -> Address {
        Address { ifindex: UPLINK, net: net.parse().unwrap(), local_scope: false, unusable: false }
    }

    fn neighbour(ifindex: u32, ip: &str, mac: [u8; 6]) -> Neighbour {
        Neighbour { ifindex, ip: ip.parse().unwrap(), mac: Some(Mac(mac)), permanent: true }
    }

    #[track_caller]
    fn check(expected: bool, changes: &[Change]) {
        let pod = pod();
        for change in changes {
            let found = is_relevant(change, |ifindex| (ifindex == POD).then_some(&pod));
            assert_eq!(found, expected, "{change:#?}");
        }
    }

    #[test]
    fn unit_changes_that_come_with_every_pod_are_irrelevant() {
        check(
            false,
            &[
                Change::Link(Link { up: false, mac: None, ..device(OTHER) }),
                Change::Link(device(POD)),
                Change::LinkDeleted(device(OTHER)),
                Change::Address(address("fe80::be:e1ff:fe00:1/64")),
                Change::AddressDeleted(address("fe80::be:e1ff:fe00:1/64")),
                Change::Route(route("fe80::/64", POD, protocol::KERNEL)),
                Change::Route(route("10.244.1.5/32", POD, protocol::BEELINE)),
                Change::Route(Route { table: table::LOCAL, ..route("ff00::/8", POD, protocol::KERNEL) }),
                Change::RouteDeleted(route("fe80::/64", OTHER, protocol::KERNEL)),
                Change::RouteDeleted(route("fd00:1::6/128", OTHER, protocol::BEELINE)),
                Change::Neighbour(neighbour(POD, "10.244.1.5", POD_MAC)),
                Change::Neighbour(neighbour(POD, "fe80::9", POD_MAC)),
                Change::NeighbourDeleted(neighbour(POD, "fe80::9", POD_MAC)),
                Change::NeighbourDeleted(neighbour(OTHER, "10.244.1.6", POD_MAC)),
            ],
        );
    }

    #[test]
    fn unit_external_changes_to_a_connected_pod_are_relevant() {
        let replaced = neighbour(POD, "10.244.1.5", GATEWAY_MAC.0);
        let aged = Neighbour { permanent: false, ..neighbour(POD, "fd00:1::5", POD_MAC) };
        check(
            true,
            &[
                Change::Link(Link { up: false, ..device(POD) }),
                Change::Link(Link { mac: Some(Mac(POD_MAC)), ..device(POD) }),
                Change::Link(Link { name: "bee000000000000".into(), ..device(POD) }),
                Change::Link(Link { name: "renamed".into(), ..device(POD) }),
                Change::LinkDeleted(device(POD)),
                Change::RouteDeleted(route("10.244.1.5/32", POD, protocol::BEELINE)),
                Change::Neighbour(replaced),
                Change::Neighbour(aged),
                Change::NeighbourDeleted(neighbour(POD, "fd00:1::5", POD_MAC)),
            ],
        );
    }

    #[test]
    fn unit_changes_of_uplinks_and_node_routes_are_relevant() {
        check(
            true,
            &[
                Change::Link(uplink()),
                Change::LinkDeleted(uplink()),
                Change::Address(address("172.30.0.11/24")),
                Change::AddressDeleted(address("fd00:172::11/64")),
                Change::Route(route("0.0.0.0/0", UPLINK, protocol::BOOT)),
                // Replaces a route of the agent.
                Change::Route(route("10.244.2.0/24", UPLINK, protocol::KERNEL)),
                Change::RouteDeleted(route("10.244.2.0/24", UPLINK, protocol::BEELINE)),
                // A route that was used in place of the agent's own.
                Change::RouteDeleted(route("10.244.2.0/24", UPLINK, protocol::STATIC)),
                Change::Overrun,
            ],
        );
    }

    #[test]
    fn unit_only_the_latest_change_of_a_device_is_kept() {
        let down = Change::Link(Link { up: false, ..device(POD) });
        let (up, gone) = (Change::Link(device(POD)), Change::LinkDeleted(device(POD)));
        let other = Change::Link(uplink());
        let all = vec![down.clone(), other.clone(), up.clone()];
        assert_eq!(latest(all), [other, up.clone()]);
        // A device with a reused index: the earlier one was removed.
        assert_eq!(latest(vec![up.clone(), gone.clone(), up.clone()]), [gone.clone(), up.clone()]);
        assert_eq!(latest(vec![up, gone.clone()]), [gone]);
    }
}
