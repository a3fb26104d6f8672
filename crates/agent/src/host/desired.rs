//! The desired state of the host, and the actions that lead to it.

use std::net::IpAddr;

use beeline_abi::{GATEWAY_MAC, Mac};
use beeline_kernel::netlink::{Link, Route, RouteKind, Scope, protocol, table};
use ipnet::IpNet;

use super::uplinks::Uplink;
use super::{Action, Observed};

/// The metric that the kernel gives an IPv6 route without one.
const IPV6_PRIORITY: u32 = 1024;

/// The host side of a pod's veth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSide {
    /// Name of the device.
    pub name: String,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
    /// MAC of the pod's side.
    pub pod_mac: Mac,
}

/// The desired state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Committed local pods.
    pub pods: Vec<PodSide>,
    /// Routes to the pod CIDRs of other nodes.
    pub routes: Vec<Route>,
    /// This node's addresses from its Node object: source addresses for packets
    /// from the host to its pods.
    pub node_ips: Vec<IpAddr>,
    /// The desired state is complete: stale routes of Beeline are removed.
    pub complete: bool,
}

/// Whether this is the host side of a pod's veth.
pub fn is_pod_link(link: &Link) -> bool {
    let suffix = link.name.strip_prefix("bee");
    link.kind == "veth"
        && suffix.is_some_and(|hex| hex.len() == 12 && hex.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

/// Sysctls of a pod's device and their values.
pub fn pod_sysctls(name: &str, ipv6: bool) -> Vec<(String, &'static str)> {
    let mut sysctls = vec![(format!("net.ipv4.conf.{name}.rp_filter"), "0")];
    if ipv6 {
        let of = |setting: &str| format!("net.ipv6.conf.{name}.{setting}");
        sysctls.extend([(of("disable_ipv6"), "0"), (of("accept_ra"), "0"), (of("accept_dad"), "0")]);
    }
    sysctls
}

/// The route to a peer's pods over the uplink that has the peer on-link.
pub fn node_route(prefix: IpNet, next_hop: IpAddr, uplinks: &[Uplink]) -> Option<Route> {
    let on_link = |uplink: &&Uplink| uplink.subnets.iter().any(|subnet| subnet.contains(&next_hop));
    let uplink = uplinks.iter().find(on_link)?;
    Some(as_listed(Route::new(prefix, uplink.ifindex).via(next_hop)))
}

/// The actions that change the observed into the desired state.
pub fn actions(desired: &Desired, observed: &Observed) -> Vec<Action> {
    let mut actions = Vec::new();
    let mut desired_routes = Vec::new();
    for pod in &desired.pods {
        // A missing link is ignored: CNI DEL follows.
        if let Some(link) = observed.links.iter().find(|link| link.name == pod.name) {
            desired_routes.extend(pod_routes(pod, link.index, &desired.node_ips, observed));
            actions.extend(pod_link_actions(pod, link, observed));
        }
    }
    desired_routes.extend(desired.routes.iter().copied());
    actions.extend(route_actions(&desired_routes, observed));
    if desired.complete {
        let stale = observed.routes.iter().filter(|route| is_ours(route) && !desired_routes.contains(route));
        // A route that was replaced above no longer exists.
        let replaced = |route: &&Route| desired_routes.iter().any(|new| replaces(new, route));
        actions.extend(
            stale.filter(|route| !replaced(route)).map(|route| Action::DeleteRoute { route: *route }),
        );
    }
    actions
}

fn pod_link_actions(pod: &PodSide, link: &Link, observed: &Observed) -> Vec<Action> {
    let (ifindex, name) = (link.index, link.name.clone());
    let mut actions = Vec::new();
    if link.mac != Some(GATEWAY_MAC) {
        actions.push(Action::SetMac { ifindex, name: name.clone(), mac: GATEWAY_MAC });
    }
    if !link.up {
        actions.push(Action::SetUp { ifindex, name: name.clone() });
    }
    for ip in &pod.addresses {
        let known = observed.neighbours.iter().any(|neighbour| {
            neighbour.ifindex == ifindex
                && neighbour.ip == *ip
                && neighbour.mac == Some(pod.pod_mac)
                && neighbour.permanent
        });
        if !known {
            actions.push(Action::SetNeighbour { ifindex, name: name.clone(), ip: *ip, mac: pod.pod_mac });
        }
    }
    actions
}

fn pod_routes(pod: &PodSide, ifindex: u32, node_ips: &[IpAddr], observed: &Observed) -> Vec<Route> {
    let is_local = |ip: &&IpAddr| observed.addresses.iter().any(|address| address.net.addr() == **ip);
    let route = |ip: &IpAddr| {
        let source = node_ips.iter().filter(is_local).find(|own| own.is_ipv4() == ip.is_ipv4());
        as_listed(Route { source: source.copied(), ..Route::new(IpNet::from(*ip), ifindex).on_link() })
    };
    pod.addresses.iter().map(route).collect()
}

/// The route as the kernel lists it.
fn as_listed(route: Route) -> Route {
    match route.destination {
        IpNet::V4(_) => route,
        IpNet::V6(_) => Route { scope: Scope::Global, priority: IPV6_PRIORITY, ..route },
    }
}

fn route_actions(desired_routes: &[Route], observed: &Observed) -> Vec<Action> {
    let name = |ifindex: u32| {
        let link = observed.links.iter().find(|link| link.index == ifindex);
        link.map_or_else(|| format!("index {ifindex}"), |link| link.name.clone())
    };
    let missing =
        desired_routes.iter().filter(|route| !observed.routes.iter().any(|actual| satisfies(actual, route)));
    missing.map(|route| Action::SetRoute { route: *route, name: name(route.ifindex) }).collect()
}

/// A route of another owner is accepted if it has the same next hop and device.
fn satisfies(actual: &Route, desired: &Route) -> bool {
    if actual.protocol == protocol::BEELINE {
        return actual == desired;
    }
    actual.destination == desired.destination
        && actual.table == desired.table
        && actual.kind == RouteKind::Unicast
        && (actual.gateway, actual.ifindex) == (desired.gateway, desired.ifindex)
}

fn is_ours(route: &Route) -> bool {
    route.protocol == protocol::BEELINE && route.table == table::MAIN
}

/// Setting `a` replaces `b`.
fn replaces(a: &Route, b: &Route) -> bool {
    (a.destination, a.table, a.priority) == (b.destination, b.table, b.priority)
}

/// Applies the actions to `observed` as the kernel would.
#[cfg(test)]
pub(crate) fn perform(observed: &mut Observed, actions: &[Action]) {
    for action in actions {
        match action {
            Action::SetMac { ifindex, mac, .. } => {
                observed.links.iter_mut().find(|l| l.index == *ifindex).unwrap().mac = Some(*mac);
            }
            Action::SetUp { ifindex, .. } => {
                observed.links.iter_mut().find(|l| l.index == *ifindex).unwrap().up = true;
            }
            Action::SetRoute { route, .. } => {
                observed.routes.retain(|other| !replaces(route, other));
                observed.routes.push(*route);
            }
            Action::DeleteRoute { route } => observed.routes.retain(|other| other != route),
            Action::SetNeighbour { ifindex, ip, mac, .. } => {
                observed.neighbours.push(beeline_kernel::netlink::Neighbour {
                    ifindex: *ifindex,
                    ip: *ip,
                    mac: Some(*mac),
                    permanent: true,
                })
            }
            Action::DeleteLink { name } => observed.links.retain(|link| link.name != *name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use beeline_kernel::netlink::Address;

    const POD_MAC: Mac = Mac([2, 0, 0, 0, 0, 9]);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn pod() -> PodSide {
        PodSide {
            name: "bee0123456789ab".into(),
            addresses: vec![ip("10.244.1.5"), ip("fd00:1::5")],
            pod_mac: POD_MAC,
        }
    }

    fn uplink() -> Uplink {
        let subnets = vec!["172.30.0.0/24".parse().unwrap(), "fd00:172::/64".parse().unwrap()];
        Uplink { ifindex: 2, name: "eth0".into(), mtu: 1500, subnets }
    }

    fn desired() -> Desired {
        let route =
            |prefix: &str, hop: &str| node_route(prefix.parse().unwrap(), ip(hop), &[uplink()]).unwrap();
        Desired {
            pods: vec![pod()],
            routes: vec![route("10.244.2.0/24", "172.30.0.12"), route("fd00:2::/64", "fd00:172::12")],
            node_ips: vec![ip("172.30.0.11")],
            complete: true,
        }
    }

    fn bare() -> Observed {
        let address = Address {
            ifindex: 2,
            net: "172.30.0.11/24".parse().unwrap(),
            local_scope: false,
            unusable: false,
        };
        Observed {
            links: vec![
                Link { index: 2, name: "eth0".into(), ..Link::default() },
                Link { index: 7, name: pod().name, kind: "veth".into(), ..Link::default() },
            ],
            addresses: vec![address],
            ..Observed::default()
        }
    }

    fn fulfil(observed: &mut Observed) {
        let actions = actions(&desired(), observed);
        perform(observed, &actions);
    }

    #[test]
    fn unit_a_bare_host_gets_everything_and_then_nothing() {
        let mut observed = bare();
        let first = actions(&desired(), &observed);
        assert_eq!(first.len(), 8, "{first:#?}");
        perform(&mut observed, &first);
        assert_eq!(actions(&desired(), &observed), []);
        let source = observed.routes.iter().find(|r| r.destination == "10.244.1.5/32".parse().unwrap());
        assert_eq!(source.unwrap().source, Some(ip("172.30.0.11")));
    }

    #[test]
    fn unit_external_changes_are_restored() {
        let mut good = bare();
        fulfil(&mut good);
        let breaks: [fn(&mut Observed); 6] = [
            |o| o.links[1].up = false,
            |o| o.links[1].mac = None,
            |o| o.routes.truncate(3),
            |o| o.routes.swap_remove(0).protocol = 0,
            |o| o.neighbours[0].permanent = false,
            |o| o.neighbours[1].mac = Some(GATEWAY_MAC),
        ];
        for (number, break_it) in breaks.into_iter().enumerate() {
            let mut broken = good.clone();
            break_it(&mut broken);
            assert_eq!(actions(&desired(), &broken).len(), 1, "break {number}");
        }
    }

    #[test]
    fn unit_stale_routes_are_removed_only_when_the_desired_state_is_complete() {
        let mut observed = bare();
        fulfil(&mut observed);
        let (stale, foreign) = ("10.244.9.0/24".parse().unwrap(), "10.245.0.0/16".parse().unwrap());
        observed.routes.push(Route::new(stale, 2).via(ip("172.30.0.19")));
        observed.routes.push(Route { protocol: protocol::STATIC, ..Route::new(foreign, 2) });
        let unsure = Desired { complete: false, ..desired() };
        assert_eq!(actions(&unsure, &observed), []);
        let last = actions(&desired(), &observed);
        assert!(
            matches!(&last[..], [Action::DeleteRoute { route }] if route.destination == stale),
            "{last:?}"
        );
    }

    #[test]
    fn unit_a_foreign_route_with_the_same_next_hop_is_left_alone() {
        let mut observed = bare();
        let mut theirs = desired().routes[0];
        (theirs.protocol, theirs.priority) = (protocol::STATIC, 50);
        observed.routes.push(theirs);
        let done = actions(&Desired { pods: Vec::new(), ..desired() }, &observed);
        assert_eq!(done.len(), 1, "{done:?}");
        observed.routes[0].gateway = Some(ip("172.30.0.99"));
        assert_eq!(actions(&Desired { pods: Vec::new(), ..desired() }, &observed).len(), 2);
    }

    #[test]
    fn unit_a_peer_that_moves_gets_a_new_route_in_one_step() {
        let mut observed = bare();
        fulfil(&mut observed);
        let mut moved = desired();
        moved.routes[0].gateway = Some(ip("172.30.0.13"));
        let done = actions(&moved, &observed);
        assert!(matches!(&done[..], [Action::SetRoute { .. }]), "{done:?}");
    }

    #[test]
    fn unit_a_peer_that_is_not_on_link_gets_no_route() {
        assert_eq!(node_route("10.1.0.0/24".parse().unwrap(), ip("192.0.2.1"), &[uplink()]), None);
    }

    #[test]
    fn unit_pod_links_are_recognised_by_kind_and_name() {
        let link = |name: &str, kind: &str| Link { name: name.into(), kind: kind.into(), ..Link::default() };
        assert!(is_pod_link(&link("bee0123456789ab", "veth")));
        for (name, kind) in [("bee0123456789ab", "bridge"), ("beehive", "veth"), ("eth0", "veth")] {
            assert!(!is_pod_link(&link(name, kind)), "{name} {kind}");
        }
    }
}
