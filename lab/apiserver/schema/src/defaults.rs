//! Defaults of the built-in kinds.

use beeline_apiserver_objects::object::{child_mut, set_default};
use serde_json::{Map, Value, json};

use crate::Kind;

/// Sets the defaults of an object.
pub fn apply(kind: &Kind, object: &mut Value) {
    match kind.built_in_plural() {
        "services" => {
            service(child_mut(object, "spec"));
            service_status(object);
        }
        "endpointslices" => endpoint_slice(object),
        "pods" => pod_spec(child_mut(object, "spec")),
        "deployments" => deployment(child_mut(object, "spec")),
        "replicasets" => {
            set_default(child_mut(object, "spec"), "replicas", 1);
            template(child_mut(object, "spec"));
        }
        "daemonsets" => daemon_set(child_mut(object, "spec")),
        "secrets" => secret(object),
        "rolebindings" | "clusterrolebindings" => binding(object),
        "priorityclasses" => {
            if let Some(fields) = object.as_object_mut() {
                set_default(fields, "preemptionPolicy", "PreemptLowerPriority");
            }
        }
        "customresourcedefinitions" => crate::definition::complete(object),
        _ => {}
    }
}

fn service(spec: &mut Map<String, Value>) {
    set_default(spec, "type", "ClusterIP");
    let external_name = spec["type"] == "ExternalName";
    set_default(spec, "sessionAffinity", "None");
    if spec["sessionAffinity"] == "ClientIP" {
        set_default(spec, "sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": 10800}}));
    }
    if !external_name {
        set_default(spec, "internalTrafficPolicy", "Cluster");
    }
    let external_ips = spec.get("externalIPs").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    if matches!(spec["type"].as_str(), Some("NodePort" | "LoadBalancer")) || (external_ips && !external_name)
    {
        set_default(spec, "externalTrafficPolicy", "Cluster");
    }
    if spec["type"] == "LoadBalancer" {
        set_default(spec, "allocateLoadBalancerNodePorts", true);
    }
    for port in each(spec, "ports") {
        set_default(port, "protocol", "TCP");
        if let Some(number) = port.get("port").cloned() {
            // Clients that cannot omit the field send 0 or an empty string.
            if port.get("targetPort").is_some_and(|target| *target == json!(0) || *target == json!("")) {
                port.remove("targetPort");
            }
            set_default(port, "targetPort", number);
        }
    }
}

fn service_status(service: &mut Value) {
    let balancer = service.pointer_mut("/status/loadBalancer").and_then(Value::as_object_mut);
    for ingress in balancer.into_iter().flat_map(|balancer| each(balancer, "ingress")) {
        if ingress.get("ip").and_then(Value::as_str).is_some_and(|ip| !ip.is_empty()) {
            set_default(ingress, "ipMode", "VIP");
        }
    }
}

fn endpoint_slice(slice: &mut Value) {
    let Some(slice) = slice.as_object_mut() else { return };
    set_default(slice, "endpoints", json!([]));
    for port in each(slice, "ports") {
        set_default(port, "name", "");
        set_default(port, "protocol", "TCP");
    }
}

fn deployment(spec: &mut Map<String, Value>) {
    set_default(spec, "replicas", 1);
    set_default(spec, "revisionHistoryLimit", 10);
    set_default(spec, "progressDeadlineSeconds", 600);
    rolling(spec, "strategy", json!({"maxUnavailable": "25%", "maxSurge": "25%"}));
    template(spec);
}

fn daemon_set(spec: &mut Map<String, Value>) {
    set_default(spec, "revisionHistoryLimit", 10);
    rolling(spec, "updateStrategy", json!({"maxUnavailable": 1, "maxSurge": 0}));
    template(spec);
}

fn rolling(spec: &mut Map<String, Value>, field: &str, limits: Value) {
    set_default(spec, field, json!({}));
    let Some(strategy) = spec[field].as_object_mut() else { return };
    set_default(strategy, "type", "RollingUpdate");
    if strategy["type"] != "RollingUpdate" {
        return;
    }
    set_default(strategy, "rollingUpdate", json!({}));
    if let (Some(given), Some(limits)) = (strategy["rollingUpdate"].as_object_mut(), limits.as_object()) {
        limits.iter().for_each(|(limit, value)| set_default(given, limit, value.clone()));
    }
}

fn template(spec: &mut Map<String, Value>) {
    let pod = spec.get_mut("template").and_then(|template| template.get_mut("spec"));
    if let Some(pod) = pod.and_then(Value::as_object_mut) {
        pod_spec(pod);
    }
}

fn pod_spec(spec: &mut Map<String, Value>) {
    account(spec);
    set_default(spec, "restartPolicy", "Always");
    set_default(spec, "terminationGracePeriodSeconds", 30);
    set_default(spec, "dnsPolicy", "ClusterFirst");
    set_default(spec, "schedulerName", "default-scheduler");
    set_default(spec, "securityContext", json!({}));
    set_default(spec, "enableServiceLinks", true);
    let host_network = spec.get("hostNetwork").is_some_and(|host| *host == json!(true));
    for volume in each(spec, "volumes") {
        volume_defaults(volume);
    }
    for list in ["initContainers", "containers"] {
        for container in each(spec, list) {
            container_defaults(container, host_network);
        }
    }
}

/// `serviceAccountName`, and its deprecated alias `serviceAccount`.
fn account(spec: &mut Map<String, Value>) {
    let given =
        |field: &str| spec.get(field).filter(|name| name.as_str().is_some_and(|name| !name.is_empty()));
    let Some(name) = given("serviceAccountName").or_else(|| given("serviceAccount")).cloned() else { return };
    spec.insert("serviceAccountName".to_owned(), name.clone());
    spec.insert("serviceAccount".to_owned(), name);
}

/// A volume without a source is an emptyDir; projected files default to mode 0644.
fn volume_defaults(volume: &mut Map<String, Value>) {
    if !volume.iter().any(|(field, value)| field != "name" && !value.is_null()) {
        volume.insert("emptyDir".to_owned(), json!({}));
    }
    for kind in ["secret", "configMap", "downwardAPI", "projected"] {
        let Some(files) = volume.get_mut(kind).and_then(Value::as_object_mut) else { continue };
        set_default(files, "defaultMode", 0o644);
        each(files, "items").for_each(field_defaults);
        for source in each(files, "sources") {
            if let Some(token) = source.get_mut("serviceAccountToken").and_then(Value::as_object_mut) {
                set_default(token, "expirationSeconds", 3600);
            }
            let fields = source.get_mut("downwardAPI").and_then(Value::as_object_mut);
            fields.into_iter().flat_map(|fields| each(fields, "items")).for_each(field_defaults);
        }
    }
    if let Some(path) = volume.get_mut("hostPath").and_then(Value::as_object_mut) {
        set_default(path, "type", "");
    }
}

fn field_defaults(holder: &mut Map<String, Value>) {
    if let Some(field) = holder.get_mut("fieldRef").and_then(Value::as_object_mut) {
        set_default(field, "apiVersion", "v1");
    }
}

fn container_defaults(container: &mut Map<String, Value>, host_network: bool) {
    let latest = container.get("image").and_then(Value::as_str).is_some_and(|image| {
        let last = image.rsplit('/').next().unwrap_or_default();
        !last.contains('@') && last.split_once(':').is_none_or(|(_, tag)| tag == "latest")
    });
    set_default(container, "imagePullPolicy", if latest { "Always" } else { "IfNotPresent" });
    set_default(container, "terminationMessagePath", "/dev/termination-log");
    set_default(container, "terminationMessagePolicy", "File");
    set_default(container, "resources", json!({}));
    for probe in ["readinessProbe", "livenessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(probe).and_then(Value::as_object_mut) {
            probe_defaults(probe);
        }
    }
    for variable in each(container, "env") {
        variable.get_mut("valueFrom").and_then(Value::as_object_mut).into_iter().for_each(field_defaults);
    }
    for port in each(container, "ports") {
        set_default(port, "protocol", "TCP");
        if let Some(number) = port.get("containerPort").filter(|_| host_network).cloned() {
            set_default(port, "hostPort", number);
        }
    }
}

fn probe_defaults(probe: &mut Map<String, Value>) {
    for (field, value) in
        [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        if probe.get(field).is_some_and(|given| *given == json!(0)) {
            probe.remove(field);
        }
        set_default(probe, field, value);
    }
    if let Some(http) = probe.get_mut("httpGet").and_then(Value::as_object_mut) {
        set_default(http, "path", "/");
        set_default(http, "scheme", "HTTP");
    }
}

/// Merges `stringData` into `data`.
fn secret(secret: &mut Value) {
    use base64::Engine;
    let Some(fields) = secret.as_object_mut() else { return };
    set_default(fields, "type", "Opaque");
    if let Some(Value::Object(readable)) = fields.remove("stringData") {
        for (key, value) in readable {
            let encoded =
                base64::engine::general_purpose::STANDARD.encode(value.as_str().unwrap_or_default());
            child_mut(secret, "data").insert(key, encoded.into());
        }
    }
}

fn binding(binding: &mut Value) {
    set_default(child_mut(binding, "roleRef"), "apiGroup", crate::kind::RBAC);
    let Some(binding) = binding.as_object_mut() else { return };
    for subject in each(binding, "subjects") {
        if matches!(subject.get("kind").and_then(Value::as_str), Some("User" | "Group")) {
            set_default(subject, "apiGroup", crate::kind::RBAC);
        }
    }
}

/// The objects of a list.
fn each<'a>(
    map: &'a mut Map<String, Value>,
    list: &str,
) -> impl Iterator<Item = &'a mut Map<String, Value>> + use<'a> {
    map.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kinds;

    #[test]
    fn unit_services_get_protocol_and_target_port() {
        let mut service = json!({"spec": {"ports": [{"port": 80}]}});
        apply(Kinds::built_in().by_name("services").unwrap(), &mut service);
        assert_eq!(service["spec"]["ports"][0], json!({"port": 80, "protocol": "TCP", "targetPort": 80}));
        assert_eq!(service["spec"]["type"], "ClusterIP");
        assert_eq!(service["spec"]["sessionAffinity"], "None");
    }

    #[test]
    fn unit_deployments_get_replicas_and_pod_defaults() {
        let mut deployment = json!({"spec": {"template": {"spec": {"containers": [{"name": "a", "ports": [{"containerPort": 1}]}]}}}});
        apply(Kinds::built_in().by_name("deployments").unwrap(), &mut deployment);
        assert_eq!(deployment["spec"]["replicas"], 1);
        assert_eq!(deployment["spec"]["strategy"]["rollingUpdate"]["maxSurge"], "25%");
        assert_eq!(deployment["spec"]["template"]["spec"]["containers"][0]["ports"][0]["protocol"], "TCP");
    }
}
