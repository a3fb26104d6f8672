use serde_json::{Value, json};

use crate::{Kinds, defaults};

/// A valid object.
const NONE: &[&str] = &[];

/// The invalid fields of an object after defaulting.
fn check(name: &str, mut object: Value, expected: &[impl AsRef<str>]) {
    let kinds = Kinds::built_in();
    let kind = kinds.by_name(name).unwrap();
    let metadata = object["metadata"].as_object_mut().unwrap();
    metadata.entry("name").or_insert(json!("web"));
    if kind.namespaced {
        metadata.insert("namespace".to_owned(), json!("default"));
    }
    defaults::apply(kind, &mut object);
    let causes = super::object(kind, &object, None);
    let fields: Vec<&str> = causes.iter().map(|cause| cause.field.as_str()).collect();
    let expected: Vec<&str> = expected.iter().map(AsRef::as_ref).collect();
    assert_eq!(fields, expected, "{causes:#?}");
}

fn service(spec: Value) -> Value {
    json!({"metadata": {}, "spec": spec})
}

#[test]
fn unit_name_rules_depend_on_the_kind() {
    check("configmaps", json!({"metadata": {"name": "a.b-c"}}), NONE);
    check("configmaps", json!({"metadata": {"name": "A"}}), &["metadata.name"]);
    check("namespaces", json!({"metadata": {"name": "a.b"}}), &["metadata.name"]);
    check(
        "services",
        json!({"metadata": {"name": "1web"}, "spec": {"ports": [{"port": 1}]}}),
        &["metadata.name"],
    );
    check("configmaps", json!({"metadata": {"labels": {"a b": "c"}}}), &["metadata.labels"]);
    check("configmaps", json!({"metadata": {"labels": {"a/b": "-"}}}), &["metadata.labels"]);
}

#[test]
fn unit_services_are_refused_by_field() {
    check("services", service(json!({"ports": [{"port": 80}]})), NONE);
    check("services", service(json!({})), &["spec.ports"]);
    check(
        "services",
        service(json!({"ports": [{"port": 0}]})),
        &["spec.ports[0].port", "spec.ports[0].targetPort"],
    );
    check(
        "services",
        service(json!({"ports": [{"port": 80, "protocol": "ICMP"}]})),
        &["spec.ports[0].protocol"],
    );
    check(
        "services",
        service(json!({"ports": [{"port": 80}, {"port": 81}]})),
        &["spec.ports[0].name", "spec.ports[1].name"],
    );
    check(
        "services",
        service(json!({"ports": [{"name": "a", "port": 80}, {"name": "a", "port": 80}]})),
        &["spec.ports[1].name", "spec.ports[1]"],
    );
    check(
        "services",
        service(json!({"ports": [{"port": 80, "targetPort": "Web"}]})),
        &["spec.ports[0].targetPort"],
    );
    check("services", service(json!({"type": "Magic", "ports": [{"port": 80}]})), &["spec.type"]);
    check("services", service(json!({"clusterIP": "1.2.3", "ports": [{"port": 80}]})), &["spec.clusterIP"]);
    check(
        "services",
        service(json!({"ipFamilies": ["IPv5"], "ports": [{"port": 80}]})),
        &["spec.ipFamilies[0]"],
    );
    check("services", service(json!({"type": "ExternalName"})), &["spec.externalName"]);
    let dns = json!({"ports": [{"name": "u", "port": 53, "protocol": "UDP"}, {"name": "t", "port": 53}]});
    check("services", service(dns), NONE);
}

#[test]
fn unit_endpoint_slices_are_refused_by_field() {
    let slice = |address_type: &str, address: &str| json!({"metadata": {}, "addressType": address_type, "endpoints": [{"addresses": [address]}], "ports": [{"port": 80}]});
    check("endpointslices", slice("IPv4", "10.0.0.1"), NONE);
    check("endpointslices", slice("IPv6", "fd00::1"), NONE);
    check("endpointslices", slice("IPv4", "fd00::1"), &["endpoints[0].addresses[0]"]);
    check("endpointslices", slice("IPv4", "10.0.0.300"), &["endpoints[0].addresses[0]"]);
    check("endpointslices", slice("IPv4", "127.0.0.1"), &["endpoints[0].addresses[0]"]);
    check("endpointslices", slice("IPv9", "10.0.0.1"), &["addressType"]);
    check(
        "endpointslices",
        json!({"metadata": {}, "addressType": "IPv4", "endpoints": [{"addresses": []}]}),
        &["endpoints[0].addresses"],
    );
    check(
        "endpointslices",
        json!({"metadata": {}, "addressType": "IPv4", "endpoints": [], "ports": [{"port": 70000}]}),
        &["ports[0].port"],
    );
}

#[test]
fn unit_pods_are_refused_by_field() {
    check("pods", json!({"metadata": {}, "spec": {"containers": [{"name": "a", "image": "b"}]}}), NONE);
    check("pods", json!({"metadata": {}, "spec": {}}), &["spec.containers"]);
    check(
        "pods",
        json!({"metadata": {}, "spec": {"containers": [{"name": "A"}]}}),
        &["spec.containers[0].name", "spec.containers[0].image"],
    );
    let ports =
        json!([{"containerPort": 0}, {"containerPort": 1, "name": "a"}, {"containerPort": 2, "name": "a"}]);
    check(
        "pods",
        json!({"metadata": {}, "spec": {"containers": [{"name": "a", "image": "b", "ports": ports}]}}),
        &["spec.containers[0].ports[0].containerPort", "spec.containers[0].ports[2].name"],
    );
}

#[test]
fn unit_workloads_select_their_own_pods() {
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "a", "image": "b"}]}});
    let with =
        |selector: Value| json!({"metadata": {}, "spec": {"selector": selector, "template": template}});
    check("deployments", with(json!({"matchLabels": {"app": "web"}})), NONE);
    check("deployments", with(json!({"matchLabels": {"app": "db"}})), &["spec.template.metadata.labels"]);
    check("deployments", with(json!({})), &["spec.selector"]);
}

#[test]
fn unit_metadata_is_refused_by_field() {
    let map = |metadata: Value| json!({"metadata": metadata});
    check("configmaps", map(json!({"generateName": "web-"})), NONE);
    check("configmaps", map(json!({"generateName": "Web-"})), &["metadata.generateName"]);
    check("configmaps", map(json!({"name": "a".repeat(254)})), &["metadata.name"]);
    check("configmaps", map(json!({"labels": {"example.com/app": "web_1.2"}})), NONE);
    check("configmaps", map(json!({"labels": {"Example.com/app": "web"}})), &["metadata.labels"]);
    check("configmaps", map(json!({"labels": {"app": "a".repeat(64)}})), &["metadata.labels"]);
    check("configmaps", map(json!({"annotations": {"Example.com/App": "any text: at all"}})), NONE);
    check("configmaps", map(json!({"annotations": {"a b": ""}})), &["metadata.annotations"]);
    check("configmaps", map(json!({"annotations": {"a": "x".repeat(262_144)}})), &["metadata.annotations"]);
    check("configmaps", map(json!({"finalizers": ["example.com/hold", "kubernetes"]})), NONE);
    check("configmaps", map(json!({"finalizers": ["hold"]})), &["metadata.finalizers[0]"]);
    check("configmaps", map(json!({"finalizers": ["example.com/a b"]})), &["metadata.finalizers"]);
    check(
        "configmaps",
        map(json!({"finalizers": ["orphan", "foregroundDeletion"]})),
        &["metadata.finalizers"],
    );
    let owner = |kind: &str, name: &str| json!({"apiVersion": "v1", "kind": kind, "name": name, "uid": "1", "controller": true});
    check("configmaps", map(json!({"ownerReferences": [owner("Pod", "a")]})), NONE);
    check(
        "configmaps",
        map(json!({"ownerReferences": [owner("Event", "a")]})),
        &["metadata.ownerReferences[0]"],
    );
    check(
        "configmaps",
        map(json!({"ownerReferences": [owner("Pod", "a"), owner("Pod", "b")]})),
        &["metadata.ownerReferences"],
    );
    check(
        "configmaps",
        map(json!({"ownerReferences": [{"kind": "Pod"}]})),
        &["apiVersion", "name", "uid"].map(|field| format!("metadata.ownerReferences[0].{field}")),
    );
}

/// The invalid fields of an update.
fn check_change(name: &str, before: Value, after: Value, expected: &[&str]) {
    let kinds = Kinds::built_in();
    let kind = kinds.by_name(name).unwrap();
    let [before, after] = [before, after].map(|mut object| {
        let metadata = object["metadata"].as_object_mut().unwrap();
        metadata.entry("name").or_insert(json!("web"));
        if kind.namespaced {
            metadata.insert("namespace".to_owned(), json!("default"));
        }
        defaults::apply(kind, &mut object);
        object
    });
    let causes = super::object(kind, &after, Some(&before));
    let fields: Vec<&str> = causes.iter().map(|cause| cause.field.as_str()).collect();
    assert_eq!(fields, expected, "{causes:#?}");
}

#[test]
fn unit_terminating_objects_take_no_new_finalizers() {
    let going = |finalizers: Value| json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": finalizers}});
    check_change("configmaps", going(json!(["a.b/c", "a.b/d"])), going(json!(["a.b/d"])), NONE);
    check_change(
        "configmaps",
        going(json!(["a.b/c"])),
        going(json!(["a.b/c", "a.b/d"])),
        &["metadata.finalizers"],
    );
}

fn pod(spec: Value) -> Value {
    let mut all = json!({"containers": [{"name": "a", "image": "b"}]});
    for (field, value) in spec.as_object().unwrap() {
        all[field] = value.clone();
    }
    json!({"metadata": {}, "spec": all})
}

/// A pod with one container that has these additional fields.
fn container(fields: Value) -> Value {
    let mut all = json!({"name": "a", "image": "b"});
    for (field, value) in fields.as_object().unwrap() {
        all[field] = value.clone();
    }
    pod(json!({"containers": [all]}))
}

#[test]
fn unit_a_pods_own_fields_are_refused() {
    check("pods", pod(json!({"restartPolicy": "Sometimes"})), &["spec.restartPolicy"]);
    check("pods", pod(json!({"activeDeadlineSeconds": 0})), &["spec.activeDeadlineSeconds"]);
    check("pods", pod(json!({"terminationGracePeriodSeconds": -1})), &["spec.terminationGracePeriodSeconds"]);
    check("pods", pod(json!({"serviceAccountName": "A"})), &["spec.serviceAccountName"]);
    check("pods", pod(json!({"hostname": "a.b"})), &["spec.hostname"]);
    check("pods", pod(json!({"nodeSelector": {"a b": "c"}})), &["spec.nodeSelector"]);
    let alias = json!([{"ip": "10.0.0", "hostnames": ["a", "A"]}]);
    check(
        "pods",
        pod(json!({"hostAliases": alias})),
        &["spec.hostAliases[0].ip", "spec.hostAliases[0].hostnames[1]"],
    );
    let tolerations = json!([
        {"operator": "Exists"}, {"key": "a", "operator": "Like"}, {"key": "a", "operator": "Exists", "value": "b"},
        {"value": "b"}, {"key": "a", "effect": "NoSchedule", "tolerationSeconds": 1}, {"key": "a", "effect": "Never"},
    ]);
    check(
        "pods",
        pod(json!({"tolerations": tolerations})),
        &[
            "spec.tolerations[1].operator",
            "spec.tolerations[2].operator",
            "spec.tolerations[3].operator",
            "spec.tolerations[4].effect",
            "spec.tolerations[5].effect",
        ],
    );
}

#[test]
fn unit_a_pods_dns_is_refused_by_field() {
    let dns = |policy: &str, config: Value| pod(json!({"dnsPolicy": policy, "dnsConfig": config}));
    check("pods", pod(json!({"dnsPolicy": "Best"})), &["spec.dnsPolicy"]);
    check("pods", pod(json!({"dnsPolicy": "None"})), &["spec.dnsConfig"]);
    check("pods", dns("None", json!({"searches": ["a"]})), &["spec.dnsConfig.nameservers"]);
    check(
        "pods",
        dns("None", json!({"nameservers": ["10.0.0.1", "fd00::1"], "searches": ["a.b.", ".", "_tcp.a"]})),
        NONE,
    );
    check("pods", dns("Default", json!({"nameservers": ["dns"]})), &["spec.dnsConfig.nameservers[0]"]);
    let four = json!({"nameservers": ["1.0.0.1", "1.0.0.2", "1.0.0.3", "1.0.0.4"]});
    check("pods", dns("Default", four), &["spec.dnsConfig.nameservers"]);
    check("pods", dns("Default", json!({"searches": vec!["a"; 33]})), &["spec.dnsConfig.searches"]);
    check("pods", dns("Default", json!({"searches": ["a..b"]})), &["spec.dnsConfig.searches[0]"]);
    check("pods", dns("Default", json!({"options": [{"value": "2"}]})), &["spec.dnsConfig.options[0]"]);
}

#[test]
fn unit_ports_of_containers_are_refused_by_field() {
    let ports = |ports: Value| container(json!({"ports": ports}));
    check("pods", ports(json!([{"containerPort": 80, "hostPort": 0}])), NONE);
    check(
        "pods",
        ports(json!([{"containerPort": 70000, "hostPort": -1, "protocol": "ICMP"}])),
        &[
            "spec.containers[0].ports[0].containerPort",
            "spec.containers[0].ports[0].hostPort",
            "spec.containers[0].ports[0].protocol",
        ],
    );
    check(
        "pods",
        ports(json!([{"containerPort": 80, "name": "a-very-long-name"}])),
        &["spec.containers[0].ports[0].name"],
    );
    let twice = json!([{"containerPort": 80, "hostPort": 8080}, {"containerPort": 81, "hostPort": 8080}]);
    check("pods", ports(twice), &["spec.containers[0].ports[1].hostPort"]);
    let both = json!([{"containerPort": 53, "hostPort": 53, "protocol": "UDP"}, {"containerPort": 53, "hostPort": 53}]);
    check("pods", ports(both), NONE);
    let mut of_host = ports(json!([{"containerPort": 80}, {"containerPort": 81, "hostPort": 82}]));
    of_host["spec"]["hostNetwork"] = json!(true);
    check("pods", of_host, &["spec.containers[0].ports[1].containerPort"]);
}

#[test]
fn unit_environment_and_mounts_are_refused_by_field() {
    let variables = json!([
        {"name": "A.b-c", "value": "1"}, {"value": "1"}, {"name": "a=b"}, {"name": "A", "valueFrom": {}},
        {"name": "A", "value": "1", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s"}}},
    ]);
    check(
        "pods",
        container(json!({"env": variables})),
        &[
            "spec.containers[0].env[1].name",
            "spec.containers[0].env[2].name",
            "spec.containers[0].env[3].valueFrom",
            "spec.containers[0].env[4].valueFrom",
            "spec.containers[0].env[5].valueFrom.secretKeyRef.key",
        ],
    );
    let mut mounting = container(json!({"volumeMounts": [
        {"name": "empty", "mountPath": "/a"}, {"name": "empty", "mountPath": "/a"}, {"name": "other", "mountPath": "/b"},
        {"name": "empty", "mountPath": "/c", "subPath": "../d"}, {"name": "empty"},
    ]}));
    mounting["spec"]["volumes"] = json!([
        {"name": "empty"}, {"name": "empty", "emptyDir": {}}, {"name": "Two", "emptyDir": {}, "hostPath": {"path": "/"}},
        {"name": "s", "secret": {"items": [{"key": "k", "path": "/etc"}]}},
    ]);
    check(
        "pods",
        mounting,
        &[
            "spec.volumes[1].name",
            "spec.volumes[2].name",
            "spec.volumes[2].hostPath",
            "spec.volumes[3].secret.secretName",
            "spec.volumes[3].secret.items[0].path",
            "spec.containers[0].volumeMounts[1].mountPath",
            "spec.containers[0].volumeMounts[2].name",
            "spec.containers[0].volumeMounts[3].subPath",
            "spec.containers[0].volumeMounts[4].mountPath",
        ],
    );
}

#[test]
fn unit_probes_are_refused_by_field() {
    let probe = |kind: &str, probe: Value| container(json!({kind: probe}));
    let http = json!({"port": "web"});
    check("pods", probe("readinessProbe", json!({"httpGet": http, "successThreshold": 2})), NONE);
    check(
        "pods",
        probe("livenessProbe", json!({"httpGet": http, "successThreshold": 2})),
        &["spec.containers[0].livenessProbe.successThreshold"],
    );
    check("pods", probe("livenessProbe", json!({})), &["spec.containers[0].livenessProbe"]);
    check(
        "pods",
        probe("startupProbe", json!({"exec": {}, "tcpSocket": {"port": 0}, "periodSeconds": -1})),
        &[
            "spec.containers[0].startupProbe.tcpSocket",
            "spec.containers[0].startupProbe.exec.command",
            "spec.containers[0].startupProbe.periodSeconds",
        ],
    );
    check(
        "pods",
        probe("readinessProbe", json!({"grpc": {"port": 99999}, "terminationGracePeriodSeconds": 1})),
        &[
            "spec.containers[0].readinessProbe.grpc.port",
            "spec.containers[0].readinessProbe.terminationGracePeriodSeconds",
        ],
    );
    let first = json!({"name": "first", "image": "b", "livenessProbe": {"httpGet": http}});
    check("pods", pod(json!({"initContainers": [first]})), &["spec.initContainers[0].livenessProbe"]);
}

#[test]
fn unit_most_pod_fields_are_immutable() {
    let before =
        || pod(json!({"activeDeadlineSeconds": 60, "tolerations": [{"key": "a", "operator": "Exists"}]}));
    let change = |pointer: &str, value: Value, expected: &[&str]| {
        let mut after = before();
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        after.pointer_mut(parent).unwrap()[field] = value;
        check_change("pods", before(), after, expected);
    };
    change("/spec/containers", json!([{"name": "a", "image": "c"}]), NONE);
    change("/spec/activeDeadlineSeconds", json!(30), NONE);
    change("/spec/activeDeadlineSeconds", json!(90), &["spec.activeDeadlineSeconds"]);
    change("/spec/activeDeadlineSeconds", json!(null), &["spec.activeDeadlineSeconds"]);
    let more = json!([{"key": "a", "operator": "Exists"}, {"key": "b", "operator": "Exists"}]);
    change("/spec/tolerations", more, NONE);
    change("/spec/tolerations", json!([]), &["spec.tolerations"]);
    change("/spec/nodeName", json!("node-2"), &["spec"]);
    change("/spec/terminationGracePeriodSeconds", json!(5), &["spec"]);
    change(
        "/spec/containers",
        json!([{"name": "a", "image": "b"}, {"name": "c", "image": "d"}]),
        &["spec.containers"],
    );
}

#[test]
fn unit_nodes_are_refused_by_field() {
    let node = |spec: Value| json!({"metadata": {}, "spec": spec});
    let ranges = |ranges: &[&str]| node(json!({"podCIDR": ranges.first(), "podCIDRs": ranges}));
    check("nodes", ranges(&["10.1.0.0/24", "fd00:1::/64"]), NONE);
    check("nodes", ranges(&["10.1.0.0"]), &["spec.podCIDRs[0]"]);
    check("nodes", ranges(&["10.1.0.0/24", "10.2.0.0/24"]), &["spec.podCIDRs"]);
    check(
        "nodes",
        node(json!({"podCIDR": "10.2.0.0/24", "podCIDRs": ["10.1.0.0/24"]})),
        &["spec.podCIDRs[0]"],
    );
    check_change("nodes", node(json!({})), ranges(&["10.1.0.0/24"]), NONE);
    check_change("nodes", ranges(&["10.1.0.0/24"]), ranges(&["10.2.0.0/24"]), &["spec.podCIDRs"]);
    check_change(
        "nodes",
        node(json!({"providerID": "a"})),
        node(json!({"providerID": "b"})),
        &["spec.providerID"],
    );
    let taints = json!([
        {"key": "a", "effect": "NoSchedule"}, {"key": "a", "effect": "NoExecute"}, {"key": "a", "effect": "NoSchedule"},
        {"key": "b"}, {"key": "c d", "effect": "Never", "value": "-"},
    ]);
    check(
        "nodes",
        node(json!({"taints": taints})),
        &[
            "spec.taints[2]",
            "spec.taints[3].effect",
            "spec.taints[4].key",
            "spec.taints[4].value",
            "spec.taints[4].effect",
        ],
    );
}

#[test]
fn unit_endpoints_of_slices_are_refused_by_field() {
    let slice =
        |kind: &str, endpoint: Value| json!({"metadata": {}, "addressType": kind, "endpoints": [endpoint]});
    let of = |more: Value| {
        let mut endpoint = json!({"addresses": ["10.0.0.1"]});
        for (field, value) in more.as_object().unwrap() {
            endpoint[field] = value.clone();
        }
        slice("IPv4", endpoint)
    };
    for address in ["127.0.0.1", "169.254.1.1", "224.0.0.5", "0.0.0.0"] {
        check(
            "endpointslices",
            slice("IPv4", json!({"addresses": [address]})),
            &["endpoints[0].addresses[0]"],
        );
    }
    for address in ["::1", "fe80::1", "ff02::1", "::"] {
        check(
            "endpointslices",
            slice("IPv6", json!({"addresses": [address]})),
            &["endpoints[0].addresses[0]"],
        );
    }
    check("endpointslices", slice("FQDN", json!({"addresses": ["web.example"]})), NONE);
    check("endpointslices", slice("FQDN", json!({"addresses": ["web"]})), &["endpoints[0].addresses[0]"]);
    check(
        "endpointslices",
        slice("IPv4", json!({"addresses": vec!["10.0.0.1"; 101]})),
        &["endpoints[0].addresses"],
    );
    check("endpointslices", json!({"metadata": {}, "endpoints": []}), &["addressType"]);
    let many = json!({"metadata": {}, "addressType": "IPv4", "endpoints": vec![json!({"addresses": ["10.0.0.1"]}); 1001]});
    check("endpointslices", many, &["endpoints"]);
    check(
        "endpointslices",
        of(json!({"nodeName": "Node", "hostname": "a.b"})),
        &["endpoints[0].nodeName", "endpoints[0].hostname"],
    );
    let zones = |names: &[&str]| {
        of(json!({"hints": {"forZones": names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>()}}))
    };
    check("endpointslices", zones(&["a", "b"]), NONE);
    check(
        "endpointslices",
        zones(&["a", "a", ""]),
        &["endpoints[0].hints.forZones[1].name", "endpoints[0].hints.forZones[2].name"],
    );
    check(
        "endpointslices",
        zones(&["1", "2", "3", "4", "5", "6", "7", "8", "9"]),
        &["endpoints[0].hints.forZones"],
    );
    let ports = json!([
        {"name": "a", "port": 80}, {"name": "a", "port": 81}, {"name": "A"}, {"name": "b", "protocol": "ICMP"},
        {"name": "c", "appProtocol": "h 2"},
    ]);
    check(
        "endpointslices",
        json!({"metadata": {}, "addressType": "IPv4", "ports": ports}),
        &["ports[1].name", "ports[2].name", "ports[3].protocol", "ports[4].appProtocol"],
    );
    let before = json!({"metadata": {}, "addressType": "IPv4"});
    check_change("endpointslices", before, json!({"metadata": {}, "addressType": "IPv6"}), &["addressType"]);
}
