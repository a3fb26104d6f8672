//! Strategic merge patch with keyed lists and the directives `$patch`, `$deleteFromPrimitiveList`,
//! `$setElementOrder` and `$retainKeys`.

use serde_json::{Map, Value};

use super::lists::{is_set_list, merge_keys, same_element};
use crate::ApiError;

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ELEMENT_ORDER: &str = "$setElementOrder/";

pub(super) fn merge(target: &mut Value, change: &Value) -> Result<(), ApiError> {
    merge_value(target, change, &mut Vec::new())
}

fn merge_value<'a>(target: &mut Value, change: &'a Value, path: &mut Vec<&'a str>) -> Result<(), ApiError> {
    let Some(change) = change.as_object() else {
        *target = change.clone();
        return Ok(());
    };
    match change.get(PATCH).and_then(Value::as_str) {
        None | Some("merge") => {}
        Some("replace") => {
            *target = Value::Object(without_directives(change));
            return Ok(());
        }
        Some("delete") => {
            *target = Value::Null;
            return Ok(());
        }
        Some(other) => return Err(ApiError::bad_request(format!("unknown $patch directive {other:?}"))),
    }
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let target = target.as_object_mut().expect("it was just made an object");
    retain_keys(target, change);
    for (field, value) in change {
        merge_field(target, field, value, path)?;
    }
    order_elements(target, change, path);
    Ok(())
}

fn merge_field<'a>(
    target: &mut Map<String, Value>,
    field: &'a str,
    change: &'a Value,
    path: &mut Vec<&'a str>,
) -> Result<(), ApiError> {
    if let Some(list) = field.strip_prefix(DELETE_FROM) {
        delete_from(target, list, change);
        return Ok(());
    }
    if field.starts_with('$') {
        return Ok(());
    }
    match change {
        Value::Null => {
            target.remove(field);
        }
        Value::Array(change) => {
            let keys = merge_keys(path, field);
            let slot = target.entry(field).or_insert(Value::Array(Vec::new()));
            path.push(field);
            merge_list(slot, change, keys, is_set_list(field), path)?;
            path.pop();
        }
        change => {
            let slot = target.entry(field).or_insert(Value::Null);
            path.push(field);
            merge_value(slot, change, path)?;
            path.pop();
            if slot.is_null() {
                target.remove(field);
            }
        }
    }
    Ok(())
}

fn merge_list<'a>(
    slot: &mut Value,
    change: &'a [Value],
    keys: Option<&[&str]>,
    set: bool,
    path: &mut Vec<&'a str>,
) -> Result<(), ApiError> {
    let replace =
        change.iter().any(|element| element.get(PATCH).is_some_and(|directive| directive == "replace"));
    if (keys.is_none() && !set) || replace || !slot.is_array() {
        let plain = change.iter().filter(|element| element.get(PATCH).is_none());
        *slot = plain.cloned().collect();
        return Ok(());
    }
    let list = slot.as_array_mut().expect("it was just checked to be a list");
    let Some(keys) = keys else {
        for value in change {
            if !list.contains(value) {
                list.push(value.clone());
            }
        }
        return Ok(());
    };
    let before = list.clone();
    for element in change {
        // Strategic merge patch uses only the first key of a list.
        merge_element(list, element, &keys[..1], path)?;
    }
    restore_order(list, &before, change, &keys[..1]);
    Ok(())
}

/// Elements of the patch are in the patch's order, the others in their own; a new element comes
/// before the remaining others.
fn restore_order(list: &mut Vec<Value>, before: &[Value], change: &[Value], keys: &[&str]) {
    let place = |among: &[Value], one: &Value| among.iter().position(|other| same_element(keys, other, one));
    let (mut named, rest): (Vec<Value>, Vec<Value>) =
        std::mem::take(list).into_iter().partition(|one| place(change, one).is_some());
    named.sort_by_key(|one| place(change, one));
    let mut rest = rest.into_iter().peekable();
    for one in named {
        let limit = place(before, &one);
        while let Some(other) =
            rest.next_if(|other| limit.is_some_and(|limit| place(before, other) < Some(limit)))
        {
            list.push(other);
        }
        list.push(one);
    }
    list.extend(rest);
}

fn merge_element<'a>(
    list: &mut Vec<Value>,
    change: &'a Value,
    keys: &[&str],
    path: &mut Vec<&'a str>,
) -> Result<(), ApiError> {
    if change.get(keys[0]).is_none() {
        let list = path.join(".");
        return Err(ApiError::bad_request(format!(
            "an element of {list} in the patch lacks its merge key {:?}",
            keys[0]
        )));
    }
    let position = list.iter().position(|element| same_element(keys, element, change));
    if change.get(PATCH).is_some_and(|directive| directive == "delete") {
        list.retain(|element| !same_element(keys, element, change));
        return Ok(());
    }
    match position {
        Some(position) => merge_value(&mut list[position], change, path),
        None => {
            let mut element = Value::Object(Map::new());
            merge_value(&mut element, change, path)?;
            list.push(element);
            Ok(())
        }
    }
}

fn delete_from(target: &mut Map<String, Value>, field: &str, values: &Value) {
    let values = values.as_array().map(Vec::as_slice).unwrap_or_default();
    if let Some(list) = target.get_mut(field).and_then(Value::as_array_mut) {
        list.retain(|value| !values.contains(value));
    }
}

fn retain_keys(target: &mut Map<String, Value>, change: &Map<String, Value>) {
    if let Some(keys) = change.get(RETAIN_KEYS).and_then(Value::as_array) {
        target.retain(|field, _| keys.iter().any(|key| key == field));
    }
}

/// Sorts the elements that the patch orders; the others follow them.
fn order_elements(target: &mut Map<String, Value>, change: &Map<String, Value>, path: &[&str]) {
    for (field, order) in change {
        let Some(field) = field.strip_prefix(ELEMENT_ORDER) else { continue };
        let order = order.as_array().map(Vec::as_slice).unwrap_or_default();
        let keys = merge_keys(path, field);
        let place = |element: &Value| {
            let same = |wanted: &Value| match keys {
                Some(keys) => same_element(&keys[..1], element, wanted),
                None => element == wanted,
            };
            order.iter().position(same).unwrap_or(usize::MAX)
        };
        if let Some(list) = target.get_mut(field).and_then(Value::as_array_mut) {
            list.sort_by_key(place);
        }
    }
}

fn without_directives(change: &Map<String, Value>) -> Map<String, Value> {
    let fields = change.iter().filter(|(field, _)| !field.starts_with('$'));
    fields.map(|(field, value)| (field.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(mut target: Value, change: Value, expected: Value) {
        merge(&mut target, &change).unwrap();
        assert_eq!(target, expected);
    }

    #[test]
    fn unit_strategic_merges_containers_by_name() {
        check(
            json!({"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]}}),
            json!({"spec": {"containers": [{"name": "b", "image": "2"}, {"name": "c", "image": "1"}]}}),
            json!({"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}, {"name": "c", "image": "1"}]}}),
        );
        check(
            json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}}),
            json!({"spec": {"containers": [{"name": "new"}]}}),
            json!({"spec": {"containers": [{"name": "new"}, {"name": "a"}, {"name": "b"}]}}),
        );
    }

    #[test]
    fn unit_strategic_merges_ports_and_env_inside_containers() {
        check(
            json!({"spec": {"containers": [{"name": "a", "ports": [{"containerPort": 80}], "env": [{"name": "X", "value": "1"}]}]}}),
            json!({"spec": {"containers": [{"name": "a", "ports": [{"containerPort": 80, "name": "web"}], "env": [{"name": "X", "$patch": "delete"}]}]}}),
            json!({"spec": {"containers": [{"name": "a", "ports": [{"containerPort": 80, "name": "web"}], "env": []}]}}),
        );
    }

    #[test]
    fn unit_strategic_replaces_lists_without_keys() {
        check(
            json!({"spec": {"args": ["a", "b"]}}),
            json!({"spec": {"args": ["c"]}}),
            json!({"spec": {"args": ["c"]}}),
        );
    }

    #[test]
    fn unit_strategic_obeys_directives() {
        check(
            json!({"metadata": {"finalizers": ["a", "b"]}, "spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {}}}}),
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]},
                   "spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
            json!({"metadata": {"finalizers": ["b"]}, "spec": {"strategy": {"type": "Recreate"}}}),
        );
        check(
            json!({"spec": {"selector": {"a": "b"}}}),
            json!({"spec": {"selector": {"$patch": "replace", "c": "d"}}}),
            json!({"spec": {"selector": {"c": "d"}}}),
        );
        check(json!({"a": {"b": 1}, "c": 1}), json!({"a": null}), json!({"c": 1}));
        check(
            json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}}),
            json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}}),
            json!({"spec": {"containers": [{"name": "b"}, {"name": "a"}]}}),
        );
    }

    #[test]
    fn unit_strategic_refuses_elements_without_their_key() {
        let error = merge(
            &mut json!({"spec": {"containers": []}}),
            &json!({"spec": {"containers": [{"image": "x"}]}}),
        );
        assert_eq!(error.unwrap_err().code, 400);
    }
}
