//! Decodes message values to JSON.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::error::{DEPTH_MAX, DecodeError};
use super::messages::{self, Cardinality, Field, Message, Type};
use super::wire::{Reader, Wire};

/// Decodes a message to an object. Unknown fields are skipped.
pub(super) fn object(
    message: &Message,
    bytes: &[u8],
    depth: usize,
) -> Result<Map<String, Value>, DecodeError> {
    if depth > DEPTH_MAX {
        return Err(DecodeError::TooDeep);
    }
    let (mut object, mut reader) = (Map::new(), Reader(bytes));
    while let Some((number, wire)) = reader.field()? {
        let Some(field) = message.get(&number) else { continue };
        match field.cardinality {
            Cardinality::One => {
                let value = value(field, wire, depth)?;
                if let (true, Value::Object(flat)) = (field.name.is_empty(), &value) {
                    object.extend(flat.clone());
                } else if !is_absent(field, &value) {
                    object.insert(field.name.to_owned(), value);
                }
            }
            Cardinality::List => {
                let list = object.entry(field.name).or_insert_with(|| json!([]));
                let list = list.as_array_mut().ok_or(DecodeError::WrongType { field: field.name })?;
                elements(field, wire, depth, list)?;
            }
            Cardinality::Map => {
                let (key, value) = entry(field, wire, depth)?;
                let map = object.entry(field.name).or_insert_with(|| json!({}));
                map[key] = value;
            }
        }
    }
    Ok(object)
}

/// Go encodes unset fields with their zero value.
fn is_absent(field: &Field, value: &Value) -> bool {
    let is_plain = matches!(field.kind, Type::Text | Type::Int | Type::Bool | Type::Double | Type::Bytes);
    value.is_null() || (is_plain && !field.explicit_presence && is_zero(value))
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Bool(truth) => !truth,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

/// Adds the elements of a repeated field: one element, or packed numbers.
fn elements(field: &Field, wire: Wire<'_>, depth: usize, list: &mut Vec<Value>) -> Result<(), DecodeError> {
    let Wire::Bytes(bytes) = wire else {
        list.push(value(field, wire, depth)?);
        return Ok(());
    };
    if !matches!(field.kind, Type::Int | Type::Bool) {
        list.push(value(field, wire, depth)?);
        return Ok(());
    }
    let mut reader = Reader(bytes);
    while !reader.0.is_empty() {
        list.push(value(field, Wire::Varint(reader.varint()?), depth)?);
    }
    Ok(())
}

/// A map entry is a message with key and value; absent ones are empty.
fn entry(field: &Field, wire: Wire<'_>, depth: usize) -> Result<(String, Value), DecodeError> {
    let Wire::Bytes(bytes) = wire else { return Err(DecodeError::WrongType { field: field.name }) };
    let (mut key, mut found, mut reader) = (String::new(), Wire::Bytes(&[]), Reader(bytes));
    while let Some((number, wire)) = reader.field()? {
        match (number, wire) {
            (1, Wire::Bytes(bytes)) => key = text(field.name, bytes)?,
            (2, wire) => found = wire,
            _ => {}
        }
    }
    Ok((key, value(field, found, depth)?))
}

fn value(field: &Field, wire: Wire<'_>, depth: usize) -> Result<Value, DecodeError> {
    let name = field.name;
    match (field.kind, wire) {
        // Negative numbers are encoded as 64 bits.
        (Type::Int, Wire::Varint(number)) => Ok(json!(number.cast_signed())),
        (Type::Bool, Wire::Varint(number)) => Ok(json!(number != 0)),
        (Type::Double, Wire::Fixed64(bits)) => Ok(json!(f64::from_bits(bits))),
        (Type::Text, Wire::Bytes(bytes)) => text(name, bytes).map(Value::String),
        (Type::Bytes, Wire::Bytes(bytes)) => Ok(json!(STANDARD.encode(bytes))),
        (Type::Time | Type::MicroTime, Wire::Bytes(bytes)) => time(field, bytes),
        (Type::Quantity, Wire::Bytes(bytes)) => {
            let quantity = part(name, bytes, 1)?.map_or(Ok(String::new()), |bytes| text(name, bytes))?;
            Ok(json!(if quantity.is_empty() { "0" } else { &quantity }))
        }
        (Type::IntOrString, Wire::Bytes(bytes)) => int_or_string(name, bytes),
        (Type::Json, Wire::Bytes(bytes)) => match part(name, bytes, 1)? {
            None | Some([]) => Ok(Value::Null),
            Some(text) => serde_json::from_slice(text)
                .map_err(|_| DecodeError::Content { field: name, expected: "JSON" }),
        },
        (Type::Strings, Wire::Bytes(bytes)) => strings(name, bytes, 1),
        (Type::OrBool | Type::OrArray | Type::OrStrings, Wire::Bytes(bytes)) => {
            alternative(field, bytes, depth)
        }
        (Type::Message { package, name: message }, Wire::Bytes(bytes)) => {
            let message = messages::find(package, message).ok_or(DecodeError::WrongType { field: name })?;
            object(message, bytes, depth + 1).map(Value::Object)
        }
        _ => Err(DecodeError::WrongType { field: name }),
    }
}

pub(super) fn text(field: &'static str, bytes: &[u8]) -> Result<String, DecodeError> {
    let text = std::str::from_utf8(bytes).map_err(|_| DecodeError::Content { field, expected: "UTF-8" })?;
    Ok(text.to_owned())
}

/// The last value with this field number.
fn last<'a>(bytes: &'a [u8], expected: u32) -> Result<Option<Wire<'a>>, DecodeError> {
    let (mut found, mut reader) = (None, Reader(bytes));
    while let Some((number, wire)) = reader.field()? {
        if number == expected {
            found = Some(wire);
        }
    }
    Ok(found)
}

fn part<'a>(field: &'static str, bytes: &'a [u8], number: u32) -> Result<Option<&'a [u8]>, DecodeError> {
    match last(bytes, number)? {
        None => Ok(None),
        Some(Wire::Bytes(bytes)) => Ok(Some(bytes)),
        Some(_) => Err(DecodeError::WrongType { field }),
    }
}

fn number(bytes: &[u8], number: u32) -> Result<i64, DecodeError> {
    Ok(match last(bytes, number)? {
        Some(Wire::Varint(number)) => number.cast_signed(),
        _ => 0,
    })
}

/// Seconds and nanoseconds since the epoch. An empty message is null.
fn time(field: &Field, bytes: &[u8]) -> Result<Value, DecodeError> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let wrong = DecodeError::Content { field: field.name, expected: "a time" };
    let nanoseconds = i32::try_from(number(bytes, 2)?).unwrap_or(0);
    let Ok(time) = Timestamp::new(number(bytes, 1)?, nanoseconds) else { return Err(wrong) };
    Ok(match field.kind {
        Type::MicroTime => json!(format!("{time:.6}")),
        _ => json!(format!("{time:.0}")),
    })
}

fn int_or_string(field: &'static str, bytes: &[u8]) -> Result<Value, DecodeError> {
    if number(bytes, 1)? == 0 {
        return Ok(json!(number(bytes, 2)?));
    }
    Ok(json!(part(field, bytes, 3)?.map_or(Ok(String::new()), |bytes| text(field, bytes))?))
}

fn strings(field: &'static str, bytes: &[u8], expected: u32) -> Result<Value, DecodeError> {
    let (mut list, mut reader) = (Vec::new(), Reader(bytes));
    while let Some((number, wire)) = reader.field()? {
        if let (true, Wire::Bytes(bytes)) = (number == expected, wire) {
            list.push(text(field, bytes)?);
        }
    }
    Ok(json!(list))
}

/// A schema or its alternative.
fn alternative(field: &Field, bytes: &[u8], depth: usize) -> Result<Value, DecodeError> {
    let schema = |bytes: &[u8]| {
        let message = messages::find("apiextensions.v1", "JSONSchemaProps");
        let message = message.ok_or(DecodeError::WrongType { field: field.name })?;
        object(message, bytes, depth + 1).map(Value::Object)
    };
    let number_of_schema = if field.kind == Type::OrBool { 2 } else { 1 };
    if let Some(bytes) = part(field.name, bytes, number_of_schema)? {
        return schema(bytes);
    }
    match field.kind {
        Type::OrBool => Ok(json!(number(bytes, 1)? != 0)),
        Type::OrStrings => strings(field.name, bytes, 2),
        _ => {
            let (mut list, mut reader) = (Vec::new(), Reader(bytes));
            while let Some((number, wire)) = reader.field()? {
                if let (2, Wire::Bytes(bytes)) = (number, wire) {
                    list.push(schema(bytes)?);
                }
            }
            Ok(Value::Array(list))
        }
    }
}
