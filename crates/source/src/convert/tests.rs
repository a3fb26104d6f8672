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
fn unit_a_port_of_the_host_is_told_where_it_leads_nowhere() {
    let with = |host_network: bool| {
        let ports = json!([{"containerPort": 80, "hostPort": 8080}, {"containerPort": 81}]);
        let spec = json!({"hostNetwork": host_network, "containers": [{"name": "c", "ports": ports}]});
        check::<Pod>(pod, json!({"metadata": {"name": "a", "namespace": "d"}, "spec": spec})).1
    };
    let problems = with(false);
    assert!(problems.len() == 1 && problems[0].contains("hostPort 8080"), "{problems:?}");
    assert!(with(true).is_empty(), "such a pod has the host's ports");
}
