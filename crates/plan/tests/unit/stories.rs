//! The lifecycles of Services and Nodes, as text.
use beeline_model::{Change, Kind, Namespace, Object, Pod, ServiceType};
use beeline_plan::PlanConfig;
use beeline_sync::Prune;

use crate::world::*;

#[test]
fn unit_a_day_of_a_service() {
    let mut world = World::listed();
    world.apply(lab_node(1));
    world.apply(lab_node(2));

    // Morning: the Service is created first. It refuses connections until a pod
    // is ready.
    world.apply(service("web", "10.96.0.10 fd00:10:96::a", "http:80"));
    world
        .check("frontend", "frontend 10.96.0.10 80/TCP -> refused\nfrontend fd00:10:96::a 80/TCP -> refused");
    world.apply(slice(
        "web-4",
        "web",
        "http:8080",
        "10.244.1.5@node-1!not-ready 10.244.2.5@node-2!not-ready",
    ));
    world.check("frontend 10", "frontend 10.96.0.10 80/TCP -> refused");

    // Pods become ready, first in IPv4, then in IPv6.
    world.apply(slice("web-4", "web", "http:8080", "10.244.1.5@node-1 10.244.2.5@node-2!not-ready"));
    world.check("frontend 10", "frontend 10.96.0.10 80/TCP -> 10.244.1.5:8080@172.30.0.11");
    world.apply(slice("web-6", "web", "http:8080", "fd00:10:244:2::5@node-2"));
    world.check(
        "frontend",
        "frontend 10.96.0.10 80/TCP -> 10.244.1.5:8080@172.30.0.11
         frontend fd00:10:96::a 80/TCP -> [fd00:10:244:2::5]:8080@172.30.0.12",
    );

    // Scale up: a second slice, which repeats a pod of the first.
    world.apply(slice("web-4b", "web", "http:8080", "10.244.1.5 10.244.2.6@node-2"));
    world.check(
        "frontend 10",
        "frontend 10.96.0.10 80/TCP -> 10.244.1.5:8080@172.30.0.11 10.244.2.6:8080@172.30.0.12",
    );

    // Evening: all pods are terminating. Those that are still serving are used.
    world.apply(slice("web-4", "web", "http:8080", "10.244.1.5@node-1!draining"));
    world.apply(slice("web-4b", "web", "http:8080", "10.244.2.6@node-2!dead"));
    world.check("frontend 10", "frontend 10.96.0.10 80/TCP -> 10.244.1.5:8080@172.30.0.11");
    world.delete(Kind::EndpointSlice, "web-4");
    world.check("frontend 10", "frontend 10.96.0.10 80/TCP -> refused");

    // Night.
    world.delete(Kind::Service, "web");
    world.delete(Kind::EndpointSlice, "web-4b");
    world.delete(Kind::EndpointSlice, "web-6");
    world.check("frontend", "");
    world.check("service address 10", "");
    assert!(world.tables.contents().backend.is_empty());
    assert_eq!(world.problems(), Vec::<String>::new());
}

#[test]
fn unit_several_ports_policies_and_kinds() {
    let mut world = World::listed();
    world.apply(lab_node(1));
    world.apply(lab_node(2));
    world.apply(slice(
        "dns-1",
        "dns",
        "udp:5353/UDP tcp:5353",
        "10.244.1.2@node-1 10.244.2.2@node-2!not-ready",
    ));
    world.apply(service("dns", "10.96.0.2", "udp:53/UDP tcp:53 metrics:9153"));
    world.check(
        "frontend",
        "frontend 10.96.0.2 53/TCP -> 10.244.1.2:5353@172.30.0.11
         frontend 10.96.0.2 53/UDP -> 10.244.1.2:5353@172.30.0.11
         frontend 10.96.0.2 9153/TCP -> refused",
    );
    assert_eq!(
        world.planner.names().services.into_iter().map(|(_, name)| name).collect::<Vec<_>>(),
        ["default/dns:53", "default/dns:53/UDP", "default/dns:9153"]
    );
    let mut dns = service("dns", "10.96.0.2", "udp:53/UDP");
    dns.publish_not_ready = true;
    world.apply(dns.clone());
    world.check(
        "frontend",
        "frontend 10.96.0.2 53/UDP -> 10.244.1.2:5353@172.30.0.11 10.244.2.2:5353@172.30.0.12",
    );
    dns.internal_local = true;
    world.apply(dns.clone());
    world.check("frontend", "frontend 10.96.0.2 53/UDP -> 10.244.1.2:5353@172.30.0.11");
    world.apply(slice("dns-1", "dns", "udp:5353/UDP", "10.244.2.2@node-2"));
    world.check("frontend", "frontend 10.96.0.2 53/UDP -> dropped");
    dns.cluster_ips = vec![];
    world.apply(dns.clone());
    world.check("frontend", "");
    dns.service_type = ServiceType::ExternalName;
    dns.cluster_ips = vec![ip("10.96.0.2")];
    world.apply(dns);
    world.check("service address 10", "");
}

#[test]
fn unit_ignored_fields_are_reported() {
    let mut world = World::with(PlanConfig { services: Default::default(), ..config() });
    world.list(&[Object::Node(lab_node(1))]);
    let mut web = service("web", "10.96.0.10", "http:80 raw:99/SCTP");
    web.service_type = ServiceType::LoadBalancer;
    web.ports[0].node_port = 30080;
    web.load_balancer_ips = vec![ip("192.0.2.1")];
    web.external_ips = vec![ip("198.51.100.1")];
    web.affinity_s = Some(10_800);
    world.apply(web);
    world.check(
        "frontend",
        "frontend 10.96.0.10 80/TCP -> refused
         frontend 10.96.0.10 99/SCTP -> refused",
    );
    let notes: Vec<String> = world.planner.ignored_fields().iter().map(|note| note.to_string()).collect();
    assert_eq!(
        notes,
        [
            "Service default/web: nodePort 30080 (port 80) has no effect: nodePort.enabled is off",
            "Service default/web: LoadBalancer address 192.0.2.1 has no effect: nodePort.enabled is off",
            "Service default/web: sessionAffinity ClientIP has no effect: sessionAffinity is off",
        ]
    );
    assert_eq!(
        world.problems(),
        [
            "Service default/web: its externalIP 198.51.100.1 is not served: externalIPs.enabled is off; use a \
          LoadBalancer address instead"
        ]
    );
    world.delete(Kind::Service, "web");
    assert!(world.planner.ignored_fields().is_empty());
}

#[test]
fn unit_nodes_addresses_and_routes() {
    let mut world = World::listed();
    world.apply(lab_node(1));
    world.apply(node("node-2", "172.30.0.12 fd00:172:30::c", "10.244.2.0/24 fd00:10:244:2::/64"));
    world.apply(node("far", "192.168.7.7", "10.244.7.0/24"));
    world.planner.set_endpoint(ip("10.244.1.9"), pod(7));
    world.planner.set_endpoint(ip("10.9.9.9"), pod(8));
    world.sync();
    world.check(
        "address",
        "address 10.244.1.0/24 local pods node 172.30.0.11 identity 0
         address 10.244.2.0/24 remote pods node 172.30.0.12 identity 0
         address 10.244.7.0/24 remote pods node 192.168.7.7 identity 0
         address 10.9.9.9/32 local pods node 172.30.0.11 identity 0
         address 10.96.0.0/16 service range node - identity 0
         address 172.30.0.11/32 own node node 172.30.0.11 identity 1
         address 172.30.0.12/32 remote node node 172.30.0.12 identity 3
         address 192.168.7.7/32 remote node node 192.168.7.7 identity 3
         address fd00:10:244:1::/64 local pods node 172.30.0.11 identity 0
         address fd00:10:244:2::/64 remote pods node 172.30.0.12 identity 0
         address fd00:172:30::11/128 own node node 172.30.0.11 identity 1
         address fd00:172:30::c/128 remote node node 172.30.0.12 identity 3",
    );
    let routes: Vec<String> = world
        .planner
        .routes()
        .iter()
        .map(|route| format!("{} via {} ({})", route.prefix, route.next_hop, route.node))
        .collect();
    assert_eq!(
        routes,
        ["10.244.2.0/24 via 172.30.0.12 (node-2)", "fd00:10:244:2::/64 via fd00:172:30::c (node-2)"]
    );
    assert_eq!(world.problems().len(), 1);
    assert!(
        world.problems()[0].starts_with("Node far: no direct route to its PodCIDR 10.244.7.0/24: it has no")
    );

    let own = world.planner.own_node().unwrap();
    assert_eq!(own.pod_cidrs.len(), 2);
    assert_eq!(world.tables.contents().node[&own.id].ipv4, own.ipv4);
    world.planner.remove_endpoint(ip("10.9.9.9"));
    world.planner.remove_endpoint(ip("10.244.1.9"));
    world.delete(Kind::Node, "far");
    world.delete(Kind::Node, "node-2");
    world.delete(Kind::Node, "node-1");
    world.check("", "address 10.96.0.0/16 service range node - identity 0");
    assert!(world.problems()[0].contains("this node has no Node object"), "{:?}", world.problems());
}

#[test]
fn unit_a_node_that_comes_late_gets_its_backends() {
    let mut world = World::listed();
    world.apply(lab_node(1));
    world.apply(service("web", "10.96.0.10", ":80"));
    world.apply(slice("web-1", "web", ":80", "10.244.2.5@node-2"));
    world.check("frontend", "frontend 10.96.0.10 80/TCP -> 10.244.2.5:80@-");
    let report = world.apply(lab_node(2));
    assert_eq!(report.written, 1 + 4 + 2 + 1, "the node, its addresses (two with NodePorts), its backend");
    world.check("frontend", "frontend 10.96.0.10 80/TCP -> 10.244.2.5:80@172.30.0.12");
    world.delete(Kind::Node, "node-2");
    world.check("frontend", "frontend 10.96.0.10 80/TCP -> 10.244.2.5:80@-");
}

#[test]
fn unit_invalid_input_is_reported_and_the_rest_works() {
    let mut world = World::listed();
    world.apply(lab_node(1));
    world.apply(node("node-2", "172.30.0.12", "10.244.1.128/25 10.244.2.0/24"));
    world.apply(node("node-3", "172.30.0.12", ""));
    world.apply(node("node-4", "0.0.0.0", "10.244.4.0/24"));
    world.apply(service("a", "10.96.0.10 127.0.0.1", "x:80 y:80 zero:0"));
    world.apply(service("b", "10.96.0.10 fd00:10:96::b", "x:80"));
    let mut slice = slice("a-1", "a", "x:8080 x:0", "10.244.1.5@node-1 0.0.0.0 224.0.0.1");
    slice.endpoints.push(crate::world::slice("", "", "", "fd00::5").endpoints.remove(0));
    world.apply(slice);
    world.check(
        "frontend",
        "frontend 10.96.0.10 80/TCP -> 10.244.1.5:8080@172.30.0.11
         frontend fd00:10:96::b 80/TCP -> refused",
    );
    let expected = [
        "Node node-2: its PodCIDR 10.244.1.128/25 overlaps a PodCIDR of node node-1, which keeps it; pods of \
         node-2 are not reachable through it; give the node another PodCIDR (recreate the Node object)",
        "Node node-3: it has no PodCIDR, so its pods get no addresses; run kube-controller-manager with \
         --allocate-node-cidrs=true or set spec.podCIDRs",
        "Node node-3: its InternalIP 172.30.0.12 is also an InternalIP of node node-2, which keeps it; give every \
         node an address of its own",
        "Node node-4: it has no usable InternalIP, so nothing can be sent to it and its pods get no route; \
         check the kubelet's --node-ip or the cloud controller",
        "Node node-4: its InternalIP 0.0.0.0 is the unspecified address and is not used; correct the \
         kubelet's --node-ip",
        "Service default/a: its ClusterIP 127.0.0.1 is a loopback address and is not served; recreate the \
         Service so that the API server gives it a free address",
        "Service default/a: port 80/TCP is listed twice; the first entry is served, \"y\" is not; remove one \
         of them",
        "Service default/a: port \"zero\" has the number 0 and is not served; give it a number from 1 to 65535",
        "Service default/b: its ClusterIP 10.96.0.10 port 80/TCP conflicts with Service default/a, which keeps it; \
         Service default/b is not reachable there; recreate one of the two so that the API server gives it a free \
         address",
        "EndpointSlice default/a-1: port \"x\" is 0 and is left out; correct the port in the EndpointSlice or \
         its Service's targetPort",
        "EndpointSlice default/a-1: 3 of its endpoint addresses cannot be used and are left out, the first is \
         0.0.0.0 (the unspecified address); correct the EndpointSlice or what writes it",
    ];
    assert_eq!(world.problems(), expected);

    // Once the causes are fixed, the problems are cleared.
    world.apply(node("node-2", "172.30.0.12", "10.244.2.0/24"));
    world.delete(Kind::Node, "node-3");
    world.delete(Kind::Node, "node-4");
    world.delete(Kind::EndpointSlice, "a-1");
    world.delete(Kind::Service, "a");
    world.check(
        "frontend",
        "frontend 10.96.0.10 80/TCP -> refused
         frontend fd00:10:96::b 80/TCP -> refused",
    );
    assert_eq!(world.problems(), Vec::<String>::new());
}

#[test]
fn unit_slices_without_a_service_are_reported() {
    let mut world = World::listed();
    world.apply(slice("web-1", "web", "x:80", "10.244.1.5"));
    world.apply(slice("web-2", "web", "x:80", "10.244.1.6"));
    world.apply(slice("db-1", "db", "x:80", "10.244.1.7"));
    assert_eq!(world.orphaned_slices(), ["default/db-1", "default/web-1", "default/web-2"]);
    world.apply(service("web", "10.96.0.10", "x:80"));
    assert_eq!(world.orphaned_slices(), ["default/db-1"]);
    world.delete(Kind::Service, "web");
    world.delete(Kind::EndpointSlice, "web-2");
    assert_eq!(world.orphaned_slices(), ["default/db-1", "default/web-1"]);
    // Its label is corrected.
    world.apply(slice("web-1", "shop", "x:80", "10.244.1.5"));
    world.apply(service("shop", "10.96.0.11", "x:80"));
    world.delete(Kind::EndpointSlice, "db-1");
    assert_eq!(world.orphaned_slices(), [""; 0]);
}

#[test]
fn unit_a_cluster_ip_moves_to_another_service_in_one_step() {
    let mut world = World::listed();
    world.apply(service("b", "10.96.0.10", "x:80"));
    world.apply(slice("b-1", "b", "x:1", "10.0.0.1"));
    world.apply(slice("a-1", "a", "x:2", "10.0.0.2"));
    // "a" sorts before "b": it gets the address, without interruption.
    world.apply(service("a", "10.96.0.10", "x:80"));
    world.check("frontend", "frontend 10.96.0.10 80/TCP -> 10.0.0.2:2@-");
    world.planner.apply(Change::Delete(Kind::Service, named("a")));
    world.planner.apply(Change::Apply(Box::new(Object::Service(service("c", "10.96.0.10", "x:81")))));
    world.sync();
    world.check(
        "frontend",
        "frontend 10.96.0.10 80/TCP -> 10.0.0.1:1@-
         frontend 10.96.0.10 81/TCP -> refused",
    );
}

#[test]
fn unit_nothing_is_refused_before_the_first_listing() {
    let mut world = World::listed();
    let objects = [
        Object::Node(lab_node(1)),
        Object::Service(service("web", "10.96.0.10", "x:80")),
        Object::EndpointSlice(slice("web-1", "web", "x:8080", "10.244.1.5@node-1 10.244.1.6@node-1")),
    ];
    world.list(&objects);
    let before = world.tables.contents();
    world.restart();
    world.planner.apply(Change::ResetStart(Kind::Service));
    world.planner.apply(Change::Apply(Box::new(objects[1].clone())));
    world.planner.apply(Change::ResetEnd(Kind::Service));
    world.planner.set_endpoint(ip("10.244.1.5"), pod(9));
    let report = world.sync();
    assert_eq!((report.written, report.deleted), (1, 0), "the endpoint alone");
    world.planner.remove_endpoint(ip("10.244.1.5"));
    world.sync();
    let report = world.list(&objects);
    assert_eq!((report.written, report.deleted, report.outstanding), (0, 0, 0), "a restart writes nothing");
    assert_eq!(world.tables.contents(), before);
}

#[test]
fn unit_ids_survive_a_restart_and_freed_ones_are_not_reused() {
    let mut world = World::listed();
    world.apply(service("web", "10.96.0.10", "x:80"));
    world.apply(slice("web-1", "web", "x:1", "10.0.0.1 10.0.0.2 10.0.0.3"));
    let before = world.tables.contents();
    let (service_id, generation) =
        before.service.iter().map(|(id, value)| (*id, value.generation)).next().unwrap();

    world.restart();
    world.list(&[
        Object::Service(service("new", "10.96.0.9", "x:80")),
        Object::Service(service("web", "10.96.0.10", "x:80")),
        Object::EndpointSlice(slice("web-1", "web", "x:1", "10.0.0.2 10.0.0.3 10.0.0.4")),
    ]);
    let after = world.tables.contents();
    assert_eq!(after.service[&service_id].generation, generation + 1, "other backends, a new generation");
    for (id, backend) in &before.backend {
        let kept = after.backend.get(id);
        assert!(kept.is_none() || kept == Some(backend), "{id} identifies another backend now");
    }
    assert_eq!(after.backend.keys().filter(|id| before.backend.contains_key(id)).count(), 2);
}

#[test]
fn unit_one_endpoint_of_many_is_changed_in_place() {
    let mut world = World::listed();
    world.apply(service("big", "10.96.0.10", "x:80"));
    let endpoints = |from: u32, to: u32| {
        (from..to).map(|n| format!("10.1.{}.{}", n / 250, n % 250 + 1)).collect::<Vec<_>>().join(" ")
    };
    world.apply(slice("big-1", "big", "x:1", &endpoints(0, 1000)));
    let counts = |report: beeline_sync::Report| (report.written, report.deleted);
    assert_eq!(counts(world.apply(slice("big-1", "big", "x:1", &endpoints(0, 1001)))), (3, 0), "append");
    assert_eq!(counts(world.apply(slice("big-1", "big", "x:1", &endpoints(1, 1001)))), (2, 2), "swap-remove");
    assert_eq!(counts(world.apply(slice("big-1", "big", "x:1", &endpoints(2, 1002)))), (2, 1), "replace");
    assert_eq!(counts(world.apply(slice("big-1", "big", "x:1", &endpoints(2, 1002)))), (0, 0), "nothing");
    let report = world.apply(slice("big-1", "big", "x:1", &endpoints(4, 1002)));
    assert_eq!(
        counts(report),
        (998 + 1, 1000 + 2),
        "two at once: a new generation, seen whole or not at all"
    );
}

#[test]
fn unit_one_slice_costs_one_service() {
    let mut world = World::listed();
    for n in 0..200 {
        world.apply(service(&format!("s{n}"), &format!("10.96.1.{n}"), "x:80"));
        world.apply(slice(&format!("s{n}-1"), &format!("s{n}"), "x:1", &format!("10.1.0.{n}")));
    }
    let report = world.apply(slice("s7-1", "s7", "x:1", "10.1.0.7 10.1.1.7"));
    assert_eq!(
        (report.written, report.deleted),
        (1 + 2 + 1, 1),
        "backend, two slots, the value; the old slot"
    );
}

#[test]
fn unit_drift_is_counted_and_repaired() {
    let mut world = World::listed();
    world.apply(lab_node(1));
    world.apply(service("web", "10.96.0.10", "x:80"));
    world.apply(slice("web-1", "web", "x:1", "10.0.0.1 10.0.0.2"));
    let good = world.tables.contents();
    assert_eq!(world.reconciler.resync(&mut world.tables, Prune::Delete).drift, 0);
    let gone = *world.tables.backend.entries.keys().next().unwrap();
    world.tables.backend.entries.remove(&gone);
    world.tables.slot.entries.values_mut().for_each(|slot| slot.backend = 77);
    world.tables.node.entries.insert(99, Default::default());
    let report = world.reconciler.resync(&mut world.tables, Prune::Delete);
    assert_eq!((report.drift, report.written, report.deleted), (1 + 2 + 1, 1 + 2, 1));
    assert_eq!(world.tables.contents(), good);
}

#[test]
fn unit_names_of_pods_and_other_kinds() {
    let mut world = World::listed();
    let mut pod = Pod {
        name: named("web-1"),
        uid: "u".into(),
        node: None,
        ips: vec![ip("10.244.1.5")],
        host_network: false,
        labels: Default::default(),
        finished: false,
        host_ports: vec![],
        packets_only: false,
    };
    world.apply(Object::Pod(pod.clone()));
    world.apply(Object::Namespace(Namespace { name: "default".into(), labels: Default::default() }));
    world.apply(lab_node(1));
    world.apply(Object::Service(service("shop", "10.96.0.7", "http:80")));
    let names = world.planner.names();
    assert_eq!(names.service_addresses, [(ip("10.96.0.7"), "default/shop".to_owned())]);
    assert_eq!(names.pods, [(ip("10.244.1.5"), "default/web-1".to_owned())]);
    assert_eq!(names.nodes[0], (ip("172.30.0.11"), "node-1".to_owned()));
    pod.finished = true;
    world.apply(Object::Pod(pod));
    assert!(world.planner.names().pods.is_empty());

    // Pods of other nodes are known as endpoints only. A node's address is
    // named after the node.
    let mut serving = slice("web-1", "web", "http:8080", "10.244.2.7 172.30.0.11");
    serving.endpoints[0].pod = Some(named("web-2"));
    serving.endpoints[1].pod = Some(named("web-3"));
    world.apply(Object::EndpointSlice(serving));
    assert_eq!(world.planner.names().pods, [(ip("10.244.2.7"), "default/web-2".to_owned())]);
    world.list(&[]);
    assert!(world.planner.names().nodes.is_empty());
}

#[test]
fn unit_sockets_of_pods_are_translated_unless_disabled() {
    let mut world = World::listed();
    world.apply(lab_node(1));
    let sockets = |world: &mut World| -> Vec<u64> {
        world.sync();
        world.tables.contents().namespace.into_keys().collect()
    };
    let pod = |name: &str, packets_only: bool| {
        Object::Pod(Pod { packets_only, ..host_pod(name, "10.244.1.5", "") })
    };
    // The CNI plugin or the API server may report a pod first.
    world.planner.set_namespace(7, named("late"));
    assert_eq!(sockets(&mut world), [], "the Pod object is not known yet");
    world.apply(pod("late", false));
    world.apply(pod("early", false));
    world.apply(pod("mesh", true));
    world.planner.set_namespace(8, named("early"));
    world.planner.set_namespace(9, named("mesh"));
    assert_eq!(sockets(&mut world), [7, 8]);
    world.apply(pod("mesh", false));
    world.apply(pod("early", true));
    assert_eq!(sockets(&mut world), [7, 9], "the setting may change");
    // Recreated with the same name, before the old pod is removed.
    world.planner.set_namespace(17, named("late"));
    assert_eq!(sockets(&mut world), [7, 9, 17]);
    world.planner.remove_namespace(7, &named("late"));
    world.delete(Kind::Pod, "mesh");
    assert_eq!(sockets(&mut world), [17]);
}
