//! The plugin binary in network namespaces of the test, with a fake agent:
//! what a runtime sees, and what is configured in the pod.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fixture;

use std::net::IpAddr;

use beeline_kernel::netns::NetNs;
use fixture::{AgentBehaviour, Fixture, Namespace};
use serde_json::{Value, json};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn kernel_add_creates_a_ready_interface_and_del_removes_it() {
    let fixture = Fixture::new();
    let result = fixture.add("1.1.0").result();
    let mut pod = fixture.pod.netlink();
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
    let host = fixture.node.netlink().link(result["interfaces"][0]["name"].as_str().unwrap()).unwrap();
    assert_eq!((host.mac, host.peer.unwrap().index), (Some(beeline_abi::GATEWAY_MAC), link.index));
    assert_eq!(fixture.agent.calls(), ["allocate", "commit"]);
    fixture.delete().result();
    fixture.assert_clean();
}

#[test]
fn kernel_ipv6_works_in_a_namespace_where_the_runtime_disabled_it() {
    let fixture = Fixture::new();
    let off = || {
        for name in ["net.ipv6.conf.all.disable_ipv6", "net.ipv6.conf.default.disable_ipv6"] {
            beeline_kernel::sysctl::set(name, "1").unwrap();
        }
    };
    fixture.pod.netns.enter(off).unwrap();
    fixture.add("1.1.0").result();
    assert_eq!(fixture.pod.netlink().route_to(ip("2001:db8::1")).unwrap().source, Some(ip("fd00::1")));
}

#[test]
fn kernel_the_result_has_the_format_of_the_requested_version() {
    for (version, family, mtu) in [("0.4.0", true, false), ("1.0.0", false, false), ("1.1.0", false, true)] {
        let fixture = Fixture::new();
        let result = fixture.add(version).result();
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
        assert_eq!(result["interfaces"][1]["sandbox"], fixture.pod.path.display().to_string());
        assert_eq!(result["interfaces"][1].get("mtu").is_some(), mtu, "{result:#}");
    }
}

#[test]
fn kernel_bad_input_has_its_code_names_its_object_and_leaves_no_state() {
    let fixture = Fixture::new();
    let good = fixture.config("1.1.0").to_string();
    let other = |key: &str, value: Value| {
        let mut config = fixture.config("1.1.0");
        config[key] = value;
        config.to_string()
    };
    let file = fixture.directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let missing = fixture.directory.path().join("missing");
    let pod = &fixture.pod.path;
    let cases = [
        ("ADD", pod, "not json".to_owned(), 6, "is not JSON"),
        ("ADD", pod, String::new(), 6, "is empty"),
        ("ADD", pod, "[1]".to_owned(), 6, "not an object"),
        ("ADD", pod, other("cniVersion", json!("9.9.9")), 1, "9.9.9"),
        ("ADD", pod, other("name", json!("")), 7, "name"),
        ("ADD", pod, other("ipam", json!({ "type": "host-local" })), 2, "ipam"),
        ("ADD", &missing, good.clone(), 3, "missing"),
        ("ADD", &file, good.clone(), 3, "not a network namespace"),
        ("ADD", &fixture.node.path, good.clone(), 4, "the node's own network namespace"),
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
        let (found, message) = fixture.call(command, "c1", netns, &input).failure();
        assert!(found == code && message.contains(word), "{command} {input}: code {found}: {message}");
    }
    assert_eq!(fixture.agent.calls(), [""; 0], "the agent was called");
    fixture.assert_clean();
}

#[test]
fn kernel_an_exhausted_pool_and_a_failing_agent_leave_no_state() {
    let fixture = Fixture::new();
    fixture.agent.set_behaviour(AgentBehaviour::Exhausted);
    let (code, message) = fixture.add("1.1.0").failure();
    assert!(code == 100 && message.contains("exhausted"), "{code} {message}");
    fixture.assert_clean();
    fixture.agent.set_behaviour(AgentBehaviour::FailingCommit);
    let (code, message) = fixture.add("1.0.0").failure();
    assert!(code == 103 && message.contains("cannot be attached"), "{code} {message}");
    fixture.assert_clean();
    assert_eq!(fixture.agent.calls().last().unwrap(), "release");
    fixture.agent.set_behaviour(AgentBehaviour::Serving);
    fixture.add("1.1.0").result();
}

#[test]
fn kernel_without_an_agent_add_says_try_again_and_del_queues_the_deletion() {
    let fixture = Fixture::without_agent();
    let (code, message) = fixture.add("1.1.0").failure();
    assert_eq!(code, 11, "{message}");
    assert!(message.contains("agent.sock"), "{message}");
    fixture.assert_clean();
    fixture.delete().result();
    fixture.delete().result();
    let left = std::fs::read_to_string(fixture.directory.path().join("deleted/c1@eth0.json")).unwrap();
    assert!(left.contains("\"c1\""), "{left}");
}

#[test]
fn kernel_add_waits_for_an_agent_that_is_starting() {
    let fixture = Fixture::without_agent();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(std::time::Duration::from_millis(300));
            fixture.start_agent();
        });
        fixture.add("1.1.0").result();
    });
    fixture.delete().result();
    fixture.assert_clean();
}

#[test]
fn kernel_del_removes_the_link_without_an_agent() {
    let fixture = Fixture::new();
    fixture.add("1.1.0").result();
    std::fs::remove_file(fixture.socket()).unwrap();
    fixture.delete().result();
    assert!(fixture.node.links().is_empty() && fixture.pod.links().is_empty(), "{}", fixture.node.dump());
    assert!(fixture.directory.path().join("deleted/c1@eth0.json").exists());
}

#[test]
fn kernel_del_is_idempotent_also_without_the_namespace() {
    let fixture = Fixture::new();
    fixture.delete().result();
    fixture.add("1.1.0").result();
    NetNs::remove_bound(&fixture.pod.path).unwrap();
    let config = fixture.config("1.1.0").to_string();
    for netns in [&fixture.pod.path, std::path::Path::new("")] {
        fixture.call("DEL", "c1", netns, &config).result();
    }
    assert!(fixture.node.links().is_empty(), "{}", fixture.node.dump());
    assert_eq!(fixture.agent.allocated(), 0);
}

#[test]
fn kernel_an_existing_interface_is_refused_and_kept() {
    let fixture = Fixture::new();
    fixture.add("1.1.0").result();
    let (before, calls) = (fixture.pod.settled(), fixture.agent.calls().len());
    let (code, message) = fixture.add("1.1.0").failure();
    assert!(
        code == 102 && message.contains("eth0") && message.contains("already exists"),
        "{code} {message}"
    );
    let elsewhere = Namespace::new(fixture.directory.path().join("elsewhere"));
    let config = fixture.config("1.1.0").to_string();
    let (code, message) = fixture.call("ADD", "c1", &elsewhere.path, &config).failure();
    assert!(code == 102 && message.contains("bee"), "{code} {message}");
    assert_eq!(fixture.pod.dump(), before);
    assert_eq!(fixture.agent.calls().len(), calls, "the agent was called");
}

#[test]
fn kernel_check_finds_what_is_broken() {
    type Break = fn(&Fixture, &Value);
    let breaks: [(&str, Break); 6] = [
        ("address 10.1.0.1", |fixture, _| {
            let mut pod = fixture.pod.netlink();
            let index = pod.index("eth0").unwrap();
            pod.delete_address(index, "10.1.0.1/32".parse().unwrap()).unwrap();
        }),
        ("default route for IPv6", |fixture, _| {
            let mut pod = fixture.pod.netlink();
            let routes = pod.routes().unwrap();
            let is = |r: &&beeline_kernel::netlink::Route| r.gateway == Some(ip("fe80::bee1:1"));
            pod.delete_route(routes.iter().find(is).unwrap()).unwrap();
        }),
        ("eth0 in", |fixture, _| {
            let mut pod = fixture.pod.netlink();
            let index = pod.index("eth0").unwrap();
            pod.set_up(index, false).unwrap();
        }),
        ("is down", |fixture, result| {
            let mut node = fixture.node.netlink();
            let index = node.index(result["interfaces"][0]["name"].as_str().unwrap()).unwrap();
            node.set_up(index, false).unwrap();
        }),
        ("eth0 does not exist in", |fixture, _| fixture.pod.netlink().delete_link("eth0").unwrap()),
        ("not attached", |fixture, _| fixture.agent.set_behaviour(AgentBehaviour::ReportingMismatch)),
    ];
    for (words, break_it) in breaks {
        let fixture = Fixture::new();
        let result = fixture.add("1.1.0").result();
        fixture.check(&result).result();
        break_it(&fixture, &result);
        let (code, message) = fixture.check(&result).failure();
        assert!(code == 101 && message.contains(words), "{words}: {code} {message}\n{}", fixture.pod.dump());
    }
}

#[test]
fn kernel_concurrent_calls_do_not_interfere() {
    const CONTAINERS: usize = 6;
    let fixture = Fixture::new();
    let pods: Vec<Namespace> =
        (0..CONTAINERS).map(|n| Namespace::new(fixture.directory.path().join(format!("pod-{n}")))).collect();
    let config = fixture.config("1.1.0").to_string();
    std::thread::scope(|scope| {
        for (number, pod) in pods.iter().enumerate() {
            // Two callers per container, because runtimes repeat calls that time out.
            for _ in 0..2 {
                let (fixture, config) = (&fixture, &config);
                scope.spawn(move || {
                    for _ in 0..3 {
                        let container = format!("c{number}");
                        let added = fixture.call("ADD", &container, &pod.path, config);
                        assert!(added.success || added.output["code"] == 102, "{:#}", added.output);
                        fixture.call("DEL", &container, &pod.path, config).result();
                    }
                });
            }
        }
    });
    for pod in &pods {
        assert!(pod.links().is_empty(), "{}", pod.dump());
    }
    fixture.assert_clean();
}

/// The calls of containerd (go-cni) and CRI-O (ocicni), both with libcni, for a
/// configuration that declares all capabilities they offer.
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
    // containerd keeps the arguments in a map, so their order is random.
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
        let fixture = Fixture::new();
        let no_netns = std::path::Path::new("");
        let mut config = fixture.config(version);
        let bare = config.to_string();
        config["capabilities"] =
            offered.as_object().unwrap().keys().map(|key| (key.clone(), json!(true))).collect();
        config["capabilities"].as_object_mut().unwrap().remove("portMappings");
        config["runtimeConfig"] = offered;
        let input = config.to_string();
        if version == "1.1.0" {
            assert_eq!(
                fixture.call_with("STATUS", "", no_netns, "", &bare).result(),
                Value::Null,
                "{runtime}"
            );
        }
        let result = fixture.call_with("ADD", ID, &fixture.pod.path, &arguments, &input).result();
        assert_eq!(result["cniVersion"], version, "{runtime}");
        assert_eq!(fixture.agent.pods(), ["shop/web-7d4b9c-x2x7k 8304765e-fd7e-4968-9144-c42c53be04f4"]);
        config["prevResult"] = result;
        let input = config.to_string();
        fixture.call_with("CHECK", ID, &fixture.pod.path, &arguments, &input).result();

        if version == "1.1.0" {
            let mut gc = fixture.config(version);
            let valid = json!([{"containerID": ID, "ifname": "eth0"}]);
            gc["cni.dev/valid-attachments"] = valid.clone();
            gc["cni.dev/attachments"] = valid;
            fixture.call_with("GC", "", no_netns, "", &gc.to_string()).result();
            assert_eq!(fixture.agent.valid().len(), 1, "{runtime}");
            let (code, message) = fixture.call_with("GC", "", no_netns, "", &bare).failure();
            assert!(code == 7 && message.contains("nothing was removed"), "{code} {message}");
        }
        // The sandbox no longer exists, as after a reboot, and the runtime calls twice.
        for _ in 0..2 {
            fixture.call_with("DEL", ID, no_netns, &arguments, &input).result();
        }
        fixture.assert_clean();
    }
}

#[test]
fn kernel_port_mappings_are_refused_because_the_agent_serves_them() {
    let fixture = Fixture::new();
    let mut config = fixture.config("1.1.0");
    let ports = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""}]);
    config["runtimeConfig"] = json!({"portMappings": ports});
    let (code, message) = fixture.call("ADD", "c1", &fixture.pod.path, &config.to_string()).failure();
    assert!(code == 2 && message.contains("8080"), "{code} {message}");
    fixture.call("DEL", "c1", &fixture.pod.path, &config.to_string()).result();
    fixture.assert_clean();
}

#[test]
fn kernel_version_status_and_gc_respond() {
    let fixture = Fixture::new();
    let no_netns = std::path::Path::new("");
    let version = fixture.call("VERSION", "", no_netns, r#"{"cniVersion":"1.0.0"}"#).result();
    assert_eq!(
        version,
        json!({ "cniVersion": "1.0.0", "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] })
    );
    assert_eq!(
        fixture.call("STATUS", "", no_netns, &fixture.config("1.1.0").to_string()).result(),
        Value::Null
    );
    let mut gc = fixture.config("1.1.0");
    gc["cni.dev/valid-attachments"] = json!([{ "containerID": "c1", "ifname": "eth0" }]);
    assert_eq!(fixture.call("GC", "", no_netns, &gc.to_string()).result(), Value::Null);
    assert_eq!(fixture.agent.calls(), ["ready", "collect"]);
    let without = Fixture::without_agent();
    let (code, message) =
        without.call("STATUS", "", no_netns, &without.config("1.1.0").to_string()).failure();
    assert_eq!(code, 50, "{message}");
}
