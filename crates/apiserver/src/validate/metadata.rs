//! Names, labels, annotations and owners of any object.

use serde_json::{Value, json};

use super::{NAME_RULE, SUBDOMAIN_RULE, is_label_1035, is_label_1123, is_subdomain_1123};
use crate::kinds::NameRule;
use crate::object::{self, text};
use crate::{Cause, Kind};

const ANNOTATIONS_MAX: usize = 256 * 1024;

pub(super) fn check(kind: &Kind, object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    check_name(kind, object::name(object), &mut causes);
    if kind.namespaced && !is_label_1123(object::namespace(object)) {
        causes.push(Cause::invalid("metadata.namespace", &json!(object::namespace(object)), NAME_RULE));
    }
    check_labels("metadata.labels", &object["metadata"]["labels"], &mut causes);
    check_annotations(&object["metadata"]["annotations"], &mut causes);
    for (index, owner) in object::owners(object).iter().enumerate() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if text(owner, &format!("/{field}")).is_empty() {
                let path = format!("metadata.ownerReferences[{index}].{field}");
                causes.push(Cause::required(path, "must not be empty"));
            }
        }
    }
    causes
}

fn check_name(kind: &Kind, name: &str, causes: &mut Vec<Cause>) {
    let (valid, rule) = match kind.name_rule {
        NameRule::Label1123 => (is_label_1123(name), NAME_RULE),
        NameRule::Label1035 => (
            is_label_1035(name),
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic \
             character, and end with an alphanumeric character, at most 63 of them",
        ),
        NameRule::PathSegment => {
            let valid = !matches!(name, "" | "." | "..") && !name.contains(['/', '%']);
            (valid, "may not be empty, '.' or '..', and may not contain '/' or '%'")
        }
        NameRule::Subdomain1123 => (is_subdomain_1123(name), SUBDOMAIN_RULE),
    };
    if !valid {
        causes.push(Cause::invalid("metadata.name", &json!(name), rule));
    }
}

pub(super) fn check_labels(field: &str, labels: &Value, causes: &mut Vec<Cause>) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        if !is_qualified_name(key) {
            causes.push(Cause::invalid(
                field,
                &json!(key),
                "name part must consist of alphanumeric characters, '-', '_' or '.'",
            ));
        }
        if !value.as_str().is_some_and(is_label_value) {
            let why = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and \
                       must start and end with an alphanumeric character, at most 63 of them";
            causes.push(Cause::invalid(field, value, why));
        }
    }
}

fn check_annotations(annotations: &Value, causes: &mut Vec<Cause>) {
    let mut size = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        size += key.len() + value.as_str().map_or(0, str::len);
        if !is_qualified_name(&key.to_lowercase()) {
            let why = "name part must consist of alphanumeric characters, '-', '_' or '.'";
            causes.push(Cause::invalid("metadata.annotations", &json!(key), why));
        }
    }
    if size > ANNOTATIONS_MAX {
        let why = format!("Too long: must have at most {ANNOTATIONS_MAX} bytes");
        causes.push(Cause::invalid("metadata.annotations", &json!(size), why));
    }
}

/// `[PREFIX/]NAME`.
pub(super) fn is_qualified_name(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => is_subdomain_1123(prefix) && !name.is_empty() && is_label_value(name),
        None => !key.is_empty() && is_label_value(key),
    }
}

fn is_label_value(text: &str) -> bool {
    let inside = |letter: u8| letter.is_ascii_alphanumeric() || b"-_.".contains(&letter);
    let edge = |letter: Option<u8>| letter.is_none_or(|letter| letter.is_ascii_alphanumeric());
    text.len() <= 63 && text.bytes().all(inside) && edge(text.bytes().next()) && edge(text.bytes().last())
}
