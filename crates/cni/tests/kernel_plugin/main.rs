//! The plugin binary in namespaces of the test's own, with an agent that is
//! played by the test: what a runtime sees, and what stands in the pod.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod world;

use std::net::IpAddr;

use beeline_kernel::netns::NetNs;
use serde_json::{Value, json};
use world::{Mood, Namespace, World};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn kernel_add_makes_an_interface_that_is_ready_and_del_takes_it_away() {
    let world = World::new();
    let result = world.add("1.1.0").result();
    let mut pod = world.pod.netlink();
    let link = pod.link("eth0").unwrap();
    assert!(link.up && link.running && link.mtu == 1400, "{link:?}");
    let addresses: Vec<_> =
        pod.addresses().unwrap().into_iter().filter(|a| a.ifindex == link.index).collect();
    for expected in ["10.1.0.1/32", "fd00::1/128"] {
        let found = addresses.iter().find(|address| address.net == expected.parse().unwrap());
        assert!(found.is_some_and(|address| !address.unusable), "{expected}: {addresses:?}");
    }
    for (destination, gateway) in [("192.0.2.1", "169.254.42.1"), ("2001:db8::1", "fe80::bee1:1")] {
        let answer = pod.route_to(ip(destination)).unwrap();
        assert_eq!((answer.gateway, answer.mtu), (Some(ip(gateway)), Some(1400)), "{destination}");
        let neighbours = pod.neighbours().unwrap();
        let known = neighbours.iter().find(|n| n.ip == ip(gateway)).unwrap();
        assert!(known.permanent && known.mac == Some(beeline_abi::GATEWAY_MAC), "{known:?}");
    }
    assert_eq!(result["interfaces"][1]["mac"], link.mac.unwrap().to_string());
    let host = world.node.netlink().link(result["interfaces"][0]["name"].as_str().unwrap()).unwrap();
    assert_eq!((host.mac, host.peer.unwrap().index), (Some(beeline_abi::GATEWAY_MAC), link.index));
    assert_eq!(world.agent.calls(), ["allocate", "commit"]);
    world.delete().result();
    world.assert_clean();
}

#[test]
fn kernel_ipv6_works_in_a_namespace_where_the_runtime_has_switched_it_off() {
    let world = World::new();
    let off = || {
        for name in ["net.ipv6.conf.all.disable_ipv6", "net.ipv6.conf.default.disable_ipv6"] {
            beeline_kernel::sysctl::set(name, "1").unwrap();
        }
    };
    world.pod.netns.enter(off).unwrap();
    world.add("1.1.0").result();
    assert_eq!(world.pod.netlink().route_to(ip("2001:db8::1")).unwrap().source, Some(ip("fd00::1")));
}

#[test]
fn kernel_the_answer_has_the_format_of_the_version_asked() {
    for (version, family, mtu) in [("0.4.0", true, false), ("1.0.0", false, false), ("1.1.0", false, true)] {
        let world = World::new();
        let result = world.add(version).result();
        assert_eq!(result["cniVersion"], version);
        assert_eq!(result["ips"][0]["address"], "10.1.0.1/32");
        assert_eq!(result["ips"][0]["gateway"], "169.254.42.1");
        assert_eq!(result["ips"][0]["interface"], 1);
        assert_eq!(result["ips"][0].get("version").is_some(), family, "{result:#}");
        assert_eq!(
            result["routes"][1],
            if mtu {
                json!({ "dst": "::/0", "gw": "fe80::bee1:1", "mtu": 1400 })
            } else {
                json!({ "dst": "::/0", "gw": "fe80::bee1:1" })
            }
        );
        assert_eq!(result["interfaces"][1]["sandbox"], world.pod.path.display().to_string());
        assert_eq!(result["interfaces"][1].get("mtu").is_some(), mtu, "{result:#}");
    }
}

#[test]
fn kernel_bad_input_has_its_code_names_its_object_and_leaves_nothing() {
    let world = World::new();
    let good = world.config("1.1.0").to_string();
    let other = |key: &str, value: Value| {
        let mut config = world.config("1.1.0");
        config[key] = value;
        config.to_string()
    };
    let file = world.directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let missing = world.directory.path().join("missing");
    let pod = &world.pod.path;
    let cases = [
        ("ADD", pod, "not json".to_owned(), 6, "is not JSON"),
        ("ADD", pod, String::new(), 6, "is empty"),
        ("ADD", pod, "[1]".to_owned(), 6, "not an object"),
        ("ADD", pod, other("cniVersion", json!("9.9.9")), 1, "9.9.9"),
        ("ADD", pod, other("name", json!("")), 7, "name"),
        ("ADD", pod, other("ipam", json!({ "type": "host-local" })), 2, "ipam"),
        ("ADD", &missing, good.clone(), 3, "missing"),
        ("ADD", &file, good.clone(), 3, "not a network namespace"),
        ("ADD", &world.node.path, good.clone(), 4, "the node's own network namespace"),
        ("CHECK", pod, good.clone(), 7, "prevResult"),
        (
            "CHECK",
            &missing,
            other("prevResult", json!({ "interfaces": [{ "name": "eth0", "sandbox": "x" }] })),
            3,
            "missing",
        ),
        ("FROB", pod, good.clone(), 4, "CNI_COMMAND"),
        ("DEL", pod, "{".to_owned(), 6, "is not JSON"),
    ];
    for (command, netns, input, code, word) in cases {
        let (found, message) = world.call(command, "c1", netns, &input).failure();
        assert!(found == code && message.contains(word), "{command} {input}: code {found}: {message}");
    }
    assert_eq!(world.agent.calls(), [""; 0], "the agent was asked");
    world.assert_clean();
}

#[test]
fn kernel_an_exhausted_pool_and_a_failing_agent_leave_nothing() {
    let world = World::new();
    world.agent.be(Mood::Exhausted);
    let (code, message) = world.add("1.1.0").failure();
    assert!(code == 100 && message.contains("exhausted"), "{code} {message}");
    world.assert_clean();
    world.agent.be(Mood::FailingCommit);
    let (code, message) = world.add("1.0.0").failure();
    assert!(code == 103 && message.contains("cannot be attached"), "{code} {message}");
    world.assert_clean();
    assert_eq!(world.agent.calls().last().unwrap(), "release");
    world.agent.be(Mood::Serving);
    world.add("1.1.0").result();
}

#[test]
fn kernel_without_an_agent_add_says_try_again_and_del_leaves_word() {
    let world = World::without_agent();
    let (code, message) = world.add("1.1.0").failure();
    assert_eq!(code, 11, "{message}");
    assert!(message.contains("agent.sock"), "{message}");
    world.assert_clean();
    world.delete().result();
    world.delete().result();
    let left = std::fs::read_to_string(world.directory.path().join("deleted/c1@eth0.json")).unwrap();
    assert!(left.contains("\"c1\""), "{left}");
}

#[test]
fn kernel_add_waits_for_an_agent_that_is_just_being_started() {
    let world = World::without_agent();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(std::time::Duration::from_millis(300));
            world.start_agent();
        });
        world.add("1.1.0").result();
    });
    world.delete().result();
    world.assert_clean();
}

#[test]
fn kernel_del_removes_the_link_though_the_agent_is_away() {
    let world = World::new();
    world.add("1.1.0").result();
    std::fs::remove_file(world.socket()).unwrap();
    world.delete().result();
    assert!(world.node.links().is_empty() && world.pod.links().is_empty(), "{}", world.node.dump());
    assert!(world.directory.path().join("deleted/c1@eth0.json").exists());
}

#[test]
fn kernel_del_is_idempotent_also_when_the_namespace_has_gone() {
    let world = World::new();
    world.delete().result();
    world.add("1.1.0").result();
    NetNs::remove_bound(&world.pod.path).unwrap();
    let config = world.config("1.1.0").to_string();
    for netns in [&world.pod.path, std::path::Path::new("")] {
        world.call("DEL", "c1", netns, &config).result();
    }
    assert!(world.node.links().is_empty(), "{}", world.node.dump());
    assert_eq!(world.agent.allocated(), 0);
}

#[test]
fn kernel_an_interface_that_exists_is_refused_and_stays() {
    let world = World::new();
    world.add("1.1.0").result();
    let (before, calls) = (world.pod.settled(), world.agent.calls().len());
    let (code, message) = world.add("1.1.0").failure();
    assert!(
        code == 102 && message.contains("eth0") && message.contains("exists already"),
        "{code} {message}"
    );
    let elsewhere = Namespace::new(world.directory.path().join("elsewhere"));
    let config = world.config("1.1.0").to_string();
    let (code, message) = world.call("ADD", "c1", &elsewhere.path, &config).failure();
    assert!(code == 102 && message.contains("bee"), "{code} {message}");
    assert_eq!(world.pod.dump(), before);
    assert_eq!(world.agent.calls().len(), calls, "the agent was asked");
}

#[test]
fn kernel_check_finds_what_is_broken() {
    type Break = fn(&World, &Value);
    let breaks: [(&str, Break); 6] = [
        ("address 10.1.0.1", |world, _| {
            let mut pod = world.pod.netlink();
            let index = pod.index("eth0").unwrap();
            pod.delete_address(index, "10.1.0.1/32".parse().unwrap()).unwrap();
        }),
        ("default route for IPv6", |world, _| {
            let mut pod = world.pod.netlink();
            let routes = pod.routes().unwrap();
            let is = |r: &&beeline_kernel::netlink::Route| r.gateway == Some(ip("fe80::bee1:1"));
            pod.delete_route(routes.iter().find(is).unwrap()).unwrap();
        }),
        ("eth0 in", |world, _| {
            let mut pod = world.pod.netlink();
            let index = pod.index("eth0").unwrap();
            pod.set_up(index, false).unwrap();
        }),
        ("is down", |world, result| {
            let mut node = world.node.netlink();
            let index = node.index(result["interfaces"][0]["name"].as_str().unwrap()).unwrap();
            node.set_up(index, false).unwrap();
        }),
        ("eth0 is not in", |world, _| world.pod.netlink().delete_link("eth0").unwrap()),
        ("not attached", |world, _| world.agent.be(Mood::SeeingMismatch)),
    ];
    for (words, break_it) in breaks {
        let world = World::new();
        let result = world.add("1.1.0").result();
        world.check(&result).result();
        break_it(&world, &result);
        let (code, message) = world.check(&result).failure();
        assert!(code == 101 && message.contains(words), "{words}: {code} {message}\n{}", world.pod.dump());
    }
}

#[test]
fn kernel_calls_at_once_do_not_disturb_each_other() {
    const CONTAINERS: usize = 6;
    let world = World::new();
    let pods: Vec<Namespace> =
        (0..CONTAINERS).map(|n| Namespace::new(world.directory.path().join(format!("pod-{n}")))).collect();
    let config = world.config("1.1.0").to_string();
    std::thread::scope(|scope| {
        for (number, pod) in pods.iter().enumerate() {
            // Two callers per container: runtimes repeat calls that time out.
            for _ in 0..2 {
                let (world, config) = (&world, &config);
                scope.spawn(move || {
                    for _ in 0..3 {
                        let container = format!("c{number}");
                        let added = world.call("ADD", &container, &pod.path, config);
                        assert!(added.success || added.output["code"] == 102, "{:#}", added.output);
                        world.call("DEL", &container, &pod.path, config).result();
                    }
                });
            }
        }
    });
    for pod in &pods {
        assert!(pod.links().is_empty(), "{}", pod.dump());
    }
    world.assert_clean();
}

/// What containerd 2 (go-cni) and CRI-O (ocicni) give to the plugin, both by
/// libcni, for a list that declares what they offer.
#[test]
fn kernel_the_calls_of_containerd_and_cri_o_are_served() {
    const ID: &str = "3f6940ab5ab43bc522569d15b23f8c1bbde1d7678b080398506924fc01d72755";
    let kubernetes = [
        ("IgnoreUnknown", "1"),
        ("K8S_POD_NAMESPACE", "shop"),
        ("K8S_POD_NAME", "web-7d4b9c-x2x7k"),
        ("K8S_POD_INFRA_CONTAINER_ID", ID),
        ("K8S_POD_UID", "8304765e-fd7e-4968-9144-c42c53be04f4"),
    ];
    let words = |pairs: &[(&str, &str)]| -> String {
        pairs.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(";")
    };
    // containerd keeps them in a map: any order may come.
    let mut shuffled = kubernetes;
    shuffled.reverse();
    let annotations = json!({"kubernetes.io/config.source": "api"});
    let containerd = json!({
        "portMappings": null,
        "bandwidth": {"ingressRate": 1_000_000, "ingressBurst": 2_147_483_647_u32, "egressRate": 0, "egressBurst": 0},
        "dns": {"servers": ["10.96.0.10"], "searches": ["shop.svc.cluster.local"], "options": ["ndots:5"]},
        "cgroupPath": "/kubepods/besteffort/pod8304765e",
        "io.kubernetes.cri.pod-annotations": annotations,
    });
    let cri_o = json!({
        "bandwidth": {"ingressRate": 0, "ingressBurst": 0, "egressRate": 8_000, "egressBurst": 8_000},
        "ipRanges": [[{"subnet": "10.1.0.0/24"}]], "aliases": ["web"],
        "cgroupPath": "kubepods.slice", "io.kubernetes.cri.pod-annotations": annotations,
    });
    let runtimes = [
        ("containerd 1.6", "1.0.0", words(&shuffled), containerd.clone()),
        ("containerd 2", "1.1.0", words(&shuffled), containerd),
        ("CRI-O", "1.1.0", words(&kubernetes), cri_o),
    ];
    for (runtime, version, arguments, offered) in runtimes {
        let world = World::new();
        let nowhere = std::path::Path::new("");
        let mut config = world.config(version);
        let bare = config.to_string();
        config["capabilities"] =
            offered.as_object().unwrap().keys().map(|key| (key.clone(), json!(true))).collect();
        config["capabilities"].as_object_mut().unwrap().remove("portMappings");
        config["runtimeConfig"] = offered;
        let input = config.to_string();
        if version == "1.1.0" {
            assert_eq!(world.call_with("STATUS", "", nowhere, "", &bare).result(), Value::Null, "{runtime}");
        }
        let result = world.call_with("ADD", ID, &world.pod.path, &arguments, &input).result();
        assert_eq!(result["cniVersion"], version, "{runtime}");
        assert_eq!(world.agent.pods(), ["shop/web-7d4b9c-x2x7k 8304765e-fd7e-4968-9144-c42c53be04f4"]);
        config["prevResult"] = result;
        let input = config.to_string();
        world.call_with("CHECK", ID, &world.pod.path, &arguments, &input).result();

        if version == "1.1.0" {
            let mut gc = world.config(version);
            let valid = json!([{"containerID": ID, "ifname": "eth0"}]);
            gc["cni.dev/valid-attachments"] = valid.clone();
            gc["cni.dev/attachments"] = valid;
            world.call_with("GC", "", nowhere, "", &gc.to_string()).result();
            assert_eq!(world.agent.valid().len(), 1, "{runtime}");
            let (code, message) = world.call_with("GC", "", nowhere, "", &bare).failure();
            assert!(code == 7 && message.contains("nothing was removed"), "{code} {message}");
        }
        // The sandbox is gone, as after a boot, and the runtime asks twice.
        for _ in 0..2 {
            world.call_with("DEL", ID, nowhere, &arguments, &input).result();
        }
        world.assert_clean();
    }
}

#[test]
fn kernel_ports_of_the_host_are_refused_aloud_until_they_are_built() {
    let world = World::new();
    let mut config = world.config("1.1.0");
    let ports = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""}]);
    config["runtimeConfig"] = json!({"portMappings": ports});
    let (code, message) = world.call("ADD", "c1", &world.pod.path, &config.to_string()).failure();
    assert!(code == 2 && message.contains("8080"), "{code} {message}");
    world.call("DEL", "c1", &world.pod.path, &config.to_string()).result();
    world.assert_clean();
}

#[test]
fn kernel_version_status_and_gc_answer() {
    let world = World::new();
    let nowhere = std::path::Path::new("");
    let version = world.call("VERSION", "", nowhere, r#"{"cniVersion":"1.0.0"}"#).result();
    assert_eq!(
        version,
        json!({ "cniVersion": "1.0.0", "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] })
    );
    assert_eq!(world.call("STATUS", "", nowhere, &world.config("1.1.0").to_string()).result(), Value::Null);
    let mut gc = world.config("1.1.0");
    gc["cni.dev/valid-attachments"] = json!([{ "containerID": "c1", "ifname": "eth0" }]);
    assert_eq!(world.call("GC", "", nowhere, &gc.to_string()).result(), Value::Null);
    assert_eq!(world.agent.calls(), ["ready", "collect"]);
    let without = World::without_agent();
    let (code, message) = without.call("STATUS", "", nowhere, &without.config("1.1.0").to_string()).failure();
    assert_eq!(code, 50, "{message}");
}
