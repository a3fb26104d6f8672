//! CustomResourceDefinitions: defaulting, validation, and the kinds that they define.
//!
//! CEL rules (`x-kubernetes-validations`) are stored but not evaluated; applying a definition that
//! has some returns a warning.

use std::sync::Arc;

use beeline_apiserver_objects::Cause;
use beeline_apiserver_objects::object::{array_at, bool_at, child_mut, set_default, str_at, strs_at};
use serde_json::{Value, json};

use crate::custom::schema::{List, Pattern, Schema, Type};
use crate::custom::{CustomResource, rules};
use crate::kind::{Kind, NameRule, priority};
use crate::names::{is_label_1035, is_subdomain_1123};

/// Kinds of an accepted definition, one per version, the preferred version first.
pub fn kinds_of(definition: &Value) -> Vec<Kind> {
    let mut versions: Vec<&Value> = array_at(definition, "/spec/versions").iter().collect();
    versions.retain(|version| bool_at(version, "/served"));
    versions.sort_by_key(|version| priority(str_at(version, "/name")));
    versions.into_iter().map(|version| kind_of(definition, version)).collect()
}

fn kind_of(definition: &Value, version: &Value) -> Kind {
    let names = &definition["spec"]["names"];
    let string = |field: &str| names[field].as_str().unwrap_or_default().to_owned();
    let owned = |pointer: &str| strs_at(names, pointer).into_iter().map(str::to_owned).collect::<Vec<_>>();
    let custom = CustomResource::of(definition, version);
    Kind {
        group: str_at(definition, "/spec/group").to_owned().into(),
        version: str_at(version, "/name").to_owned().into(),
        kind: string("kind").into(),
        plural: string("plural").into(),
        short_names: owned("/shortNames").into_iter().map(Into::into).collect(),
        namespaced: str_at(definition, "/spec/scope") == "Namespaced",
        status: version.pointer("/subresources/status").is_some(),
        scale: custom.scale.is_some(),
        in_category_all: custom.categories.iter().any(|one| one == "all"),
        name_rule: NameRule::Subdomain1123,
        objects_max: None,
        prune: None,
        describe: None,
        custom: Some(Arc::new(custom)),
    }
}

/// Sets the defaults of a definition.
pub fn complete(definition: &mut Value) {
    let spec = child_mut(definition, "spec");
    set_default(spec, "conversion", json!({"strategy": "None"}));
    let names = child_mut(&mut definition["spec"], "names");
    let kind = names.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    if !kind.is_empty() {
        set_default(names, "singular", kind.to_lowercase());
        set_default(names, "listKind", format!("{kind}List"));
    }
}

/// Warnings about an accepted definition.
pub fn warnings(definition: &Value) -> Vec<String> {
    let versions = array_at(definition, "/spec/versions").iter();
    let rules: usize = versions.map(|version| count_rules(&version["schema"])).sum();
    if rules == 0 {
        return Vec::new();
    }
    let name = beeline_apiserver_objects::object::name(definition);
    vec![format!(
        "{name}: {rules} CEL rules (x-kubernetes-validations) are kept but not evaluated by the lab's API server: \
         it takes objects that a real cluster may refuse"
    )]
}

fn count_rules(source: &Value) -> usize {
    match source {
        Value::Object(fields) => {
            let own = fields.get("x-kubernetes-validations").and_then(Value::as_array).map_or(0, Vec::len);
            own + fields.values().map(count_rules).sum::<usize>()
        }
        Value::Array(elements) => elements.iter().map(count_rules).sum(),
        _ => 0,
    }
}

/// All validation errors of a definition.
pub fn check(definition: &Value, before: Option<&Value>, causes: &mut Vec<Cause>) {
    let spec = &definition["spec"];
    check_names(definition, causes);
    check_conversion(spec, causes);
    if bool_at(spec, "/preserveUnknownFields") {
        let why = "must be false in order to use defaults in the schema";
        causes.push(Cause::invalid("spec.preserveUnknownFields", &json!(true), why));
    }
    check_versions(spec, causes);
    for (index, version) in array_at(spec, "/versions").iter().enumerate() {
        check_version(&format!("spec.versions[{index}]"), version, causes);
    }
    if let Some(before) = before {
        check_unchanged(definition, before, causes);
    }
}

fn check_names(definition: &Value, causes: &mut Vec<Cause>) {
    let spec = &definition["spec"];
    let (group, plural) = (str_at(spec, "/group"), str_at(spec, "/names/plural"));
    if group.is_empty() {
        causes.push(Cause::required("spec.group", ""));
    } else if !is_subdomain_1123(group) || !group.contains('.') {
        causes.push(Cause::invalid("spec.group", &json!(group), "should be a domain with at least one dot"));
    }
    let expected = format!("{plural}.{group}");
    if beeline_apiserver_objects::object::name(definition) != expected {
        let name = json!(beeline_apiserver_objects::object::name(definition));
        causes.push(Cause::invalid("metadata.name", &name, "must be spec.names.plural+\".\"+spec.group"));
    }
    let scope = &spec["scope"];
    if !matches!(scope.as_str(), Some("Cluster" | "Namespaced")) {
        causes.push(Cause::unsupported("spec.scope", scope, &["Cluster", "Namespaced"]));
    }
    for field in ["plural", "singular", "kind", "listKind"] {
        let name = str_at(spec, &format!("/names/{field}"));
        let path = format!("spec.names.{field}");
        if name.is_empty() {
            causes.push(Cause::required(path, ""));
        } else if !is_label_1035(&name.to_lowercase()) {
            let why = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
                       alphabetic character, and end with an alphanumeric character";
            causes.push(Cause::invalid(path, &json!(name), why));
        }
    }
    if str_at(spec, "/names/kind") == str_at(spec, "/names/listKind") {
        let why = "kind and listKind may not be the same";
        causes.push(Cause::invalid("spec.names.listKind", &spec["names"]["listKind"], why));
    }
}

/// Conversion webhooks are not supported.
fn check_conversion(spec: &Value, causes: &mut Vec<Cause>) {
    let strategy = &spec["conversion"]["strategy"];
    if strategy != "None" {
        causes.push(Cause::unsupported("spec.conversion.strategy", strategy, &["None"]));
    }
}

fn check_versions(spec: &Value, causes: &mut Vec<Cause>) {
    let versions = array_at(spec, "/versions");
    let names: Vec<&str> = versions.iter().map(|version| str_at(version, "/name")).collect();
    let stored = versions.iter().filter(|version| bool_at(version, "/storage")).count();
    if stored != 1 {
        let why = "must have exactly one version marked as storage version";
        causes.push(Cause::invalid("spec.versions", &json!(names), why));
    }
    for (index, name) in names.iter().enumerate() {
        let path = format!("spec.versions[{index}].name");
        if !is_label_1035(name) {
            let why = "a DNS-1035 label must consist of lower case alphanumeric characters or '-'";
            causes.push(Cause::invalid(path, &json!(name), why));
        } else if names[..index].contains(name) {
            causes.push(Cause::duplicate(path, &json!(name)));
        }
    }
}

fn check_version(path: &str, version: &Value, causes: &mut Vec<Cause>) {
    let schema_path = format!("{path}.schema.openAPIV3Schema");
    match version.pointer("/schema/openAPIV3Schema") {
        None | Some(Value::Null) => causes.push(Cause::required(schema_path, "schemas are required")),
        Some(schema) => {
            if schema["type"] != "object" {
                let field = format!("{schema_path}.type");
                causes.push(Cause::invalid(field, &schema["type"], "must be object at the root"));
            }
            check_schema(&schema_path, schema, causes);
        }
    }
    for (index, column) in array_at(version, "/additionalPrinterColumns").iter().enumerate() {
        let path = format!("{path}.additionalPrinterColumns[{index}]");
        for field in ["name", "type", "jsonPath"] {
            if str_at(column, &format!("/{field}")).is_empty() {
                causes.push(Cause::required(format!("{path}.{field}"), ""));
            }
        }
        let known = ["integer", "number", "string", "boolean", "date"];
        if !known.contains(&str_at(column, "/type")) {
            causes.push(Cause::unsupported(format!("{path}.type"), &column["type"], &known));
        }
    }
    if let Some(scale) = version.pointer("/subresources/scale") {
        check_scale(&format!("{path}.subresources.scale"), scale, causes);
    }
}

fn check_scale(path: &str, scale: &Value, causes: &mut Vec<Cause>) {
    for (field, root) in [("specReplicasPath", ".spec."), ("statusReplicasPath", ".status.")] {
        let given = str_at(scale, &format!("/{field}"));
        if given.is_empty() {
            causes.push(Cause::required(format!("{path}.{field}"), ""));
        } else if !given.starts_with(root) || given.contains('[') {
            let why = format!("should be a json path under {}", root.trim_end_matches('.'));
            causes.push(Cause::invalid(format!("{path}.{field}"), &json!(given), why));
        }
    }
}

/// Checks one level of a schema, which must be structural, and the levels below it.
fn check_schema(path: &str, schema: &Value, causes: &mut Vec<Cause>) {
    check_type(path, schema, causes);
    check_forbidden(path, schema, causes);
    check_list(path, schema, causes);
    if let Some(pattern) = schema["pattern"].as_str().filter(|text| Pattern::of(text).regex.is_none()) {
        let why = "must be a valid regular expression";
        causes.push(Cause::invalid(format!("{path}.pattern"), &json!(pattern), why));
    }
    if let Some(default) = schema.get("default") {
        for cause in rules::check(&Schema::of(schema), default) {
            let field = match cause.field.as_str() {
                "<nil>" | "" => format!("{path}.default"),
                field => format!("{path}.default.{field}"),
            };
            causes.push(Cause { field, ..cause });
        }
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        check_schema(&format!("{path}.properties[{name}]"), property, causes);
    }
    for (field, place) in [("items", "items"), ("additionalProperties", "additionalProperties")] {
        if schema[field].is_object() {
            check_schema(&format!("{path}.{place}"), &schema[field], causes);
        }
    }
    for junction in ["allOf", "anyOf", "oneOf"] {
        for (index, part) in array_at(schema, &format!("/{junction}")).iter().enumerate() {
            check_part(&format!("{path}.{junction}[{index}]"), part, schema, causes);
        }
    }
    if schema["not"].is_object() {
        check_part(&format!("{path}.not"), &schema["not"], schema, causes);
    }
}

fn check_type(path: &str, schema: &Value, causes: &mut Vec<Cause>) {
    let given = str_at(schema, "/type");
    let field = format!("{path}.type");
    if bool_at(schema, "/x-kubernetes-int-or-string") {
        if !given.is_empty() {
            let why = "must be empty if x-kubernetes-int-or-string is true";
            causes.push(Cause::invalid(field, &json!(given), why));
        }
    } else if given.is_empty() {
        if !bool_at(schema, "/x-kubernetes-preserve-unknown-fields") {
            causes.push(Cause::required(field, "must not be empty for specified object fields"));
        }
    } else if Type::from_name(given).is_none() {
        let known = ["array", "boolean", "integer", "number", "object", "string"];
        causes.push(Cause::unsupported(field, &json!(given), &known));
    }
    if given == "array" && !schema["items"].is_object() {
        causes.push(Cause::required(format!("{path}.items"), "must be specified"));
    }
    if bool_at(schema, "/x-kubernetes-embedded-resource") && given != "object" {
        let why = "must be object if x-kubernetes-embedded-resource is true";
        causes.push(Cause::invalid(format!("{path}.type"), &json!(given), why));
    }
}

fn check_forbidden(path: &str, schema: &Value, causes: &mut Vec<Cause>) {
    let mut forbid = |field: &str, why: &str| causes.push(Cause::forbidden(format!("{path}.{field}"), why));
    if schema.get("$ref").is_some() {
        forbid("$ref", "$ref is not supported");
    }
    if bool_at(schema, "/uniqueItems") {
        forbid(
            "uniqueItems",
            "uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
        );
    }
    let has_properties = schema["properties"].as_object().is_some_and(|properties| !properties.is_empty());
    match schema.get("additionalProperties") {
        Some(Value::Bool(false)) => {
            forbid("additionalProperties", "additionalProperties cannot be set to false");
        }
        Some(_) if has_properties => {
            forbid("additionalProperties", "additionalProperties and properties are mutual exclusive");
        }
        _ => {}
    }
}

fn check_list(path: &str, schema: &Value, causes: &mut Vec<Cause>) {
    let given = str_at(schema, "/x-kubernetes-list-type");
    if given.is_empty() {
        return;
    }
    let known = ["atomic", "set", "map"];
    let field = format!("{path}.x-kubernetes-list-type");
    if !known.contains(&given) {
        causes.push(Cause::unsupported(field, &json!(given), &known));
    } else if schema["type"] != "array" {
        causes.push(Cause::invalid(
            format!("{path}.type"),
            &schema["type"],
            "must be array if x-kubernetes-list-type is specified",
        ));
    }
    let List::Map(keys) = Schema::of(schema).list else { return };
    if keys.is_empty() {
        let why = "must not be empty if x-kubernetes-list-type is map";
        causes.push(Cause::required(format!("{path}.x-kubernetes-list-map-keys"), why));
    }
    let element = &schema["items"];
    for key in &keys {
        let property = &element["properties"][key.as_str()];
        let required = array_at(element, "/required").iter().any(|one| one == key);
        if property.is_null() {
            let field = format!("{path}.x-kubernetes-list-map-keys");
            let why = "entries have to be properties of the items of the list";
            causes.push(Cause::invalid(field, &json!(key), why));
        } else if !required && property.get("default").is_none() {
            let field = format!("{path}.items.properties[{key}].default");
            let why = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            causes.push(Cause::required(field, why));
        }
    }
}

/// Below a logical junctor only value validations are allowed; types and defaults belong outside.
fn check_part(path: &str, part: &Value, parent: &Value, causes: &mut Vec<Cause>) {
    let junction_of_int_or_string = bool_at(parent, "/x-kubernetes-int-or-string");
    for field in ["type", "default", "nullable", "description", "additionalProperties"] {
        let empty = match part.get(field) {
            None | Some(Value::Null | Value::Bool(false)) => true,
            Some(Value::String(text)) => text.is_empty() || field == "type" && junction_of_int_or_string,
            Some(_) => false,
        };
        if !empty {
            causes.push(Cause::forbidden(format!("{path}.{field}"), "must be empty to be structural"));
        }
    }
    for (name, property) in part["properties"].as_object().into_iter().flatten() {
        check_part(&format!("{path}.properties[{name}]"), property, &parent["properties"][name], causes);
    }
    if part["items"].is_object() {
        check_part(&format!("{path}.items"), &part["items"], &parent["items"], causes);
    }
    for junction in ["allOf", "anyOf", "oneOf"] {
        for (index, inner) in array_at(part, &format!("/{junction}")).iter().enumerate() {
            check_part(&format!("{path}.{junction}[{index}]"), inner, parent, causes);
        }
    }
}

fn check_unchanged(definition: &Value, before: &Value, causes: &mut Vec<Cause>) {
    for pointer in ["/spec/group", "/spec/scope", "/spec/names/plural", "/spec/names/kind"] {
        if definition.pointer(pointer) != before.pointer(pointer) {
            let value = definition.pointer(pointer).cloned().unwrap_or_default();
            causes.push(Cause::invalid(pointer[1..].replace('/', "."), &value, "field is immutable"));
        }
    }
    let names: Vec<&str> =
        array_at(definition, "/spec/versions").iter().map(|one| str_at(one, "/name")).collect();
    for (index, stored) in
        beeline_apiserver_objects::object::strs_at(before, "/status/storedVersions").iter().enumerate()
    {
        if !names.contains(stored) {
            let field = format!("status.storedVersions[{index}]");
            causes.push(Cause::invalid(field, &json!(stored), "must appear in spec.versions"));
        }
    }
}
