//! Bootstrap roles: the subset of Kubernetes' default roles that users and charts need.

use serde_json::{Value, json};

const AUTHENTICATED: &str = "system:authenticated";

/// Resources of the user-facing roles, without those that contain credentials or grant permissions.
const NAMESPACED_RESOURCES: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "configmaps",
            "endpoints",
            "events",
            "pods",
            "pods/log",
            "pods/status",
            "serviceaccounts",
            "services",
        ],
    ),
    (
        "apps",
        &[
            "controllerrevisions",
            "daemonsets",
            "deployments",
            "deployments/scale",
            "replicasets",
            "replicasets/scale",
            "statefulsets",
        ],
    ),
    ("discovery.k8s.io", &["endpointslices"]),
    ("networking.k8s.io", &["ingresses", "networkpolicies"]),
    ("policy", &["poddisruptionbudgets"]),
];

const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "delete", "deletecollection", "patch", "update"];

/// Bootstrap ClusterRoles and ClusterRoleBindings.
pub(super) fn bootstrap_roles() -> Vec<(&'static str, Value)> {
    let all = json!([
        {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
        {"nonResourceURLs": ["*"], "verbs": ["*"]},
    ]);
    let open = ["/healthz", "/livez", "/readyz", "/version", "/version/"];
    let discovery = [
        "/api",
        "/api/*",
        "/apis",
        "/apis/*",
        "/healthz",
        "/livez",
        "/openapi",
        "/openapi/*",
        "/readyz",
        "/version",
        "/version/",
    ];
    let paths = |paths: &[&str]| json!([{"nonResourceURLs": paths, "verbs": ["get"]}]);
    let ask = json!([
        {"apiGroups": ["authorization.k8s.io"], "verbs": ["create"],
         "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"]},
        {"apiGroups": ["authentication.k8s.io"], "verbs": ["create"], "resources": ["selfsubjectreviews"]},
    ]);
    let issuer = paths(&[
        "/.well-known/openid-configuration",
        "/.well-known/openid-configuration/",
        "/openid/v1/jwks",
        "/openid/v1/jwks/",
    ]);
    let accounts = "system:serviceaccounts";
    let mut objects = Vec::new();
    for (name, rules, group) in [
        ("cluster-admin", all, beeline_apiserver_objects::object::MASTERS),
        ("system:discovery", paths(&discovery), AUTHENTICATED),
        ("system:public-info-viewer", paths(&open), AUTHENTICATED),
        ("system:basic-user", ask, AUTHENTICATED),
        ("system:service-account-issuer-discovery", issuer, accounts),
    ] {
        objects.push(("clusterroles", role(name, rules, json!({}))));
        objects.push(("clusterrolebindings", binding(name, group)));
    }
    objects.extend(user_facing_roles());
    objects
}

/// The user-facing roles `view`, `edit` and `admin`: each aggregates the previous one and the roles
/// labelled for it.
fn user_facing_roles() -> Vec<(&'static str, Value)> {
    let namespaced = |verbs: &[&str]| {
        let rules = NAMESPACED_RESOURCES.iter();
        rules
            .map(|(group, kinds)| json!({"apiGroups": [group], "resources": kinds, "verbs": verbs}))
            .collect::<Vec<_>>()
    };
    let of = |group: &str, kinds: &[&str], verbs: &[&str]| json!({"apiGroups": [group], "resources": kinds, "verbs": verbs});
    let mut view = namespaced(READ);
    view.push(of("", &["namespaces"], READ));
    let mut edit = namespaced(WRITE);
    edit.push(of("", &["secrets"], &[READ, WRITE].concat()));
    edit.push(of("", &["serviceaccounts"], &["impersonate"]));
    edit.push(of("", &["serviceaccounts/token", "pods/eviction"], &["create"]));
    let admin = vec![
        of("rbac.authorization.k8s.io", &["rolebindings", "roles"], &[READ, WRITE].concat()),
        of("authorization.k8s.io", &["localsubjectaccessreviews"], &["create"]),
    ];
    let label = |to: &str| json!({format!("rbac.authorization.k8s.io/aggregate-to-{to}"): "true"});
    let mut objects = Vec::new();
    for (name, own, rules, above) in [
        ("view", "system:aggregate-to-view", view, Some("edit")),
        ("edit", "system:aggregate-to-edit", edit, Some("admin")),
        ("admin", "system:aggregate-to-admin", admin, None),
    ] {
        objects.push(("clusterroles", role(own, rules.into(), label(name))));
        let mut aggregate = role(name, json!([]), above.map_or(json!({}), label));
        aggregate["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": label(name)}]});
        objects.push(("clusterroles", aggregate));
    }
    objects
}

fn role(name: &str, rules: Value, labels: Value) -> Value {
    let mut labels = labels;
    labels["kubernetes.io/bootstrapping"] = json!("rbac-defaults");
    json!({"metadata": {"name": name, "labels": labels}, "rules": rules})
}

fn binding(role: &str, group: &str) -> Value {
    json!({
        "metadata": {"name": role, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"}},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": group}],
    })
}
