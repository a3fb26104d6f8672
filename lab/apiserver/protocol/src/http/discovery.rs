//! API discovery, per group or aggregated.

use beeline_apiserver_schema::{Kind, Kinds};
use serde_json::{Value, json};

use super::response::{ApiResponse, ok};
use super::review;

/// Media type of aggregated discovery.
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

const OBJECT_VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const SUBRESOURCE_VERBS: &[&str] = &["get", "patch", "update"];

/// The reported version is that of the k8s-openapi types.
pub(super) fn version() -> Value {
    json!({
        "major": "1", "minor": "36", "gitVersion": "v1.36.0+beeline-lab", "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "", "goVersion": "", "compiler": "rustc", "platform": "linux/amd64",
    })
}

/// OpenID configuration with the location of the keys that verify service account tokens.
pub(super) fn openid_configuration(issuer: &str) -> Value {
    json!({
        "issuer": issuer, "jwks_uri": format!("{issuer}/openid/v1/jwks"),
        "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    })
}

/// The paths that the server has.
pub(super) fn root() -> Value {
    json!({"paths": [
        "/api", "/api/v1", "/apis", "/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/readyz", "/version",
    ]})
}

/// The core group; `accept` is the Accept header.
pub(super) fn core(kinds: &Kinds, accept: &str) -> ApiResponse {
    if wants_aggregated(accept) {
        return aggregated(kinds, true);
    }
    ok(json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}))
}

/// All other groups; `accept` is the Accept header.
pub(super) fn groups(kinds: &Kinds, accept: &str) -> ApiResponse {
    if wants_aggregated(accept) {
        return aggregated(kinds, false);
    }
    let groups: Vec<Value> =
        all_groups(kinds).iter().map(|(group, versions)| api_group(group, versions)).collect();
    ok(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
}

/// One group.
pub(super) fn group(kinds: &Kinds, group: &str) -> Option<Value> {
    let (group, versions) = all_groups(kinds).into_iter().find(|(name, _)| name == group)?;
    let mut value = api_group(&group, &versions);
    value["kind"] = json!("APIGroup");
    value["apiVersion"] = json!("v1");
    Some(value)
}

/// Groups of stored objects, then groups that contain only reviews.
fn all_groups(kinds: &Kinds) -> Vec<(String, Vec<String>)> {
    let mut groups = kinds.groups();
    for (group, ..) in review::RESOURCES {
        if !groups.iter().any(|(name, _)| name == group) {
            groups.push(((*group).to_owned(), vec!["v1".to_owned()]));
        }
    }
    groups
}

fn api_group(group: &str, versions: &[String]) -> Value {
    let entry = |version: &String| json!({"groupVersion": format!("{group}/{version}"), "version": version});
    let versions: Vec<Value> = versions.iter().map(entry).collect();
    json!({"name": group, "versions": versions, "preferredVersion": versions.first()})
}

/// The resources of a group version.
pub(super) fn resources(kinds: &Kinds, group: &str, version: &str) -> Option<Value> {
    let found: Vec<Value> = of_version(kinds, group, version)
        .flat_map(api_resources)
        .chain(review_resources(group, version))
        .collect();
    if found.is_empty() {
        return None;
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Some(
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": found}),
    )
}

/// The review resources of a group.
fn review_resources(group: &str, version: &str) -> Vec<Value> {
    let of_group = review::RESOURCES.iter().filter(|(one, ..)| *one == group && version == "v1");
    let entry = |&(_, plural, kind, namespaced): &(&str, &str, &str, bool)| {
        json!({
            "name": plural, "singularName": kind.to_lowercase(), "namespaced": namespaced, "kind": kind,
            "verbs": ["create"],
        })
    };
    of_group.map(entry).collect()
}

fn of_version<'a>(kinds: &'a Kinds, group: &'a str, version: &'a str) -> impl Iterator<Item = &'a Kind> {
    let of_version = move |kind: &&Kind| kind.group == group && kind.version == version;
    kinds.iter().map(AsRef::as_ref).filter(of_version)
}

fn api_resources(kind: &Kind) -> Vec<Value> {
    let mut main = json!({
        "name": kind.plural, "singularName": kind.singular(), "namespaced": kind.namespaced, "kind": kind.kind,
        "verbs": OBJECT_VERBS,
    });
    if !kind.short_names.is_empty() {
        main["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories().is_empty() {
        main["categories"] = json!(kind.categories());
    }
    let part = |part: Subresource<'_>| {
        let mut entry = json!({
            "name": format!("{}/{}", kind.plural, part.name), "singularName": "", "namespaced": kind.namespaced,
            "kind": part.kind, "verbs": part.verbs,
        });
        if part.version != kind.version || part.group != kind.group {
            entry["group"] = json!(part.group);
            entry["version"] = json!(part.version);
        }
        entry
    };
    std::iter::once(main).chain(subresources(kind).into_iter().map(part)).collect()
}

/// A subresource: name, kind and verbs.
struct Subresource<'a> {
    name: &'static str,
    group: &'a str,
    version: &'a str,
    kind: &'a str,
    verbs: &'static [&'static str],
}

fn subresources(kind: &Kind) -> Vec<Subresource<'_>> {
    let own = |name, verbs| Subresource {
        name,
        group: &kind.group,
        version: &kind.version,
        kind: &kind.kind,
        verbs,
    };
    let other = |name, group, version, kind| Subresource {
        name,
        group,
        version,
        kind,
        verbs: &["create"] as &'static [_],
    };
    let mut parts = Vec::new();
    if kind.status {
        parts.push(own("status", SUBRESOURCE_VERBS));
    }
    if kind.scale {
        parts.push(Subresource { verbs: SUBRESOURCE_VERBS, ..other("scale", "autoscaling", "v1", "Scale") });
    }
    match kind.built_in_plural() {
        "pods" => {
            parts.push(other("binding", "", "v1", "Binding"));
            parts.push(other("eviction", "policy", "v1", "Eviction"));
        }
        "serviceaccounts" => {
            parts.push(other("token", "authentication.k8s.io", "v1", "TokenRequest"));
        }
        "namespaces" => parts.push(own("finalize", &["update"])),
        _ => {}
    }
    parts
}

/// Whether the client prefers aggregated discovery.
fn wants_aggregated(accept: &str) -> bool {
    accept.split(',').any(|one| {
        let parts: Vec<&str> = one.split(';').map(str::trim).collect();
        parts.contains(&"as=APIGroupDiscoveryList") && parts.contains(&"v=v2")
    })
}

fn aggregated(kinds: &Kinds, core: bool) -> ApiResponse {
    let groups = if core { vec![(String::new(), vec!["v1".to_owned()])] } else { all_groups(kinds) };
    let items: Vec<Value> =
        groups.iter().map(|(group, versions)| aggregated_group(kinds, group, versions)).collect();
    let list = json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items});
    ApiResponse::Bytes(AGGREGATED, list.to_string().into())
}

fn aggregated_group(kinds: &Kinds, group: &str, versions: &[String]) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .map(|version| {
            let stored = of_version(kinds, group, version).map(aggregated_resource);
            let resources: Vec<Value> = stored.chain(aggregated_reviews(group)).collect();
            json!({"version": version, "resources": resources, "freshness": "Current"})
        })
        .collect();
    let metadata = if group.is_empty() {
        json!({"creationTimestamp": null})
    } else {
        json!({"name": group, "creationTimestamp": null})
    };
    json!({"metadata": metadata, "versions": versions})
}

fn aggregated_reviews(group: &str) -> Vec<Value> {
    let entry = |(_, plural, kind, namespaced): &(&str, &str, &str, bool)| {
        json!({
            "resource": plural, "responseKind": {"group": group, "version": "v1", "kind": kind},
            "scope": if *namespaced { "Namespaced" } else { "Cluster" },
            "singularResource": kind.to_lowercase(), "verbs": ["create"],
        })
    };
    review::RESOURCES.iter().filter(|(one, ..)| *one == group).map(entry).collect()
}

fn aggregated_resource(kind: &Kind) -> Value {
    let response =
        |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    let part = |part: Subresource<'_>| {
        let kind = response(part.group, part.version, part.kind);
        json!({"subresource": part.name, "responseKind": kind, "verbs": part.verbs})
    };
    let mut resource = json!({
        "resource": kind.plural, "responseKind": response(&kind.group, &kind.version, &kind.kind),
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular(), "verbs": OBJECT_VERBS,
    });
    if !kind.short_names.is_empty() {
        resource["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories().is_empty() {
        resource["categories"] = json!(kind.categories());
    }
    let parts: Vec<Value> = subresources(kind).into_iter().map(part).collect();
    if !parts.is_empty() {
        resource["subresources"] = json!(parts);
    }
    resource
}
