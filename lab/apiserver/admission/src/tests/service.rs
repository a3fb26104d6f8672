//! Fields of Services that depend on the type.

use beeline_apiserver_objects::{ApiError, PatchKind};
use serde_json::{Value, json};

use crate::Api;
use crate::tests::api;

fn create(api: &Api, name: &str, spec: Value) -> Result<Value, ApiError> {
    let created = api.create("services", json!({"metadata": {"name": name}, "spec": spec}))?;
    Ok(Value::clone(&created))
}

fn change(api: &Api, spec: Value) -> Result<Value, String> {
    let patch = json!({"spec": spec});
    match api.patch("services", "default", "web", &PatchKind::Merge, &patch) {
        Ok(service) => Ok(service["spec"].clone()),
        Err(error) => Err(error.message),
    }
}

/// Changes of a Service's type by patches of only that field.
#[test]
fn unit_a_type_change_drops_the_fields_of_the_old_type() {
    let api = api();
    create(&api, "web", json!({"ports": [{"port": 80}]})).unwrap();
    let own = change(&api, json!({"type": "NodePort"})).unwrap();
    let (address, port) = (own["clusterIP"].clone(), own["ports"][0]["nodePort"].clone());
    assert!(address.is_string() && port.is_number() && own["externalTrafficPolicy"] == "Cluster", "{own}");

    let own = change(&api, json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"})).unwrap();
    assert_eq!((&own["clusterIP"], &own["ports"][0]["nodePort"]), (&address, &port));
    let health = own["healthCheckNodePort"].clone();
    assert!(health.is_number() && own["allocateLoadBalancerNodePorts"] == true, "{own}");
    let own = change(&api, json!({"sessionAffinity": "ClientIP"})).unwrap();
    assert_eq!(own["healthCheckNodePort"], health);
    let refused = change(&api, json!({"healthCheckNodePort": 32000})).unwrap_err();
    assert!(
        refused.contains("spec.healthCheckNodePort: Invalid value: 32000: field is immutable"),
        "{refused}"
    );

    let own = change(&api, json!({"externalTrafficPolicy": "Cluster"})).unwrap();
    assert!(own.get("healthCheckNodePort").is_none(), "{own}");
    let own = change(&api, json!({"type": "ClusterIP"})).unwrap();
    assert_eq!(own["clusterIP"], address);
    for field in ["externalTrafficPolicy", "allocateLoadBalancerNodePorts"] {
        assert!(own.get(field).is_none(), "{field} in {own}");
    }
    assert!(own["ports"][0].get("nodePort").is_none(), "{own}");
    let again = create(&api, "other", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]}));
    assert!(again.is_ok(), "the node port is free again: {again:?}");

    let own = change(&api, json!({"type": "ExternalName", "externalName": "example.com."})).unwrap();
    assert!(own.get("clusterIP").is_none() && own.get("ipFamilies").is_none(), "{own}");
    let own = change(&api, json!({"type": "ClusterIP"})).unwrap();
    assert!(own["clusterIP"].is_string(), "{own}");
}

#[test]
fn unit_immutable_service_fields_are_kept() {
    let api = api();
    let spec = json!({
        "type": "LoadBalancer", "loadBalancerClass": "example.com/lb", "ipFamilyPolicy": "RequireDualStack",
        "allocateLoadBalancerNodePorts": false, "ports": [{"port": 80}],
    });
    let service = create(&api, "web", spec).unwrap();
    assert!(service["spec"]["ports"][0].get("nodePort").is_none(), "{service}");
    for (spec, why) in [
        (
            json!({"loadBalancerClass": "example.com/other"}),
            "spec.loadBalancerClass: Invalid value: \"example.com/other\": may not change once set",
        ),
        (
            json!({"loadBalancerClass": null}),
            "spec.loadBalancerClass: Invalid value: null: may not change once set",
        ),
        (
            json!({"clusterIP": "10.96.0.77", "clusterIPs": ["10.96.0.77", "fd00:10:96::77"]}),
            "spec.clusterIPs[0]: Invalid value: \"10.96.0.77\": may not change once set",
        ),
        (
            json!({"ipFamilies": ["IPv6", "IPv4"]}),
            "spec.ipFamilies[0]: Invalid value: \"IPv6\": may not change once set",
        ),
        (
            json!({"ipFamilies": ["IPv4"]}),
            "must be set to 'SingleStack' when releasing the secondary ipFamily",
        ),
    ] {
        let refused = change(&api, spec.clone()).unwrap_err();
        assert!(refused.contains(why), "{spec}: {refused}");
    }
    let own = change(&api, json!({"ipFamilyPolicy": "SingleStack"})).unwrap();
    assert_eq!(own["clusterIPs"].as_array().unwrap().len(), 1);
    let own = change(&api, json!({"type": "NodePort"})).unwrap();
    assert!(own.get("loadBalancerClass").is_none() && own["ports"][0]["nodePort"].is_number(), "{own}");
}

#[test]
fn unit_fields_of_other_types_are_refused() {
    let api = api();
    let ports = json!([{"port": 80}]);
    for (spec, field) in [
        (json!({"externalTrafficPolicy": "Local", "ports": ports}), "spec.externalTrafficPolicy"),
        (
            json!({"allocateLoadBalancerNodePorts": true, "ports": ports}),
            "spec.allocateLoadBalancerNodePorts",
        ),
        (json!({"loadBalancerClass": "a/b", "ports": ports}), "spec.loadBalancerClass"),
        (
            json!({"type": "LoadBalancer", "loadBalancerClass": "a b", "ports": ports}),
            "spec.loadBalancerClass",
        ),
        (
            json!({"loadBalancerSourceRanges": ["10.0.0.0/8"], "ports": ports}),
            "spec.loadBalancerSourceRanges",
        ),
        (
            json!({"type": "NodePort", "healthCheckNodePort": 30500, "ports": ports}),
            "spec.healthCheckNodePort",
        ),
        (json!({"type": "LoadBalancer", "ports": [{"port": 10250}]}), "spec.ports[0].port"),
        (json!({"ports": [{"port": 80, "nodePort": 30500}]}), "spec.ports[0].nodePort"),
        (json!({"ports": [{"port": 80, "appProtocol": "a b"}]}), "spec.ports[0].appProtocol"),
        (json!({"externalIPs": ["127.0.0.1"], "ports": ports}), "spec.externalIPs[0]"),
        (
            json!({"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}}, "ports": ports}),
            "spec.sessionAffinityConfig",
        ),
        (json!({"type": "ExternalName", "externalName": "a.b", "clusterIP": "10.96.0.5"}), "spec.clusterIPs"),
        (json!({"type": "ExternalName", "externalName": "a.b", "ipFamilies": ["IPv4"]}), "spec.ipFamilies"),
    ] {
        let error = create(&api, "wrong", spec.clone()).expect_err(&spec.to_string());
        let fields: Vec<&str> = error.details.causes.iter().map(|cause| cause.field.as_str()).collect();
        assert_eq!((error.code, fields), (422, vec![field]), "{spec}: {error}");
    }
}

#[test]
fn unit_statuses_of_load_balancers_are_checked() {
    let api = api();
    create(&api, "web", json!({"type": "LoadBalancer", "ports": [{"port": 80}]})).unwrap();
    create(&api, "plain", json!({"ports": [{"port": 80}]})).unwrap();
    let write = |name: &str, ingress: Value| {
        let patch = json!({"status": {"loadBalancer": {"ingress": [ingress]}}});
        api.patch_status("services", "default", name, &PatchKind::Merge, &patch)
    };
    let good = write("web", json!({"ip": "192.0.2.1"})).unwrap();
    assert_eq!(good["status"]["loadBalancer"]["ingress"][0]["ipMode"], "VIP");
    for (name, ingress) in [
        ("plain", json!({"ip": "192.0.2.1"})),
        ("web", json!({"ip": "192.0.2"})),
        ("web", json!({"hostname": "192.0.2.1"})),
        ("web", json!({"hostname": "a_b"})),
        ("web", json!({"hostname": "a.b", "ipMode": "VIP"})),
        ("web", json!({"ip": "192.0.2.1", "ipMode": "Magic"})),
    ] {
        assert_eq!(write(name, ingress.clone()).expect_err(&ingress.to_string()).code, 422);
    }
}
