//! Restarts of the agent without loss of traffic.

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use beeline_abi::Ip;
use beeline_kernel::netlink::{BpfFilter, Direction};

use crate::world::{Namespace, OUTSIDE_IPS, Pod, World, no_programs};

/// Sends a numbered datagram every millisecond until stopped; returns the
/// number sent and the ones without a reply.
fn flood(socket: &UdpSocket, ends: &AtomicBool) -> (u32, BTreeSet<u32>) {
    let (mut sent, mut missing, mut buffer) = (0, BTreeSet::new(), [0; 16]);
    let mut take = |missing: &mut BTreeSet<u32>| match socket.recv(&mut buffer) {
        Ok(4) => missing.remove(&u32::from_be_bytes(*buffer.first_chunk().unwrap())),
        _ => false,
    };
    socket.set_nonblocking(true).unwrap();
    while !ends.load(Ordering::Relaxed) {
        socket.send(&u32::to_be_bytes(sent)).unwrap();
        missing.insert(sent);
        sent += 1;
        thread::sleep(Duration::from_millis(1));
        while take(&mut missing) {}
    }
    socket.set_nonblocking(false).unwrap();
    while !missing.is_empty() && take(&mut missing) {}
    (sent, missing)
}

#[test]
fn kernel_kill_9_loses_no_packet_and_rewrites_nothing() {
    if no_programs() {
        return;
    }
    let mut world = World::with_agent();
    let (web, api) = (world.add("web"), world.add("api"));
    let paths: [(&Namespace, &Namespace, usize); 3] = [
        (&web.namespace, &api.namespace, 0),
        (&web.namespace, &api.namespace, 1),
        (&world.outside, &api.namespace, 0),
    ];
    let echoes: Vec<_> = paths.iter().map(|(_, to, family)| to.echo(api.ips[*family])).collect();
    let sockets: Vec<UdpSocket> = paths
        .iter()
        .zip(&echoes)
        .map(|((from, _, family), echo)| {
            let outside = OUTSIDE_IPS[*family].parse().unwrap();
            let own = if std::ptr::eq(*from, &world.outside) { outside } else { web.ips[*family] };
            let socket = from.udp(own);
            socket.connect(echo.address).unwrap();
            socket
        })
        .collect();
    let before =
        (world.pinned().contents().unwrap(), world.pinned().attached(), world.pinned().config().unwrap());
    let routes = world.own_routes();
    let ends = AtomicBool::new(false);
    let results: Vec<(u32, BTreeSet<u32>)> = thread::scope(|scope| {
        let floods: Vec<_> = sockets.iter().map(|socket| scope.spawn(|| flood(socket, &ends))).collect();
        for _ in 0..5 {
            thread::sleep(Duration::from_millis(200));
            world.kill_agent();
            thread::sleep(Duration::from_millis(100));
            world.start_agent();
            world.until_ready();
        }
        ends.store(true, Ordering::Relaxed);
        floods.into_iter().map(|flood| flood.join().unwrap()).collect()
    });
    for (number, (sent, missing)) in results.iter().enumerate() {
        assert!(
            *sent > 500 && missing.is_empty(),
            "path {number}: {missing:?} of {sent} lost\n{}",
            world.log()
        );
    }
    let after =
        (world.pinned().contents().unwrap(), world.pinned().attached(), world.pinned().config().unwrap());
    assert_eq!(after, before, "{}", world.log());
    assert_eq!(world.own_routes(), routes);
    let last = world.log();
    let last = last.rsplit("beeline-agent 0").next().unwrap();
    assert!(last.contains("adopted 2 local pods"), "{last}");
    assert!(last.contains("; removed 0 stale table entries"), "{last}");
    for word in ["restored:", "changed sysctl", "attached", "WARN", "route "] {
        assert!(!last.contains(word), "the new agent did something ({word}):\n{last}");
    }
}

#[test]
fn kernel_a_del_while_the_agent_is_down_is_processed_at_start() {
    if no_programs() {
        return;
    }
    let mut world = World::with_agent();
    let (web, api) = (world.add("web"), world.add("api"));
    world.kill_agent();
    world.delete(&web);
    assert!(world.pinned().contents().unwrap().endpoint.contains_key(&Ip::from(web.ipv4())));
    world.start_agent();
    world.until_ready();
    let contents = world.pinned().contents().unwrap();
    assert_eq!(contents.endpoint.keys().copied().collect::<Vec<_>>(), [api.ipv4(), api.ipv6()].map(Ip::from));
    assert_eq!(world.status().endpoints.len(), 1);
    assert_eq!(std::fs::read_dir(world.path("run/deleted")).unwrap().count(), 0);
    assert_eq!(world.pinned().attached().len(), 4, "two programs of the pod that is left, two of the uplink");
}

#[test]
fn kernel_external_changes_to_the_host_are_restored() {
    if no_programs() {
        return;
    }
    let world = World::with_agent();
    let pod = world.add("web");
    let mut netlink = world.node.netlink();
    let (link, uplink) = (netlink.link(&pod.host_interface).unwrap(), netlink.index("eth0").unwrap());
    let started = std::time::Instant::now();
    netlink.delete_route(&world.route("10.244.2.0/24").unwrap()).unwrap();
    netlink.delete_route(&world.route("10.244.1.2/32").unwrap()).unwrap();
    netlink.delete_neighbour(link.index, pod.ipv6()).unwrap();
    netlink.set_mac(link.index, beeline_abi::Mac([2, 0, 0, 0, 0, 7])).unwrap();
    let good = || {
        let mut netlink = world.node.netlink();
        world.route("10.244.2.0/24").is_some()
            && world.route("10.244.1.2/32").is_some()
            && netlink.neighbours().unwrap().iter().any(|n| n.ip == pod.ipv6() && n.permanent)
            && netlink.link(&pod.host_interface).unwrap().mac == Some(beeline_abi::GATEWAY_MAC)
    };
    world.eventually("everything is restored", good);
    assert!(started.elapsed() < Duration::from_secs(1), "it took {:?}", started.elapsed());
    world.node.set_sysctl("net.ipv4.ip_forward", "0");
    world.eventually("forwarding is on again", || world.node.sysctl("net.ipv4.ip_forward") == "1");
    netlink.set_up(uplink, false).unwrap();
    netlink.set_up(uplink, true).unwrap();
    // The kernel removes the IPv6 addresses of a device that goes down.
    netlink.add_address(uplink, "fd00:172:30::11/64".parse().unwrap()).unwrap();
    world.eventually("the routes by the uplink are back", || {
        world.route("10.244.2.0/24").is_some() && world.route("fd00:10:244:2::/64").is_some()
    });
    let metrics = world.page("/metrics").1;
    for object in ["route", "neighbour", "link", "sysctl"] {
        assert!(
            metrics.contains(&format!("beeline_repairs_total{{object=\"{object}\"}}")),
            "{object}:\n{metrics}"
        );
    }
}

#[test]
fn kernel_programs_detached_by_others_are_restored() {
    if no_programs() {
        return;
    }
    let world = World::with_agent();
    let pod = world.add("web");
    let before = world.pinned().attached();
    let links = device_links(&world);
    if links.is_empty() {
        eprintln!("skipped: this kernel has no links");
        return;
    }
    assert_eq!((before.len(), links.len()), (4, 4), "{before:?} {links:?}");
    for file in links {
        // A link without a pin and without an open file descriptor is detached.
        std::fs::remove_file(file).unwrap();
    }
    assert_eq!(world.pinned().attached(), []);
    world.eventually("the programs are attached again", || world.pinned().attached() == before);
    let echo = world.outside.echo(OUTSIDE_IPS[0].parse().unwrap());
    assert!(pod.namespace.reaches(pod.ipv4(), echo.address), "{}", world.log());
    let metrics = world.page("/metrics").1;
    assert!(metrics.contains("beeline_repairs_total{object=\"attachment\"}"), "{metrics}");
}

/// The pinned links of devices (`PROGRAM-INDEX`). Pins of the socket hooks in
/// the same directory are skipped.
fn device_links(world: &World) -> Vec<std::path::PathBuf> {
    let pins = std::fs::read_dir(world.path("bpf/beeline/links")).unwrap();
    let paths = pins.flatten().map(|pin| pin.path());
    paths.filter(|path| is_of_device(path)).collect()
}

fn is_of_device(path: &std::path::Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().contains('-'))
}

/// The classifiers on both directions of a pod's device.
fn filters(world: &World, pod: &Pod) -> [Vec<BpfFilter>; 2] {
    let mut netlink = world.node.netlink();
    let index = netlink.index(&pod.host_interface).unwrap();
    [Direction::Ingress, Direction::Egress].map(|side| netlink.bpf_filters(index, side).unwrap())
}

#[test]
fn kernel_with_classifiers_for_links_pods_talk_and_a_restart_changes_nothing() {
    if no_programs() {
        return;
    }
    let mut world = World::new();
    world.values = "bpf: { enableTCX: false }\n".to_owned();
    world.start_agent();
    world.until_ready();
    let (web, api) = (world.add("web"), world.add("api"));
    assert!(device_links(&world).is_empty(), "nothing is a link");
    world.kill_agent();
    let before = [filters(&world, &web), filters(&world, &api)];
    assert!(before.iter().flatten().all(|side| side.len() == 1), "{before:#?}");
    let echo = api.namespace.echo(api.ipv6());
    assert!(web.namespace.reaches(web.ipv6(), echo.address), "{}", world.log());
    world.start_agent();
    world.until_ready();
    assert_eq!([filters(&world, &web), filters(&world, &api)], before, "{}", world.log());
    assert!(web.namespace.reaches(web.ipv6(), echo.address), "{}", world.log());
    world.delete(&web);
    assert_eq!(world.status().endpoints.len(), 1);
}

#[test]
fn kernel_pods_move_from_links_to_classifiers_and_back_with_the_value() {
    if no_programs() {
        return;
    }
    let mut world = World::with_agent();
    let (web, api) = (world.add("web"), world.add("api"));
    let links = world.pinned().attached();
    if filters(&world, &web).iter().any(|side| !side.is_empty()) {
        eprintln!("skipped: this kernel has no links");
        return;
    }
    let echo = api.namespace.echo(api.ipv4());
    for (value, pinned, filtered) in [("false", 0, 1), ("true", 6, 0)] {
        world.kill_agent();
        world.values = format!("bpf: {{ enableTCX: {value} }}\n");
        world.start_agent();
        world.until_ready();
        let pins = device_links(&world).len();
        assert_eq!(pins, pinned, "enableTCX: {value}\n{}", world.log());
        for pod in [&web, &api] {
            let sides = filters(&world, pod);
            assert!(sides.iter().all(|side| side.len() == filtered), "enableTCX: {value}: {sides:#?}");
        }
        let attached = world.node.netns.enter(|| world.pinned().attached()).unwrap();
        assert_eq!(attached, links, "enableTCX: {value}\n{}", world.log());
        assert!(web.namespace.reaches(web.ipv4(), echo.address), "{}", world.log());
    }
}

#[test]
fn kernel_a_pod_whose_device_is_removed_before_del_leaves_the_tables() {
    if no_programs() {
        return;
    }
    let world = World::with_agent();
    let pod = world.add("web");
    let container = pod.container.clone();
    drop(pod);
    world.eventually("its entries are gone", || world.pinned().contents().unwrap().endpoint.is_empty());
    assert_eq!(world.status().endpoints.len(), 1, "its addresses stay allocated until DEL");
    let (success, _) = world.plugin("DEL", &container, std::path::Path::new(""));
    assert!(success && world.status().endpoints.is_empty(), "{}", world.log());
}
