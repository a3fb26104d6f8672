//! `metadata.managedFields`: parsing, writing, and tracking of creates, updates and patches.

use serde_json::{Value, json};

use super::set::FieldSet;
use super::types::Type;
use super::walk::compare;
use crate::object::{self, str_at};

/// Maximum number of update entries per object, as in Kubernetes; older ones are merged.
const UPDATERS_MAX: usize = 10;
const ANCIENT: &str = "ancient-changes";

pub(super) const APPLY: &str = "Apply";
pub(super) const UPDATE: &str = "Update";

/// A field manager and the subresource that it writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manager {
    /// Field manager.
    pub name: String,
    /// Subresource; empty for the object itself.
    pub subresource: &'static str,
    /// Fields that the request cannot change and therefore not own.
    pub(super) reset_fields: FieldSet,
}

impl Manager {
    /// `has_status`: whether the status is a subresource.
    pub fn new(name: &str, subresource: &'static str, has_status: bool) -> Self {
        let reset_fields = match subresource {
            "status" => json!({"f:metadata": {}, "f:spec": {}}),
            _ if has_status => json!({"f:status": {}}),
            _ => json!({}),
        };
        Self { name: name.to_owned(), subresource, reset_fields: FieldSet::from_json(&reset_fields) }
    }
}

/// Fields of one manager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Field manager.
    pub manager: String,
    /// `Apply` or `Update`.
    pub operation: &'static str,
    /// Version in which the fields are named.
    pub api_version: String,
    /// Subresource; empty for the object itself.
    pub subresource: String,
    /// Time of the last change (RFC 3339).
    pub time: String,
    pub(crate) set: FieldSet,
}

impl Entry {
    pub(super) fn new(manager: &Manager, operation: &'static str, api_version: &str, set: FieldSet) -> Self {
        Self {
            manager: manager.name.clone(),
            operation,
            api_version: api_version.to_owned(),
            subresource: manager.subresource.to_owned(),
            time: object::now(),
            set,
        }
    }

    /// Whether both entries belong together: same manager, operation, subresource and, for updates,
    /// API version.
    pub(super) fn is_same_manager(&self, other: &Self) -> bool {
        self.manager == other.manager
            && self.operation == other.operation
            && self.subresource == other.subresource
            && (self.operation == APPLY || self.api_version == other.api_version)
    }

    fn read(entry: &Value) -> Option<Self> {
        let operation = [APPLY, UPDATE].into_iter().find(|name| entry["operation"] == *name)?;
        if !entry["fieldsType"].is_null() && entry["fieldsType"] != "FieldsV1" {
            return None;
        }
        let string = |pointer: &str| str_at(entry, pointer).to_owned();
        Some(Self {
            manager: string("/manager"),
            operation,
            api_version: string("/apiVersion"),
            subresource: string("/subresource"),
            time: string("/time"),
            set: FieldSet::from_json(&entry["fieldsV1"]),
        })
    }

    fn to_json(&self) -> Value {
        let mut entry = json!({
            "manager": self.manager, "operation": self.operation, "apiVersion": self.api_version,
            "fieldsType": "FieldsV1", "fieldsV1": self.set.to_json(),
        });
        for (field, value) in [("time", &self.time), ("subresource", &self.subresource)] {
            if !value.is_empty() {
                entry[field] = json!(value);
            }
        }
        entry
    }
}

/// The managed fields of an object. Invalid entries are ignored.
pub fn read(object: &Value) -> Vec<Entry> {
    object::array_at(object, "/metadata/managedFields").iter().filter_map(Entry::read).collect()
}

/// Whether the client resets the managed fields with a list of one empty entry.
pub fn is_reset(object: &Value) -> bool {
    matches!(object::array_at(object, "/metadata/managedFields"), [one] if one.as_object().is_some_and(|one| one.is_empty()))
}

/// Writes the managed fields in Kubernetes' order. Unchanged entries keep their time.
pub fn write(object: &mut Value, mut entries: Vec<Entry>, before: &[Entry]) {
    for entry in &mut entries {
        let set = std::mem::take(&mut entry.set);
        entry.set = set.recursive_difference(&stripped_fields());
    }
    entries.retain(|entry| !entry.set.is_empty());
    cap_updaters(&mut entries);
    for entry in &mut entries {
        if let Some(same) = before.iter().find(|one| one.is_same_manager(entry) && one.set == entry.set) {
            entry.time.clone_from(&same.time);
        }
    }
    entries.sort_by(|left, right| order(left).cmp(&order(right)));
    let list: Vec<Value> = entries.iter().map(Entry::to_json).collect();
    let metadata = object::metadata(object);
    if list.is_empty() {
        metadata.remove("managedFields");
    } else {
        metadata.insert("managedFields".to_owned(), list.into());
    }
}

fn order(entry: &Entry) -> [&str; 5] {
    [entry.operation, &entry.time, &entry.manager, &entry.api_version, &entry.subresource]
}

/// Fields that have no manager because the server sets them.
fn stripped_fields() -> FieldSet {
    FieldSet::from_json(&json!({
        "f:apiVersion": {}, "f:kind": {},
        "f:metadata": {
            "f:creationTimestamp": {}, "f:deletionGracePeriodSeconds": {}, "f:deletionTimestamp": {},
            "f:generation": {}, "f:managedFields": {}, "f:name": {}, "f:namespace": {},
            "f:resourceVersion": {}, "f:selfLink": {}, "f:uid": {},
        },
    }))
}

/// Merges the oldest update entries if there are too many.
fn cap_updaters(entries: &mut Vec<Entry>) {
    let mut updaters: Vec<Entry> = entries.extract_if(.., |entry| entry.operation == UPDATE).collect();
    updaters.sort_by(|left, right| order(left).cmp(&order(right)));
    while updaters.len() > UPDATERS_MAX {
        let mut oldest = updaters.remove(0);
        let version = oldest.api_version.clone();
        ANCIENT.clone_into(&mut oldest.manager);
        oldest.subresource.clear();
        match updaters.iter_mut().find(|one| one.api_version == version) {
            Some(next) if next.manager == ANCIENT => next.set = next.set.union(&oldest.set),
            // The next oldest entry is merged too, so that the number of entries decreases.
            Some(next) => {
                oldest.set = oldest.set.union(&next.set);
                oldest.time.clone_from(&next.time);
                *next = oldest;
            }
            None => break,
        }
    }
    entries.append(&mut updaters);
}

/// Updates the managed fields in `after`, which was made from `before` (none for a create).
/// `managers` are the entries before the write.
pub fn track(
    kind: Type<'_>,
    api_version: &str,
    before: Option<&Value>,
    after: &mut Value,
    managers: Vec<Entry>,
    manager: &Manager,
) {
    let known = before.map(read).unwrap_or_default();
    if before.is_some() && managers.is_empty() {
        // An object without managed fields gets none until it is applied.
        return write(after, Vec::new(), &known);
    }
    let empty_parents = before.is_none().then(|| empty_parents(after));
    let difference = compare(before.or(empty_parents.as_ref()).unwrap_or(&Value::Null), after, kind);
    let changed = difference.added.union(&difference.modified);
    let mine = Entry::new(manager, UPDATE, api_version, changed.recursive_difference(&manager.reset_fields));
    let mut managers = managers;
    for entry in managers.iter_mut() {
        let left = entry.set.difference(&difference.removed);
        entry.set = if entry.is_same_manager(&mine) { left } else { left.difference(&changed) };
    }
    if !mine.set.is_empty() {
        match managers.iter_mut().find(|entry| entry.is_same_manager(&mine)) {
            Some(entry) => *entry = Entry { set: entry.set.union(&mine.set), ..mine },
            None => managers.push(mine),
        }
    }
    write(after, managers, &known);
}

/// Empty parents in a new object, which have no manager.
fn empty_parents(object: &Value) -> Value {
    let mut empty_parents = json!({});
    for parts in [
        &["metadata"][..],
        &["spec"],
        &["spec", "containers"],
        &["spec", "strategy"],
        &["spec", "template"],
        &["spec", "template", "metadata"],
        &["spec", "template", "spec"],
        &["spec", "template", "spec", "containers"],
        &["spec", "updateStrategy"],
        &["status"],
        &["status", "loadBalancer"],
    ] {
        let Some(value) = object.pointer(&format!("/{}", parts.join("/"))) else { continue };
        let (last, above) = parts.split_last().expect("every path has a part");
        let parent = above.iter().fold(&mut empty_parents, |parent, part| &mut parent[*part]);
        match value {
            Value::Object(_) => parent[*last] = json!({}),
            Value::Array(_) => parent[*last] = json!([]),
            _ => {}
        }
    }
    empty_parents
}
