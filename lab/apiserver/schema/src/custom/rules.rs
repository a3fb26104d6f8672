//! Validates values against a schema, with the messages of Kubernetes.

use std::collections::HashSet;

use beeline_apiserver_objects::Cause;
use serde_json::{Value, json};

use super::format;
use super::schema::{Additional, Limit, List, Schema, Type};

/// All violations of the schema in the object.
pub fn check(schema: &Schema, object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    check_value(schema, object, "", &mut causes);
    causes
}

fn check_value(schema: &Schema, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    if value.is_null() && schema.nullable {
        return;
    }
    if !check_type(schema, value, path, causes) {
        return;
    }
    if !schema.allowed.is_empty() && !schema.allowed.contains(value) {
        causes.push(Cause::unsupported_of(path, value, &schema.allowed));
    }
    match value {
        Value::Object(_) => check_object(schema, value, path, causes),
        Value::Array(elements) => check_array(schema, elements, path, causes),
        Value::String(text) => check_string(schema, value, text, path, causes),
        Value::Number(_) => check_number(schema, value, path, causes),
        Value::Null | Value::Bool(_) => {}
    }
    check_combinations(schema, value, path, causes);
}

/// Returns false if no other check applies.
fn check_type(schema: &Schema, value: &Value, path: &str, causes: &mut Vec<Cause>) -> bool {
    let given = type_name(value);
    if schema.int_or_string {
        if !value.is_string() && !is_integer(value) {
            causes.push(Cause::wrong_type(path, given, "integer,string"));
            return false;
        }
        return true;
    }
    let Some(expected) = schema.kind else { return true };
    let fits = match expected {
        Type::Object => value.is_object(),
        Type::Array => value.is_array(),
        Type::String => value.is_string(),
        Type::Boolean => value.is_boolean(),
        Type::Number => value.is_number(),
        Type::Integer => is_integer(value),
    };
    if !fits {
        causes.push(Cause::wrong_type(path, given, expected.as_str()));
    }
    fits
}

fn is_integer(value: &Value) -> bool {
    value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|number| number.fract() == 0.0)
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) if is_integer(value) => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn check_object(schema: &Schema, object: &Value, path: &str, causes: &mut Vec<Cause>) {
    let fields = object.as_object().expect("the caller looked");
    for name in schema.required.iter().filter(|name| !fields.contains_key(*name)) {
        causes.push(Cause::required(child(path, name), ""));
    }
    if let Some(max) = schema.property_count.max.filter(|max| count(fields.len()) > *max) {
        causes.push(Cause::too_many(path, fields.len(), max));
    }
    if let Some(min) = schema.property_count.min.filter(|min| count(fields.len()) < *min) {
        refuse(path, object, &format!("should have at least {min} properties"), causes);
    }
    if schema.embedded {
        check_embedded(object, path, causes);
    }
    for (name, value) in fields {
        let path = child(path, name);
        match (schema.properties.get(name), &schema.additional) {
            (Some(property), _) => check_value(property, value, &path, causes),
            (None, Additional::Matching(like)) => check_value(like, value, &path, causes),
            _ => {}
        }
    }
}

fn check_embedded(object: &Value, path: &str, causes: &mut Vec<Cause>) {
    for field in ["apiVersion", "kind"] {
        if object[field].as_str().is_none_or(str::is_empty) {
            causes.push(Cause::required(child(path, field), "must not be empty"));
        }
    }
}

fn check_array(schema: &Schema, elements: &[Value], path: &str, causes: &mut Vec<Cause>) {
    if let Some(max) = schema.item_count.max.filter(|max| count(elements.len()) > *max) {
        causes.push(Cause::too_many(path, elements.len(), max));
    }
    if let Some(min) = schema.item_count.min.filter(|min| count(elements.len()) < *min) {
        let value = Value::from(elements.len());
        refuse(path, &value, &format!("should have at least {min} items"), causes);
    }
    if let Some(items) = &schema.items {
        for (index, element) in elements.iter().enumerate() {
            check_value(items, element, &format!("{path}[{index}]"), causes);
        }
    }
    check_identities(schema, elements, path, causes);
}

/// Elements of sets and maps must be unique.
fn check_identities(schema: &Schema, elements: &[Value], path: &str, causes: &mut Vec<Cause>) {
    let identity = |element: &Value| match &schema.list {
        List::Atomic => None,
        List::Set => Some(element.clone()),
        List::Map(keys) => {
            let known = keys.iter().filter_map(|key| Some((key.clone(), element.get(key)?.clone())));
            Some(Value::Object(known.collect()))
        }
    };
    let mut seen = HashSet::new();
    for (index, element) in elements.iter().enumerate() {
        let Some(identity) = identity(element) else { return };
        if !seen.insert(identity.to_string()) {
            causes.push(Cause::duplicate(format!("{path}[{index}]"), &identity));
        }
    }
}

fn check_string(schema: &Schema, value: &Value, text: &str, path: &str, causes: &mut Vec<Cause>) {
    let length = count(text.chars().count());
    if let Some(max) = schema.length.max.filter(|max| length > *max) {
        causes.push(Cause::too_long(path, max));
    }
    if let Some(min) = schema.length.min.filter(|min| length < *min) {
        refuse(path, value, &format!("should be at least {min} chars long"), causes);
    }
    if let Some(pattern) = &schema.pattern
        && !pattern.regex.as_ref().is_some_and(|regex| regex.is_match(text))
    {
        refuse(path, value, &format!("should match '{}'", pattern.text), causes);
    }
    if let Some(name) = &schema.format
        && !format::fits(name, text)
    {
        refuse(path, value, &format!("must be of type {name}: {value}"), causes);
    }
}

fn check_number(schema: &Schema, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    let number = value.as_f64().unwrap_or(f64::NAN);
    let bound = |limit: &Limit| limit.value.as_f64().unwrap_or(f64::NAN);
    if let Some(limit) = &schema.minimum
        && (number < bound(limit) || limit.exclusive && number <= bound(limit))
    {
        let message = if limit.exclusive { "greater than" } else { "greater than or equal to" };
        refuse(path, value, &format!("should be {message} {}", limit.value), causes);
    }
    if let Some(limit) = &schema.maximum
        && (number > bound(limit) || limit.exclusive && number >= bound(limit))
    {
        let message = if limit.exclusive { "less than" } else { "less than or equal to" };
        refuse(path, value, &format!("should be {message} {}", limit.value), causes);
    }
    if let Some(factor) = schema.multiple_of
        && (number / factor).fract() != 0.0
    {
        refuse(path, value, &format!("should be a multiple of {factor}"), causes);
    }
    if let Some(name @ ("int32" | "int64")) = schema.format.as_deref() {
        let fits = value.as_i64().is_some_and(|number| name == "int64" || i32::try_from(number).is_ok());
        if is_integer(value) && value.as_f64().is_some() && !fits {
            refuse(path, value, &format!("must be of type {name}: {value}"), causes);
        }
    }
}

fn check_combinations(schema: &Schema, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    let broken = |part: &Schema| {
        let mut causes = Vec::new();
        check_value(part, value, path, &mut causes);
        causes
    };
    if !schema.any_of.is_empty() && schema.any_of.iter().all(|part| !broken(part).is_empty()) {
        refuse(path, value, "must validate at least one schema (anyOf)", causes);
        causes.extend(best(schema.any_of.iter().map(broken)));
    }
    if !schema.one_of.is_empty() {
        let valid = schema.one_of.iter().filter(|part| broken(part).is_empty()).count();
        if valid != 1 {
            let found =
                if valid == 0 { "none valid".to_owned() } else { format!("{valid} valid alternatives") };
            let message = format!("must validate one and only one schema (oneOf). Found {found}");
            refuse(path, value, &message, causes);
        }
        if valid == 0 {
            causes.extend(best(schema.one_of.iter().map(broken)));
        }
    }
    let failed: Vec<Cause> = schema.all_of.iter().flat_map(broken).collect();
    if !failed.is_empty() {
        refuse(path, value, "must validate all the schemas (allOf)", causes);
        causes.extend(failed);
    }
    if schema.not.as_ref().is_some_and(|not| broken(not).is_empty()) {
        refuse(path, value, "must not validate the schema (not)", causes);
    }
}

/// The errors of the alternative with the fewest.
fn best(failures: impl Iterator<Item = Vec<Cause>>) -> Vec<Cause> {
    failures.min_by_key(Vec::len).unwrap_or_default()
}

fn refuse(path: &str, value: &Value, message: &str, causes: &mut Vec<Cause>) {
    let place = if path.is_empty() { String::new() } else { format!("{path} ") };
    // Objects are not repeated in the message.
    let shown = if value.is_object() { json!("") } else { value.clone() };
    causes.push(Cause::invalid(
        if path.is_empty() { "<nil>" } else { path },
        &shown,
        format!("{place}in body {message}"),
    ));
}

fn child(path: &str, field: &str) -> String {
    if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") }
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
