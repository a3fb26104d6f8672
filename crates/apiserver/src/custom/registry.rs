//! Which definitions are accepted, what their status says, and the kinds that follow from them.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::kinds_of;
use crate::object::{self, items, strings, text};
use crate::store::Store;
use crate::{Kind, Kinds};

/// Holds a definition until its objects are gone.
pub(crate) const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Looks at all definitions anew: writes their statuses, and gives the kinds that are served from now
/// on. `kind` is the definitions' own.
pub(crate) fn refresh(store: &mut Store, kinds: &Kinds, kind: &Arc<Kind>) -> Kinds {
    let mut definitions: Vec<Arc<Value>> = store.list(kind, None, None).map(|(_, one)| one.clone()).collect();
    // Names belong to those that have them, then to those that came first.
    definitions.sort_by_key(|one| (!has_condition(one, "NamesAccepted"), object::resource_version(one)));
    let mut taken = Taken::by_built_in(kinds);
    let mut served = Vec::new();
    for definition in definitions {
        let conflict = taken.conflict(&definition);
        if conflict.is_none() {
            taken.take(&definition);
            served.extend(kept_or_new(kinds, &definition));
        }
        let status = status(&definition, conflict.as_deref());
        if definition["status"] != status {
            let mut next = Value::clone(&definition);
            next["status"] = status;
            store.put(kind, next);
        }
    }
    close_gone(store, kinds, &served);
    kinds.with_custom(served)
}

/// Ends the watches of what is served no more.
fn close_gone(store: &mut Store, before: &Kinds, served: &[Arc<Kind>]) {
    served.iter().for_each(|kind| store.open(kind));
    let left: HashSet<String> = served.iter().map(|kind| kind.resource()).collect();
    for kind in before.iter().filter(|kind| kind.custom.is_some()) {
        if !left.contains(&kind.resource()) {
            store.close(kind);
        }
    }
}

/// Reading a schema takes time: what is as it was stays.
fn kept_or_new(kinds: &Kinds, definition: &Value) -> Vec<Arc<Kind>> {
    let origin = super::Origin::of(definition);
    let kept: Vec<Arc<Kind>> = kinds
        .iter()
        .filter(|kind| kind.custom.as_ref().is_some_and(|custom| custom.origin == origin))
        .cloned()
        .collect();
    if kept.is_empty() { kinds_of(definition).into_iter().map(Arc::new).collect() } else { kept }
}

/// Words that may stand for one kind only within a group.
struct Taken {
    words: HashSet<(String, String)>,
    kinds: HashSet<(String, String)>,
}

impl Taken {
    fn by_built_in(kinds: &Kinds) -> Self {
        let mut taken = Self { words: HashSet::new(), kinds: HashSet::new() };
        for kind in kinds.iter().filter(|kind| kind.custom.is_none()) {
            taken.words.insert((kind.group.to_string(), kind.plural.to_string()));
            taken.kinds.insert((kind.group.to_string(), kind.kind.to_string()));
        }
        taken
    }

    /// The first word that is somebody else's, with the name of the field's conflict.
    fn conflict(&self, definition: &Value) -> Option<String> {
        let group = text(definition, "/spec/group").to_owned();
        let word = |word: &&str| self.words.contains(&(group.clone(), (*word).to_owned()));
        let kind = |kind: &&str| self.kinds.contains(&(group.clone(), (*kind).to_owned()));
        let found = words(definition).into_iter().find(word);
        found.or_else(|| kind_words(definition).into_iter().find(kind)).map(str::to_owned)
    }

    fn take(&mut self, definition: &Value) {
        let group = text(definition, "/spec/group");
        let pair = |word: &str| (group.to_owned(), word.to_owned());
        self.words.extend(words(definition).into_iter().map(pair));
        self.kinds.extend(kind_words(definition).into_iter().map(pair));
    }
}

fn words(definition: &Value) -> Vec<&str> {
    let mut words = strings(definition, "/spec/names/shortNames");
    words.extend([text(definition, "/spec/names/plural"), text(definition, "/spec/names/singular")]);
    words
}

fn kind_words(definition: &Value) -> [&str; 2] {
    [text(definition, "/spec/names/kind"), text(definition, "/spec/names/listKind")]
}

fn has_condition(definition: &Value, name: &str) -> bool {
    items(definition, "/status/conditions").iter().any(|one| one["type"] == name && one["status"] == "True")
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
        Some(word) => vec![
            condition(
                definition,
                "NamesAccepted",
                false,
                "NamesConflict",
                &format!("{word:?} is already in use"),
            ),
            condition(definition, "Established", false, "NotAccepted", "not all names are accepted"),
        ],
    };
    if object::is_deleting(definition) {
        let words = "CustomResource deletion is in progress";
        conditions.push(condition(definition, "Terminating", true, "InstanceDeletionInProgress", words));
    }
    let accepted = if conflict.is_none() {
        definition["spec"]["names"].clone()
    } else {
        json!({"plural": "", "kind": ""})
    };
    json!({"conditions": conditions, "acceptedNames": accepted, "storedVersions": stored_versions(definition)})
}

fn stored_versions(definition: &Value) -> Vec<&str> {
    let mut stored = strings(definition, "/status/storedVersions");
    let now = items(definition, "/spec/versions").iter().find(|one| object::truth(one, "/storage"));
    if let Some(now) = now.map(|version| text(version, "/name")).filter(|now| !stored.contains(now)) {
        stored.push(now);
    }
    stored
}

/// A condition that keeps its time while its status stays.
fn condition(definition: &Value, name: &str, holds: bool, reason: &str, message: &str) -> Value {
    let status = if holds { "True" } else { "False" };
    let before = items(definition, "/status/conditions").iter().find(|one| one["type"] == name);
    let time = match before.filter(|before| before["status"] == status) {
        Some(before) => before["lastTransitionTime"].clone(),
        None => json!(object::now()),
    };
    json!({"type": name, "status": status, "reason": reason, "message": message, "lastTransitionTime": time})
}
