//! Registry of definitions: accepts their names, writes their status and builds the served kinds.

use std::collections::HashSet;
use std::sync::Arc;

use beeline_apiserver_objects::object::{self, array_at, str_at, strs_at};
use beeline_apiserver_schema::custom::DefinitionState;
use beeline_apiserver_schema::definition::kinds_of;
use beeline_apiserver_schema::{Kind, Kinds};
use beeline_apiserver_storage::Store;
use serde_json::{Value, json};

/// Finalizer that keeps a definition until its objects are deleted.
pub const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Processes all definitions: writes their statuses and returns the kinds to serve. `kind` is
/// CustomResourceDefinition.
pub(crate) fn refresh(store: &mut Store, kinds: &Kinds, kind: &Arc<Kind>) -> Kinds {
    let mut definitions: Vec<Arc<Value>> = store.list(kind, None, None).map(|(_, one)| one.clone()).collect();
    // Definitions with accepted names keep them; then the older definition wins.
    definitions.sort_by_key(|one| (!has_condition(one, "NamesAccepted"), object::resource_version(one)));
    let mut taken = TakenNames::by_built_in(kinds);
    let mut served = Vec::new();
    for definition in definitions {
        let conflict = taken.conflict(&definition);
        if conflict.is_none() {
            taken.take(&definition);
            served.extend(reuse_or_build(kinds, &definition));
        }
        let status = status(&definition, conflict.as_deref());
        if definition["status"] != status {
            let mut next = Value::clone(&definition);
            next["status"] = status;
            store.put(kind, next);
        }
    }
    stop_serving_removed(store, kinds, &served);
    kinds.with_custom(served)
}

/// Ends the watches of kinds that are no longer served.
fn stop_serving_removed(store: &mut Store, before: &Kinds, served: &[Arc<Kind>]) {
    served.iter().for_each(|kind| store.start_serving(kind));
    let left: HashSet<String> = served.iter().map(|kind| kind.resource()).collect();
    for kind in before.iter().filter(|kind| kind.custom.is_some()) {
        if !left.contains(&kind.resource()) {
            store.stop_serving(kind);
        }
    }
}

/// Building a schema is slow, so unchanged definitions keep their kinds.
fn reuse_or_build(kinds: &Kinds, definition: &Value) -> Vec<Arc<Kind>> {
    let origin = DefinitionState::of(definition);
    let kept: Vec<Arc<Kind>> = kinds
        .iter()
        .filter(|kind| kind.custom.as_ref().is_some_and(|custom| custom.origin == origin))
        .cloned()
        .collect();
    if kept.is_empty() { kinds_of(definition).into_iter().map(Arc::new).collect() } else { kept }
}

/// Names that must be unique within a group.
struct TakenNames {
    names: HashSet<(String, String)>,
    kinds: HashSet<(String, String)>,
}

impl TakenNames {
    fn by_built_in(kinds: &Kinds) -> Self {
        let mut taken = Self { names: HashSet::new(), kinds: HashSet::new() };
        for kind in kinds.iter().filter(|kind| kind.custom.is_none()) {
            taken.names.insert((kind.group.to_string(), kind.plural.to_string()));
            taken.kinds.insert((kind.group.to_string(), kind.kind.to_string()));
        }
        taken
    }

    /// The first name that is already taken.
    fn conflict(&self, definition: &Value) -> Option<String> {
        let group = str_at(definition, "/spec/group").to_owned();
        let name = |name: &&str| self.names.contains(&(group.clone(), (*name).to_owned()));
        let kind = |kind: &&str| self.kinds.contains(&(group.clone(), (*kind).to_owned()));
        let found = names(definition).into_iter().find(name);
        found.or_else(|| kind_names(definition).into_iter().find(kind)).map(str::to_owned)
    }

    fn take(&mut self, definition: &Value) {
        let group = str_at(definition, "/spec/group");
        let pair = |name: &str| (group.to_owned(), name.to_owned());
        self.names.extend(names(definition).into_iter().map(pair));
        self.kinds.extend(kind_names(definition).into_iter().map(pair));
    }
}

fn names(definition: &Value) -> Vec<&str> {
    let mut names = strs_at(definition, "/spec/names/shortNames");
    names.extend([str_at(definition, "/spec/names/plural"), str_at(definition, "/spec/names/singular")]);
    names
}

fn kind_names(definition: &Value) -> [&str; 2] {
    [str_at(definition, "/spec/names/kind"), str_at(definition, "/spec/names/listKind")]
}

fn has_condition(definition: &Value, name: &str) -> bool {
    array_at(definition, "/status/conditions")
        .iter()
        .any(|one| one["type"] == name && one["status"] == "True")
}

fn status(definition: &Value, conflict: Option<&str>) -> Value {
    let mut conditions = match conflict {
        None => vec![
            condition(definition, "NamesAccepted", true, "NoConflicts", "no conflicts found"),
            condition(
                definition,
                "Established",
                true,
                "InitialNamesAccepted",
                "the initial names have been accepted",
            ),
        ],
        Some(name) => vec![
            condition(
                definition,
                "NamesAccepted",
                false,
                "NamesConflict",
                &format!("{name:?} is already in use"),
            ),
            condition(definition, "Established", false, "NotAccepted", "not all names are accepted"),
        ],
    };
    if object::is_deleting(definition) {
        let names = "CustomResource deletion is in progress";
        conditions.push(condition(definition, "Terminating", true, "InstanceDeletionInProgress", names));
    }
    let accepted = if conflict.is_none() {
        definition["spec"]["names"].clone()
    } else {
        json!({"plural": "", "kind": ""})
    };
    json!({"conditions": conditions, "acceptedNames": accepted, "storedVersions": stored_versions(definition)})
}

fn stored_versions(definition: &Value) -> Vec<&str> {
    let mut stored = strs_at(definition, "/status/storedVersions");
    let now = array_at(definition, "/spec/versions").iter().find(|one| object::bool_at(one, "/storage"));
    if let Some(now) = now.map(|version| str_at(version, "/name")).filter(|now| !stored.contains(now)) {
        stored.push(now);
    }
    stored
}

/// A condition. Its transition time changes only with its status.
fn condition(definition: &Value, name: &str, holds: bool, reason: &str, message: &str) -> Value {
    let status = if holds { "True" } else { "False" };
    let before = array_at(definition, "/status/conditions").iter().find(|one| one["type"] == name);
    let time = match before.filter(|before| before["status"] == status) {
        Some(before) => before["lastTransitionTime"].clone(),
        None => json!(object::now()),
    };
    json!({"type": name, "status": status, "reason": reason, "message": message, "lastTransitionTime": time})
}
