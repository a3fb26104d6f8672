//! Names, labels, annotations, finalizers and owner references.

use std::collections::BTreeSet;

use beeline_apiserver_objects::{
    Cause,
    object::{self, FOREGROUND, ORPHAN, bool_at, str_at, strs_at},
};
use serde_json::{Value, json};

use crate::names::{
    NAME_RULE, SUBDOMAIN_RULE, is_label_1035, is_label_1123, is_label_value, is_qualified_name,
    is_subdomain_1123,
};
use crate::{Kind, kind::NameRule};

const ANNOTATIONS_MAX: usize = 256 * 1024;

pub(super) fn check(kind: &Kind, object: &Value, before: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    check_name(kind, "metadata.name", object::name(object), &mut causes);
    let start = str_at(object, "/metadata/generateName");
    if !start.is_empty() {
        check_name(kind, "metadata.generateName", &mask_trailing_dash(start), &mut causes);
    }
    if kind.namespaced && !is_label_1123(object::namespace(object)) {
        causes.push(Cause::invalid("metadata.namespace", &json!(object::namespace(object)), NAME_RULE));
    }
    check_labels("metadata.labels", &object["metadata"]["labels"], &mut causes);
    check_annotations("metadata.annotations", &object["metadata"]["annotations"], &mut causes);
    check_owners(object, &mut causes);
    check_finalizers(kind, object, before, &mut causes);
    causes
}

fn check_name(kind: &Kind, field: &str, name: &str, causes: &mut Vec<Cause>) {
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
        causes.push(Cause::invalid(field, &json!(name), rule));
    }
}

/// Masks a trailing dash, which a `generateName` prefix may have but a name may not.
fn mask_trailing_dash(start: &str) -> String {
    match start.strip_suffix('-') {
        Some(rest) if !rest.is_empty() => format!("{rest}a"),
        _ => start.to_owned(),
    }
}

pub(super) fn check_labels(field: &str, labels: &Value, causes: &mut Vec<Cause>) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        check_key(field, key, key, causes);
        if !value.as_str().is_some_and(is_label_value) {
            let why = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and \
                       must start and end with an alphanumeric character, at most 63 of them";
            causes.push(Cause::invalid(field, value, why));
        }
    }
}

pub(super) fn check_annotations(field: &str, annotations: &Value, causes: &mut Vec<Cause>) {
    let mut size = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        size += key.len() + value.as_str().map_or(0, str::len);
        check_key(field, key, &key.to_lowercase(), causes);
    }
    if size > ANNOTATIONS_MAX {
        causes.push(Cause::too_long(field, ANNOTATIONS_MAX as u64));
    }
}

fn check_key(field: &str, given: &str, key: &str, causes: &mut Vec<Cause>) {
    if !is_qualified_name(key) {
        let why = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
                   alphanumeric character, at most 63 of them; a prefix before '/' must be a DNS subdomain";
        causes.push(Cause::invalid(field, &json!(given), why));
    }
}

fn check_owners(object: &Value, causes: &mut Vec<Cause>) {
    let list = "metadata.ownerReferences";
    for (index, owner) in object::owner_references(object).iter().enumerate() {
        let required = [("apiVersion", "version must not be empty"), ("kind", ""), ("name", ""), ("uid", "")];
        for (field, why) in
            required.into_iter().filter(|(field, _)| str_at(owner, &format!("/{field}")).is_empty())
        {
            let why = if why.is_empty() { "must not be empty" } else { why };
            causes.push(Cause::invalid(format!("{list}[{index}].{field}"), &json!(""), why));
        }
        if (str_at(owner, "/apiVersion"), str_at(owner, "/kind")) == ("v1", "Event") {
            let why = "/v1, Kind=Event is disallowed from being an owner";
            causes.push(Cause::invalid(format!("{list}[{index}]"), owner, why));
        }
    }
    let controllers: Vec<&str> = object::owner_references(object)
        .iter()
        .filter(|owner| bool_at(owner, "/controller"))
        .map(|owner| str_at(owner, "/name"))
        .collect();
    if let [first, second, ..] = controllers.as_slice() {
        let why = format!(
            "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {second}"
        );
        causes.push(Cause::invalid(list, &object["metadata"]["ownerReferences"], why));
    }
}

fn check_finalizers(kind: &Kind, object: &Value, before: Option<&Value>, causes: &mut Vec<Cause>) {
    let list = "metadata.finalizers";
    let finalizers = strs_at(object, "/metadata/finalizers");
    for (index, finalizer) in finalizers.iter().enumerate() {
        if !is_qualified_name(finalizer) {
            check_key(list, finalizer, finalizer, causes);
        } else if kind.custom.is_none()
            && !finalizer.contains('/')
            && ![FOREGROUND, ORPHAN, "kubernetes"].contains(finalizer)
        {
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            causes.push(Cause::invalid(format!("{list}[{index}]"), &json!(finalizer), why));
        }
    }
    if finalizers.contains(&FOREGROUND) && finalizers.contains(&ORPHAN) {
        let why = format!("{ORPHAN} and {FOREGROUND} cannot be both set");
        causes.push(Cause::invalid(list, &json!(finalizers), why));
    }
    let Some(before) = before.filter(|before| object::is_deleting(before)) else { return };
    let old: BTreeSet<&str> = strs_at(before, "/metadata/finalizers").into_iter().collect();
    let new: Vec<&&str> = finalizers.iter().filter(|finalizer| !old.contains(**finalizer)).collect();
    if !new.is_empty() {
        let why = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers {new:?}"
        );
        causes.push(Cause::forbidden(list, why));
    }
}
