//! Roles and their bindings.

use beeline_apiserver_objects::{
    Cause,
    object::{array_at, str_at},
};
use serde_json::{Value, json};

use crate::{Kind, kind::RBAC};

pub(super) fn check_role(kind: &Kind, role: &Value, causes: &mut Vec<Cause>) {
    for (index, rule) in array_at(role, "/rules").iter().enumerate() {
        check_rule(&format!("rules[{index}]"), kind.namespaced, rule, causes);
    }
}

fn check_rule(field: &str, namespaced: bool, rule: &Value, causes: &mut Vec<Cause>) {
    let has = |list: &str| !array_at(rule, list).is_empty();
    if !has("/verbs") {
        causes.push(Cause::required(format!("{field}.verbs"), "verbs must contain at least one value"));
    }
    if has("/nonResourceURLs") {
        let mut refuse = |why: &str| {
            causes.push(Cause::invalid(format!("{field}.nonResourceURLs"), &rule["nonResourceURLs"], why));
        };
        if namespaced {
            refuse("namespaced rules cannot apply to non-resource URLs");
        }
        if has("/apiGroups") || has("/resources") || has("/resourceNames") {
            refuse("rules cannot apply to both regular resources and non-resource URLs");
        }
        return;
    }
    if !has("/apiGroups") {
        let why = "resource rules must supply at least one api group";
        causes.push(Cause::required(format!("{field}.apiGroups"), why));
    }
    if !has("/resources") {
        let why = "resource rules must supply at least one resource";
        causes.push(Cause::required(format!("{field}.resources"), why));
    }
}

pub(super) fn check_binding(kind: &Kind, binding: &Value, before: Option<&Value>, causes: &mut Vec<Cause>) {
    let role = &binding["roleRef"];
    if role["apiGroup"] != RBAC {
        causes.push(Cause::unsupported("roleRef.apiGroup", &role["apiGroup"], &[RBAC]));
    }
    let kinds: &[&str] = if kind.namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if !kinds.contains(&str_at(role, "/kind")) {
        causes.push(Cause::unsupported("roleRef.kind", &role["kind"], kinds));
    }
    if str_at(role, "/name").is_empty() {
        causes.push(Cause::required("roleRef.name", ""));
    }
    for (index, subject) in array_at(binding, "/subjects").iter().enumerate() {
        check_subject(&format!("subjects[{index}]"), kind.namespaced, subject, causes);
    }
    if before.is_some_and(|before| before["roleRef"] != *role) {
        causes.push(Cause::invalid("roleRef", role, "cannot change roleRef"));
    }
}

fn check_subject(field: &str, namespaced: bool, subject: &Value, causes: &mut Vec<Cause>) {
    if str_at(subject, "/name").is_empty() {
        causes.push(Cause::required(format!("{field}.name"), ""));
    }
    let group = str_at(subject, "/apiGroup");
    let expected = match str_at(subject, "/kind") {
        "ServiceAccount" => {
            if !namespaced && str_at(subject, "/namespace").is_empty() {
                causes.push(Cause::required(format!("{field}.namespace"), ""));
            }
            ""
        }
        "User" | "Group" => RBAC,
        _ => {
            let known = ["ServiceAccount", "User", "Group"];
            return causes.push(Cause::unsupported(format!("{field}.kind"), &subject["kind"], &known));
        }
    };
    if group != expected {
        causes.push(Cause::unsupported(format!("{field}.apiGroup"), &json!(group), &[expected]));
    }
}
