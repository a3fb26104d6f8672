//! The network of a pod, created and removed over netlink in namespaces of the test.

#![allow(clippy::unwrap_used, reason = "a failing test ends here")]

mod support;

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use beeline_abi::Mac;
use beeline_kernel::netlink::{Change, Netlink, Route, RouteKind, Scope, Veth, VethEnd, Watch, protocol};
use beeline_kernel::netns::NetNs;
use beeline_kernel::sysctl;
use ipnet::IpNet;
use support::TestNetNs;

const HOST_MAC: Mac = Mac([0x02, 0, 0, 0, 0, 1]);
const POD_MAC: Mac = Mac([0x02, 0, 0, 0, 0, 2]);

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Creates the veth pair `host0` - `eth0` between two namespaces and returns both indices.
fn pair(node: &mut Netlink, pod: &mut Netlink, pod_netns: &NetNs) -> (u32, u32) {
    let veth = Veth {
        local: VethEnd { name: "host0", mac: Some(HOST_MAC) },
        peer: VethEnd { name: "eth0", mac: Some(POD_MAC) },
        mtu: 1400,
        peer_netns: Some(pod_netns),
    };
    node.create_veth(&veth).unwrap();
    (node.index("host0").unwrap(), pod.index("eth0").unwrap())
}

#[test]
fn kernel_a_pod_network_is_created_and_removed() {
    let (node_ns, pod_ns) = (TestNetNs::new("node"), TestNetNs::new("pod"));
    let mut node = Netlink::open_in(&node_ns).unwrap();
    let mut pod = Netlink::open_in(&pod_ns).unwrap();

    // The pair is created with names, MAC addresses and MTU, one end in each namespace.
    let (host, eth) = pair(&mut node, &mut pod, &pod_ns);
    let (local, peer) = (node.link("host0").unwrap(), pod.link("eth0").unwrap());
    assert_eq!((local.mac, local.mtu, local.kind.as_str(), local.up), (Some(HOST_MAC), 1400, "veth", false));
    assert_eq!((peer.mac, peer.mtu, peer.up), (Some(POD_MAC), 1400, false));
    assert_eq!(local.peer.unwrap().index, eth, "{local:?}");
    assert!(local.peer.unwrap().netns_id.is_some(), "the peer is in another namespace: {local:?}");
    assert!(!node.links().unwrap().iter().any(|link| link.name == "eth0"), "eth0 never existed in the node");

    node.set_up(host, true).unwrap();
    pod.set_up(eth, true).unwrap();
    pod.set_up(1, true).unwrap();
    wait_until("the link is up", || node.link_by_index(host).unwrap().carrier);

    // Addresses are usable at once: no duplicate address detection.
    for address in ["10.9.0.5/32", "fd09::5/128"] {
        pod.add_address(eth, net(address)).unwrap();
        pod.add_address(eth, net(address)).expect("idempotent");
    }
    let addresses = pod.addresses().unwrap();
    for address in ["10.9.0.5/32", "fd09::5/128"] {
        let found = addresses.iter().find(|found| found.net == net(address) && found.ifindex == eth);
        assert!(found.is_some_and(|found| !found.unusable), "{address} in {addresses:?}");
    }

    // The gateways are link-local and permanent neighbours on both sides.
    let gateways = [ip("169.254.42.1"), ip("fe80::bee1:1")];
    for gateway in gateways {
        pod.replace_route(&Route::new(IpNet::from(gateway), eth).on_link()).unwrap();
        pod.replace_route(&Route { mtu: Some(1380), ..Route::default_via(gateway, eth) }).unwrap();
        pod.set_neighbour(eth, gateway, HOST_MAC).unwrap();
        node.add_address(host, IpNet::from(gateway)).unwrap();
    }
    for address in ["10.9.0.5/32", "fd09::5/128"] {
        node.add_route(&Route::new(net(address), host).on_link()).unwrap();
        node.set_neighbour(host, net(address).addr(), POD_MAC).unwrap();
    }
    let neighbours = node.neighbours().unwrap();
    let known = neighbours.iter().filter(|one| one.permanent && one.mac == Some(POD_MAC)).count();
    assert_eq!(known, 2, "{neighbours:?}");
    let answer = pod.route_to(ip("192.0.2.1")).unwrap();
    assert_eq!((answer.gateway, answer.ifindex, answer.mtu), (Some(gateways[0]), eth, Some(1380)));
    assert_eq!(answer.source, Some(ip("10.9.0.5")));

    // Packets are delivered in both families.
    for address in ["10.9.0.5", "fd09::5"] {
        talk(&node_ns, &pod_ns, ip(address));
    }

    // Deleting is idempotent.
    for address in ["10.9.0.5/32", "fd09::5/128"] {
        for _ in 0..2 {
            node.delete_route(&Route::new(net(address), host).on_link()).unwrap();
            node.delete_neighbour(host, net(address).addr()).unwrap();
            pod.delete_address(eth, net(address)).unwrap();
        }
    }
    assert!(!node.routes().unwrap().iter().any(|route| route.protocol == protocol::BEELINE));
    node.delete_link("host0").unwrap();
    node.delete_link("host0").unwrap();
    node.delete_link_by_index(host).unwrap();
    assert!(pod.link("eth0").unwrap_err().is_missing(), "the peer was deleted too");
}

#[test]
fn kernel_our_routes_are_recognised_and_replaced_in_place() {
    let netns = TestNetNs::new("routes");
    let mut node = Netlink::open_in(&netns).unwrap();
    node.create_bridge("up0", 1500).unwrap();
    let up = node.index("up0").unwrap();
    node.set_up(up, true).unwrap();
    for address in ["10.1.0.1/24", "fd01::1/64"] {
        node.add_address(up, net(address)).unwrap();
    }
    for (destination, first, second) in
        [("10.244.2.0/24", "10.1.0.2", "10.1.0.3"), ("fd00:10:244:2::/64", "fd01::2", "fd01::3")]
    {
        let route = Route::new(net(destination), up).via(ip(first));
        node.add_route(&route).unwrap();
        let error = node.add_route(&route).unwrap_err();
        assert!(error.is_exists(), "{error}");
        assert!(error.to_string().contains(&format!("add route {destination} via {first}")), "{error}");

        node.replace_route(&Route { mtu: Some(1400), ..Route::new(net(destination), up).via(ip(second)) })
            .unwrap();
        let ours: Vec<Route> = node.routes().unwrap();
        let ours: Vec<&Route> = ours
            .iter()
            .filter(|route| route.protocol == protocol::BEELINE && route.destination == net(destination))
            .collect();
        assert_eq!(ours.len(), 1, "replaced, not added: {ours:?}");
        assert_eq!((ours[0].gateway, ours[0].mtu, ours[0].ifindex), (Some(ip(second)), Some(1400), up));
        assert_eq!((ours[0].kind, ours[0].scope), (RouteKind::Unicast, Scope::Global));
    }
    let kernels = node.routes().unwrap();
    assert!(kernels.iter().any(|route| route.protocol == protocol::KERNEL), "{kernels:?}");

    // Errors name the object.
    let error = node.add_route(&Route::new(net("10.7.0.0/16"), up).via(ip("203.0.113.9"))).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("route 10.7.0.0/16 via 203.0.113.9") && text.contains("gateway"), "{text}");
    let text = node.index("nothere").unwrap_err().to_string();
    assert!(text.contains("nothere"), "{text}");
    let text = node.set_up(4711, true).unwrap_err().to_string();
    assert!(text.contains("4711"), "{text}");
}

#[test]
fn kernel_changes_are_reported() {
    let netns = TestNetNs::new("watch");
    let mut node = Netlink::open_in(&netns).unwrap();
    let mut watch = Watch::open_in(&netns).unwrap();
    node.create_bridge("up0", 1500).unwrap();
    let up = node.index("up0").unwrap();
    node.set_up(up, true).unwrap();
    node.add_address(up, net("10.1.0.1/24")).unwrap();
    let route = Route::new(net("10.244.2.0/24"), up).via(ip("10.1.0.2"));
    node.add_route(&route).unwrap();
    node.delete_route(&route).unwrap();
    node.delete_link("up0").unwrap();

    let mut seen = Vec::new();
    let is_deleted = |seen: &Vec<Change>| {
        seen.iter().any(|change| matches!(change, Change::LinkDeleted(link) if link.name == "up0"))
    };
    let deadline = Instant::now() + Duration::from_secs(5);
    while !is_deleted(&seen) && Instant::now() < deadline {
        seen.extend(watch.wait(Some(Duration::from_millis(100))).unwrap());
    }
    let has = |wanted: &dyn Fn(&Change) -> bool| seen.iter().any(wanted);
    assert!(is_deleted(&seen), "{seen:?}");
    assert!(has(&|change| matches!(change, Change::Link(link) if link.name == "up0" && link.up)), "{seen:?}");
    assert!(
        has(&|change| matches!(change, Change::Address(one) if one.net == net("10.1.0.1/24"))),
        "{seen:?}"
    );
    assert!(
        has(&|change| matches!(change, Change::Route(one) if one.destination == route.destination)),
        "{seen:?}"
    );
    assert!(
        has(&|change| matches!(change, Change::RouteDeleted(one) if one.destination == route.destination)),
        "{seen:?}"
    );
    assert!(watch.wait(Some(Duration::ZERO)).unwrap().is_empty());
}

#[test]
fn kernel_settings_are_restored() {
    let netns = TestNetNs::new("sysctl");
    let mut node = Netlink::open_in(&netns).unwrap();
    node.create_bridge("up0", 1500).unwrap();
    netns
        .enter(|| {
            let (forward, filter) = ("net.ipv4.conf.up0.forwarding", "net.ipv4.conf.up0.rp_filter");
            let before = [sysctl::get(forward).unwrap(), sysctl::get(filter).unwrap()];
            let mut saved = Vec::new();
            for value in ["0", "1", "0", "1"] {
                sysctl::set_and_save(forward, value, &mut saved).unwrap();
            }
            for value in ["2", "0", "2"] {
                sysctl::set_and_save(filter, value, &mut saved).unwrap();
            }
            assert_eq!(saved.len(), 2, "one entry per setting: {saved:?}");
            assert_eq!(sysctl::get(filter).unwrap(), "2");
            assert!(sysctl::restore(&saved).is_empty());
            assert_eq!([sysctl::get(forward).unwrap(), sysctl::get(filter).unwrap()], before);
            // Parameters of a deleted device are skipped.
            Netlink::open().unwrap().delete_link("up0").unwrap();
            assert!(sysctl::restore(&saved).is_empty());
        })
        .unwrap();
}

#[test]
fn kernel_a_namespace_is_opened_entered_and_identified() {
    let (one, two) = (TestNetNs::new("one"), TestNetNs::new("two"));
    let again = NetNs::open(one.path()).unwrap();
    assert_eq!(one.identity().unwrap(), again.identity().unwrap());
    assert_ne!(one.identity().unwrap(), two.identity().unwrap());
    assert_eq!(one.cookie().unwrap(), again.cookie().unwrap());
    assert_ne!(one.cookie().unwrap(), two.cookie().unwrap());
    let before = NetNs::current().unwrap().identity().unwrap();
    let inside = one.enter(|| NetNs::current().unwrap().identity().unwrap()).unwrap();
    assert_eq!(inside, one.identity().unwrap());
    assert_eq!(NetNs::current().unwrap().identity().unwrap(), before, "the caller stays in its namespace");

    let text = one.enter(|| panic!("inside")).unwrap_err().to_string();
    assert!(text.contains("inside") && text.contains(one.name()), "{text}");
    let text = NetNs::open("/etc/hostname").unwrap_err().to_string();
    assert!(text.contains("/etc/hostname is not a network namespace"), "{text}");
    let text = NetNs::open("/no/such/netns").unwrap_err().to_string();
    assert!(text.contains("/no/such/netns"), "{text}");
    assert!(NetNs::create_bound(one.path()).is_err(), "an existing namespace is not replaced");
    assert_eq!(one.identity().unwrap(), NetNs::open(one.path()).unwrap().identity().unwrap());
}

/// Sends text from the node to a listener in the pod, which echoes it.
fn talk(node: &NetNs, pod: &NetNs, address: IpAddr) {
    let listener = pod.enter(|| TcpListener::bind((address, 0)).unwrap()).unwrap();
    let place = listener.local_addr().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = [0; 5];
            stream.read_exact(&mut buffer).unwrap();
            stream.write_all(&buffer).unwrap();
        });
        let limit = Duration::from_secs(3);
        let mut stream = node.enter(|| TcpStream::connect_timeout(&place, limit).unwrap()).unwrap();
        stream.set_read_timeout(Some(limit)).unwrap();
        stream.write_all(b"hello").unwrap();
        let mut buffer = [0; 5];
        stream.read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"hello");
    });
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !done() {
        assert!(Instant::now() < deadline, "timed out after 5 s: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
