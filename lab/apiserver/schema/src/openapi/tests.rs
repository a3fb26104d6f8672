use serde_json::{Value, json};

use super::definitions::META;
use super::paths::group_version_kind;
use super::*;
use crate::describe::Definitions;

fn all() -> Definitions {
    definitions::of(&Kinds::built_in())
}

#[test]
fn unit_built_in_kinds_have_schemas() {
    let all = all();
    let field = |name: &str, field: &str| all[name]["properties"][field].clone();
    let core = "io.k8s.api.core.v1";
    assert_eq!(field(&format!("{core}.Pod"), "spec"), json!({"$ref": "io.k8s.api.core.v1.PodSpec"}));
    assert_eq!(field(&format!("{core}.Pod"), "kind"), json!({"type": "string"}));
    assert_eq!(
        field("io.k8s.api.apps.v1.DeploymentSpec", "replicas"),
        json!({"type": "integer", "format": "int32"})
    );
    assert_eq!(field(META, "creationTimestamp"), json!({"type": "string", "format": "date-time"}));
    assert_eq!(field(META, "labels"), json!({"type": "object", "additionalProperties": {"type": "string"}}));
    assert_eq!(
        field(&format!("{core}.ServicePort"), "targetPort"),
        json!({"x-kubernetes-int-or-string": true})
    );
    assert_eq!(field(&format!("{core}.Secret"), "data")["additionalProperties"]["format"], "byte");
    let containers = field(&format!("{core}.PodSpec"), "containers");
    assert_eq!(containers["items"], json!({"$ref": "io.k8s.api.core.v1.Container"}));
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
    assert_eq!(field(&format!("{core}.Container"), "ports")["x-kubernetes-patch-merge-key"], "containerPort");
    assert_eq!(field(&format!("{core}.ServiceSpec"), "ports")["x-kubernetes-patch-merge-key"], "port");
    assert_eq!(all[&format!("{core}.Container")]["required"], json!(["name"]));
    assert_eq!(all[&format!("{core}.ContainerPort")]["required"], json!(["containerPort"]));
    let kind = json!([{"group": "", "version": "v1", "kind": "Pod"}]);
    assert_eq!(all[&format!("{core}.Pod")]["x-kubernetes-group-version-kind"], kind);
}

#[test]
fn unit_every_kind_is_described_and_every_reference_resolves() {
    let kinds = Kinds::built_in();
    let built = BuiltDocuments::of(&kinds);
    let v2: Value = serde_json::from_slice(&built.v2).unwrap();
    for kind in kinds.iter().filter(|kind| kind.describe.is_some()) {
        let expected = json!([group_version_kind(kind)]);
        let found = v2["definitions"].as_object().unwrap().values();
        let mut found = found.filter(|one| one["x-kubernetes-group-version-kind"] == expected);
        assert!(found.next().is_some_and(|one| one["properties"].is_object()), "{kind:?}");
    }
    check_references(&v2, &v2);
    for (path, document) in &built.v3 {
        let document: Value = serde_json::from_slice(document).unwrap();
        assert!(!document["components"]["schemas"].as_object().unwrap().is_empty(), "{path}");
        check_references(&document, &document);
    }
}

fn check_references(document: &Value, part: &Value) {
    match part {
        Value::Object(fields) => {
            if let Some(reference) = fields.get("$ref").and_then(Value::as_str) {
                let found = document.pointer(reference.trim_start_matches('#'));
                assert!(found.is_some(), "{reference} leads nowhere");
            }
            fields.values().for_each(|part| check_references(document, part));
        }
        Value::Array(elements) => elements.iter().for_each(|part| check_references(document, part)),
        _ => {}
    }
}

#[test]
fn unit_the_first_accepted_media_type_is_used() {
    assert!(prefers_protobuf(V2_PROTOBUF));
    assert!(prefers_protobuf("application/com.github.proto-openapi.spec.v2@v1.0+protobuf, application/json"));
    assert!(!prefers_protobuf("application/json, */*"));
    assert!(!prefers_protobuf(""));
}

#[test]
fn unit_protobuf_holds_names_and_extensions() {
    let bytes = protobuf::document(&json!({
        "swagger": "2.0", "info": {"title": "t", "version": "v"}, "paths": {},
        "definitions": {"a.B": {"type": "object", "x-y": [1]}},
    }));
    let expected: &[u8] = b"\n\x032.0\x12\x06\n\x01t\x12\x01vB\0J\x24\x0a\x22\x0a\x03a.B\x12\x1b\
        \xb2\x01\x08\x0a\x06object\xfa\x01\x0d\x0a\x03x-y\x12\x06\x12\x04[1]\x0a";
    assert_eq!(bytes, expected, "{}", String::from_utf8_lossy(&bytes));
}
