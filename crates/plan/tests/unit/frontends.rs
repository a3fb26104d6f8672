//! Frontends other than ClusterIPs, as text: internal and external frontends,
//! and conflicts between owners.

use beeline_model::Kind;
use beeline_plan::{PlanConfig, ServiceConfig};

use crate::world::*;

/// Two nodes in two zones, and a Service `web` with a pod on each.
fn two_nodes() -> World {
    let mut world = World::listed();
    for n in [1, 2] {
        let mut node = lab_node(n);
        node.zone = Some(if n == 1 { "a" } else { "b" }.into());
        world.apply(node);
    }
    world.apply(slice("web-4", "web", "http:8080", "10.244.1.5@node-1 10.244.2.5@node-2"));
    world
}

const LOCAL: &str = "10.244.1.5:8080@172.30.0.11";
const REMOTE: &str = "10.244.2.5:8080@172.30.0.12";

#[track_caller]
fn check(world: &World, what: &str, expected: &[String]) {
    world.check(what, &expected.join("\n"));
}

#[test]
fn unit_a_node_port_is_served_at_every_node() {
    let mut world = two_nodes();
    world.apply(service("web", "10.96.0.10 fd00:10:96::a", "http:80+30080"));
    world.check(
        "service address",
        "service address 10.96.0.10 exclusive
         service address 172.30.0.11 node
         service address 172.30.0.12 node
         service address fd00:10:96::a exclusive
         service address fd00:172:30::11 node
         service address fd00:172:30::12 node",
    );
    let both = format!("{LOCAL} {REMOTE}");
    let all = [
        format!("frontend 10.96.0.10 80/TCP -> {both}"),
        "frontend fd00:10:96::a 80/TCP -> refused".to_owned(),
        format!("frontend nodes 30080/TCP -> {both}"),
        format!("frontend nodes 30080/TCP external -> {both}"),
        "frontend nodes(IPv6) 30080/TCP -> refused".to_owned(),
        "frontend nodes(IPv6) 30080/TCP external -> refused".to_owned(),
    ];
    check(&world, "frontend", &all);
    // One selection of endpoints, so one id per family.
    assert_eq!(world.tables.contents().service.len(), 2);

    // Another node costs its own addresses, regardless of the number of
    // Services.
    for n in 0..50 {
        world.apply(service(&format!("s{n}"), &format!("10.96.1.{n}"), &format!("x:80+{}", 31_000 + n)));
    }
    let report = world.apply(lab_node(3));
    assert_eq!((report.written, report.deleted), (1 + 4 + 2, 0), "the node, its prefixes, its addresses");
    let mut node = lab_node(3);
    node.external_ips = vec![ip("203.0.113.3")];
    world.apply(node);
    world.check("service address 203", "service address 203.0.113.3 node");
    world.check("address 203", "");
    world.delete(Kind::Node, "node-3");
    world.check("service address 203", "");
    world.check("service address 172.30.0.13", "");
}

#[test]
fn unit_node_ports_at_chosen_addresses() {
    let addresses = vec!["172.30.0.0/28".parse().unwrap(), "fd00:172:30::/64".parse().unwrap()];
    let services = ServiceConfig { node_port_addresses: addresses, ..config().services };
    let mut world = World::with(PlanConfig { services, ..config() });
    world.list(&[]);
    world.apply(lab_node(1));
    world.apply(lab_node(9));
    world.check(
        "service address",
        "service address 172.30.0.11 node
         service address fd00:172:30::11 node
         service address fd00:172:30::19 node",
    );
}

#[test]
fn unit_internal_and_external_traffic_policies_are_independent() {
    let mut world = two_nodes();
    let mut web = service("web", "10.96.0.10", "http:80+30080");
    web.external_local = true;
    world.apply(web.clone());
    let frontends = |cluster_ip: &str, inside: &str, outside: &str| {
        [
            format!("frontend 10.96.0.10 80/TCP -> {cluster_ip}"),
            format!("frontend nodes 30080/TCP -> {inside}"),
            format!("frontend nodes 30080/TCP external -> {outside}"),
        ]
    };
    let both = format!("{LOCAL} {REMOTE}");
    check(&world, "frontend", &frontends(&both, &both, LOCAL));
    let names = world.planner.names();
    assert_eq!(names.services.len(), 2);
    assert!(names.services.iter().all(|(_, name)| name == "default/web:80"), "{names:?}");
    assert_eq!(names.local_services.len(), 1);

    // The internal policy applies to the ClusterIP only.
    web.internal_local = true;
    world.apply(web.clone());
    check(&world, "frontend", &frontends(LOCAL, &both, LOCAL));
    web.external_local = false;
    world.apply(web.clone());
    check(&world, "frontend", &frontends(LOCAL, &both, &both));
    web.external_local = true;
    world.apply(web.clone());

    // The last local pod is terminating: external clients fall back to it,
    // internal clients use a ready one.
    world.apply(slice("web-4", "web", "http:8080", "10.244.1.5@node-1!draining 10.244.2.5@node-2"));
    check(&world, "frontend", &frontends(LOCAL, REMOTE, LOCAL));
    // It no longer serves: dropped, because another node has an endpoint.
    world.apply(slice("web-4", "web", "http:8080", "10.244.1.5@node-1!dead 10.244.2.5@node-2"));
    check(&world, "frontend", &frontends("dropped", REMOTE, "dropped"));
    world.check("unselected", "unselected 10.244.1.5:8080@172.30.0.11(terminating)/TCP");
    // No endpoint on any node: refused.
    world.apply(slice("web-4", "web", "http:8080", "10.244.1.5@node-1!dead 10.244.2.5@node-2!not-ready"));
    check(&world, "frontend", &frontends("refused", "refused", "refused"));
}

#[test]
fn unit_terminating_backends_are_used_only_without_ready_ones() {
    let mut world = two_nodes();
    world.apply(service("web", "10.96.0.10", "http:80"));
    world.apply(service("alias", "10.96.0.11", "http:80"));
    world.apply(slice("alias-4", "alias", "http:8080", "10.244.1.5@node-1"));
    world.apply(slice("web-4", "web", "http:8080", "10.244.1.5@node-1!draining 10.244.2.5@node-2"));
    check(&world, "frontend 10.96.0.10", &[format!("frontend 10.96.0.10 80/TCP -> {REMOTE}")]);
    // Another Service still uses it.
    check(&world, "frontend 10.96.0.11", &[format!("frontend 10.96.0.11 80/TCP -> {LOCAL}")]);
    world.apply(slice("alias-4", "alias", "http:8080", "10.244.1.5@node-1!draining"));
    check(&world, "frontend 10.96.0.11", &[format!("frontend 10.96.0.11 80/TCP -> {LOCAL}")]);
    world.delete(Kind::Service, "alias");
    world.check("unselected", "unselected 10.244.1.5:8080@172.30.0.11(terminating)/TCP");
    let report = world.apply(slice("web-4", "web", "http:8080", "10.244.1.5@node-1!dead 10.244.2.5@node-2"));
    assert_eq!((report.written, report.deleted), (0, 0), "its connections may last longer than it serves");
    world.apply(slice("web-4", "web", "http:8080", "10.244.2.5@node-2"));
    world.check("unselected", "");
    assert_eq!(world.tables.contents().backend.len(), 1);
}

#[test]
fn unit_load_balancer_source_ranges() {
    let mut world = two_nodes();
    let web = || service("web", "10.96.0.10 fd00:10:96::a", "http:80+30080");
    let ips = "192.0.2.1 2001:db8::1";
    world.apply(balanced(web(), ips, "10.0.0.0/8 192.168.7.0/24 10.0.0.0/8"));
    let both = format!("{LOCAL} {REMOTE}");
    let frontends = |from4: &str, from6: &str| {
        [
            format!("frontend 192.0.2.1 80/TCP external{from4} -> {both}"),
            format!("frontend 192.0.2.1 80/TCP{from4} -> {both}"),
            format!("frontend 2001:db8::1 80/TCP external{from6} -> refused"),
            format!("frontend 2001:db8::1 80/TCP{from6} -> refused"),
        ]
    };
    let from4 = " from 10.0.0.0/8,192.168.7.0/24";
    // As in kube-proxy, ranges of one family do not restrict the other.
    check_lb(&world, &frontends(from4, ""));
    world.check("service address 192.0.2.1", "service address 192.0.2.1 exclusive");
    world.check("frontend nodes 30080/TCP external", &format!("frontend nodes 30080/TCP external -> {both}"));

    // Equal sets share an id, also after a restart.
    world.apply(balanced(service("other", "10.96.0.11", "x:80"), "192.0.2.2", "192.168.7.0/24 10.0.0.0/8"));
    let sets: Vec<u32> = world.tables.contents().frontend.values().map(|value| value.source_ranges).collect();
    assert_eq!(sets.iter().filter(|set| **set == 1).count(), 4, "{sets:?}");
    assert_eq!(world.tables.contents().source_range.len(), 2);
    world.delete(Kind::Service, "other");
    assert_eq!(world.tables.contents().source_range.len(), 2);

    // A malformed range closes a family that has no valid range.
    world.apply(balanced(web(), ips, "10.0.0.0/33 fd00::/8"));
    check_lb(&world, &frontends(" from none", " from fd00::/8"));
    world.apply(balanced(web(), ips, "10.0.0.0/33 0.0.0.0/0"));
    check_lb(&world, &frontends(" from 0.0.0.0/0", " from none"));
    world.apply(balanced(web(), ips, ""));
    check_lb(&world, &frontends("", ""));
    assert!(world.tables.contents().source_range.is_empty());

    // Without nodePorts.
    world.apply(balanced(service("web", "10.96.0.10", "http:80"), "192.0.2.1", ""));
    world.check("frontend nodes", "");
    // Headless Services, and Services of another proxy or type, have no
    // frontends.
    let mut foreign = balanced(web(), ips, "");
    foreign.foreign = true;
    world.apply(foreign);
    world.check("frontend", "");
    let mut headless = balanced(web(), ips, "");
    headless.cluster_ips.clear();
    world.apply(headless);
    world.check("frontend", "");
}

#[track_caller]
fn check_lb(world: &World, expected: &[String]) {
    let mut expected = expected.to_vec();
    expected.sort();
    let text: Vec<String> = world
        .text("frontend")
        .lines()
        .filter(|line| line.starts_with("frontend 192") || line.starts_with("frontend 2001"))
        .map(str::to_owned)
        .collect();
    assert_eq!(text, expected, "{}", world.text(""));
}

#[test]
fn unit_source_ranges_for_every_type() {
    let services = ServiceConfig { source_ranges_all_types: true, ..config().services };
    let mut world = World::with(PlanConfig { services, ..config() });
    world.list(&[]);
    world.apply(balanced(service("web", "10.96.0.10", "http:80+30080"), "192.0.2.1", "10.0.0.0/8"));
    world.check(
        "frontend",
        "frontend 10.96.0.10 80/TCP -> refused
         frontend 192.0.2.1 80/TCP external from 10.0.0.0/8 -> refused
         frontend 192.0.2.1 80/TCP from 10.0.0.0/8 -> refused
         frontend nodes 30080/TCP -> refused
         frontend nodes 30080/TCP external from 10.0.0.0/8 -> refused",
    );
}

#[test]
fn unit_external_ips_need_an_allow_list() {
    let mut world = two_nodes();
    let mut web = service("web", "10.96.0.10", "other:80");
    web.external_ips = vec![ip("198.51.100.7"), ip("8.8.8.8"), ip("fd00::7"), ip("127.0.0.1")];
    world.apply(web);
    world.check(
        "frontend",
        "frontend 10.96.0.10 80/TCP -> refused
         frontend 198.51.100.7 80/TCP -> refused
         frontend 198.51.100.7 80/TCP external -> refused",
    );
    let problems = world.problems();
    assert_eq!(problems.len(), 3, "{problems:#?}");
    assert!(problems[0].contains("its externalIP 127.0.0.1 is a loopback address"), "{problems:#?}");
    assert!(
        problems[1].starts_with(
            "Service default/web: its externalIP 8.8.8.8 is not served: no range of externalIPs.allowedCIDRs"
        ),
        "{problems:#?}"
    );
    let names = world.planner.names();
    let frontends: Vec<String> =
        names.frontends.iter().map(|of| format!("{} {}:{}", of.kind.name(), of.ip, of.port)).collect();
    assert_eq!(frontends, ["ExternalIP 198.51.100.7:80"]);
}

#[test]
fn unit_a_frontend_address_has_one_owner() {
    let mut world = two_nodes();
    let at = |name: &str, cluster_ip: &str, ports: &str| {
        balanced(service(name, cluster_ip, ports), "192.0.2.1", "")
    };
    world.apply(at("b", "10.96.0.2", "x:80+30080"));
    world.apply(at("a", "10.96.0.1", "x:80+30081 u:80+30080/UDP"));
    world.apply(at("c", "10.96.0.3", "x:81+30080"));
    // A ClusterIP has precedence over a load balancer, whatever the names are.
    world.apply(balanced(service("aa", "10.96.0.4", "x:80"), "10.96.0.1", ""));
    world.apply(slice("a-1", "a", "x:1 u:1/UDP", "10.0.0.1"));
    world.apply(slice("b-1", "b", "x:2", "10.0.0.2"));
    world.apply(slice("c-1", "c", "x:3", "10.0.0.3"));
    world.apply(slice("aa-1", "aa", "x:4", "10.0.0.4"));
    world.check(
        "frontend",
        "frontend 10.96.0.1 80/TCP -> 10.0.0.1:1@-
         frontend 10.96.0.1 80/UDP -> 10.0.0.1:1@-
         frontend 10.96.0.2 80/TCP -> 10.0.0.2:2@-
         frontend 10.96.0.3 81/TCP -> 10.0.0.3:3@-
         frontend 10.96.0.4 80/TCP -> 10.0.0.4:4@-
         frontend 192.0.2.1 80/TCP -> 10.0.0.1:1@-
         frontend 192.0.2.1 80/TCP external -> 10.0.0.1:1@-
         frontend 192.0.2.1 80/UDP -> 10.0.0.1:1@-
         frontend 192.0.2.1 80/UDP external -> 10.0.0.1:1@-
         frontend 192.0.2.1 81/TCP -> 10.0.0.3:3@-
         frontend 192.0.2.1 81/TCP external -> 10.0.0.3:3@-
         frontend nodes 30080/TCP -> 10.0.0.2:2@-
         frontend nodes 30080/TCP external -> 10.0.0.2:2@-
         frontend nodes 30080/UDP -> 10.0.0.1:1@-
         frontend nodes 30080/UDP external -> 10.0.0.1:1@-
         frontend nodes 30081/TCP -> 10.0.0.1:1@-
         frontend nodes 30081/TCP external -> 10.0.0.1:1@-",
    );
    assert_eq!(
        world.problems(),
        [
            "Service default/aa: its LoadBalancer address 10.96.0.1 port 80/TCP conflicts with Service default/a, which \
             keeps it; Service default/aa is not reachable there; give one of the two another address or another \
             port",
            "Service default/b: its LoadBalancer address 192.0.2.1 port 80/TCP conflicts with Service default/a, which \
             keeps it; Service default/b is not reachable there; give one of the two another address or another \
             port",
            "Service default/c: its nodePort 30080/TCP conflicts with Service default/b, which keeps it; Service default/c \
             is not reachable there; give one of the two another nodePort",
        ]
    );
    // The owner is deleted: the next candidate gets the address in the same
    // step.
    world.delete(Kind::Service, "a");
    world.check("frontend 192.0.2.1 80/TCP external", "frontend 192.0.2.1 80/TCP external -> 10.0.0.2:2@-");
    world.check(
        "frontend 10.96.0.1",
        "frontend 10.96.0.1 80/TCP -> 10.0.0.4:4@-\nfrontend 10.96.0.1 80/TCP external -> 10.0.0.4:4@-",
    );
    world.delete(Kind::Service, "b");
    world.check("frontend nodes 30080/TCP external", "frontend nodes 30080/TCP external -> 10.0.0.3:3@-");
    assert_eq!(world.problems(), Vec::<String>::new());
}

#[test]
fn unit_a_node_address_cannot_be_a_cluster_ip() {
    let mut world = two_nodes();
    world.apply(service("bad", "172.30.0.12", "x:80"));
    world.check("frontend", "");
    assert_eq!(
        world.problems(),
        [
            "Service default/bad: its ClusterIP 172.30.0.12 is the address of node node-2, which keeps it; Service \
          default/bad is not reachable there; give the API server a --service-cluster-ip-range without addresses \
          of nodes"
        ]
    );
    // A load balancer address may be a node address: it adds its ports to the
    // node's.
    world.apply(balanced(service("web", "10.96.0.10", "http:80+30080"), "172.30.0.12", ""));
    world.check(
        "service address 172",
        "service address 172.30.0.11 node
         service address 172.30.0.12 own ports node",
    );
    world.check(
        "frontend 172.30.0.12 80/TCP external",
        &format!("frontend 172.30.0.12 80/TCP external -> {LOCAL} {REMOTE}"),
    );
    // The node is deleted, and the address belongs to Services only.
    world.delete(Kind::Node, "node-2");
    world.check("service address 172.30.0.12", "service address 172.30.0.12 exclusive");
    // Now it can be a ClusterIP, which has precedence over a load balancer.
    world.check("frontend 172.30.0.12", "frontend 172.30.0.12 80/TCP -> refused");
    world.delete(Kind::Service, "bad");
    world.check(
        "frontend 172.30.0.12",
        &format!(
            "frontend 172.30.0.12 80/TCP -> {LOCAL} 10.244.2.5:8080@-
             frontend 172.30.0.12 80/TCP external -> {LOCAL} 10.244.2.5:8080@-"
        ),
    );
    world.delete(Kind::Service, "web");
    world.apply(lab_node(2));
    world.check("frontend", "");
    world.check("service address 172.30.0.12", "service address 172.30.0.12 node");
}

#[test]
fn unit_host_ports_are_this_nodes_ports() {
    let mut world = two_nodes();
    world.apply(host_pod("p", "10.244.1.7 fd00:10:244:1::7", "8080>80 [fd00:172:30::11]:5353>53/UDP"));
    let backend = "10.244.1.7:80@172.30.0.11";
    world.check(
        "frontend",
        &format!(
            "frontend 127.0.0.1 8080/TCP -> {backend}
             frontend 127.0.0.1 8080/TCP external -> {backend}
             frontend 172.30.0.11 8080/TCP -> {backend}
             frontend 172.30.0.11 8080/TCP external -> {backend}
             frontend ::1 8080/TCP -> [fd00:10:244:1::7]:80@172.30.0.11
             frontend ::1 8080/TCP external -> [fd00:10:244:1::7]:80@172.30.0.11
             frontend fd00:172:30::11 5353/UDP -> [fd00:10:244:1::7]:53@172.30.0.11
             frontend fd00:172:30::11 5353/UDP external -> [fd00:10:244:1::7]:53@172.30.0.11
             frontend fd00:172:30::11 8080/TCP -> [fd00:10:244:1::7]:80@172.30.0.11
             frontend fd00:172:30::11 8080/TCP external -> [fd00:10:244:1::7]:80@172.30.0.11"
        ),
    );
    world.check(
        "service address 1",
        "service address 127.0.0.1 own ports
         service address 172.30.0.11 own ports node
         service address 172.30.0.12 node",
    );
    // The same port with another protocol or address does not conflict.
    world.apply(host_pod("q", "10.244.1.8", "8080>1/UDP 172.30.0.11:9000>2"));
    world.apply(host_pod("r", "10.244.1.9", "127.0.0.1:9000>3"));
    assert_eq!(world.problems(), Vec::<String>::new());
    world.check(
        "frontend 127.0.0.1 9000/TCP external",
        "frontend 127.0.0.1 9000/TCP external -> 10.244.1.9:3@172.30.0.11",
    );
    world.check(
        "frontend 172.30.0.11 9000/TCP external",
        "frontend 172.30.0.11 9000/TCP external -> 10.244.1.8:2@172.30.0.11",
    );

    // Conflicts with a Service or with another pod.
    world.apply(host_pod("a", "10.244.1.10", "127.0.0.1:8080>9"));
    world.apply(service("web", "10.96.0.10", "http:80+9000"));
    assert_eq!(
        world.problems(),
        [
            "Pod default/p: its hostPort 8080/TCP at 127.0.0.1 conflicts with Pod default/a, which keeps it; Pod default/p \
             is not reachable there; give the pod another hostPort or hostIP, or the other another port",
            "Pod default/q: its hostPort 9000/TCP at 172.30.0.11 conflicts with Service default/web, which keeps it; Pod \
             default/q is not reachable there; give the pod another hostPort or hostIP, or the other another port",
            "Pod default/r: its hostPort 9000/TCP at 127.0.0.1 conflicts with Service default/web, which keeps it; Pod \
             default/r is not reachable there; give the pod another hostPort or hostIP, or the other another port",
        ]
    );
    world.check("frontend 172.30.0.11 9000", "");
    world.delete(Kind::Service, "web");
    world.delete(Kind::Pod, "a");
    assert_eq!(world.problems(), Vec::<String>::new());

    // The node's address changes, and the pods finish.
    world.apply(node("node-1", "172.30.0.99", "10.244.1.0/24"));
    world.check("frontend 172.30.0.99 9000/TCP external", "");
    world.check(
        "frontend 172.30.0.99 8080/TCP external",
        &format!("frontend 172.30.0.99 8080/TCP external -> {}", backend.replace(".11", ".99")),
    );
    let mut done = host_pod("p", "10.244.1.7", "8080>80");
    done.finished = true;
    world.apply(done);
    world.delete(Kind::Pod, "q");
    world.delete(Kind::Pod, "r");
    world.check("frontend", "");
    world.check("service address 127", "");
    assert!(world.tables.contents().backend.is_empty(), "{}", world.text(""));
    assert!(world.tables.contents().service.is_empty());
}

#[test]
fn unit_affinity_writes_slots_by_backend_first() {
    let mut world = two_nodes();
    let mut web = service("web", "10.96.0.10", "http:80");
    web.affinity_s = Some(60);
    world.apply(web.clone());
    let slots_by_backend = |world: &World| {
        let slots = world.tables.contents().slot;
        slots.keys().filter(|key| key.generation == u32::MAX).count()
    };
    check(&world, "frontend", &[format!("frontend 10.96.0.10 80/TCP -> {LOCAL} {REMOTE} affinity 60 s")]);
    assert_eq!(slots_by_backend(&world), 2);
    // `World::flush` checks the order of every single write.
    let many = |from: u32, to: u32| (from..to).map(|n| format!("10.1.0.{n}")).collect::<Vec<_>>().join(" ");
    for (from, to) in [(1, 20), (1, 21), (2, 21), (3, 22), (7, 30), (7, 9)] {
        world.apply(slice("web-4", "web", "http:8080", &many(from, to)));
        assert_eq!(slots_by_backend(&world), (to - from) as usize);
    }
    web.affinity_s = None;
    world.apply(web.clone());
    assert_eq!(slots_by_backend(&world), 0);
    web.affinity_s = Some(10_800);
    world.apply(web);
    assert_eq!(slots_by_backend(&world), 2);
    world.delete(Kind::Service, "web");
    assert!(world.tables.contents().slot.is_empty());
}

#[test]
fn unit_hints_narrow_the_choice_as_kube_proxy_does() {
    let mut world = two_nodes();
    world.apply(service("web", "10.96.0.10", "http:80"));
    let mut check = |endpoints: &str, expected: &str| {
        world.apply(slice("web-4", "web", "http:1", endpoints));
        let text = world.text("frontend");
        assert_eq!(text, format!("frontend 10.96.0.10 80/TCP -> {expected}"), "{endpoints}");
    };
    let (one, two) = ("10.0.0.1:1@-", "10.0.0.2:1@-");
    let both = format!("{one} {two}");
    check("10.0.0.1#a 10.0.0.2#b", one);
    check("10.0.0.1#a,b 10.0.0.2#b", one);
    check("10.0.0.1#b 10.0.0.2#b", &both);
    check("10.0.0.1#a 10.0.0.2", &both);
    check("10.0.0.1#a%node-2 10.0.0.2#b%node-1", two);
    check("10.0.0.1#a%node-2 10.0.0.2#b%node-2", one);
    check("10.0.0.1#a%node-1 10.0.0.2#b", one);
    check("10.0.0.1#a 10.0.0.2#b!not-ready", one);
    // The zone's endpoint is not ready: all ready endpoints are selected.
    check("10.0.0.1!not-ready#a 10.0.0.2#b", two);
    check("10.0.0.1!draining#a 10.0.0.2!draining#b", &both);

    // This node moves to another zone.
    world.apply(slice("web-4", "web", "http:1", "10.0.0.1#a 10.0.0.2#b"));
    let mut node = lab_node(1);
    node.zone = Some("b".into());
    world.apply(node);
    world.check("frontend", &format!("frontend 10.96.0.10 80/TCP -> {two}"));
    world.check("unselected", "unselected 10.0.0.1:1@-/TCP");
    world.apply(lab_node(1));
    world.check("frontend", &format!("frontend 10.96.0.10 80/TCP -> {both}"));
    let zones: Vec<u16> = two_nodes_zones(&mut world);
    assert_eq!(zones.len(), 2);
    assert!(zones[0] == 0 && zones[1] != 0, "{zones:?}");
}

/// Zones of the backends on node-1, which has no zone now, and node-2.
fn two_nodes_zones(world: &mut World) -> Vec<u16> {
    world.apply(slice("web-4", "web", "http:8080", "10.244.1.5@node-1 10.244.2.5@node-2"));
    let backends = world.tables.contents().backend;
    let mut zones: Vec<_> = backends.values().map(|backend| (backend.ip, backend.zone)).collect();
    zones.sort();
    zones.into_iter().map(|(_, zone)| zone).collect()
}

#[test]
fn unit_three_protocols_on_one_port() {
    let mut world = two_nodes();
    world.apply(service("web", "10.96.0.10", "t:80+30080 u:80+30080/UDP s:80+30080/SCTP"));
    world.apply(slice("web-4", "web", "t:80 u:81/UDP s:80/SCTP", "10.244.1.5@node-1"));
    world.check(
        "frontend",
        "frontend 10.96.0.10 80/SCTP -> 10.244.1.5:80@172.30.0.11
         frontend 10.96.0.10 80/TCP -> 10.244.1.5:80@172.30.0.11
         frontend 10.96.0.10 80/UDP -> 10.244.1.5:81@172.30.0.11
         frontend nodes 30080/SCTP -> 10.244.1.5:80@172.30.0.11
         frontend nodes 30080/SCTP external -> 10.244.1.5:80@172.30.0.11
         frontend nodes 30080/TCP -> 10.244.1.5:80@172.30.0.11
         frontend nodes 30080/TCP external -> 10.244.1.5:80@172.30.0.11
         frontend nodes 30080/UDP -> 10.244.1.5:81@172.30.0.11
         frontend nodes 30080/UDP external -> 10.244.1.5:81@172.30.0.11",
    );
    assert_eq!(
        world.problems(),
        [
            "Service default/web: port 80/SCTP: packets to 30080 cannot be sent to targetPort 80, because the checksum \
          of SCTP covers its ports and the kernel does not recompute it; make the two equal"
        ]
    );
}

#[test]
fn unit_health_checks_count_ready_endpoints_of_this_node() {
    let mut world = two_nodes();
    let mut web =
        balanced(service("web", "10.96.0.10 fd00:10:96::a", "http:80+30080 more:81"), "192.0.2.1", "");
    (web.external_local, web.health_check_node_port) = (true, 32_000);
    world.apply(web.clone());
    let health_changes = |world: &mut World| -> String {
        let changes = world.planner.take_health_changes().into_iter();
        let lines = changes.map(|(name, check)| match check {
            Some(check) => format!("{name} at {}: {}", check.port, check.local_endpoints),
            None => format!("{name}: no more"),
        });
        lines.collect::<Vec<_>>().join(", ")
    };
    assert_eq!(health_changes(&mut world), "default/web at 32000: 1");
    world.apply(slice(
        "web-4",
        "web",
        "http:8080 more:81",
        "10.244.1.5@node-1 10.244.1.6@node-1 10.244.2.5@node-2",
    ));
    world.apply(slice(
        "web-6",
        "web",
        "http:8080 more:81",
        "fd00:10:244:1::5@node-1 fd00:10:244:1::6@node-1",
    ));
    assert_eq!(health_changes(&mut world), "default/web at 32000: 2", "each pod once");
    world.apply(service("other", "10.96.0.11", "x:80"));
    assert_eq!(health_changes(&mut world), "");
    world.apply(slice("web-6", "web", "http:8080", "fd00:10:244:1::5@node-1!draining"));
    world.apply(slice("web-4", "web", "http:8080", "10.244.1.5@node-1!draining 10.244.2.5@node-2"));
    assert_eq!(health_changes(&mut world), "default/web at 32000: 0", "terminating endpoints do not count");
    web.external_local = false;
    world.apply(web.clone());
    assert_eq!(health_changes(&mut world), "default/web: no more");
    web.external_local = true;
    world.apply(web);
    assert_eq!(health_changes(&mut world), "default/web at 32000: 0");
    world.delete(Kind::Service, "web");
    assert_eq!(health_changes(&mut world), "default/web: no more");
}

#[test]
fn unit_native_ranges_are_written_and_pods_come_first() {
    let ranges = ["10.0.0.0/8", "fd00::/16", "10.244.1.0/24"].map(|range| range.parse().unwrap());
    let mut world = World::with(PlanConfig { native_ranges: ranges.to_vec(), ..config() });
    world.list(&[]);
    world.apply(lab_node(1));
    world.check("address 10.0.0.0/8", "address 10.0.0.0/8 native range node - identity 0");
    world.check("address fd00::/16", "address fd00::/16 native range node - identity 0");
    world.check("address 10.244.1.0/24", "address 10.244.1.0/24 local pods node 172.30.0.11 identity 0");
    world.delete(Kind::Node, "node-1");
    world.check("address 10.244.1.0/24", "address 10.244.1.0/24 native range node - identity 0");
}

#[test]
fn unit_a_full_table_of_source_ranges_keeps_what_was() {
    let mut world = two_nodes();
    let web = |ranges: &str| balanced(service("web", "10.96.0.10", "http:80"), "192.0.2.1", ranges);
    world.apply(web("10.0.0.0/8"));
    world.tables.source_range.capacity = 2;
    assert!(world.apply(web("10.1.0.0/16 10.2.0.0/16")).outstanding > 0);
    assert!(
        world.text("frontend 192.0.2.1 80/TCP external").contains(" from 10.0.0.0/8 ->"),
        "{}",
        world.text("")
    );
    world.tables.source_range.capacity = 3;
    world.reconciler.retry();
    assert_eq!(world.flush().outstanding, 0);
    assert!(world.text("frontend 192.0.2.1 80/TCP external").contains(" from 10.1.0.0/16,10.2.0.0/16 ->"));
    assert_eq!(world.tables.contents().source_range.len(), 2);
}
