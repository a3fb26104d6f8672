//! The table of built-in kinds: static properties of each.

use std::borrow::Cow;

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::describe::describe;
use crate::kind::{Kind, Kinds, NameRule, RBAC};

impl Kinds {
    /// The built-in kinds.
    pub fn built_in() -> Self {
        Self::of(built_in())
    }
}

const NETWORKING: &str = "networking.k8s.io";

/// Events are not deleted by a controller; this many of each kind are kept.
const EVENTS_MAX: usize = 4096;

fn built_in() -> Vec<Kind> {
    use NameRule::{Label1035, Label1123, PathSegment};
    use k8s_openapi::api::{apps::v1 as apps, coordination::v1 as coordination, core::v1 as core};
    use k8s_openapi::api::{discovery::v1 as discovery, events::v1 as events, rbac::v1 as rbac};
    use k8s_openapi::api::{
        networking::v1 as networking, policy::v1 as policy, scheduling::v1 as scheduling,
    };
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as apiextensions;
    vec![
        Kind {
            name_rule: Label1123,
            status: true,
            ..cluster::<core::Namespace>("", "Namespace", "namespaces", &["ns"])
        },
        Kind { status: true, ..cluster::<core::Node>("", "Node", "nodes", &["no"]) },
        Kind { status: true, in_category_all: true, ..namespaced::<core::Pod>("", "Pod", "pods", &["po"]) },
        Kind {
            name_rule: Label1035,
            status: true,
            in_category_all: true,
            ..namespaced::<core::Service>("", "Service", "services", &["svc"])
        },
        namespaced::<core::ConfigMap>("", "ConfigMap", "configmaps", &["cm"]),
        namespaced::<core::Secret>("", "Secret", "secrets", &[]),
        namespaced::<core::ServiceAccount>("", "ServiceAccount", "serviceaccounts", &["sa"]),
        namespaced::<core::Endpoints>("", "Endpoints", "endpoints", &["ep"]),
        Kind { objects_max: Some(EVENTS_MAX), ..namespaced::<core::Event>("", "Event", "events", &["ev"]) },
        Kind {
            status: true,
            scale: true,
            in_category_all: true,
            ..namespaced::<apps::Deployment>("apps", "Deployment", "deployments", &["deploy"])
        },
        Kind {
            status: true,
            scale: true,
            in_category_all: true,
            ..namespaced::<apps::ReplicaSet>("apps", "ReplicaSet", "replicasets", &["rs"])
        },
        Kind {
            status: true,
            in_category_all: true,
            ..namespaced::<apps::DaemonSet>("apps", "DaemonSet", "daemonsets", &["ds"])
        },
        namespaced::<discovery::EndpointSlice>("discovery.k8s.io", "EndpointSlice", "endpointslices", &[]),
        namespaced::<coordination::Lease>("coordination.k8s.io", "Lease", "leases", &[]),
        Kind {
            objects_max: Some(EVENTS_MAX),
            ..namespaced::<events::Event>("events.k8s.io", "Event", "events", &["ev"])
        },
        Kind {
            name_rule: PathSegment,
            ..cluster::<rbac::ClusterRole>(RBAC, "ClusterRole", "clusterroles", &[])
        },
        Kind {
            name_rule: PathSegment,
            ..cluster::<rbac::ClusterRoleBinding>(RBAC, "ClusterRoleBinding", "clusterrolebindings", &[])
        },
        Kind { name_rule: PathSegment, ..namespaced::<rbac::Role>(RBAC, "Role", "roles", &[]) },
        Kind {
            name_rule: PathSegment,
            ..namespaced::<rbac::RoleBinding>(RBAC, "RoleBinding", "rolebindings", &[])
        },
        cluster::<scheduling::PriorityClass>(
            "scheduling.k8s.io",
            "PriorityClass",
            "priorityclasses",
            &["pc"],
        ),
        namespaced::<apps::ControllerRevision>("apps", "ControllerRevision", "controllerrevisions", &[]),
        namespaced::<networking::NetworkPolicy>(NETWORKING, "NetworkPolicy", "networkpolicies", &["netpol"]),
        Kind {
            status: true,
            ..namespaced::<networking::Ingress>(NETWORKING, "Ingress", "ingresses", &["ing"])
        },
        cluster::<networking::IngressClass>(NETWORKING, "IngressClass", "ingressclasses", &[]),
        Kind {
            status: true,
            ..namespaced::<policy::PodDisruptionBudget>(
                "policy",
                "PodDisruptionBudget",
                "poddisruptionbudgets",
                &["pdb"],
            )
        },
        Kind {
            status: true,
            ..cluster::<apiextensions::CustomResourceDefinition>(
                "apiextensions.k8s.io",
                "CustomResourceDefinition",
                "customresourcedefinitions",
                &["crd", "crds"],
            )
        },
    ]
}

fn cluster<T: Serialize + DeserializeOwned>(
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    short_names: &'static [&'static str],
) -> Kind {
    Kind { namespaced: false, ..namespaced::<T>(group, kind, plural, short_names) }
}

fn namespaced<T: Serialize + DeserializeOwned>(
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    short_names: &'static [&'static str],
) -> Kind {
    Kind {
        group: group.into(),
        version: "v1".into(),
        kind: kind.into(),
        plural: plural.into(),
        short_names: short_names.iter().map(|name| Cow::Borrowed(*name)).collect(),
        namespaced: true,
        status: false,
        scale: false,
        in_category_all: false,
        name_rule: NameRule::Subdomain1123,
        objects_max: None,
        prune: Some(prune::<T>),
        describe: Some(describe::<T>),
        custom: None,
    }
}

fn prune<T: Serialize + DeserializeOwned>(value: &Value) -> Result<Value, String> {
    let read: Result<T, _> = serde_path_to_error::deserialize(value);
    let known = read.map_err(|error| wrong_type(value, &error.path().to_string(), error.inner()))?;
    serde_json::to_value(known).map_err(|error| error.to_string())
}

/// The API server's message for a field of the wrong type.
fn wrong_type(object: &Value, path: &str, error: &serde_json::Error) -> String {
    let error = error.to_string();
    let pointer = format!("/{}", path.replace(['.', '['], "/").replace(']', ""));
    let Some((found, (_, expected))) = object.pointer(&pointer).zip(error.split_once(", expected ")) else {
        return format!("json: field {path}: {error}");
    };
    let found = match found {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "bool".to_owned(),
        Value::Number(number) => format!("number {number}"),
        Value::String(_) => "string".to_owned(),
        Value::Array(_) => "array".to_owned(),
        Value::Object(_) => "object".to_owned(),
    };
    let expected = match expected {
        "i32" => "int32",
        "i64" => "int64",
        "a boolean" => "bool",
        "a string" => "string",
        "a sequence" => "list",
        "a map" => "map",
        other => other,
    };
    format!("json: cannot unmarshal {found} into field {path} of type {expected}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_kinds_are_found_by_path_type_and_name() {
        let kinds = Kinds::built_in();
        assert_eq!(kinds.by_path("apps", "v1", "deployments").unwrap().kind, "Deployment");
        assert!(kinds.by_path("", "v1", "deployments").is_none());
        assert_eq!(kinds.by_type("discovery.k8s.io/v1", "EndpointSlice").unwrap().plural, "endpointslices");
        assert_eq!(kinds.by_name("svc").unwrap().kind, "Service");
        assert_eq!(kinds.by_name("deployments.apps").unwrap().kind, "Deployment");
        assert_eq!(kinds.by_name("events").unwrap().group, "");
    }

    #[test]
    fn unit_pruning_drops_unknown_fields_and_refuses_wrong_types() {
        let kinds = Kinds::built_in();
        let prune = kinds.by_name("configmaps").unwrap().prune.unwrap();
        let object =
            serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "b"}, "colour": "red"});
        let pruned = prune(&object).unwrap();
        assert_eq!(pruned["data"]["a"], "b");
        assert!(pruned.get("colour").is_none());
        for (name, object, expected) in [
            (
                "configmaps",
                serde_json::json!({"data": {"a": 1}}),
                "json: cannot unmarshal number 1 into field data.a of type string",
            ),
            (
                "deployments",
                serde_json::json!({"spec": {"replicas": "three"}}),
                "json: cannot unmarshal string into field spec.replicas of type int32",
            ),
            (
                "pods",
                serde_json::json!({"spec": {"containers": [{"ports": [{"containerPort": 3_000_000_000_i64}]}]}}),
                "json: cannot unmarshal number 3000000000 into field spec.containers[0].ports[0].containerPort of type int32",
            ),
            (
                "pods",
                serde_json::json!({"spec": {"hostNetwork": "yes", "containers": []}}),
                "json: cannot unmarshal string into field spec.hostNetwork of type bool",
            ),
            (
                "services",
                serde_json::json!({"spec": ["a"]}),
                "json: cannot unmarshal array into field spec of type ServiceSpec",
            ),
        ] {
            let prune = kinds.by_name(name).unwrap().prune.unwrap();
            assert_eq!(prune(&object).unwrap_err(), expected, "{object}");
        }
    }
}
