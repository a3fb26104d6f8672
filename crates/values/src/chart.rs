//! The schema as the chart has it: `values.schema.json`, with which Helm
//! refuses what nobody knows, and `values.yaml` with every default.

use serde_json::{Value, json};

use crate::deprecated;
use crate::schema::{KEYS, Key, Kind, Support};

/// Wider lines of comment are broken, columns.
const COLUMNS: usize = 96;

/// `values.schema.json` (JSON Schema draft 7, which Helm reads).
pub fn json_schema() -> Value {
    let mut root = object("Values of the chart, of the agent and of the lab.");
    for key in KEYS {
        insert(&mut root, key.name, property(key));
    }
    for name in deprecated::dotted_names().filter(|name| !KEYS.iter().any(|key| begins(key.name, name))) {
        insert(&mut root, name, json!({"description": "An old spelling, accepted with a notice."}));
    }
    // What Helm hands to every chart below another.
    insert(&mut root, "global", json!({"type": "object"}));
    root["$schema"] = json!("http://json-schema.org/draft-07/schema#");
    root
}

/// `values.yaml`: every value with its meaning; what has no default is a
/// comment, so that Helm sees only what is set.
pub fn values_yaml() -> String {
    let mut tree = Tree::default();
    KEYS.iter().for_each(|key| tree.insert(key.name, key));
    let mut page = String::from(
        "# Values of the chart, under the names that Cilium's users know. What is not built yet is\n\
         # accepted, and the agent says so in its log and in `beeline status`.\n\
         # Printed by `beeline docs chart-values`; a test compares.\n",
    );
    tree.write(&mut page, 0);
    page
}

/// The values that are the chart's business alone, by name.
pub fn chart_only() -> impl Iterator<Item = &'static str> {
    KEYS.iter().filter(|key| matches!(key.built, Support::Chart)).map(|key| key.name)
}

fn begins(name: &str, with: &str) -> bool {
    name.strip_prefix(with).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

fn object(description: &str) -> Value {
    json!({"type": "object", "description": description, "properties": {}, "additionalProperties": false})
}

/// Puts a property below the groups of its dotted name.
fn insert(root: &mut Value, name: &str, property: Value) {
    let (group, rest) = match name.split_once('.') {
        Some((group, rest)) => (group, Some(rest)),
        None => (name, None),
    };
    let Some(properties) = root["properties"].as_object_mut() else { return };
    match rest {
        Some(rest) => {
            let group = properties.entry(group).or_insert_with(|| object(""));
            insert(group, rest, property);
        }
        None => {
            properties.insert(group.to_owned(), property);
        }
    }
}

fn property(key: &Key) -> Value {
    let mut property = kind(key.kind);
    property["description"] = json!(described(key));
    if let Some(words) = property.get_mut("enum").and_then(Value::as_array_mut) {
        words.extend(deprecated::words(key.name).map(Value::from));
    }
    property
}

/// Texts that spell a value of the type are taken as that value.
fn kind(kind: Kind) -> Value {
    match kind {
        Kind::Bool => json!({"enum": [true, false, "true", "false"]}),
        Kind::Integer(min, max) => {
            json!({"type": ["integer", "string"], "minimum": min, "maximum": max, "pattern": "^[0-9]+$"})
        }
        Kind::Text => json!({"type": ["string", "number", "boolean"]}),
        Kind::Choice(words) => json!({"enum": words}),
        Kind::Ipv4Cidr => json!({"type": "string", "pattern": "^[0-9.]+/[0-9]+$"}),
        Kind::Ipv6Cidr => json!({"type": "string", "pattern": "^[0-9a-fA-F:.]+/[0-9]+$"}),
        Kind::List => json!({"type": ["array", "string"], "items": {"type": ["string", "number"]}}),
        Kind::Cidrs => json!({"type": ["array", "string"], "items": {"type": "string"}}),
        Kind::Ports => json!({"type": "string", "pattern": "^([0-9]+ *[-,] *[0-9]+)?$"}),
        Kind::Any => json!({}),
    }
}

/// What the value does, and what of it is not built.
fn described(key: &Key) -> String {
    match key.built {
        Support::Full | Support::Chart => key.doc.to_owned(),
        Support::Ignored(missing) => format!("{} Not whole yet: {missing}.", key.doc),
        Support::Only(words, instead) => {
            format!("{} Support so far: {}; else {instead}.", key.doc, words.join(", "))
        }
    }
}

/// Keys in the order of the schema, by group.
#[derive(Default)]
struct Tree {
    members: Vec<(&'static str, Node)>,
}

enum Node {
    Key(&'static Key),
    Group(Tree),
}

impl Tree {
    fn insert(&mut self, name: &'static str, key: &'static Key) {
        let Some((group, rest)) = name.split_once('.') else {
            return self.members.push((name, Node::Key(key)));
        };
        if let Some((_, Node::Group(tree))) = self.members.iter_mut().find(|(known, _)| *known == group) {
            return tree.insert(rest, key);
        }
        let mut tree = Tree::default();
        tree.insert(rest, key);
        self.members.push((group, Node::Group(tree)));
    }

    fn has_default(&self) -> bool {
        self.members.iter().any(|(_, node)| match node {
            Node::Key(key) => !yaml_default(key).is_empty(),
            Node::Group(tree) => tree.has_default(),
        })
    }

    fn write(&self, page: &mut String, depth: usize) {
        let indent = "  ".repeat(depth);
        for (name, node) in &self.members {
            if depth == 0 {
                page.push('\n');
            }
            match node {
                Node::Key(key) => {
                    comment(page, &indent, &described(key));
                    match yaml_default(key) {
                        default if default.is_empty() => page.push_str(&format!("{indent}# {name}:\n")),
                        default => page.push_str(&format!("{indent}{name}: {default}\n")),
                    }
                }
                Node::Group(tree) => {
                    // A group of comments alone would be a null.
                    let mark = if tree.has_default() { "" } else { "# " };
                    page.push_str(&format!("{indent}{mark}{name}:\n"));
                    tree.write(page, depth + 1);
                }
            }
        }
    }
}

/// The default as YAML; empty = none.
fn yaml_default(key: &Key) -> String {
    match key.kind {
        _ if key.default.is_empty() => String::new(),
        Kind::Bool | Kind::Integer(..) | Kind::List | Kind::Cidrs | Kind::Any => key.default.to_owned(),
        _ => Value::String(key.default.to_owned()).to_string(),
    }
}

/// A sentence as lines of comment.
fn comment(page: &mut String, indent: &str, text: &str) {
    let mut line = format!("{indent}#");
    for word in text.split(' ') {
        if line.len() + 1 + word.len() > COLUMNS {
            page.push_str(&line);
            page.push('\n');
            line = format!("{indent}#");
        }
        line.push(' ');
        line.push_str(word);
    }
    page.push_str(&line);
    page.push('\n');
}
