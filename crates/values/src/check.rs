//! Checks a value against its type. A text that spells a value of the type is
//! converted, as Helm charts do.

use std::ops::RangeInclusive;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde_json::Value;

use crate::ValueError;
use crate::schema::{Key, Kind};

/// The value in its type, or an error.
pub fn check(key: &Key, value: &Value) -> Result<Value, ValueError> {
    let checked = match key.kind {
        Kind::Bool => boolean(value),
        Kind::Integer(min, max) => integer(value, min, max),
        Kind::Text => text(value).map(Value::String),
        Kind::Choice(words) => text(value).filter(|t| words.contains(&t.as_str())).map(Value::String),
        Kind::Ipv4Cidr => cidr::<Ipv4Net>(value),
        Kind::Ipv6Cidr => cidr::<Ipv6Net>(value),
        Kind::List => list(value),
        Kind::Cidrs => list(value).filter(|list| items(list).all(|item| item.parse::<IpNet>().is_ok())),
        Kind::Ports => text(value).filter(|t| t.is_empty() || port_range(t).is_some()).map(Value::String),
        Kind::Any => Some(value.clone()),
    };
    checked.ok_or_else(|| ValueError::WrongType {
        key: key.name,
        value: to_text(value),
        expected: expected(key.kind),
    })
}

/// The value as the user wrote it.
pub fn to_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn expected(kind: Kind) -> String {
    match kind {
        Kind::Bool => "true or false".into(),
        Kind::Integer(min, max) => format!("a whole number from {min} to {max}"),
        Kind::Text => "a text".into(),
        Kind::Choice(words) => format!("one of {}", words.join(", ")),
        Kind::Ipv4Cidr => "an IPv4 prefix such as 10.0.0.0/8".into(),
        Kind::Ipv6Cidr => "an IPv6 prefix such as fd00::/8".into(),
        Kind::List => "a list such as {a,b}".into(),
        Kind::Cidrs => "a list of prefixes such as {10.0.0.0/8,fd00::/8}".into(),
        Kind::Ports => "first and last port, such as 30000-32767".into(),
        Kind::Any => "anything".into(),
    }
}

/// `30000-32767`, or `30000,32767` as Cilium writes it.
pub(crate) fn port_range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once(['-', ','])?;
    let (first, last): (u16, u16) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (first != 0 && first <= last).then_some(first..=last)
}

fn boolean(value: &Value) -> Option<Value> {
    match value {
        Value::Bool(_) => Some(value.clone()),
        Value::String(text) => text.parse::<bool>().ok().map(Value::Bool),
        _ => None,
    }
}

fn integer(value: &Value, min: u64, max: u64) -> Option<Value> {
    let number = match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    number.filter(|n| (min..=max).contains(n)).map(Value::from)
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(bool) => Some(bool.to_string()),
        _ => None,
    }
}

fn cidr<N: FromStr + ToString>(value: &Value) -> Option<Value> {
    value.as_str()?.parse::<N>().ok().map(|net| Value::String(net.to_string()))
}

fn items(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn list(value: &Value) -> Option<Value> {
    match value {
        Value::Array(items) => items.iter().map(text).map(|t| t.map(Value::String)).collect(),
        Value::Object(_) | Value::Null => None,
        one => text(one).map(|t| Value::Array(vec![Value::String(t)])),
    }
}
