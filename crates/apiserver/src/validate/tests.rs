use serde_json::{Value, json};

use crate::{Kinds, defaults};

/// The fields that an object is refused for, after defaulting.
fn check(word: &str, mut object: Value, expected: &[&str]) {
    let kinds = Kinds::built_in();
    let kind = kinds.by_word(word).unwrap();
    let metadata = object["metadata"].as_object_mut().unwrap();
    metadata.entry("name").or_insert(json!("web"));
    if kind.namespaced {
        metadata.insert("namespace".to_owned(), json!("default"));
    }
    defaults::apply(kind, &mut object);
    let causes = super::object(kind, &object, None);
    let fields: Vec<&str> = causes.iter().map(|cause| cause.field.as_str()).collect();
    assert_eq!(fields, expected, "{causes:#?}");
}

fn service(spec: Value) -> Value {
    json!({"metadata": {}, "spec": spec})
}

#[test]
fn unit_names_follow_their_kind() {
    check("configmaps", json!({"metadata": {"name": "a.b-c"}}), &[]);
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
    check("services", service(json!({"ports": [{"port": 80}]})), &[]);
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
    check("services", service(dns), &[]);
}

#[test]
fn unit_endpoint_slices_are_refused_by_field() {
    let slice = |address_type: &str, address: &str| json!({"metadata": {}, "addressType": address_type, "endpoints": [{"addresses": [address]}], "ports": [{"port": 80}]});
    check("endpointslices", slice("IPv4", "10.0.0.1"), &[]);
    check("endpointslices", slice("IPv6", "fd00::1"), &[]);
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
    check("pods", json!({"metadata": {}, "spec": {"containers": [{"name": "a", "image": "b"}]}}), &[]);
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
    check("deployments", with(json!({"matchLabels": {"app": "web"}})), &[]);
    check("deployments", with(json!({"matchLabels": {"app": "db"}})), &["spec.template.metadata.labels"]);
    check("deployments", with(json!({})), &["spec.selector"]);
}
