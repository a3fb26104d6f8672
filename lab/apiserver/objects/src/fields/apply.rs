//! Server-side apply: merges an applied configuration into the live object and detects conflicts.

use serde_json::Value;

use super::managed::{APPLY, Entry, Manager, UPDATE};
use super::set::FieldSet;
use super::types::Type;
use super::walk::{self, compare, fields_of};
use crate::{ApiError, Cause, object};

/// Manager of all fields of an object that had no managed fields before its first apply.
const BEFORE_FIRST: &str = "before-first-apply";

/// Annotation in which client-side `kubectl apply` stores the applied configuration.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// A server-side apply request.
pub struct ApplyConfiguration<'a> {
    /// Type of the object.
    pub kind: Type<'a>,
    /// Its `apiVersion`.
    pub api_version: &'a str,
    /// Who applies it.
    pub manager: &'a Manager,
    /// Whether to take ownership of fields of other managers.
    pub force: bool,
    /// The applied configuration.
    pub config: &'a Value,
    /// The applied configuration without unknown fields.
    pub pruned_config: &'a Value,
}

/// A field that another manager owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    manager: String,
    path: String,
}

/// Returns the merged object and its managers, or the conflicts.
pub fn apply(
    live: &Value,
    managers: Vec<Entry>,
    one: &ApplyConfiguration<'_>,
) -> Result<(Value, Vec<Entry>), Vec<Conflict>> {
    let conflicts = match try_apply(live, managers.clone(), one, one.force) {
        Ok(done) => return Ok(done),
        Err(conflicts) => conflicts,
    };
    // kubectl may take ownership of fields that it applied client-side before.
    let own = if one.manager.name == "kubectl" { last_applied(live, one.kind) } else { FieldSet::default() };
    let foreign: Vec<Overlap> = conflicts
        .into_iter()
        .map(|(entry, set)| (entry, set.difference(&own)))
        .filter(|(_, set)| !set.is_empty())
        .collect();
    if foreign.is_empty() {
        let done = try_apply(live, managers, one, true);
        return done.map_err(|_| Vec::new());
    }
    Err(foreign.iter().flat_map(|(entry, set)| describe(entry, set)).collect())
}

/// A manager, and those of its fields that the request changes.
type Overlap = (Entry, FieldSet);

fn try_apply(
    live: &Value,
    mut managers: Vec<Entry>,
    one: &ApplyConfiguration<'_>,
    force: bool,
) -> Result<(Value, Vec<Entry>), Vec<Overlap>> {
    let reset_fields = &one.manager.reset_fields;
    if managers.is_empty() && live.get("metadata").is_some() {
        let everything = fields_of(live, one.kind);
        let before = Manager::new(BEFORE_FIRST, "", false);
        managers.push(Entry::new(&before, UPDATE, one.api_version, everything));
    }
    let set = fields_of(one.config, one.kind)
        .intersection(&fields_of(one.pruned_config, one.kind))
        .recursive_difference(reset_fields);
    let mine = Entry::new(one.manager, APPLY, one.api_version, set);
    let last = managers.iter().position(|entry| entry.is_same_manager(&mine)).map(|at| managers.remove(at));
    let merged = walk::merge(live, one.config, one.kind);
    let applied_object = prune(merged, last.as_ref(), &mine, &managers, one.kind);
    let difference = compare(live, &applied_object, one.kind);
    let changed = difference.added.union(&difference.modified);
    let conflicts: Vec<Overlap> = managers
        .iter()
        .map(|entry| (entry.clone(), entry.set.intersection(&changed).recursive_difference(reset_fields)))
        .filter(|(_, set)| !set.is_empty())
        .collect();
    if !force && !conflicts.is_empty() {
        return Err(conflicts);
    }
    for entry in &mut managers {
        entry.set = entry.set.difference(&changed).difference(&difference.removed);
    }
    managers.push(mine);
    Ok((applied_object, managers))
}

/// Removes fields that the manager applied before, no longer applies, and no other manager owns.
fn prune(merged: Value, last: Option<&Entry>, mine: &Entry, others: &[Entry], kind: Type<'_>) -> Value {
    let Some(last) = last.filter(|last| !last.set.is_empty()) else { return merged };
    let owned = others.iter().fold(mine.set.clone(), |all, entry| all.union(&entry.set)).with_parent_fields();
    let (last, all) = (last.set.with_parent_fields(), fields_of(&merged, kind).with_parent_fields());
    let fields = |value: &Value| fields_of(value, kind).with_parent_fields();
    // First without all fields of the last apply, then with the owned ones, then with fields that
    // were never applied, such as defaults.
    let bare = walk::remove(&merged, &last, kind);
    let owned = walk::remove(&merged, &all.difference(&fields(&bare).union(&owned)), kind);
    walk::remove(&merged, &all.difference(&fields(&owned)).intersection(&last), kind)
}

/// The fields in the last-applied annotation.
fn last_applied(live: &Value, kind: Type<'_>) -> FieldSet {
    let applied = object::annotation(live, LAST_APPLIED).and_then(|text| serde_json::from_str(text).ok());
    applied.map(|applied: Value| fields_of(&applied, kind)).unwrap_or_default()
}

fn describe(entry: &Entry, set: &FieldSet) -> Vec<Conflict> {
    let mut manager = format!("{:?}", entry.manager);
    if !entry.subresource.is_empty() {
        manager = format!("{manager} with subresource {:?}", entry.subresource);
    }
    if entry.operation == UPDATE {
        manager = format!("{manager} using {}", entry.api_version);
        if !entry.time.is_empty() {
            manager = format!("{manager} at {}", entry.time);
        }
    }
    set.paths().into_iter().map(|path| Conflict { manager: manager.clone(), path }).collect()
}

/// Error that lists all conflicts.
pub fn conflict_error(mut conflicts: Vec<Conflict>) -> ApiError {
    conflicts.sort_by(|left, right| left.manager.cmp(&right.manager));
    let message = match conflicts.as_slice() {
        [one] => format!("1 conflict: conflict with {}: {}", one.manager, one.path),
        many => {
            let mut lines = Vec::new();
            for (index, one) in many.iter().enumerate() {
                if index == 0 || many[index - 1].manager != one.manager {
                    lines.push(format!("conflicts with {}:", one.manager));
                }
                lines.push(format!("- {}", one.path));
            }
            format!("{} conflicts: {}", many.len(), lines.join("\n"))
        }
    };
    let mut error = ApiError::new(409, "Conflict", format!("Apply failed with {message}"));
    let cause = |one: Conflict| Cause {
        reason: "FieldManagerConflict",
        message: format!("conflict with {}", one.manager),
        field: one.path,
    };
    error.details.causes = conflicts.into_iter().map(cause).collect();
    error
}
