//! RBAC authorization: rules of Roles and ClusterRoles that are bound to users, groups and service
//! accounts.

use beeline_apiserver_admission::{Api, ListOptions};
use beeline_apiserver_objects::object::{self, MASTERS, array_at, str_at, strs_at};
use serde_json::{Value, json};

use crate::identity::User;

/// Attributes of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub verb: String,
    pub group: String,
    pub resource: String,
    pub subresource: String,
    /// Empty across all namespaces and for cluster-scoped kinds.
    pub namespace: String,
    /// Empty for collections.
    pub name: String,
    /// Path of a non-resource request; the other fields except the verb are empty then.
    pub path: String,
}

/// The decision and its reason, as `kubectl auth can-i` shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Decision {
    pub allowed: bool,
    pub reason: String,
}

/// Decides from the current roles and bindings.
pub(crate) fn authorize(api: &Api, user: &User, attributes: &Attributes) -> Decision {
    if user.is_in(MASTERS) {
        return Decision { allowed: true, reason: String::new() };
    }
    let mut missing = Vec::new();
    for grant in grants(api, user, &attributes.namespace) {
        match grant.rules {
            None => missing.push(format!("{} {:?} not found", grant.role_resource, grant.role_name)),
            Some(rules) if rules.iter().any(|rule| rule_allows(rule, attributes)) => {
                return Decision { allowed: true, reason: format!("RBAC: allowed by {}", grant.description) };
            }
            Some(_) => {}
        }
    }
    let reason = if missing.is_empty() { String::new() } else { format!("RBAC: {}", missing.join(", ")) };
    Decision { allowed: false, reason }
}

/// All rules of a user in a namespace, as `kubectl auth can-i --list` shows them.
pub(crate) fn rules_for(api: &Api, user: &User, namespace: &str) -> Vec<Value> {
    let all = json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]});
    let everywhere = json!({"nonResourceURLs": ["*"], "verbs": ["*"]});
    let masters = if user.is_in(MASTERS) { vec![all, everywhere] } else { Vec::new() };
    let granted = grants(api, user, namespace).into_iter().flat_map(|grant| grant.rules.unwrap_or_default());
    masters.into_iter().chain(granted).collect()
}

/// What a binding grants to a user.
struct Grant {
    /// None if the role does not exist.
    rules: Option<Vec<Value>>,
    role_resource: &'static str,
    role_name: String,
    /// Description of the binding for the reason.
    description: String,
}

/// Bindings of the user: cluster-wide ones and those of the namespace.
fn grants(api: &Api, user: &User, namespace: &str) -> Vec<Grant> {
    let all = ListOptions::default();
    let mut bindings = api.list("clusterrolebindings", None, &all).map(|page| page.items).unwrap_or_default();
    if !namespace.is_empty() {
        let own = api.list("rolebindings", Some(namespace), &all).map(|page| page.items);
        bindings.extend(own.unwrap_or_default());
    }
    bindings.iter().filter_map(|binding| grant(api, user, binding)).collect()
}

fn grant(api: &Api, user: &User, binding: &Value) -> Option<Grant> {
    let namespace = object::namespace(binding);
    let subject =
        array_at(binding, "/subjects").iter().find(|subject| applies_to(user, subject, namespace))?;
    let role_name = str_at(binding, "/roleRef/name").to_owned();
    let of_cluster = binding["roleRef"]["kind"] == "ClusterRole";
    let (role, role_resource) = if of_cluster {
        (api.get("clusterroles", "", &role_name), "clusterrole.rbac.authorization.k8s.io")
    } else {
        (api.get("roles", namespace, &role_name), "role.rbac.authorization.k8s.io")
    };
    let rules = role.ok().map(|role| rules_of_role(api, &role));
    let (kind, role_kind) = (str_at(binding, "/kind"), str_at(binding, "/roleRef/kind"));
    let own = with_namespace(object::name(binding), namespace);
    let (subject_kind, subject) = (str_at(subject, "/kind"), subject_name(subject));
    let description = format!("{kind} {own:?} of {role_kind} {role_name:?} to {subject_kind} {subject:?}");
    Some(Grant { rules, role_resource, role_name, description })
}

/// Rules of a role and of the roles that it aggregates. In Kubernetes a controller copies the latter.
fn rules_of_role(api: &Api, role: &Value) -> Vec<Value> {
    let mut rules = array_at(role, "/rules").to_vec();
    for selector in array_at(role, "/aggregationRule/clusterRoleSelectors") {
        let selector = beeline_apiserver_objects::Selector::from_label_selector(selector);
        let roles = api.list("clusterroles", None, &ListOptions::default()).map(|page| page.items);
        let others = roles.unwrap_or_default().into_iter().filter(|other| selector.matches(other));
        rules.extend(others.flat_map(|other| array_at(&other, "/rules").to_vec()));
    }
    rules
}

fn applies_to(user: &User, subject: &Value, namespace_of_binding: &str) -> bool {
    let name = str_at(subject, "/name");
    match str_at(subject, "/kind") {
        "User" => user.name == name,
        "Group" => user.is_in(name),
        "ServiceAccount" => {
            let namespace = match str_at(subject, "/namespace") {
                "" => namespace_of_binding,
                namespace => namespace,
            };
            user.name == format!("system:serviceaccount:{namespace}:{name}")
        }
        _ => false,
    }
}

fn subject_name(subject: &Value) -> String {
    let is_account = subject["kind"] == "ServiceAccount";
    with_namespace(str_at(subject, "/name"), if is_account { str_at(subject, "/namespace") } else { "" })
}

/// `NAME/NAMESPACE`, the order in Kubernetes' messages.
fn with_namespace(name: &str, namespace: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{name}/{namespace}") }
}

/// Whether the rule allows the request.
pub(crate) fn rule_allows(rule: &Value, attributes: &Attributes) -> bool {
    let lists =
        |field: &str, value: &str| strs_at(rule, field).into_iter().any(|one| one == "*" || one == value);
    if !lists("/verbs", &attributes.verb) {
        return false;
    }
    if !attributes.path.is_empty() {
        return strs_at(rule, "/nonResourceURLs").into_iter().any(|url| path_matches(url, &attributes.path));
    }
    let names = strs_at(rule, "/resourceNames");
    lists("/apiGroups", &attributes.group)
        && strs_at(rule, "/resources").into_iter().any(|one| resource_matches(one, attributes))
        && (names.is_empty() || names.contains(&attributes.name.as_str()))
}

fn path_matches(url: &str, path: &str) -> bool {
    match url.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => url == path,
    }
}

/// Matches `pods`, `pods/log`, `*/scale` and `*`, which includes subresources.
fn resource_matches(given: &str, attributes: &Attributes) -> bool {
    match (given, given.split_once('/')) {
        ("*", _) => true,
        (_, Some(("*", part))) => !part.is_empty() && part == attributes.subresource,
        (_, Some((resource, part))) => resource == attributes.resource && part == attributes.subresource,
        (resource, None) => resource == attributes.resource && attributes.subresource.is_empty(),
    }
}

/// The part of the message "forbidden" after the object's name.
pub(crate) fn forbidden_message(user: &User, attributes: &Attributes, reason: &str) -> String {
    let (who, verb) = (&user.name, &attributes.verb);
    let mut sentence = if attributes.path.is_empty() {
        let resource = match attributes.subresource.as_str() {
            "" => attributes.resource.clone(),
            part => format!("{}/{part}", attributes.resource),
        };
        let place = match attributes.namespace.as_str() {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace {namespace:?}"),
        };
        format!(
            "User {who:?} cannot {verb} resource {resource:?} in API group {:?} {place}",
            attributes.group
        )
    } else {
        format!("User {who:?} cannot {verb} path {:?}", attributes.path)
    };
    if !reason.is_empty() {
        sentence = format!("{sentence}: {reason}");
    }
    sentence
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::cluster;

    const ROLES: &str = r#"
apiVersion: v1
kind: ServiceAccount
metadata: {name: robot}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: reader}
rules:
- {apiGroups: [""], resources: [nodes, pods, pods/log], verbs: [get, list, watch]}
- {apiGroups: [apps], resources: ["*/scale"], verbs: ["*"]}
- {apiGroups: [""], resources: [secrets], resourceNames: [own], verbs: [get]}
- {nonResourceURLs: [/metrics, /logs/*], verbs: [get]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: readers}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: reader}
subjects: [{kind: ServiceAccount, name: robot, namespace: default}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: writer, namespace: kube-system}
rules: [{apiGroups: [""], resources: [configmaps], verbs: [create, update]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: writers, namespace: kube-system}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: writer}
subjects: [{kind: Group, name: "system:serviceaccounts:default", apiGroup: rbac.authorization.k8s.io}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: dangling, namespace: kube-public}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: none}
subjects: [{kind: User, name: "system:serviceaccount:default:robot", apiGroup: rbac.authorization.k8s.io}]
"#;

    fn robot() -> User {
        User::impersonated("system:serviceaccount:default:robot", Vec::new())
    }

    /// Parses `VERB GROUP/RESOURCE[/SUBRESOURCE] NAMESPACE NAME`, with `-` for empty.
    fn attributes(text: &str) -> Attributes {
        let fields: Vec<String> = text
            .split(' ')
            .map(|value| if value == "-" { String::new() } else { value.to_owned() })
            .collect();
        let parts: Vec<&str> = fields[1].split('/').collect();
        Attributes {
            verb: fields[0].clone(),
            group: parts[0].to_owned(),
            resource: parts[1].to_owned(),
            subresource: parts.get(2).copied().unwrap_or_default().to_owned(),
            namespace: fields[2].clone(),
            name: fields[3].clone(),
            path: String::new(),
        }
    }

    #[test]
    fn unit_rules_allow_only_what_they_list() {
        let api = cluster();
        let report = api.apply("roles.yaml", ROLES);
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        for (text, allowed) in [
            ("list /nodes - -", true),
            ("watch /pods default -", true),
            ("get /pods/log default web", true),
            ("get /pods/status default web", false),
            ("delete /pods default web", false),
            ("list apps/pods default -", false),
            ("patch apps/deployments/scale default web", true),
            ("patch apps/deployments default web", false),
            ("get /secrets default own", true),
            ("get /secrets default other", false),
            ("list /secrets default -", false),
            ("create /configmaps kube-system -", true),
            ("create /configmaps default -", false),
            ("create /configmaps - -", false),
        ] {
            let decision = authorize(&api, &robot(), &attributes(text));
            assert_eq!(decision.allowed, allowed, "{text}: {decision:?}");
            assert!(authorize(&api, &User::admin(), &attributes(text)).allowed, "{text}");
            assert!(
                !authorize(&api, &User::impersonated("jane", Vec::new()), &attributes(text)).allowed,
                "{text}"
            );
        }
        let path = |path: &str| Attributes { verb: "get".into(), path: path.into(), ..Attributes::default() };
        assert!(authorize(&api, &robot(), &path("/logs/a")).allowed);
        assert!(!authorize(&api, &robot(), &path("/metrics/a")).allowed);
    }

    #[test]
    fn unit_reasons_name_the_binding_or_the_missing_role() {
        let api = cluster();
        api.apply("roles.yaml", ROLES);
        let reason = authorize(&api, &robot(), &attributes("list /nodes - -")).reason;
        let expected = "RBAC: allowed by ClusterRoleBinding \"readers\" of ClusterRole \"reader\" to ServiceAccount \"robot/default\"";
        assert_eq!(reason, expected);
        let reason = authorize(&api, &robot(), &attributes("list /secrets kube-public -")).reason;
        assert_eq!(reason, "RBAC: role.rbac.authorization.k8s.io \"none\" not found");
        let sentence = forbidden_message(&robot(), &attributes("get /pods/status default web"), "");
        let expected = "User \"system:serviceaccount:default:robot\" cannot get resource \"pods/status\" in API group \"\" in the namespace \"default\"";
        assert_eq!(sentence, expected);
    }

    #[test]
    fn unit_a_service_account_reads_discovery_and_asks_about_itself() {
        let api = cluster();
        let path = Attributes { verb: "get".into(), path: "/apis/apps".into(), ..Attributes::default() };
        assert!(authorize(&api, &robot(), &path).allowed);
        let ask = attributes("create authorization.k8s.io/selfsubjectaccessreviews - -");
        assert!(authorize(&api, &robot(), &ask).allowed);
    }
}
