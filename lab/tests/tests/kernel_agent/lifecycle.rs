//! The lifecycle of a pod without failures.

use std::net::IpAddr;

use beeline_abi::{GATEWAY_MAC, Ip};
use beeline_api::{Call, Response};
use beeline_kernel::netlink::protocol;
use serde_json::json;

use crate::world::{NODE_IPS, OUTSIDE_IPS, World, no_programs};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn kernel_a_pod_is_added_communicates_and_is_deleted() {
    if no_programs() {
        return;
    }
    let world = World::with_agent();
    let (web, api) = (world.add("web"), world.add("api"));
    assert_eq!(web.ips, [ip("10.244.1.2"), ip("fd00:10:244:1::2")], "{}", world.log());

    // Pod to pod, pod to node and back, pod to external host and back.
    for (from, to) in [(web.ipv4(), api.ipv4()), (web.ipv6(), api.ipv6())] {
        let echo = api.namespace.echo(to);
        assert!(web.namespace.reaches(from, echo.address), "{from} -> {to}\n{}", world.log());
    }
    for (family, own) in web.ips.iter().enumerate() {
        for (place, ips) in [(&world.node, NODE_IPS), (&world.outside, OUTSIDE_IPS)] {
            let other = ip(ips[family]);
            let (there, here) = (place.echo(other), web.namespace.echo(*own));
            assert!(web.namespace.reaches(*own, there.address), "{own} -> {other}\n{}", world.log());
            assert!(place.reaches(other, here.address), "{other} -> {own}\n{}", world.log());
        }
    }

    // The host's side.
    let mut netlink = world.node.netlink();
    let link = netlink.link(&web.host_interface).unwrap();
    assert!(link.up && link.mac == Some(GATEWAY_MAC), "{link:?}");
    for (own, node_ip) in web.ips.iter().zip(NODE_IPS) {
        let answer = netlink.route_to(*own).unwrap();
        assert_eq!((answer.ifindex, answer.source), (link.index, Some(ip(node_ip))));
        assert!(netlink.neighbours().unwrap().iter().any(|n| n.ip == *own && n.permanent));
    }
    assert_eq!(world.node.sysctl(&format!("net.ipv4.conf.{}.rp_filter", link.name)), "0");
    let status = world.status();
    assert!(status.synced && status.api_connected && status.problems.is_empty(), "{status:#?}");
    assert_eq!((status.uplinks, status.endpoints.len()), (vec!["eth0".to_owned()], 2));
    world.call(Call::Check { attachment: status.endpoints[0].attachment.clone() }).unwrap();

    world.delete(&web);
    world.delete(&web);
    let contents = world.pinned().contents().unwrap();
    assert_eq!(contents.endpoint.len(), 2);
    assert!(!contents.endpoint.contains_key(&Ip::from(web.ipv4())));
    assert!(netlink.link(&web.host_interface).is_err());
    assert_ne!(world.add("next").ipv4(), web.ipv4(), "an address is not used again at once");
}

#[test]
fn kernel_routes_follow_the_nodes_and_forwarding_is_on() {
    if no_programs() {
        return;
    }
    let world = World::new();
    world.node.set_sysctl("net.ipv6.conf.eth0.accept_ra", "1");
    let mut world = world;
    world.start_agent();
    world.until_ready();
    for (prefix, hop) in ["10.244.2.0/24", "fd00:10:244:2::/64"].into_iter().zip(OUTSIDE_IPS) {
        let route =
            world.route(prefix).unwrap_or_else(|| panic!("missing route to {prefix}\n{}", world.log()));
        assert_eq!((route.gateway, route.protocol), (Some(ip(hop)), protocol::BEELINE));
    }
    for (name, value) in [
        ("net.ipv4.ip_forward", "1"),
        ("net.ipv6.conf.all.forwarding", "1"),
        ("net.ipv6.conf.eth0.accept_ra", "2"),
    ] {
        assert_eq!(world.node.sysctl(name), value, "{name}");
    }
    let noted = std::fs::read_to_string(world.state("sysctls.json")).unwrap();
    assert!(noted.contains(r#"{"name":"net.ipv6.conf.eth0.accept_ra","value":"1"}"#), "{noted}");

    let node = world.api().get("nodes", "", "node-2").unwrap();
    world.api().delete("nodes", "", "node-2", &Default::default()).unwrap();
    let gone = json!({ "metadata": { "name": node["metadata"]["name"] } });
    world.wait_for_sync("Node", &gone);
    assert_eq!(world.route("10.244.2.0/24"), None, "{}", world.log());
}

#[test]
fn kernel_the_uplinks_are_those_that_the_values_name() {
    if no_programs() {
        return;
    }
    let mut world = World::new();
    world.values = "devices: [eth+, wlan0]\nMTU: 1400\n".to_owned();
    world.start_agent();
    world.until_ready();
    world.eventually("the missing device is reported", || {
        world.status().problems.iter().any(|problem| problem.contains("wlan0"))
    });
    assert_eq!(world.status().uplinks, ["eth0"]);
    let pod = world.add("web");
    assert_eq!(pod.namespace.netlink().link("eth0").unwrap().mtu, 1400);
}

#[test]
fn kernel_the_agent_holds_three_capabilities_and_cannot_get_more() {
    if no_programs() {
        return;
    }
    let world = World::with_agent();
    // A full pod lifecycle first, so that the agent has used its capabilities.
    let pod = world.add("web");
    world.delete(&pod);
    let status = std::fs::read_to_string(format!("/proc/{}/status", world.agent_pid())).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_start_matches(':').trim().to_owned()
    };
    // CAP_NET_ADMIN (12), CAP_PERFMON (38), CAP_BPF (39).
    let kept = format!("{:016x}", (1u64 << 12) | (1 << 38) | (1 << 39));
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(field(set), kept, "{set}\n{status}");
    }
    for set in ["CapInh", "CapAmb"] {
        assert_eq!(field(set), "0000000000000000", "{set}\n{status}");
    }
    assert_eq!(field("NoNewPrivs"), "1");
    // Only the thread that enters the network namespaces of pods has
    // CAP_SYS_ADMIN (21); it loads no programs.
    let also = format!("{:016x}", (1u64 << 12) | (1 << 21) | (1 << 39));
    let mut enters = 0;
    for task in std::fs::read_dir(format!("/proc/{}/task", world.agent_pid())).unwrap() {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let holds = |set: &str| status.contains(&format!("CapEff:\t{set}"));
        let is_sockets = status.contains("Name:\tsockets\n");
        enters += usize::from(is_sockets && holds(&also));
        assert!(holds(if is_sockets { &also } else { &kept }), "a thread holds others:\n{status}");
    }
    assert_eq!(enters, 1);
}

#[test]
fn kernel_health_readiness_metrics_and_names_are_served() {
    if no_programs() {
        return;
    }
    let world = World::with_agent();
    assert_eq!(world.page("/healthz"), (200, "ok\n".to_owned()));
    assert_eq!(world.page("/readyz"), (200, "ok\n".to_owned()));
    let service = json!({ "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "web", "namespace": "default" },
        "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80 }] } });
    let created = world.api().create("services", service).unwrap();
    world.wait_for_sync("Service", &created);
    let Ok(Response::Names(names)) = world.call(Call::Names) else { panic!("{}", world.log()) };
    assert!(names.services.iter().any(|(_, name)| name.starts_with("default/web")), "{names:?}");
    assert!(names.nodes.contains(&(ip(OUTSIDE_IPS[0]), "node-2".to_owned())), "{names:?}");
    let _pod = world.add("web");
    let (status, metrics) = world.page("/metrics");
    assert_eq!(status, 200);
    for line in [
        "beeline_endpoints{} 1",
        "beeline_synced{} 1",
        "beeline_api_connected{} 1",
        "beeline_drift_total{} 0",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    let series = metrics.lines().filter(|line| !line.starts_with('#')).count();
    assert!(series <= beeline_agent::metrics::SERIES_MAX, "{series} series");
    let error = world.call(Call::WaitForSync {
        timeout_ms: 50,
        objects: vec![beeline_api::ObjectVersion {
            kind: "Service".into(),
            namespace: "default".into(),
            name: "web".into(),
            resource_version: (u64::MAX / 2).to_string(),
        }],
    });
    assert!(error.unwrap_err().to_string().contains("default/web"));
}

#[test]
fn kernel_drop_events_are_relayed_to_clients() {
    if no_programs() {
        return;
    }
    let world = World::with_agent();
    let pod = world.add("web");
    // A source address that is not the pod's is dropped by the guard.
    let mut netlink = pod.namespace.netlink();
    let index = netlink.index("eth0").unwrap();
    netlink.add_address(index, "10.99.0.1/32".parse().unwrap()).unwrap();
    let socket = pod.namespace.udp(ip("10.99.0.1"));
    world.eventually("the drop is reported", || {
        socket.send_to(b"spoofed", (OUTSIDE_IPS[0], 9)).unwrap();
        let answers = world.client().stream(Call::Drops { follow: false }).unwrap();
        answers.flatten().any(|answer| matches!(answer, Response::Drop(drop) if drop.src == ip("10.99.0.1")))
    });
    world.eventually("the drop is counted", || {
        world.page("/metrics").1.contains("beeline_drops_total{hook=\"from_pod\"")
    });
}
