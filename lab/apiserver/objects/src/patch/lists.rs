//! How lists are merged: by keys, as sets, or as a whole.

use serde_json::Value;

/// Merge keys of keyed lists. The first is the key of strategic merge patch.
pub(crate) fn merge_keys(path: &[&str], field: &str) -> Option<&'static [&'static str]> {
    let parent = path.last().copied().unwrap_or_default();
    Some(match field {
        "containers"
        | "initContainers"
        | "ephemeralContainers"
        | "volumes"
        | "env"
        | "imagePullSecrets"
        | "secrets"
        | "resourceClaims" => &["name"],
        "volumeMounts" => &["mountPath"],
        "volumeDevices" => &["devicePath"],
        "ports" if matches!(parent, "containers" | "initContainers" | "ephemeralContainers") => {
            &["containerPort", "protocol"]
        }
        "ports" if parent == "spec" => &["port", "protocol"],
        "hostAliases" | "podIPs" | "hostIPs" => &["ip"],
        "topologySpreadConstraints" => &["topologyKey", "whenUnsatisfiable"],
        "conditions" | "addresses" if parent == "status" => &["type"],
        "ownerReferences" => &["uid"],
        _ => return None,
    })
}

/// Adds the OpenAPI extensions of a list field to its schema; `definition` is the type that contains
/// the field.
pub fn add_list_extensions(definition: &str, field: &str, schema: &mut Value) {
    if field == "strategy" && definition.ends_with("DeploymentSpec") {
        schema["x-kubernetes-patch-strategy"] = "retainKeys".into();
    }
    if schema["type"] != "array" {
        return;
    }
    let parent = match definition.rsplit('.').next().unwrap_or_default() {
        "Container" | "EphemeralContainer" => "containers",
        name if name.ends_with("Spec") => "spec",
        name if name.ends_with("Status") => "status",
        _ => "",
    };
    if is_set_list(field) {
        schema["x-kubernetes-patch-strategy"] = "merge".into();
        schema["x-kubernetes-list-type"] = "set".into();
    }
    if let Some(keys) = merge_keys(&[parent], field) {
        let strategy = if field == "volumes" { "merge,retainKeys" } else { "merge" };
        schema["x-kubernetes-patch-strategy"] = strategy.into();
        schema["x-kubernetes-patch-merge-key"] = keys[0].into();
        schema["x-kubernetes-list-type"] = "map".into();
        schema["x-kubernetes-list-map-keys"] = keys.into();
    }
}

/// Lists of scalars that are merged as sets.
pub(crate) fn is_set_list(field: &str) -> bool {
    matches!(field, "finalizers" | "podCIDRs")
}

/// Whether two elements of a keyed list have the same keys. A missing protocol is TCP.
pub(crate) fn same_element(keys: &[&str], left: &Value, right: &Value) -> bool {
    let key = |element: &Value, field: &str| match element.get(field) {
        None if field == "protocol" => Value::from("TCP"),
        None => Value::Null,
        Some(value) => value.clone(),
    };
    keys.iter().all(|field| key(left, field) == key(right, field))
}
