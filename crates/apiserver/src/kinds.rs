//! The table of kinds: static properties of each.

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::custom::CustomResource;
use crate::openapi::{self, Definitions};

/// Deserializes an object as its type and serializes it again, which drops unknown fields.
pub(crate) type Prune = fn(&Value) -> Result<Value, String>;

/// One kind and its properties.
pub struct Kind {
    /// API group; empty for the core group.
    pub group: Cow<'static, str>,
    /// Version within the group.
    pub version: Cow<'static, str>,
    /// Kind, such as `Pod`.
    pub kind: Cow<'static, str>,
    /// Plural name, such as `pods`.
    pub plural: Cow<'static, str>,
    /// Short names for kubectl.
    pub short_names: Vec<Cow<'static, str>>,
    /// Whether the kind is namespaced.
    pub namespaced: bool,
    /// Whether there is a `status` subresource.
    pub status: bool,
    /// Whether there is a `scale` subresource.
    pub scale: bool,
    /// Whether kubectl includes it in the category `all`.
    pub in_category_all: bool,
    /// Rule for names: RFC 1035 labels, RFC 1123 labels or RFC 1123 subdomains.
    pub(crate) name_rule: NameRule,
    /// Maximum number of objects; a new one replaces the oldest. For kinds whose objects nobody
    /// deletes.
    pub(crate) objects_max: Option<usize>,
    pub(crate) prune: Option<Prune>,
    /// Adds its schema to the definitions and returns its name.
    pub(crate) describe: Option<fn(&mut Definitions) -> String>,
    /// Properties from a CustomResourceDefinition; none for built-in kinds.
    pub(crate) custom: Option<Arc<CustomResource>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NameRule {
    Label1035,
    Label1123,
    Subdomain1123,
    /// Any path segment, such as `system:masters`.
    PathSegment,
}

impl Kind {
    /// `apiVersion` of objects of this kind.
    pub fn api_version(&self) -> String {
        match self.group.as_ref() {
            "" => self.version.to_string(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// The resource as in messages: `pods`, `deployments.apps`.
    pub fn resource(&self) -> String {
        match self.group.as_ref() {
            "" => self.plural.to_string(),
            group => format!("{}.{group}", self.plural),
        }
    }

    /// Whether it is the built-in kind with this plural. A custom kind may have the same plural in
    /// another group.
    pub(crate) fn is(&self, plural: &str) -> bool {
        self.built_in_plural() == plural
    }

    /// Plural of a built-in kind; empty for custom kinds, to which no built-in rule applies.
    pub(crate) fn built_in_plural(&self) -> &str {
        if self.custom.is_some() { "" } else { &self.plural }
    }

    /// Singular name, such as `pod`.
    pub fn singular(&self) -> Cow<'_, str> {
        match &self.custom {
            Some(custom) => Cow::Borrowed(&custom.singular),
            None => Cow::Owned(self.kind.to_lowercase()),
        }
    }

    /// Kind of lists, such as `PodList`.
    pub fn list_kind(&self) -> Cow<'_, str> {
        match &self.custom {
            Some(custom) => Cow::Borrowed(&custom.list_kind),
            None => Cow::Owned(format!("{}List", self.kind)),
        }
    }

    /// Categories for kubectl, such as `all`.
    pub fn categories(&self) -> Vec<&str> {
        match &self.custom {
            Some(custom) => custom.categories.iter().map(String::as_str).collect(),
            None if self.in_category_all => vec!["all"],
            None => Vec::new(),
        }
    }

    /// Whether the status is an ordinary field, not a subresource.
    pub(crate) fn status_is_ordinary_field(&self) -> bool {
        self.custom.is_some() && !self.status
    }

    /// Converts a stored object to this version. Versions differ only in `apiVersion`.
    pub(crate) fn to_served_version(&self, object: &Arc<Value>) -> Arc<Value> {
        if self.custom.is_none() || object["apiVersion"] == self.api_version() {
            return object.clone();
        }
        let mut shown = Value::clone(object);
        shown["apiVersion"] = self.api_version().into();
        Arc::new(shown)
    }

    /// Converts an object to the storage version.
    pub(crate) fn to_storage(&self, mut object: Value) -> Value {
        if let Some(custom) = &self.custom {
            object["apiVersion"] = format!("{}/{}", self.group, custom.storage_version).into();
        }
        object
    }

    /// Whether `name` is one of its names: plural, singular, kind, short name or `plural.group`.
    fn has_name(&self, name: &str) -> bool {
        name == self.plural
            || name.eq_ignore_ascii_case(&self.kind)
            || name == self.singular()
            || self.short_names.iter().any(|short_name| short_name == name)
            || name == self.resource()
    }
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.resource())
    }
}

/// A snapshot of all served kinds. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Kinds {
    all: Arc<Vec<Arc<Kind>>>,
}

impl Kinds {
    /// The built-in kinds.
    pub fn built_in() -> Self {
        Self { all: Arc::new(built_in().into_iter().map(Arc::new).collect()) }
    }

    /// The built-in kinds of this set, with these custom kinds.
    pub(crate) fn with_custom(&self, custom: Vec<Arc<Kind>>) -> Self {
        let built_in = self.iter().filter(|kind| kind.custom.is_none()).cloned();
        Self { all: Arc::new(built_in.chain(custom).collect()) }
    }

    /// Whether both are the same snapshot.
    pub(crate) fn ptr_eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.all, &other.all)
    }

    /// All kinds in the order of discovery. A kind with several versions occurs once per version, the
    /// preferred one first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Kind>> {
        self.all.iter()
    }

    /// The kind in a URL.
    pub fn by_path(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Kind>> {
        self.iter().find(|kind| kind.plural == plural && kind.version == version && kind.group == group)
    }

    /// The kind of an object's `apiVersion` and `kind`.
    pub fn by_type(&self, api_version: &str, kind_name: &str) -> Option<&Arc<Kind>> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        self.iter().find(|kind| kind.kind == kind_name && kind.version == version && kind.group == group)
    }

    /// The kind with this name; core kinds come first.
    pub fn by_name(&self, name: &str) -> Option<&Arc<Kind>> {
        self.iter().find(|kind| kind.has_name(name))
    }

    /// Groups with their versions, the preferred version first; without the core group.
    pub fn groups(&self) -> Vec<(String, Vec<String>)> {
        let mut groups: Vec<(String, Vec<String>)> = Vec::new();
        for kind in self.iter().filter(|kind| !kind.group.is_empty()) {
            let at = groups.iter().position(|(name, _)| *name == kind.group).unwrap_or_else(|| {
                groups.push((kind.group.to_string(), Vec::new()));
                groups.len() - 1
            });
            if !groups[at].1.iter().any(|version| *version == kind.version) {
                groups[at].1.push(kind.version.to_string());
            }
        }
        groups.iter_mut().for_each(|(_, versions)| versions.sort_by_key(|version| priority(version)));
        groups
    }
}

pub(crate) const RBAC: &str = "rbac.authorization.k8s.io";

/// Sort key of versions, as in Kubernetes: `v2`, `v1`, `v2beta1`, `v1beta2`, `v1alpha1`, then other
/// names.
pub(crate) fn priority(version: &str) -> impl Ord + use<> {
    let parsed = parse_version(version);
    (parsed.is_none(), parsed.map(std::cmp::Reverse), version.to_owned())
}

/// Stability (2 stable, 1 beta, 0 alpha), major and minor version.
fn parse_version(version: &str) -> Option<(u8, u32, u32)> {
    let rest = version.strip_prefix('v')?;
    for (name, stability) in [("beta", 1), ("alpha", 0)] {
        if let Some((major, minor)) = rest.split_once(name) {
            return Some((stability, major.parse().ok()?, minor.parse().ok()?));
        }
    }
    Some((2, rest.parse().ok()?, 0))
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
        describe: Some(openapi::describe::<T>),
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
    fn unit_versions_are_sorted_by_stability_and_number() {
        let mut versions = ["v1alpha1", "v1", "foo1", "v2beta1", "v10", "v1beta2", "v2beta10"];
        versions.sort_by_key(|version| priority(version));
        assert_eq!(versions, ["v10", "v1", "v2beta10", "v2beta1", "v1beta2", "v1alpha1", "foo1"]);
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
