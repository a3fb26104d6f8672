//! Structural schemas, parsed once per definition.

use std::collections::BTreeMap;

use beeline_apiserver_objects::object::{array_at, bool_at, str_at, strs_at};
use regex::Regex;
use serde_json::Value;

/// One level of a schema. Fields that a structural schema must not have (`$ref`, `uniqueItems: true`)
/// are not represented.
#[derive(Debug, Default)]
pub(crate) struct Schema {
    pub kind: Option<Type>,
    pub format: Option<String>,
    pub nullable: bool,
    pub(crate) int_or_string: bool,
    pub(crate) preserve_unknown: bool,
    pub embedded: bool,
    pub properties: BTreeMap<String, Schema>,
    pub(crate) additional: Additional,
    pub items: Option<Box<Schema>>,
    pub required: Vec<String>,
    pub default: Option<Value>,
    pub allowed: Vec<Value>,
    pub(crate) pattern: Option<Pattern>,
    pub(crate) minimum: Option<Limit>,
    pub(crate) maximum: Option<Limit>,
    pub(crate) multiple_of: Option<f64>,
    pub length: Range,
    pub(crate) item_count: Range,
    pub(crate) property_count: Range,
    pub(crate) all_of: Vec<Schema>,
    pub(crate) any_of: Vec<Schema>,
    pub(crate) one_of: Vec<Schema>,
    pub not: Option<Box<Schema>>,
    pub list: List,
}

/// JSON types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

/// `additionalProperties`.
#[derive(Debug, Default)]
pub(crate) enum Additional {
    #[default]
    Forbidden,
    Any,
    Matching(Box<Schema>),
}

/// A regular expression and its source.
#[derive(Debug)]
pub(crate) struct Pattern {
    pub text: String,
    /// None if the source is not a valid expression; then nothing matches.
    pub regex: Option<Regex>,
}

#[derive(Clone, Debug)]
pub(crate) struct Limit {
    pub value: Value,
    pub exclusive: bool,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Range {
    pub min: Option<u64>,
    pub max: Option<u64>,
}

/// `x-kubernetes-list-type` and its keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum List {
    #[default]
    Atomic,
    Set,
    Map(Vec<String>),
}

impl Type {
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "object" => Self::Object,
            "array" => Self::Array,
            "string" => Self::String,
            "integer" => Self::Integer,
            "number" => Self::Number,
            "boolean" => Self::Boolean,
            _ => return None,
        })
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }
}

impl Schema {
    /// Parses `openAPIV3Schema` or a part of it.
    pub fn of(source: &Value) -> Self {
        Self {
            kind: Type::from_name(str_at(source, "/type")),
            format: Some(str_at(source, "/format").to_owned()).filter(|format| !format.is_empty()),
            nullable: bool_at(source, "/nullable"),
            int_or_string: bool_at(source, "/x-kubernetes-int-or-string"),
            preserve_unknown: bool_at(source, "/x-kubernetes-preserve-unknown-fields"),
            embedded: bool_at(source, "/x-kubernetes-embedded-resource"),
            properties: properties(&source["properties"]),
            additional: additional(&source["additionalProperties"]),
            items: source
                .get("items")
                .filter(|items| items.is_object())
                .map(|items| Box::new(Self::of(items))),
            required: strs_at(source, "/required").into_iter().map(str::to_owned).collect(),
            default: source.get("default").cloned(),
            allowed: array_at(source, "/enum").to_vec(),
            pattern: Some(str_at(source, "/pattern")).filter(|text| !text.is_empty()).map(Pattern::of),
            minimum: limit(source, "minimum", "exclusiveMinimum"),
            maximum: limit(source, "maximum", "exclusiveMaximum"),
            multiple_of: source["multipleOf"].as_f64().filter(|factor| *factor > 0.0),
            length: range(source, "minLength", "maxLength"),
            item_count: range(source, "minItems", "maxItems"),
            property_count: range(source, "minProperties", "maxProperties"),
            all_of: all(source, "/allOf"),
            any_of: all(source, "/anyOf"),
            one_of: all(source, "/oneOf"),
            not: source.get("not").filter(|not| not.is_object()).map(|not| Box::new(Self::of(not))),
            list: list(source),
        }
    }
}

impl Pattern {
    pub fn of(text: &str) -> Self {
        Self { text: text.to_owned(), regex: Regex::new(text).ok() }
    }
}

fn properties(source: &Value) -> BTreeMap<String, Schema> {
    let pairs = source.as_object().into_iter().flatten();
    pairs.map(|(name, source)| (name.clone(), Schema::of(source))).collect()
}

fn additional(source: &Value) -> Additional {
    match source {
        Value::Object(_) => Additional::Matching(Box::new(Schema::of(source))),
        Value::Bool(true) => Additional::Any,
        _ => Additional::Forbidden,
    }
}

fn all(source: &Value, pointer: &str) -> Vec<Schema> {
    array_at(source, pointer).iter().map(Schema::of).collect()
}

fn limit(source: &Value, field: &str, exclusive: &str) -> Option<Limit> {
    let number = source.get(field)?.as_f64()?;
    // Whole numbers are shown as integers regardless of their notation.
    let value =
        if number.fract() == 0.0 && number.abs() < 1e15 { (number as i64).into() } else { number.into() };
    Some(Limit { value, exclusive: source[exclusive] == true })
}

fn range(source: &Value, min: &str, max: &str) -> Range {
    Range { min: source[min].as_u64(), max: source[max].as_u64() }
}

fn list(source: &Value) -> List {
    match str_at(source, "/x-kubernetes-list-type") {
        "set" => List::Set,
        "map" => {
            List::Map(strs_at(source, "/x-kubernetes-list-map-keys").into_iter().map(str::to_owned).collect())
        }
        _ => List::Atomic,
    }
}
