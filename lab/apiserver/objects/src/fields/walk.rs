//! Operations on values along their types: the fields of a value, comparison, merge, and removal of
//! fields.

use serde_json::{Map, Value, json};

use super::set::FieldSet;
use super::types::{Relation, Type};

/// Why the keys of a list are invalid.
pub(crate) type ListError = String;

/// The fields of a value: its leaves and its keyed list elements.
pub fn fields_of(value: &Value, kind: Type<'_>) -> FieldSet {
    let mut set = FieldSet::default();
    collect(value, kind, &Relation::Plain, &mut Vec::new(), &mut set);
    set
}

fn collect(value: &Value, kind: Type<'_>, relation: &Relation, path: &mut Vec<String>, set: &mut FieldSet) {
    match (value, relation) {
        (Value::Object(fields), Relation::Plain) if !fields.is_empty() && !kind.is_atomic() => {
            for (field, value) in fields {
                path.push(format!("f:{field}"));
                collect(value, kind.field(field), &kind.relation(field), path, set);
                path.pop();
            }
        }
        (Value::Array(elements), Relation::Keys(_) | Relation::Set) => {
            for element in elements {
                let Some(name) = path_element(element, kind.element(), relation) else { continue };
                path.push(name);
                set.insert(path);
                collect(element, kind.element(), &Relation::Plain, path, set);
                path.pop();
            }
        }
        _ => set.insert(path),
    }
}

/// Path element of a list element; none if a key is missing.
fn path_element(element: &Value, kind: Type<'_>, relation: &Relation) -> Option<String> {
    match relation {
        Relation::Keys(keys) => Some(format!("k:{}", Value::Object(kind.key_of(keys, element)?))),
        _ => Some(format!("v:{element}")),
    }
}

/// Refuses lists with elements that lack a key or have duplicate keys.
pub fn check_lists(value: &Value, kind: Type<'_>) -> Result<(), ListError> {
    check(value, kind, &Relation::Plain, &mut Vec::new())
}

fn check(
    value: &Value,
    kind: Type<'_>,
    relation: &Relation,
    path: &mut Vec<String>,
) -> Result<(), ListError> {
    match (value, relation) {
        (Value::Object(fields), Relation::Plain) if !kind.is_atomic() => {
            for (field, value) in fields {
                path.push(format!(".{field}"));
                check(value, kind.field(field), &kind.relation(field), path)?;
                path.pop();
            }
        }
        (Value::Array(elements), Relation::Keys(_) | Relation::Set) => {
            let mut seen = std::collections::HashSet::new();
            for (index, element) in elements.iter().enumerate() {
                let place = path.concat();
                let Some(name) = path_element(element, kind.element(), relation) else {
                    let keys =
                        if let Relation::Keys(keys) = relation { keys.join(", ") } else { String::new() };
                    return Err(format!(
                        "{place}: element {index}: associative list with keys has an element that omits key field {keys:?}"
                    ));
                };
                if !seen.insert(name.clone()) {
                    return Err(format!("{place}: duplicate entries for key {}", &name[2..]));
                }
                path.push(format!("[{index}]"));
                check(element, kind.element(), &Relation::Plain, path)?;
                path.pop();
            }
        }
        _ => {}
    }
    Ok(())
}

/// Differences between two values.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    pub added: FieldSet,
    pub removed: FieldSet,
    pub modified: FieldSet,
}

pub(crate) fn compare(before: &Value, after: &Value, kind: Type<'_>) -> Difference {
    let mut difference = Difference::default();
    compare_value(Some(before), Some(after), kind, &Relation::Plain, &mut Vec::new(), &mut difference);
    difference
}

fn compare_value(
    before: Option<&Value>,
    after: Option<&Value>,
    kind: Type<'_>,
    relation: &Relation,
    path: &mut Vec<String>,
    out: &mut Difference,
) {
    let granular = match relation {
        Relation::Plain => !kind.is_atomic() && both(before, after, Value::is_object, is_non_empty),
        Relation::Keys(_) | Relation::Set => both(before, after, Value::is_array, is_non_empty),
        Relation::Atomic => false,
    };
    if granular && relation == &Relation::Plain {
        compare_fields(before, after, kind, path, out);
    } else if granular {
        compare_elements(before, after, kind, relation, path, out);
    }
    match (before, after) {
        (None, Some(_)) => out.added.insert(path),
        (Some(_), None) => out.removed.insert(path),
        (Some(before), Some(after)) if !granular && before != after => out.modified.insert(path),
        _ => {}
    }
}

/// Whether the present values have this type and are not both empty.
fn both(
    before: Option<&Value>,
    after: Option<&Value>,
    sort: impl Fn(&Value) -> bool,
    filled: impl Fn(&Value) -> bool,
) -> bool {
    let one_of_them = [before, after];
    one_of_them.iter().flatten().all(|value| sort(value))
        && one_of_them.iter().flatten().any(|value| filled(value))
}

fn is_non_empty(value: &Value) -> bool {
    match value {
        Value::Object(fields) => !fields.is_empty(),
        Value::Array(elements) => !elements.is_empty(),
        _ => true,
    }
}

fn compare_fields(
    before: Option<&Value>,
    after: Option<&Value>,
    kind: Type<'_>,
    path: &mut Vec<String>,
    out: &mut Difference,
) {
    let none = Map::new();
    let before = before.and_then(Value::as_object).unwrap_or(&none);
    let after = after.and_then(Value::as_object).unwrap_or(&none);
    let new = after.keys().filter(|field| !before.contains_key(*field));
    for field in before.keys().chain(new) {
        let (old, new) = (before.get(field), after.get(field));
        if old == new {
            continue;
        }
        path.push(format!("f:{field}"));
        compare_value(old, new, kind.field(field), &kind.relation(field), path, out);
        path.pop();
    }
}

fn compare_elements(
    before: Option<&Value>,
    after: Option<&Value>,
    kind: Type<'_>,
    relation: &Relation,
    path: &mut Vec<String>,
    out: &mut Difference,
) {
    let kind = kind.element();
    let (before, after) = (by_path_element(before, kind, relation), by_path_element(after, kind, relation));
    fn find<'a>(list: &[(String, &'a Value)], name: &str) -> Option<&'a Value> {
        list.iter().find(|(one, _)| one == name).map(|(_, value)| *value)
    }
    let new = after.iter().filter(|(name, _)| find(&before, name).is_none());
    for (name, _) in before.iter().chain(new) {
        path.push(name.clone());
        compare_value(find(&before, name), find(&after, name), kind, &Relation::Plain, path, out);
        path.pop();
    }
}

/// List elements by path element. Of duplicates, which Kubernetes allows in values that were not
/// applied, the first is used.
fn by_path_element<'a>(
    list: Option<&'a Value>,
    kind: Type<'_>,
    relation: &Relation,
) -> Vec<(String, &'a Value)> {
    let mut named: Vec<(String, &Value)> = Vec::new();
    for element in list.and_then(Value::as_array).into_iter().flatten() {
        let Some(name) = path_element(element, kind, relation) else { continue };
        if !named.iter().any(|(one, _)| *one == name) {
            named.push((name, element));
        }
    }
    named
}

/// Merges `over` into `live`.
pub fn merge(live: &Value, over: &Value, kind: Type<'_>) -> Value {
    merge_value(Some(live), over, kind, &Relation::Plain)
}

fn merge_value(live: Option<&Value>, over: &Value, kind: Type<'_>, relation: &Relation) -> Value {
    match (live, over, relation) {
        (Some(Value::Object(live)), Value::Object(over), Relation::Plain) if !kind.is_atomic() => {
            let mut result: Map<String, Value> = live.clone();
            for (field, value) in over {
                let merged = merge_value(live.get(field), value, kind.field(field), &kind.relation(field));
                result.insert(field.clone(), merged);
            }
            result.into()
        }
        (Some(Value::Array(live)), Value::Array(over), Relation::Keys(_) | Relation::Set) => {
            merge_elements(live, over, kind.element(), relation).into()
        }
        _ => over.clone(),
    }
}

/// Elements in the order of `over`. Elements that only the live list has keep their position before
/// the element that followed them, and come before new elements.
fn merge_elements(live: &[Value], over: &[Value], kind: Type<'_>, relation: &Relation) -> Vec<Value> {
    let name = |element: &Value| path_element(element, kind, relation);
    let wanted: Vec<Option<String>> = over.iter().map(name).collect();
    let mut rest: Vec<(Option<String>, &Value)> =
        live.iter().map(|element| (name(element), element)).collect();
    let mut result = Vec::new();
    for (element, own) in over.iter().zip(&wanted) {
        let Some(at) = rest.iter().position(|(one, _)| one == own) else {
            let known = rest.iter().take_while(|(one, _)| !wanted.contains(one)).count();
            result.extend(rest.drain(..known).map(|(_, value)| value.clone()));
            result.push(element.clone());
            continue;
        };
        let mut passed: Vec<_> = rest.drain(..=at).collect();
        let found = passed.pop().map(|(_, value)| value);
        // Elements that are also in `over` are added later.
        let (later, kept): (Vec<_>, Vec<_>) = passed.into_iter().partition(|(one, _)| wanted.contains(one));
        result.extend(kept.into_iter().map(|(_, value)| value.clone()));
        rest.splice(..0, later);
        result.push(merge_value(found, element, kind, &Relation::Plain));
    }
    result.extend(rest.into_iter().filter(|(one, _)| !wanted.contains(one)).map(|(_, value)| value.clone()));
    result
}

/// The value without the members of a set and without parents that become empty.
pub fn remove(value: &Value, set: &FieldSet, kind: Type<'_>) -> Value {
    remove_from(value, set, kind, &Relation::Plain).unwrap_or_else(|| json!({}))
}

fn remove_from(value: &Value, set: &FieldSet, kind: Type<'_>, relation: &Relation) -> Option<Value> {
    if set.is_empty() {
        return Some(value.clone());
    }
    match (value, relation) {
        (Value::Object(fields), Relation::Plain) if !kind.is_atomic() => {
            let left = fields.iter().filter_map(|(field, value)| {
                let element = format!("f:{field}");
                let (inner, relation) = (kind.field(field), kind.relation(field));
                Some((field.clone(), remove_one(value, set, &element, inner, &relation)?))
            });
            let left: Map<String, Value> = left.collect();
            (!left.is_empty()).then(|| left.into())
        }
        (Value::Array(elements), Relation::Keys(_) | Relation::Set) => {
            let kind = kind.element();
            let left = elements.iter().filter_map(|element| match path_element(element, kind, relation) {
                Some(name) => remove_one(element, set, &name, kind, &Relation::Plain),
                None => Some(element.clone()),
            });
            let left: Vec<Value> = left.collect();
            (!left.is_empty()).then(|| left.into())
        }
        _ => Some(value.clone()),
    }
}

fn remove_one(
    value: &Value,
    set: &FieldSet,
    element: &str,
    kind: Type<'_>,
    relation: &Relation,
) -> Option<Value> {
    if set.contains(element) {
        return None;
    }
    match set.children(element) {
        Some(below) => remove_from(value, below, kind, relation),
        None => Some(value.clone()),
    }
}
