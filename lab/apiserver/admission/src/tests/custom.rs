//! Custom resources and their definitions.

use beeline_apiserver_objects::PatchKind;
use beeline_apiserver_schema::definition::warnings;
use serde_json::{Value, json};

use crate::tests::api;
use crate::{Api, ListOptions, WriteOptions};

fn definition(schema: Value) -> Value {
    let version = |name: &str, storage: bool| {
        json!({
            "name": name, "served": true, "storage": storage,
            "schema": {"openAPIV3Schema": schema},
            "subresources": {"status": {}, "scale": {
                "specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size", "labelSelectorPath": ".status.labels",
            }},
        })
    };
    json!({
        "metadata": {"name": "hives.bees.example"},
        "spec": {
            "group": "bees.example", "scope": "Namespaced",
            "names": {"plural": "hives", "kind": "Hive", "shortNames": ["hv"]},
            "versions": [version("v1beta1", false), version("v1", true)],
        },
    })
}

fn hive_schema() -> Value {
    json!({
        "type": "object", "required": ["spec"],
        "properties": {
            "spec": {
                "type": "object", "required": ["color"],
                "properties": {
                    "size": {"type": "integer", "format": "int32", "minimum": 0, "maximum": 9, "default": 1},
                    "color": {"type": "string", "enum": ["brown", "yellow"]},
                    "name": {"type": "string", "pattern": "^[a-z]+$", "minLength": 2, "maxLength": 5},
                    "port": {"x-kubernetes-int-or-string": true},
                    "anything": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                    "object": {
                        "type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true,
                    },
                    "words": {"type": "object", "additionalProperties": {"type": "string"}, "maxProperties": 2},
                    "maybe": {"type": "string", "nullable": true},
                    "frames": {
                        "type": "array", "maxItems": 3, "minItems": 1,
                        "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                        "items": {
                            "type": "object", "required": ["name"],
                            "properties": {"name": {"type": "string"}, "weight": {"type": "integer", "default": 5}},
                        },
                    },
                    "one": {
                        "type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
                        "oneOf": [{"required": ["a"]}, {"required": ["b"]}],
                    },
                    "address": {"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]},
                    "tall": {"type": "string", "allOf": [{"minLength": 2}, {"pattern": "^t"}]},
                    "other": {"type": "string", "not": {"enum": ["bear"]}},
                },
            },
            "status": {"type": "object", "properties": {"size": {"type": "integer"}, "labels": {"type": "string"}}},
        },
    })
}

fn hive(spec: Value) -> Value {
    json!({"metadata": {"name": "a", "namespace": "default"}, "spec": spec})
}

fn with_hives() -> Api {
    let api = api();
    api.create("crd", definition(hive_schema())).unwrap();
    api
}

/// The stored spec, or the error message.
fn create(spec: Value) -> Result<Value, String> {
    match with_hives().create("hives", hive(spec)) {
        Ok(stored) => Ok(stored["spec"].clone()),
        Err(error) => Err(error.message),
    }
}

fn refused(mut spec: Value, expected: &str) {
    if spec.get("color").is_none() {
        spec["color"] = json!("brown");
    }
    let message = create(spec.clone()).expect_err(&spec.to_string());
    let expected = format!("Hive.bees.example \"a\" is invalid: {expected}");
    assert_eq!(message, expected, "{spec}");
}

#[test]
fn unit_a_definition_is_served_at_once() {
    let api = api();
    assert_eq!(api.kind("hives").unwrap_err().code, 404);
    let made = api.create("crd", definition(hive_schema())).unwrap();
    assert_eq!(made["spec"]["names"]["listKind"], "HiveList");
    assert_eq!(made["spec"]["names"]["singular"], "hive");
    assert_eq!(made["status"]["storedVersions"], json!(["v1"]));
    for condition in made["status"]["conditions"].as_array().unwrap() {
        assert_eq!(condition["status"], "True", "{condition}");
    }
    for name in ["hives", "hive", "hv", "Hive", "hives.bees.example"] {
        assert_eq!(api.kind(name).unwrap().version, "v1", "{name}");
    }
}

#[test]
fn unit_objects_lose_unknown_fields_and_get_defaults() {
    let spec = json!({
        "color": "brown", "unknown": 1, "anything": {"deep": {"er": 1}}, "frames": [{"name": "x", "lost": true}],
        "maybe": null, "size": null, "words": {"a": "b"},
        "object": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "colour": "red"}, "spec": {"x": 1}},
    });
    let expected = json!({
        "color": "brown", "anything": {"deep": {"er": 1}}, "frames": [{"name": "x", "weight": 5}], "maybe": null,
        "size": 1, "words": {"a": "b"},
        "object": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"x": 1}},
    });
    assert_eq!(create(spec).unwrap(), expected);
}

#[test]
fn unit_objects_are_refused_with_the_messages_of_kubernetes() {
    let required = create(json!({})).unwrap_err();
    assert_eq!(required, "Hive.bees.example \"a\" is invalid: spec.color: Required value");
    refused(
        json!({"size": "big"}),
        r#"spec.size: Invalid value: "string": spec.size in body must be of type integer: "string""#,
    );
    refused(
        json!({"size": -1}),
        "spec.size: Invalid value: -1: spec.size in body should be greater than or equal to 0",
    );
    refused(
        json!({"size": 10}),
        "spec.size: Invalid value: 10: spec.size in body should be less than or equal to 9",
    );
    refused(
        json!({"color": "red"}),
        r#"spec.color: Unsupported value: "red": supported values: "brown", "yellow""#,
    );
    refused(
        json!({"name": "UP"}),
        r#"spec.name: Invalid value: "UP": spec.name in body should match '^[a-z]+$'"#,
    );
    refused(
        json!({"name": "a"}),
        r#"spec.name: Invalid value: "a": spec.name in body should be at least 2 chars long"#,
    );
    refused(json!({"name": "abcdef"}), "spec.name: Too long: may not be more than 5 bytes");
    refused(
        json!({"port": true}),
        r#"spec.port: Invalid value: "boolean": spec.port in body must be of type integer,string: "boolean""#,
    );
    refused(
        json!({"words": {"a": "1", "b": "2", "c": "3"}}),
        "spec.words: Too many: 3: must have at most 2 items",
    );
    refused(
        json!({"frames": []}),
        "spec.frames: Invalid value: 0: spec.frames in body should have at least 1 items",
    );
    refused(
        json!({"frames": [{"name": "x"}, {"name": "y"}, {"name": "x"}]}),
        r#"spec.frames[2]: Duplicate value: {"name":"x"}"#,
    );
    refused(
        json!({"one": {"a": "1", "b": "2"}}),
        r#"spec.one: Invalid value: "": spec.one in body must validate one and only one schema (oneOf). Found 2 valid alternatives"#,
    );
    refused(
        json!({"other": "bear"}),
        r#"spec.other: Invalid value: "bear": spec.other in body must not validate the schema (not)"#,
    );
    refused(
        json!({"tall": "x"}),
        r#"[spec.tall: Invalid value: "x": spec.tall in body must validate all the schemas (allOf), spec.tall: Invalid value: "x": spec.tall in body should be at least 2 chars long, spec.tall: Invalid value: "x": spec.tall in body should match '^t']"#,
    );
    refused(
        json!({"address": "here"}),
        r#"[spec.address: Invalid value: "here": spec.address in body must validate at least one schema (anyOf), spec.address: Invalid value: "here": spec.address in body must be of type ipv4: "here"]"#,
    );
    refused(json!({"object": {"kind": "Pod"}}), "spec.object.apiVersion: Required value: must not be empty");
}

#[test]
fn unit_versions_are_the_same_objects() {
    let api = with_hives();
    let kinds = api.kinds();
    let beta = kinds.by_path("bees.example", "v1beta1", "hives").unwrap();
    let (spec, options) = (json!({"color": "brown"}), Default::default());
    let made = api.create_of(beta, hive(spec), &options).unwrap();
    assert_eq!(made["apiVersion"], "bees.example/v1beta1");
    let stored = api.get("hives", "default", "a").unwrap();
    assert_eq!(
        (&stored["apiVersion"], &stored["metadata"]["uid"]),
        (&json!("bees.example/v1"), &made["metadata"]["uid"])
    );
    let mut watch = api.watch_of(beta, None, &Default::default()).unwrap();
    assert_eq!(watch.try_next().unwrap().unwrap().object["apiVersion"], "bees.example/v1beta1");
    let listed = api.list_of(beta, None, &ListOptions::default()).unwrap().items;
    assert_eq!(listed[0]["apiVersion"], "bees.example/v1beta1");
}

#[test]
fn unit_status_scale_and_generation_are_separate() {
    let api = with_hives();
    let mut new = hive(json!({"color": "brown"}));
    new["status"] = json!({"size": 7});
    let made = api.create("hives", new).unwrap();
    assert!(made.get("status").is_none(), "a new object brings no status: {made}");
    assert_eq!(made["metadata"]["generation"], 1);
    let (merge, status) =
        (PatchKind::Merge, json!({"status": {"size": 2, "labels": "a=b"}, "spec": {"size": 9}}));
    let after = api.patch_status("hives", "default", "a", &merge, &status).unwrap();
    assert_eq!((&after["status"]["size"], &after["spec"]["size"]), (&json!(2), &json!(1)));
    assert_eq!(after["metadata"]["generation"], 1);
    let kind = api.kind("hives").unwrap();
    let key = beeline_apiserver_objects::ObjectKey::new("default", "a");
    let scale = api
        .patch_scale(&kind, &key, &merge, &json!({"spec": {"replicas": 4}}), &WriteOptions::default())
        .unwrap();
    assert_eq!(scale["spec"]["replicas"], 4);
    assert_eq!(scale["status"], json!({"replicas": 2, "selector": "a=b"}));
    let after = api.get("hives", "default", "a").unwrap();
    assert_eq!((&after["spec"]["size"], &after["metadata"]["generation"]), (&json!(4), &json!(2)));
}

fn definition_refused(change: impl FnOnce(&mut Value), expected: &str) {
    let mut definition = definition(hive_schema());
    change(&mut definition);
    let error = api().create("crd", definition).expect_err(expected);
    assert!(error.message.contains(expected), "{}\nshould contain {expected}", error.message);
}

#[test]
fn unit_definitions_that_are_not_structural_are_refused() {
    definition_refused(|crd| crd["metadata"]["name"] = json!("x.bees.example"), "must be spec.names.plural+");
    definition_refused(|crd| crd["spec"]["scope"] = json!("Galaxy"), "spec.scope: Unsupported value");
    definition_refused(
        |crd| crd["spec"]["versions"][0]["storage"] = json!(true),
        "exactly one version marked as storage",
    );
    definition_refused(
        |crd| crd["spec"]["conversion"] = json!({"strategy": "Webhook"}),
        "spec.conversion.strategy: Unsupported value: \"Webhook\"",
    );
    let schema = "/spec/versions/0/schema/openAPIV3Schema";
    definition_refused(
        |crd| *crd.pointer_mut(&format!("{schema}/properties/spec/properties/color")).unwrap() = json!({}),
        "spec.versions[0].schema.openAPIV3Schema.properties[spec].properties[color].type: Required value",
    );
    definition_refused(
        |crd| {
            crd.pointer_mut(&format!("{schema}/properties/spec/properties/size")).unwrap()["default"] =
                json!("x")
        },
        "properties[spec].properties[size].default: Invalid value: \"string\"",
    );
    definition_refused(
        |crd| {
            crd.pointer_mut(&format!("{schema}/properties/spec/properties/name")).unwrap()["pattern"] =
                json!("[")
        },
        "must be a valid regular expression",
    );
    definition_refused(
        |crd| {
            crd.pointer_mut(&format!("{schema}/properties/spec/properties/one/oneOf/0")).unwrap()["type"] =
                json!("object");
        },
        "oneOf[0].type: Forbidden: must be empty to be structural",
    );
}

#[test]
fn unit_names_belong_to_the_first_definition() {
    let api = with_hives();
    let mut second = definition(hive_schema());
    second["metadata"]["name"] = json!("hivelets.bees.example");
    second["spec"]["names"] = json!({"plural": "hivelets", "kind": "Hivelet", "shortNames": ["hv"]});
    let second = api.create("crd", second).unwrap();
    assert_eq!(second["status"]["conditions"][0]["status"], "False", "{}", second["status"]);
    assert_eq!(api.kind("hivelets").unwrap_err().code, 404);
    assert_eq!(api.kind("hv").unwrap().plural, "hives");
}

#[test]
fn unit_unevaluated_rules_give_a_warning() {
    let mut schema = hive_schema();
    schema["x-kubernetes-validations"] = json!([{"rule": "self.spec.size > 1"}]);
    let found = warnings(&definition(schema));
    assert!(found[0].contains("hives.bees.example: 2 CEL rules"), "{found:?}");
    assert!(warnings(&definition(hive_schema())).is_empty());
}
