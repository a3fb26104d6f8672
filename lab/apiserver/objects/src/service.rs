//! Fields of Services that depend on the type.

use serde_json::{Map, Value};

use crate::object::{self, array_at, str_at};

/// Whether the service has cluster IPs.
pub fn has_cluster_ip(service: &Value) -> bool {
    matches!(str_at(service, "/spec/type"), "ClusterIP" | "NodePort" | "LoadBalancer")
}

/// Whether the service has node ports.
pub fn has_node_ports(service: &Value) -> bool {
    match str_at(service, "/spec/type") {
        "NodePort" => true,
        "LoadBalancer" => service["spec"]["allocateLoadBalancerNodePorts"] != Value::Bool(false),
        _ => false,
    }
}

/// Whether the service has a health check node port (`externalTrafficPolicy: Local`).
pub fn has_health_check_port(service: &Value) -> bool {
    is_load_balancer(service) && str_at(service, "/spec/externalTrafficPolicy") == "Local"
}

/// Whether the service is of type LoadBalancer.
pub fn is_load_balancer(service: &Value) -> bool {
    str_at(service, "/spec/type") == "LoadBalancer"
}

/// Whether the service accepts traffic from outside the cluster.
pub fn is_external(service: &Value) -> bool {
    matches!(str_at(service, "/spec/type"), "NodePort" | "LoadBalancer")
        || (has_cluster_ip(service) && !array_at(service, "/spec/externalIPs").is_empty())
}

/// Removes fields of the old type that the new type does not have and the client did not change, so
/// that an update of only the type succeeds.
pub fn drop_type_dependent_fields(service: &mut Value, before: &Value) {
    let lost = |has: fn(&Value) -> bool, service: &Value| has(before) && !has(service);
    let mut fields: Vec<&str> = Vec::new();
    if lost(has_cluster_ip, service) {
        fields.extend(["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"]);
    }
    if lost(has_health_check_port, service) {
        fields.push("healthCheckNodePort");
    }
    if lost(is_load_balancer, service) {
        fields.extend(["allocateLoadBalancerNodePorts", "loadBalancerClass"]);
    }
    if lost(is_external, service) {
        fields.push("externalTrafficPolicy");
    }
    let node_ports = lost(has_node_ports, service) && node_ports(service) == node_ports(before);
    let spec = object::child_mut(service, "spec");
    for field in fields {
        if spec.get(field) == before["spec"].get(field) {
            spec.remove(field);
        }
    }
    if node_ports {
        let ports = spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten();
        ports.filter_map(Value::as_object_mut).for_each(|port: &mut Map<String, Value>| {
            port.remove("nodePort");
        });
    }
}

fn node_ports(service: &Value) -> Vec<&Value> {
    array_at(service, "/spec/ports").iter().map(|port| &port["nodePort"]).collect()
}
