//! OpenAPI 2 as protobuf, for clients that accept nothing else. The field numbers are those of
//! gnostic's `OpenAPIv2.proto`; only fields that our documents have are written.

use serde_json::{Map, Value};

/// A protobuf message under construction.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn bytes(&mut self, field: u32, bytes: &[u8]) {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, field: u32, text: &str) {
        if !text.is_empty() {
            self.bytes(field, text.as_bytes());
        }
    }

    fn text_of(&mut self, field: u32, object: &Value, name: &str) {
        self.text(field, object[name].as_str().unwrap_or_default());
    }

    fn boolean(&mut self, field: u32, boolean: bool) {
        if boolean {
            self.varint(u64::from(field) << 3);
            self.varint(1);
        }
    }

    fn number(&mut self, field: u32, value: &Value) {
        if let Some(number) = value.as_u64() {
            self.varint(u64::from(field) << 3);
            self.varint(number);
        }
    }

    fn float(&mut self, field: u32, value: &Value) {
        if let Some(number) = value.as_f64() {
            self.varint(u64::from(field) << 3 | 1);
            self.0.extend_from_slice(&number.to_le_bytes());
        }
    }

    fn message(&mut self, field: u32, message: &Message) {
        self.bytes(field, &message.0);
    }
}

/// Encodes the document.
pub(super) fn document(document: &Value) -> Vec<u8> {
    let mut out = Message::default();
    out.text_of(1, document, "swagger");
    let mut info = Message::default();
    info.text_of(1, &document["info"], "title");
    info.text_of(2, &document["info"], "version");
    out.message(2, &info);
    out.message(8, &paths(&document["paths"]));
    out.message(9, &named_schemas(&document["definitions"]));
    out.0
}

fn pairs(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
    object.as_object().into_iter().flat_map(Map::iter)
}

/// A map entry: name and message.
fn named(name: &str, value: &Message) -> Message {
    let mut entry = Message::default();
    entry.text(1, name);
    entry.message(2, value);
    entry
}

fn paths(source: &Value) -> Message {
    let mut out = Message::default();
    for (path, item) in pairs(source) {
        out.message(2, &named(path, &path_item(item)));
    }
    out
}

fn path_item(source: &Value) -> Message {
    let mut out = Message::default();
    for (field, method) in [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (8, "patch")] {
        if let Some(source) = source.get(method) {
            out.message(field, &operation(source));
        }
    }
    parameters(9, &source["parameters"], &mut out);
    out
}

fn operation(source: &Value) -> Message {
    let mut out = Message::default();
    parameters(8, &source["parameters"], &mut out);
    let mut responses = Message::default();
    for (code, source) in pairs(&source["responses"]) {
        let (mut response, mut value) = (Message::default(), Message::default());
        response.text_of(1, source, "description");
        value.message(1, &response);
        responses.message(1, &named(code, &value));
    }
    out.message(9, &responses);
    extensions(13, source, &mut out);
    out
}

fn parameters(field: u32, source: &Value, out: &mut Message) {
    for source in source.as_array().into_iter().flatten() {
        let in_path = source["in"] == "path";
        let mut leaf = Message::default();
        leaf.boolean(1, in_path);
        leaf.text_of(2, source, "in");
        leaf.text_of(4, source, "name");
        // The field number of the type depends on the kind of parameter.
        leaf.text_of(if in_path { 5 } else { 6 }, source, "type");
        let (mut non_body, mut parameter, mut item) = Default::default();
        Message::message(&mut non_body, if in_path { 4 } else { 3 }, &leaf);
        Message::message(&mut parameter, 2, &non_body);
        Message::message(&mut item, 1, &parameter);
        out.message(field, &item);
    }
}

fn named_schemas(source: &Value) -> Message {
    let mut out = Message::default();
    for (name, source) in pairs(source) {
        out.message(1, &named(name, &schema(source)));
    }
    out
}

fn schema(source: &Value) -> Message {
    let mut out = Message::default();
    for (field, name) in [(1, "$ref"), (2, "format"), (3, "title"), (4, "description"), (13, "pattern")] {
        out.text_of(field, source, name);
    }
    for (field, name) in [(6, "multipleOf"), (7, "maximum"), (9, "minimum")] {
        out.float(field, &source[name]);
    }
    for (field, name) in [(8, "exclusiveMaximum"), (10, "exclusiveMinimum")] {
        out.boolean(field, source[name] == true);
    }
    let counts = ["maxLength", "minLength", "maxItems", "minItems", "maxProperties", "minProperties"];
    for (field, name) in [11, 12, 14, 15, 17, 18].into_iter().zip(counts) {
        out.number(field, &source[name]);
    }
    for required in source["required"].as_array().into_iter().flatten() {
        out.text(19, required.as_str().unwrap_or_default());
    }
    for allowed in source["enum"].as_array().into_iter().flatten() {
        out.message(20, &any(allowed));
    }
    if source["additionalProperties"].is_object() {
        let mut item = Message::default();
        item.message(1, &schema(&source["additionalProperties"]));
        out.message(21, &item);
    }
    if let Some(kind) = source["type"].as_str() {
        let mut item = Message::default();
        item.text(1, kind);
        out.message(22, &item);
    }
    if source["items"].is_object() {
        let mut item = Message::default();
        item.message(1, &schema(&source["items"]));
        out.message(23, &item);
    }
    if source["properties"].is_object() {
        out.message(25, &named_schemas(&source["properties"]));
    }
    extensions(31, source, &mut out);
    out
}

/// Vendor extensions (`x-`), as YAML; JSON is valid YAML.
fn extensions(field: u32, source: &Value, out: &mut Message) {
    for (name, value) in pairs(source).filter(|(name, _)| name.starts_with("x-")) {
        out.message(field, &named(name, &any(value)));
    }
}

fn any(value: &Value) -> Message {
    let mut out = Message::default();
    out.text(2, &format!("{value}\n"));
    out
}
