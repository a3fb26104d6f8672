//! What the server can do, for clients that ask before they ask.

use serde_json::{Value, json};

use super::{Answer, ok, review};
use crate::{Kind, Kinds};

/// Version of the protocol that this server speaks a part of.
fn version() -> Value {
    json!({
        "major": "1", "minor": "33", "gitVersion": "v1.33.0+beeline-lab", "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "", "goVersion": "", "compiler": "rustc", "platform": "linux/amd64",
    })
}

/// Paths that need no token.
pub(super) fn open_to_all(path: &str) -> Option<Answer> {
    match path {
        "/healthz" | "/livez" | "/readyz" => Some(Answer::Text("ok")),
        "/version" | "/version/" => Some(ok(version())),
        _ => None,
    }
}

/// How others find the keys that check tokens of service accounts.
pub(super) fn openid(issuer: &str) -> Value {
    json!({
        "issuer": issuer, "jwks_uri": format!("{issuer}/openid/v1/jwks"),
        "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    })
}

pub(super) fn answer(kinds: &Kinds, path: &str) -> Option<Value> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    match parts.as_slice() {
        [] => {
            Some(json!({"paths": ["/api", "/api/v1", "/apis", "/healthz", "/livez", "/readyz", "/version"]}))
        }
        ["api"] => Some(json!({
            "kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [],
        })),
        ["apis"] => {
            let groups: Vec<Value> =
                groups(kinds).iter().map(|(group, version)| api_group(group, version)).collect();
            Some(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
        }
        ["apis", group] => {
            let found = groups(kinds).into_iter().find(|(name, _)| name == group);
            found.map(|(group, version)| {
                let mut value = api_group(&group, &version);
                value["kind"] = json!("APIGroup");
                value["apiVersion"] = json!("v1");
                value
            })
        }
        ["api", "v1"] => resources(kinds, "", "v1"),
        ["apis", group, version] => resources(kinds, group, version),
        _ => None,
    }
}

/// The groups of stored objects, then those that hold questions alone.
fn groups(kinds: &Kinds) -> Vec<(String, String)> {
    let mut groups = kinds.groups();
    for (group, ..) in review::RESOURCES {
        let one = ((*group).to_owned(), "v1".to_owned());
        if !groups.contains(&one) {
            groups.push(one);
        }
    }
    groups
}

fn api_group(group: &str, version: &str) -> Value {
    let version = json!({"groupVersion": format!("{group}/{version}"), "version": version});
    json!({"name": group, "versions": [version], "preferredVersion": version})
}

fn resources(kinds: &Kinds, group: &str, version: &str) -> Option<Value> {
    let found: Vec<Value> = kinds
        .iter()
        .filter(|kind| kind.group == group && kind.version == version)
        .flat_map(|kind| entries(kind))
        .chain(questions(group, version))
        .collect();
    if found.is_empty() {
        return None;
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Some(
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": found}),
    )
}

/// Questions that are asked as objects, of one group.
fn questions(group: &str, version: &str) -> Vec<Value> {
    let of_group = review::RESOURCES.iter().filter(|(one, ..)| *one == group && version == "v1");
    let entry = |&(_, plural, kind, namespaced): &(&str, &str, &str, bool)| {
        json!({
            "name": plural, "singularName": kind.to_lowercase(), "namespaced": namespaced, "kind": kind,
            "verbs": ["create"],
        })
    };
    of_group.map(entry).collect()
}

fn entries(kind: &Kind) -> Vec<Value> {
    let entry = |name: String, verbs: &[&str]| {
        json!({
            "name": name, "singularName": "", "namespaced": kind.namespaced, "kind": kind.kind, "verbs": verbs,
        })
    };
    let verbs = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
    let mut main = entry(kind.plural.to_string(), &verbs);
    main["singularName"] = json!(kind.kind.to_lowercase());
    if !kind.short_names.is_empty() {
        main["shortNames"] = json!(kind.short_names);
    }
    if kind.in_all {
        main["categories"] = json!(["all"]);
    }
    let mut all = vec![main];
    if kind.status {
        all.push(entry(format!("{}/status", kind.plural), &["get", "patch", "update"]));
    }
    if kind.scale {
        let mut scale = entry(format!("{}/scale", kind.plural), &["get", "patch", "update"]);
        scale["group"] = json!("autoscaling");
        scale["version"] = json!("v1");
        scale["kind"] = json!("Scale");
        all.push(scale);
    }
    if kind.plural == "serviceaccounts" {
        let mut token = entry("serviceaccounts/token".to_owned(), &["create"]);
        token["group"] = json!("authentication.k8s.io");
        token["version"] = json!("v1");
        token["kind"] = json!("TokenRequest");
        all.push(token);
    }
    if kind.plural == "pods" {
        let mut binding = entry("pods/binding".to_owned(), &["create"]);
        binding["kind"] = json!("Binding");
        all.push(binding);
    }
    all
}
