//! Volumes: names, and one source each.

use std::collections::HashSet;

use beeline_apiserver_objects::{
    Cause,
    object::{array_at, str_at},
};
use serde_json::{Value, json};

use super::super::checks::check_label_1123;
use super::container::check_local_descending_path;

/// Required fields of volume sources.
const REQUIRED: &[(&str, &str)] = &[
    ("hostPath", "path"),
    ("secret", "secretName"),
    ("configMap", "name"),
    ("persistentVolumeClaim", "claimName"),
    ("nfs", "server"),
    ("nfs", "path"),
    ("csi", "driver"),
];

/// Checks the volumes and returns their names.
pub(super) fn check<'a>(path: &str, spec: &'a Value, causes: &mut Vec<Cause>) -> HashSet<&'a str> {
    let mut names = HashSet::new();
    for (index, volume) in array_at(spec, "/volumes").iter().enumerate() {
        let field = format!("{path}.volumes[{index}]");
        let name = str_at(volume, "/name");
        if name.is_empty() {
            causes.push(Cause::required(format!("{field}.name"), ""));
        } else {
            check_label_1123(format!("{field}.name"), name, causes);
        }
        if !names.insert(name) {
            causes.push(Cause::duplicate(format!("{field}.name"), &json!(name)));
        }
        check_kind(&field, volume, causes);
    }
    names
}

fn check_kind(field: &str, volume: &Value, causes: &mut Vec<Cause>) {
    let fields = volume.as_object().into_iter().flatten();
    let kinds: Vec<&String> =
        fields.filter(|(name, value)| *name != "name" && !value.is_null()).map(|(name, _)| name).collect();
    let Some((first, more)) = kinds.split_first() else {
        return causes.push(Cause::required(field, "must specify a volume type"));
    };
    for kind in more {
        causes.push(Cause::forbidden(format!("{field}.{kind}"), "may not specify more than 1 volume type"));
    }
    for (kind, needed) in REQUIRED.iter().filter(|(kind, _)| kind == first) {
        if str_at(volume, &format!("/{kind}/{needed}")).is_empty() {
            causes.push(Cause::required(format!("{field}.{kind}.{needed}"), ""));
        }
    }
    let own = &volume[first.as_str()];
    check_files(&format!("{field}.{first}"), own, causes);
    for (index, source) in array_at(own, "/sources").iter().enumerate() {
        for (kind, source) in source.as_object().into_iter().flatten() {
            check_files(&format!("{field}.{first}.sources[{index}].{kind}"), source, causes);
        }
    }
}

/// Items of projected keys or fields.
fn check_files(field: &str, source: &Value, causes: &mut Vec<Cause>) {
    for (index, item) in array_at(source, "/items").iter().enumerate() {
        let field = |name: &str| format!("{field}.items[{index}].{name}");
        let path = str_at(item, "/path");
        if path.is_empty() {
            causes.push(Cause::required(field("path"), ""));
        }
        check_local_descending_path(field("path"), path, causes);
    }
}
