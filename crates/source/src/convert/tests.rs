use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;

/// JSON in, model object and problem messages out.
fn check<K: DeserializeOwned>(
    convert: fn(&K, &mut Vec<Problem>) -> Object,
    object: Value,
) -> (Object, Vec<String>) {
    let object: K = serde_json::from_value(object).unwrap();
    let mut problems = Vec::new();
    let converted = convert(&object, &mut problems);
    (converted, problems.iter().map(ToString::to_string).collect())
}

#[test]
fn unit_a_dual_stack_node() {
    let (object, problems) = check::<Node>(
        node,
        json!({"metadata": {"name": "node-1", "labels": {ZONE_LABEL: "a"}},
            "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00:10:244:1::/64"]},
            "status": {"addresses": [{"type": "Hostname", "address": "node-1"},
                {"type": "InternalIP", "address": "172.30.0.11"}, {"type": "InternalIP", "address": "fd00:172:30::b"},
                {"type": "ExternalIP", "address": "172.30.2.11"}]}}),
    );
    let Object::Node(node) = object else { panic!("{object:?}") };
    assert_eq!((node.internal_ips.len(), node.external_ips.len()), (2, 1));
    assert_eq!(node.pod_cidrs.len(), 2);
    assert_eq!((node.zone.as_deref(), problems.len()), (Some("a"), 0));
}

#[test]
fn unit_a_slice_with_a_broken_address_keeps_its_good_ones() {
    let (object, problems) = check::<EndpointSlice>(
        endpoint_slice,
        json!({"metadata": {"name": "web-x", "namespace": "shop", "labels": {SERVICE_NAME_LABEL: "web"}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080}, {"name": "bad", "port": 70000}, {"name": "odd", "port": 1, "protocol": "QUIC"}],
            "endpoints": [
                {"addresses": ["10.244.1.5"], "nodeName": "node-1", "targetRef": {"kind": "Pod", "name": "web-1"}},
                {"addresses": ["10.244.1.999"]},
                {"addresses": ["fd00::1"]},
                {"addresses": ["127.0.0.1"]},
                {"addresses": []},
                {"addresses": ["10.244.1.6"], "conditions": {"ready": false, "serving": true, "terminating": true}}]}),
    );
    let Object::EndpointSlice(slice) = object else { panic!("{object:?}") };
    assert_eq!(
        (slice.service.as_str(), slice.ports.len(), slice.endpoints.len()),
        ("web", 1, 2),
        "{slice:?}"
    );
    let (up, down) = (&slice.endpoints[0], &slice.endpoints[1]);
    assert!(up.ready && up.serving && !up.terminating, "absent conditions mean ready");
    assert_eq!(up.pod, Some(ObjectName::new("shop", "web-1")));
    assert!(!down.ready && down.serving && down.terminating);
    assert_eq!(problems.len(), 6, "{problems:#?}");
    assert!(problems.iter().all(|p| p.starts_with("EndpointSlice shop/web-x: ")), "{problems:#?}");
    assert!(problems.iter().any(|p| p.contains("10.244.1.999")), "{problems:#?}");
}

#[test]
fn unit_services_of_every_type() {
    let spec = |spec: Value| {
        let (object, problems) =
            check::<Service>(service, json!({"metadata": {"name": "s", "namespace": "d"}, "spec": spec}));
        let Object::Service(service) = object else { panic!("{object:?}") };
        (service, problems)
    };
    let (plain, problems) =
        spec(json!({"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00:10:96::1"],
        "ports": [{"port": 53, "protocol": "UDP", "name": "dns"}, {"port": 53, "name": "dns-tcp"}]}));
    assert_eq!((plain.cluster_ips.len(), plain.ports.len(), problems.len()), (2, 2, 0));
    assert_eq!(plain.service_type, model::ServiceType::ClusterIp);
    assert_eq!(plain.ports[0].protocol, Protocol::Udp);

    let (headless, problems) =
        spec(json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": [{"port": 80}]}));
    assert!(headless.cluster_ips.is_empty() && problems.is_empty());

    let (node_port, _) =
        spec(json!({"type": "NodePort", "clusterIP": "10.96.0.2", "sessionAffinity": "ClientIP",
        "internalTrafficPolicy": "Local", "ports": [{"port": 80, "nodePort": 30080}]}));
    assert_eq!(node_port.service_type, model::ServiceType::NodePort);
    assert_eq!((node_port.affinity_s, node_port.internal_local), (Some(10_800), true));
    assert_eq!(node_port.ports[0].node_port, 30_080);

    let (broken, problems) =
        spec(json!({"type": "Magic", "clusterIPs": ["10.96.0.300"], "ports": [{"port": 0}]}));
    assert!(broken.cluster_ips.is_empty() && broken.ports.is_empty());
    assert_eq!(problems.len(), 3, "{problems:#?}");
}

#[test]
fn unit_pods_running_finished_and_bare() {
    let (object, _) = check::<Pod>(
        pod,
        json!({"metadata": {"name": "a", "namespace": "d", "uid": "u", "labels": {"app": "a"}},
            "spec": {"containers": [], "nodeName": "node-1", "hostNetwork": true},
            "status": {"phase": "Succeeded", "podIP": "10.244.1.5", "podIPs": [{"ip": "10.244.1.5"}, {"ip": "fd00::5"}]}}),
    );
    let Object::Pod(full) = object else { panic!("{object:?}") };
    assert!(full.finished && full.host_network && full.ips.len() == 2);
    let (object, problems) = check::<Pod>(pod, json!({"metadata": {"name": "b", "namespace": "d"}}));
    let Object::Pod(bare) = object else { panic!("{object:?}") };
    assert!(bare.node.is_none() && bare.ips.is_empty() && !bare.finished && problems.is_empty());
}

#[test]
fn unit_load_balancer_fields_are_converted() {
    let (object, problems) = check::<Service>(
        service,
        json!({"metadata": {"name": "s", "namespace": "d"},
            "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.2", "externalTrafficPolicy": "Local",
                "healthCheckNodePort": 32000, "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 100_000}},
                "loadBalancerSourceRanges": [" 10.1.2.3/8 ", "fd00::/8", "10.0.0.0/33"],
                "ports": [{"port": 80, "nodePort": 30080}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"ip": "192.0.2.2", "ipMode": "VIP"},
                {"ip": "192.0.2.3", "ipMode": "Proxy"}, {"hostname": "lb.example"}]}}}),
    );
    let Object::Service(balanced) = object else { panic!("{object:?}") };
    let ips: Vec<String> = balanced.load_balancer_ips.iter().map(ToString::to_string).collect();
    assert_eq!(ips, ["192.0.2.1", "192.0.2.2"], "what a proxy answers for is not ours");
    assert!(balanced.external_local && !balanced.foreign);
    assert_eq!((balanced.health_check_node_port, balanced.affinity_s), (32_000, Some(86_400)));
    let ranges: Vec<String> = balanced.source_ranges.ranges.iter().map(ToString::to_string).collect();
    assert_eq!(
        (ranges, balanced.source_ranges.malformed),
        (vec!["10.0.0.0/8".into(), "fd00::/8".into()], true)
    );
    assert_eq!(problems.len(), 1, "{problems:#?}");
    assert!(problems[0].contains("loadBalancerSourceRanges: invalid value `10.0.0.0/33`"), "{problems:#?}");

    for label in FOREIGN_LABELS {
        let object = json!({"metadata": {"name": "s", "labels": {label: ""}}, "spec": {
            "clusterIP": "10.96.0.2", "externalTrafficPolicy": "Local", "ports": [{"port": 80}]}});
        let Object::Service(foreign) = check::<Service>(service, object).0 else { panic!() };
        assert!(foreign.foreign && !foreign.external_local, "{foreign:?}");
    }
}

#[test]
fn unit_host_ports_hints_and_leaving_nodes() {
    let ports = |ports: Value| json!([{"name": "c", "ports": ports}]);
    let (object, problems) = check::<Pod>(
        pod,
        json!({"metadata": {"name": "p", "namespace": "d"}, "spec": {
            "containers": ports(json!([{"containerPort": 80, "hostPort": 8080}, {"containerPort": 81},
                {"containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "172.30.0.11"},
                {"containerPort": 82, "hostPort": 8082, "hostIP": "0.0.0.0"},
                {"containerPort": 83, "hostPort": 8083, "hostIP": "nowhere"}])),
            "initContainers": [
                {"name": "i", "ports": [{"containerPort": 1, "hostPort": 1}]},
                {"name": "s", "restartPolicy": "Always", "ports": [{"containerPort": 2, "hostPort": 2}]}]}}),
    );
    let Object::Pod(with_ports) = object else { panic!("{object:?}") };
    let text = |port: &model::HostPort| {
        let ip = port.host_ip.map(|ip| format!("{ip}:")).unwrap_or_default();
        format!("{ip}{}>{}/{}", port.host_port, port.container_port, port.protocol.name())
    };
    let texts: Vec<String> = with_ports.host_ports.iter().map(text).collect();
    assert_eq!(texts, ["8080>80/TCP", "172.30.0.11:53>53/UDP", "8082>82/TCP", "2>2/TCP"]);
    assert_eq!(problems.len(), 1, "{problems:#?}");
    let host = json!({"metadata": {"name": "p"}, "spec": {"hostNetwork": true,
        "containers": ports(json!([{"containerPort": 80, "hostPort": 80}]))}});
    let Object::Pod(host) = check::<Pod>(pod, host).0 else { panic!() };
    assert!(host.host_ports.is_empty(), "its ports are the node's already");

    let (object, _) = check::<EndpointSlice>(
        endpoint_slice,
        json!({"metadata": {"name": "s"}, "addressType": "IPv4", "endpoints": [
            {"addresses": ["10.0.0.1"], "hints": {"forZones": [{"name": "a"}], "forNodes": [{"name": "node-1"}]}}]}),
    );
    let Object::EndpointSlice(hinted) = object else { panic!("{object:?}") };
    assert_eq!(
        (hinted.endpoints[0].zone_hints[0].as_str(), hinted.endpoints[0].node_hints[0].as_str()),
        ("a", "node-1")
    );

    let leaving = |object: Value| {
        let Object::Node(node) = check::<Node>(node, object).0 else { panic!() };
        (node.leaving, node.external_ips.len())
    };
    let tainted = json!({"metadata": {"name": "n"}, "spec": {"taints": [
        {"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]},
        "status": {"addresses": [{"type": "ExternalIP", "address": "203.0.113.1"}]}});
    assert_eq!(leaving(tainted), (true, 1));
    assert_eq!(leaving(json!({"metadata": {"name": "n"}, "spec": {}})), (false, 0));
    assert_eq!(
        leaving(json!({"metadata": {"name": "n", "deletionTimestamp": "2026-01-01T00:00:00Z"}})),
        (true, 0)
    );
}
