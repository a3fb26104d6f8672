//! Derives schemas from Rust types with a deserializer that records what a type asks for.
//!
//! A type is deserialized from placeholder input that has every field. What each level requests from
//! the deserializer (a struct with these fields, a list, a string) is its schema.

use std::any::type_name;
use std::collections::BTreeMap;

use beeline_apiserver_objects::patch::lists;
use serde::de::value::{Error, StrDeserializer};
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};
use serde::{Serialize, forward_to_deserialize_any};
use serde_json::{Value, json};

/// Schemas by name.
pub type Definitions = BTreeMap<String, Value>;

/// Key of references until a document writes them in its own format.
pub(crate) const REFERENCE: &str = "$ref";

/// Adds the schemas of a type and of all types in it; returns its name.
pub fn describe<T: Serialize + DeserializeOwned>(definitions: &mut Definitions) -> String {
    let mut schema = Value::Null;
    let mut found = Definitions::new();
    // The placeholder input fits every type. A type that refuses it has requested its fields before.
    let _ = T::deserialize(Tracer { definitions: &mut found, schema: &mut schema });
    let name = schema[REFERENCE].as_str().unwrap_or_default().to_owned();
    mark_required::<T>(&name, &mut found);
    for (name, schema) in found {
        definitions.entry(name).or_insert(schema);
    }
    name
}

/// A reference to a schema.
pub fn reference(name: &str) -> Value {
    json!({REFERENCE: name})
}

/// `k8s_openapi::v1_36::api::core::v1::pod_spec::PodSpec` is `io.k8s.api.core.v1.PodSpec`.
fn definition_name(rust: &str) -> String {
    let mut parts: Vec<&str> = rust.split("::").collect();
    parts.retain(|part| *part != "k8s_openapi" && !part.starts_with("v1_"));
    let module = parts.len().saturating_sub(2);
    if parts.len() > 2 {
        parts.remove(module);
    }
    format!("io.k8s.{}", parts.join(".").replace('_', "-"))
}

struct Tracer<'a> {
    definitions: &'a mut Definitions,
    schema: &'a mut Value,
}

impl Tracer<'_> {
    fn record(&mut self, kind: &str, format: &str) {
        *self.schema = json!({"type": kind});
        if !format.is_empty() {
            self.schema["format"] = json!(format);
        }
    }
}

/// Methods that record a primitive type and return its zero value.
macro_rules! primitive {
    ($($method:ident $visit:ident $value:expr, $kind:literal $format:literal;)*) => {$(
        fn $method<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Error> {
            self.record($kind, $format);
            visitor.$visit($value)
        }
    )*};
}

impl<'de> Deserializer<'de> for Tracer<'_> {
    type Error = Error;

    primitive! {
        deserialize_bool visit_bool false, "boolean" "";
        deserialize_i8 visit_i8 0, "integer" "int32";
        deserialize_i16 visit_i16 0, "integer" "int32";
        deserialize_i32 visit_i32 0, "integer" "int32";
        deserialize_i64 visit_i64 0, "integer" "int64";
        deserialize_u8 visit_u8 0, "integer" "int32";
        deserialize_u16 visit_u16 0, "integer" "int32";
        deserialize_u32 visit_u32 0, "integer" "int64";
        deserialize_u64 visit_u64 0, "integer" "int64";
        deserialize_f32 visit_f32 0.0, "number" "float";
        deserialize_f64 visit_f64 0.0, "number" "double";
    }

    fn deserialize_str<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Error> {
        let (is_bytes, is_time) = (is::<V::Value>("ByteString"), is::<V::Value>("Timestamp"));
        self.record(
            "string",
            if is_bytes {
                "byte"
            } else if is_time {
                "date-time"
            } else {
                ""
            },
        );
        visitor.visit_str(if is_time { "1970-01-01T00:00:00Z" } else { "" })
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        match name {
            "Quantity" => {
                *self.schema = json!({"type": "string"});
                visitor.visit_newtype_struct(StrDeserializer::new(""))
            }
            "RawExtension" | "FieldsV1" => {
                *self.schema = json!({"type": "object"});
                visitor.visit_newtype_struct(IntoDeserializer::<Error>::into_deserializer(()))
            }
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        *self.schema = json!({"type": "array", "items": {}});
        let items = &mut self.schema["items"];
        visitor.visit_seq(SingleElement { definitions: self.definitions, schema: items, done: false })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        *self.schema = json!({"type": "object", "additionalProperties": {}});
        let values = &mut self.schema["additionalProperties"];
        visitor.visit_map(SingleElement { definitions: self.definitions, schema: values, done: false })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let name = definition_name(type_name::<V::Value>());
        *self.schema = reference(&name);
        if self.definitions.contains_key(&name) {
            return visitor.visit_map(Fields { definitions: self.definitions, name: &name, left: [].iter() });
        }
        self.definitions.insert(name.clone(), json!({"type": "object"}));
        // Embedded objects check these two fields against their type, so the placeholder omits them.
        let mut left = fields;
        if let ["apiVersion", "kind", rest @ ..] = fields
            && rest.contains(&"metadata")
        {
            let text = json!({"type": "string"});
            insert(self.definitions, &name, "apiVersion", text.clone());
            insert(self.definitions, &name, "kind", text);
            left = rest;
        }
        visitor.visit_map(Fields { definitions: self.definitions, name: &name, left: left.iter() })
    }

    /// Types that accept alternatives.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if is::<V::Value>("IntOrString") {
            *self.schema = json!({"x-kubernetes-int-or-string": true});
            return visitor.visit_str("");
        }
        // Clients treat an empty schema as absent.
        *self.schema = json!({"description": "Anything."});
        if is::<V::Value>("OrBool") {
            return visitor.visit_bool(true);
        }
        if is::<V::Value>("OrArray") || is::<V::Value>("OrStringArray") {
            return visitor.visit_seq(SingleElement {
                definitions: self.definitions,
                schema: self.schema,
                done: true,
            });
        }
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct enum identifier ignored_any
    }
}

fn is<T>(name: &str) -> bool {
    type_name::<T>().ends_with(name)
}

fn insert(definitions: &mut Definitions, name: &str, field: &str, mut schema: Value) {
    lists::add_list_extensions(name, field, &mut schema);
    if let Some(definition) = definitions.get_mut(name) {
        definition["properties"][field] = schema;
    }
}

/// A list of one element, or a map of one entry.
struct SingleElement<'a> {
    definitions: &'a mut Definitions,
    schema: &'a mut Value,
    done: bool,
}

impl<'de> SeqAccess<'de> for SingleElement<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        if std::mem::replace(&mut self.done, true) {
            return Ok(None);
        }
        seed.deserialize(Tracer { definitions: self.definitions, schema: self.schema }).map(Some)
    }
}

impl<'de> MapAccess<'de> for SingleElement<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        if std::mem::replace(&mut self.done, true) {
            return Ok(None);
        }
        seed.deserialize(IntoDeserializer::<Error>::into_deserializer(PLACEHOLDER_KEY)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        seed.deserialize(Tracer { definitions: self.definitions, schema: self.schema })
    }
}

const PLACEHOLDER_KEY: &str = "key";

/// The fields of a struct, each once.
struct Fields<'a> {
    definitions: &'a mut Definitions,
    name: &'a str,
    left: std::slice::Iter<'static, &'static str>,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some(field) = self.left.as_slice().first() else { return Ok(None) };
        seed.deserialize(IntoDeserializer::<Error>::into_deserializer(*field)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let mut schema = Value::Null;
        let value = seed.deserialize(Tracer { definitions: self.definitions, schema: &mut schema });
        if let Some(field) = self.left.next() {
            insert(self.definitions, self.name, field, schema);
        }
        value
    }
}

/// Where a type first occurs: the containing type, the field, and the nesting in lists and maps.
type Location = (String, String, Vec<&'static str>);

/// Fields that a type serializes even if the input lacks them are required.
fn mark_required<T: Serialize + DeserializeOwned>(root: &str, definitions: &mut Definitions) {
    let locations = locations(root, definitions);
    for name in definitions.keys().cloned().collect::<Vec<_>>() {
        let Some(path_to) = path_to(root, &name, &locations) else { continue };
        let sample = path_to.iter().rev().fold(json!({}), |inner, step| match step.as_str() {
            "[]" => json!([inner]),
            "{}" => json!({PLACEHOLDER_KEY: inner}),
            field => json!({field: inner}),
        });
        let Ok(written) = T::deserialize(&sample).and_then(serde_json::to_value) else { continue };
        let there = path_to.iter().try_fold(&written, |value, step| match step.as_str() {
            "[]" => value.get(0),
            "{}" => value.get(PLACEHOLDER_KEY),
            field => value.get(field),
        });
        let fields = there.and_then(Value::as_object).into_iter().flatten().map(|(field, _)| field.clone());
        let required: Vec<String> =
            fields.filter(|field| !matches!(field.as_str(), "apiVersion" | "kind" | "metadata")).collect();
        if let Some(definition) = definitions.get_mut(&name).filter(|_| !required.is_empty()) {
            definition["required"] = json!(required);
        }
    }
}

fn locations(root: &str, definitions: &Definitions) -> BTreeMap<String, Location> {
    let (mut locations, mut next) = (BTreeMap::new(), std::collections::VecDeque::from([root.to_owned()]));
    while let Some(parent) = next.pop_front() {
        let Some(properties) = definitions.get(&parent).and_then(|one| one["properties"].as_object()) else {
            continue;
        };
        for (field, schema) in properties {
            let (mut schema, mut depth) = (schema, Vec::new());
            loop {
                match (schema.get("items"), schema.get("additionalProperties")) {
                    (Some(items), _) => (schema, _) = (items, depth.push("[]")),
                    (_, Some(values)) => (schema, _) = (values, depth.push("{}")),
                    _ => break,
                }
            }
            let Some(name) = schema[REFERENCE].as_str() else { continue };
            if name != root && !locations.contains_key(name) {
                locations.insert(name.to_owned(), (parent.clone(), field.clone(), depth));
                next.push_back(name.to_owned());
            }
        }
    }
    locations
}

/// The path from an object to the first value of this type.
fn path_to(root: &str, name: &str, locations: &BTreeMap<String, Location>) -> Option<Vec<String>> {
    let (mut path_to, mut at) = (Vec::new(), name);
    while at != root {
        let (parent, field, depth) = locations.get(at)?;
        path_to.extend(depth.iter().rev().map(|step| (*step).to_owned()));
        path_to.push(field.clone());
        at = parent;
    }
    path_to.reverse();
    Some(path_to)
}
