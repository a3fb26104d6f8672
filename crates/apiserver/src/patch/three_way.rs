//! What a manifest means for a live object, given the manifest that the same manager applied last:
//! what it names is set, what it named then and does not name now is removed, the rest stays.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::{is_set, merge_keys, same_element};

/// The live object after `wanted` was applied over it; `last` is null for the first time.
pub(crate) fn three_way(last: &Value, wanted: &Value, live: &Value) -> Value {
    merge(last, wanted, live, &mut Vec::new())
}

fn merge<'a>(last: &Value, wanted: &'a Value, live: &Value, path: &mut Vec<&'a str>) -> Value {
    let (Some(wanted), Some(live)) = (wanted.as_object(), live.as_object()) else { return wanted.clone() };
    let mut result = live.clone();
    remove_forgotten(&mut result, last, wanted);
    for (field, value) in wanted {
        let merged = merge_field(&last[field], field, value, live.get(field), path);
        result.insert(field.clone(), merged);
    }
    result.retain(|_, value| !value.is_null());
    Value::Object(result)
}

fn remove_forgotten(result: &mut Map<String, Value>, last: &Value, wanted: &Map<String, Value>) {
    for field in last.as_object().into_iter().flatten().map(|(field, _)| field) {
        if !wanted.contains_key(field) {
            result.remove(field);
        }
    }
}

fn merge_field<'a>(
    last: &Value,
    field: &'a str,
    wanted: &'a Value,
    live: Option<&Value>,
    path: &mut Vec<&'a str>,
) -> Value {
    let Some(live) = live else { return wanted.clone() };
    let keys = merge_keys(path, field);
    path.push(field);
    let merged = match (wanted, live) {
        (Value::Array(wanted), Value::Array(live)) => {
            merge_list(last, wanted, live, keys, is_set(field), path)
        }
        _ => merge(last, wanted, live, path),
    };
    path.pop();
    merged
}

fn merge_list<'a>(
    last: &Value,
    wanted: &'a [Value],
    live: &[Value],
    keys: Option<&[&str]>,
    set: bool,
    path: &mut Vec<&'a str>,
) -> Value {
    let last = last.as_array().map(Vec::as_slice).unwrap_or_default();
    let Some(keys) = keys else {
        if !set {
            return wanted.to_vec().into();
        }
        let others = live.iter().filter(|value| !wanted.contains(value) && !last.contains(value));
        return wanted.iter().chain(others).cloned().collect();
    };
    let find = |list: &[Value], like: &Value| list.iter().find(|one| same_element(keys, one, like)).cloned();
    let mut result: Vec<Value> = Vec::new();
    for element in wanted {
        let before = find(last, element).unwrap_or(Value::Null);
        result.push(match find(live, element) {
            Some(live) => merge(&before, element, &live, path),
            None => element.clone(),
        });
    }
    let others = live.iter().filter(|one| find(wanted, one).is_none() && find(last, one).is_none());
    result.extend(others.cloned());
    result.into()
}

/// What each field manager applied last to each living object.
#[derive(Default)]
pub(crate) struct ManagerMemory {
    applied: HashMap<String, HashMap<String, Value>>,
}

/// Managers remembered per object; one more forgets the others, which then own nothing.
const MANAGERS_MAX: usize = 16;

impl ManagerMemory {
    pub fn get(&self, uid: &str, manager: &str) -> Option<&Value> {
        self.applied.get(uid)?.get(manager)
    }

    pub fn remember(&mut self, uid: &str, manager: &str, applied: Value) {
        let managers = self.applied.entry(uid.to_owned()).or_default();
        if managers.len() >= MANAGERS_MAX && !managers.contains_key(manager) {
            managers.clear();
        }
        managers.insert(manager.to_owned(), applied);
    }

    pub fn forget(&mut self, uid: &str) {
        self.applied.remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn unit_three_way_sets_removes_and_keeps() {
        let last = json!({"data": {"a": "1", "b": "1"}});
        let wanted = json!({"data": {"a": "2"}});
        let live = json!({"data": {"a": "1", "b": "1", "c": "by somebody else"}, "status": {}});
        let expected = json!({"data": {"a": "2", "c": "by somebody else"}, "status": {}});
        assert_eq!(three_way(&last, &wanted, &live), expected);
    }

    #[test]
    fn unit_three_way_keeps_dns_ports_apart() {
        let wanted =
            json!({"spec": {"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]}});
        let live = json!({"spec": {"ports": [{"port": 53, "protocol": "UDP", "nodePort": 30001}, {"port": 53, "protocol": "TCP", "nodePort": 30002}]}});
        assert_eq!(three_way(&Value::Null, &wanted, &live), live);
    }

    #[test]
    fn unit_three_way_removes_list_elements_it_owned() {
        let last = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        let wanted = json!({"spec": {"containers": [{"name": "a"}]}});
        let live = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}, {"name": "injected"}]}});
        let expected = json!({"spec": {"containers": [{"name": "a"}, {"name": "injected"}]}});
        assert_eq!(three_way(&last, &wanted, &live), expected);
    }
}
