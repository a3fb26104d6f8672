//! Access to the common fields of objects.

use std::time::{SystemTime, UNIX_EPOCH};

use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value, json};

/// Finalizer of an object that is deleted after its dependents.
pub const FOREGROUND: &str = "foregroundDeletion";

/// Finalizer of an object whose dependents are kept.
pub const ORPHAN: &str = "orphan";

/// Group of users that may do everything.
pub const MASTERS: &str = "system:masters";

/// Namespace and name of an object. The namespace is empty for cluster-scoped kinds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Namespace, or empty.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl ObjectKey {
    /// Creates a key.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The key of an object.
    pub fn of(object: &Value) -> Self {
        Self::new(namespace(object), name(object))
    }
}

impl std::fmt::Display for ObjectKey {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.namespace.as_str() {
            "" => out.write_str(&self.name),
            namespace => write!(out, "{namespace}/{}", self.name),
        }
    }
}

/// The string at a JSON pointer; empty if there is none.
pub fn str_at<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The array at a JSON pointer; empty if there is none.
pub fn array_at<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The whole number at a JSON pointer.
pub fn i64_at(object: &Value, pointer: &str) -> Option<i64> {
    object.pointer(pointer).and_then(Value::as_i64)
}

/// The boolean at a JSON pointer; false if there is none.
pub fn bool_at(object: &Value, pointer: &str) -> bool {
    object.pointer(pointer).and_then(Value::as_bool).unwrap_or(false)
}

/// The strings of the array at a JSON pointer.
pub fn strs_at<'a>(object: &'a Value, pointer: &str) -> Vec<&'a str> {
    array_at(object, pointer).iter().filter_map(Value::as_str).collect()
}

/// `metadata.name`.
pub fn name(object: &Value) -> &str {
    str_at(object, "/metadata/name")
}

/// `metadata.namespace`; empty for cluster-scoped objects.
pub fn namespace(object: &Value) -> &str {
    str_at(object, "/metadata/namespace")
}

/// `metadata.uid`.
pub fn uid(object: &Value) -> &str {
    str_at(object, "/metadata/uid")
}

/// `metadata.resourceVersion` as a number; 0 if it is none.
pub fn resource_version(object: &Value) -> u64 {
    str_at(object, "/metadata/resourceVersion").parse().unwrap_or(0)
}

/// The value of a label.
pub fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.get("metadata")?.get("labels")?.get(key)?.as_str()
}

/// The value of an annotation.
pub fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.get("metadata")?.get("annotations")?.get(key)?.as_str()
}

/// Whether the object is marked for deletion.
pub fn is_deleting(object: &Value) -> bool {
    object.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null())
}

/// `metadata.ownerReferences`.
pub fn owner_references(object: &Value) -> &[Value] {
    array_at(object, "/metadata/ownerReferences")
}

/// The owner reference of the controller.
pub fn controller_of(object: &Value) -> Option<&Value> {
    owner_references(object).iter().find(|owner| bool_at(owner, "/controller"))
}

/// Whether the owner with this uid controls the object.
pub fn is_controlled_by(object: &Value, owner_uid: &str) -> bool {
    controller_of(object).is_some_and(|owner| owner["uid"] == owner_uid)
}

/// An owner reference that makes `owner` the controller of another object.
pub fn controller_reference(owner: &Value, api_version: &str, kind: &str) -> Value {
    json!({
        "apiVersion": api_version, "kind": kind, "name": name(owner), "uid": uid(owner),
        "controller": true, "blockOwnerDeletion": true,
    })
}

/// The object in `field`, created if absent. A value of another type is replaced.
pub fn child_mut<'a>(object: &'a mut Value, field: &str) -> &'a mut Map<String, Value> {
    if !object.is_object() {
        *object = json!({});
    }
    let child = &mut object[field];
    if !child.is_object() {
        *child = json!({});
    }
    child.as_object_mut().expect("it was just made an object")
}

/// `metadata`, created if it is absent.
pub fn metadata(object: &mut Value) -> &mut Map<String, Value> {
    child_mut(object, "metadata")
}

/// Sets `field` of `map` if it is absent or null.
pub fn set_default(map: &mut Map<String, Value>, field: &str, value: impl Into<Value>) {
    if map.get(field).is_none_or(Value::is_null) {
        map.insert(field.to_owned(), value.into());
    }
}

/// The current time in Kubernetes' format: RFC 3339, UTC, whole seconds.
pub fn now() -> String {
    format_time(seconds_since_epoch())
}

/// The current time.
pub fn seconds_since_epoch() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_secs()).unwrap_or(i64::MAX)
}

/// Seconds since the epoch as RFC 3339.
pub fn format_time(seconds: i64) -> String {
    Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH).to_string()
}

/// Parses an RFC 3339 time to seconds since the epoch.
pub fn parse_time(time: &str) -> Option<i64> {
    time.parse::<Timestamp>().ok().map(Timestamp::as_second)
}

/// Time elapsed since then, as in kubectl's AGE column.
pub fn age_of(time: &str) -> String {
    let Some(then) = parse_time(time) else { return "<unknown>".to_owned() };
    let seconds = (seconds_since_epoch() - then).max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let both = |large: i64, unit: &str, small: i64, rest: &str| match small {
        0 => format!("{large}{unit}"),
        small => format!("{large}{unit}{small}{rest}"),
    };
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=599 => both(minutes, "m", seconds % 60, "s"),
        600..=10_799 => format!("{minutes}m"),
        10_800..=28_799 => both(hours, "h", minutes % 60, "m"),
        28_800..=172_799 => format!("{hours}h"),
        172_800..=691_199 => both(days, "d", hours % 24, "h"),
        691_200..=63_071_999 => format!("{days}d"),
        63_072_000..=252_287_999 => both(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

/// Adds the paths of fields that `whole` has and `part` lacks.
pub fn collect_missing(whole: &Value, part: &Value, path: &str, missing: &mut Vec<String>) {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            for (field, value) in whole.iter().filter(|(_, value)| !value.is_null()) {
                let path = if path.is_empty() { field.clone() } else { format!("{path}.{field}") };
                match part.get(field) {
                    Some(kept) => collect_missing(value, kept, &path, missing),
                    None => missing.push(path),
                }
            }
        }
        (Value::Array(whole), Value::Array(part)) => {
            for (index, (whole, part)) in whole.iter().zip(part).enumerate() {
                collect_missing(whole, part, &format!("{path}[{index}]"), missing);
            }
        }
        _ => {}
    }
}

/// A random (version 4) UUID.
pub fn new_uid() -> String {
    let bits = (rand::random::<u128>() & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// Random suffix of generated names. It has no vowels, so that it spells no words.
pub fn random_suffix() -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    (0..5).map(|_| char::from(LETTERS[rand::random_range(0..LETTERS.len())])).collect()
}

/// Sets a condition in a list of conditions; it replaces the one of the same type.
pub fn set_condition(status: &mut Value, mut condition: Value) {
    if let Some(fields) = condition.as_object_mut() {
        fields.remove("lastUpdateTime");
    }
    let mut conditions = array_at(status, "/conditions").to_vec();
    match conditions.iter_mut().find(|one| one["type"] == condition["type"]) {
        Some(one) => *one = condition,
        None => conditions.push(condition),
    }
    status["conditions"] = json!(conditions);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_uid_is_a_version_4_uuid() {
        let uid = new_uid();
        assert_eq!(uid.len(), 36);
        assert_eq!(&uid[14..15], "4");
        assert!("89ab".contains(&uid[19..20]), "{uid}");
    }

    #[test]
    fn unit_times_round_trip() {
        assert_eq!(format_time(1_700_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(parse_time("2023-11-14T22:13:20Z"), Some(1_700_000_000));
    }
}
