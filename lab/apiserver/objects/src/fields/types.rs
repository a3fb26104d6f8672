//! Merge rules of lists and maps: atomic, keyed (map lists) or sets. For built-in kinds they follow
//! `x-kubernetes-list-type`, `-list-map-keys` and `-map-type` of Kubernetes' OpenAPI document, for
//! custom resources the schema of the definition. By default maps are granular and lists atomic.

use serde_json::{Map, Value, json};

/// The type of a value: a named type, a schema, or unknown.
#[derive(Clone, Copy, Debug)]
pub enum Type<'a> {
    /// A built-in object, with the metadata of every object.
    Object(&'static str),
    /// A custom resource with its schema.
    Custom(&'a Value),
    /// A built-in type, by name.
    Named(&'static str),
    /// A part of a schema of a custom kind.
    Schema(&'a Value),
}

/// How a value is merged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Relation {
    /// As a whole.
    Atomic,
    /// Field by field; lists without keys as a whole.
    Plain,
    /// Element by element; the keys identify an element.
    Keys(Vec<String>),
    /// Element by element; the value identifies an element.
    Set,
}

enum Rule {
    Is(&'static str),
    Atomic,
    Keys(&'static [&'static str], &'static str),
    Set,
}

/// Unknown type.
const UNTYPED: &str = "";
/// Atomic type.
const ATOMIC: &str = "!";

use Rule::{Atomic, Is, Keys, Set};

/// Type, field, rule. Types have the names of Kubernetes where there is one; kinds with the same
/// rules share a type.
const RULES: &[(&str, &str, Rule)] = &[
    ("ObjectMeta", "finalizers", Set),
    ("ObjectMeta", "ownerReferences", Keys(&["uid"], ATOMIC)),
    ("Pod", "spec", Is("PodSpec")),
    ("Pod", "status", Is("PodStatus")),
    ("PodTemplate", "metadata", Is("ObjectMeta")),
    ("PodTemplate", "spec", Is("PodSpec")),
    ("PodSpec", "affinity", Is("Affinity")),
    ("PodSpec", "containers", Keys(&["name"], "Container")),
    ("PodSpec", "initContainers", Keys(&["name"], "Container")),
    ("PodSpec", "ephemeralContainers", Keys(&["name"], "Container")),
    ("PodSpec", "hostAliases", Keys(&["ip"], UNTYPED)),
    ("PodSpec", "imagePullSecrets", Keys(&["name"], ATOMIC)),
    ("PodSpec", "nodeSelector", Atomic),
    ("PodSpec", "resourceClaims", Keys(&["name"], UNTYPED)),
    ("PodSpec", "resources", Is("Resources")),
    ("PodSpec", "schedulingGates", Keys(&["name"], UNTYPED)),
    ("PodSpec", "topologySpreadConstraints", Keys(&["topologyKey", "whenUnsatisfiable"], "Spread")),
    ("PodSpec", "volumes", Keys(&["name"], "Volume")),
    ("PodStatus", "conditions", Keys(&["type"], UNTYPED)),
    ("PodStatus", "podIPs", Keys(&["ip"], UNTYPED)),
    ("PodStatus", "resourceClaimStatuses", Keys(&["name"], UNTYPED)),
    ("Affinity", "nodeAffinity", Is("NodeAffinity")),
    ("NodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", Atomic),
    ("Spread", "labelSelector", Atomic),
    ("Volume", "cephfs", Is("SecretVolume")),
    ("Volume", "cinder", Is("SecretVolume")),
    ("Volume", "csi", Is("SecretVolume")),
    ("Volume", "flexVolume", Is("SecretVolume")),
    ("Volume", "iscsi", Is("SecretVolume")),
    ("Volume", "rbd", Is("SecretVolume")),
    ("SecretVolume", "nodePublishSecretRef", Atomic),
    ("SecretVolume", "secretRef", Atomic),
    ("Container", "env", Keys(&["name"], "EnvVar")),
    ("Container", "ports", Keys(&["containerPort", "protocol"], UNTYPED)),
    ("Container", "resources", Is("Resources")),
    ("Container", "volumeDevices", Keys(&["devicePath"], UNTYPED)),
    ("Container", "volumeMounts", Keys(&["mountPath"], UNTYPED)),
    ("EnvVar", "valueFrom", Is("EnvVarSource")),
    ("EnvVarSource", "configMapKeyRef", Atomic),
    ("EnvVarSource", "fieldRef", Atomic),
    ("EnvVarSource", "fileKeyRef", Atomic),
    ("EnvVarSource", "resourceFieldRef", Atomic),
    ("EnvVarSource", "secretKeyRef", Atomic),
    ("Resources", "claims", Keys(&["name"], UNTYPED)),
    ("Deployment", "spec", Is("WorkloadSpec")),
    ("Deployment", "status", Is("Conditions")),
    ("ReplicaSet", "spec", Is("WorkloadSpec")),
    ("ReplicaSet", "status", Is("Conditions")),
    ("DaemonSet", "spec", Is("WorkloadSpec")),
    ("DaemonSet", "status", Is("Conditions")),
    ("StatefulSet", "spec", Is("WorkloadSpec")),
    ("StatefulSet", "status", Is("Conditions")),
    ("Job", "spec", Is("WorkloadSpec")),
    ("WorkloadSpec", "selector", Atomic),
    ("WorkloadSpec", "template", Is("PodTemplate")),
    ("Conditions", "conditions", Keys(&["type"], UNTYPED)),
    ("Service", "spec", Is("ServiceSpec")),
    ("Service", "status", Is("Conditions")),
    ("ServiceSpec", "ports", Keys(&["port", "protocol"], UNTYPED)),
    ("ServiceSpec", "selector", Atomic),
    ("ServiceAccount", "secrets", Keys(&["name"], ATOMIC)),
    ("Namespace", "status", Is("Conditions")),
    ("Node", "spec", Is("NodeSpec")),
    ("Node", "status", Is("NodeStatus")),
    ("NodeSpec", "podCIDRs", Set),
    ("NodeStatus", "addresses", Keys(&["type"], UNTYPED)),
    ("NodeStatus", "conditions", Keys(&["type"], UNTYPED)),
    ("Event", "involvedObject", Atomic),
    ("Event", "regarding", Atomic),
    ("Event", "related", Atomic),
    ("ControllerRevision", "data", Atomic),
    ("ClusterRoleBinding", "roleRef", Atomic),
    ("RoleBinding", "roleRef", Atomic),
    ("NetworkPolicy", "spec", Is("NetworkPolicySpec")),
    ("NetworkPolicySpec", "podSelector", Atomic),
    ("PodDisruptionBudget", "spec", Is("DisruptionSpec")),
    ("PodDisruptionBudget", "status", Is("Conditions")),
    ("DisruptionSpec", "selector", Atomic),
    ("Ingress", "spec", Is("IngressSpec")),
    ("IngressSpec", "defaultBackend", Is("IngressBackend")),
    ("IngressBackend", "resource", Atomic),
    ("IngressBackend", "service", Is("IngressService")),
    ("IngressService", "port", Atomic),
    ("ServiceCIDR", "status", Is("Conditions")),
    ("CustomResourceDefinition", "status", Is("Conditions")),
];

impl<'a> Type<'a> {
    /// Type of a built-in kind.
    pub fn of_kind(kind: &str) -> Self {
        let known = RULES.iter().map(|(name, ..)| *name).find(|name| *name == kind);
        Self::Object(known.unwrap_or(UNTYPED))
    }

    /// Type of a field.
    pub fn field(self, field: &str) -> Self {
        match self {
            Self::Object(_) | Self::Custom(_) if field == "metadata" => Self::Named("ObjectMeta"),
            Self::Object(name) | Self::Named(name) => match rule(name, field) {
                Some(Is(inner)) => Self::Named(inner),
                Some(Keys(_, inner)) => Self::Named(inner),
                Some(Atomic) => Self::Named(ATOMIC),
                Some(Set) | None => Self::Named(UNTYPED),
            },
            Self::Custom(schema) | Self::Schema(schema) => match schema["properties"].get(field) {
                Some(inner) => Self::Schema(inner),
                None if schema["additionalProperties"].is_object() => {
                    Self::Schema(&schema["additionalProperties"])
                }
                None => Self::Named(UNTYPED),
            },
        }
    }

    /// How a field is merged.
    pub(crate) fn relation(self, field: &str) -> Relation {
        match (self, self.field(field)) {
            (Self::Object(name) | Self::Named(name), _) => match rule(name, field) {
                Some(Atomic) => Relation::Atomic,
                Some(Keys(keys, _)) => Relation::Keys(keys.iter().map(|&key| key.to_owned()).collect()),
                Some(Set) => Relation::Set,
                Some(Is(_)) | None => Relation::Plain,
            },
            (_, Self::Schema(inner)) => relation_of_schema(inner),
            _ => Relation::Plain,
        }
    }

    /// Type of the elements of a list.
    pub fn element(self) -> Self {
        match self {
            Self::Schema(schema) => Self::Schema(&schema["items"]),
            // For a named list, the type is already that of its elements.
            _ => self,
        }
    }

    /// Whether values of this type are atomic.
    pub fn is_atomic(self) -> bool {
        match self {
            Self::Named(name) => name == ATOMIC,
            Self::Schema(schema) => schema["x-kubernetes-map-type"] == "atomic",
            _ => false,
        }
    }

    /// The keys of a list element. A missing key has its default.
    pub fn key_of(self, keys: &[String], element: &Value) -> Option<Map<String, Value>> {
        let default = |key: &str| match self {
            Self::Schema(schema) => schema["properties"][key].get("default").cloned(),
            _ => (key == "protocol").then(|| json!("TCP")),
        };
        keys.iter()
            .map(|key| {
                let given = element.get(key).filter(|value| !value.is_null()).cloned();
                given.or_else(|| default(key)).map(|value| (key.clone(), value))
            })
            .collect()
    }
}

fn rule(name: &str, field: &str) -> Option<&'static Rule> {
    if name == UNTYPED {
        return None;
    }
    RULES.iter().find(|(one, two, _)| *one == name && *two == field).map(|(.., rule)| rule)
}

fn relation_of_schema(schema: &Value) -> Relation {
    match schema["x-kubernetes-list-type"].as_str() {
        Some("map") => {
            let keys = schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten();
            Relation::Keys(keys.filter_map(Value::as_str).map(str::to_owned).collect())
        }
        Some("set") => Relation::Set,
        Some(_) => Relation::Atomic,
        None if schema["x-kubernetes-map-type"] == "atomic" => Relation::Atomic,
        None => Relation::Plain,
    }
}
