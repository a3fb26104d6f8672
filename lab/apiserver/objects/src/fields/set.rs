//! Sets of field paths, as trees in the notation of `FieldsV1`.
//!
//! A path element is `f:NAME` (a field), `k:{...}` (a list element by its keys) or `v:...` (a set
//! element by its value). A node can be a member, have members below it, or both.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// Marks a member that also has members below it.
const SELF: &str = ".";

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FieldSet {
    nodes: BTreeMap<String, Node>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Node {
    member: bool,
    children: FieldSet,
}

impl FieldSet {
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Adds a path.
    pub fn insert(&mut self, path: &[String]) {
        let Some((first, rest)) = path.split_first() else { return };
        let node = self.nodes.entry(first.clone()).or_default();
        if rest.is_empty() {
            node.member = true;
        } else {
            node.children.insert(rest);
        }
    }

    /// Whether the path of one element is a member.
    pub fn contains(&self, element: &str) -> bool {
        self.nodes.get(element).is_some_and(|node| node.member)
    }

    /// The members below an element.
    pub fn children(&self, element: &str) -> Option<&Self> {
        self.nodes.get(element).map(|node| &node.children)
    }

    pub fn union(&self, other: &Self) -> Self {
        let mut all = self.clone();
        for (element, node) in &other.nodes {
            let mine = all.nodes.entry(element.clone()).or_default();
            mine.member |= node.member;
            mine.children = mine.children.union(&node.children);
        }
        all
    }

    pub fn intersection(&self, other: &Self) -> Self {
        self.combined(other, |mine, other| Node {
            member: mine.member && other.is_some_and(|other| other.member),
            children: other.map(|other| mine.children.intersection(&other.children)).unwrap_or_default(),
        })
    }

    /// Members that are not in the other set.
    pub fn difference(&self, other: &Self) -> Self {
        self.combined(other, |mine, other| match other {
            None => mine.clone(),
            Some(other) => Node {
                member: mine.member && !other.member,
                children: mine.children.difference(&other.children),
            },
        })
    }

    /// Members that are neither in the other set nor below one of its members.
    pub fn recursive_difference(&self, other: &Self) -> Self {
        self.combined(other, |mine, other| match other {
            None => mine.clone(),
            Some(other) if other.member => Node::default(),
            Some(other) => {
                Node { member: mine.member, children: mine.children.recursive_difference(&other.children) }
            }
        })
    }

    fn combined(&self, other: &Self, combine: impl Fn(&Node, Option<&Node>) -> Node) -> Self {
        let nodes = self.nodes.iter().map(|(element, node)| {
            let node = combine(node, other.nodes.get(element));
            (element.clone(), node)
        });
        Self { nodes: nodes.filter(|(_, node)| node.member || !node.children.is_empty()).collect() }
    }

    /// The set with the fields on the path to each member added; list elements are not added.
    pub fn with_parent_fields(&self) -> Self {
        let nodes = self.nodes.iter().map(|(element, node)| {
            let member = node.member || element.starts_with("f:");
            (element.clone(), Node { member, children: node.children.with_parent_fields() })
        });
        Self { nodes: nodes.collect() }
    }

    /// All members in readable notation: `.spec.ports[port=80,protocol="TCP"].name`.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect_paths("", &mut paths);
        paths
    }

    fn collect_paths(&self, above: &str, paths: &mut Vec<String>) {
        for (element, node) in &self.nodes {
            let path = format!("{above}{}", show(element));
            if node.member {
                paths.push(path.clone());
            }
            node.children.collect_paths(&path, paths);
        }
    }

    /// Encodes the set as `FieldsV1`.
    pub fn to_json(&self) -> Value {
        let node = |node: &Node| {
            let mut below = node.children.to_json();
            if node.member && !node.children.is_empty() {
                below[SELF] = json!({});
            }
            below
        };
        self.nodes.iter().map(|(element, one)| (element.clone(), node(one))).collect::<Map<_, _>>().into()
    }

    /// Parses `FieldsV1`. Invalid elements are ignored.
    pub fn from_json(fields: &Value) -> Self {
        let mut set = Self::default();
        for (element, below) in fields.as_object().into_iter().flatten() {
            let Some(element) = canonical(element) else { continue };
            let own = below.as_object();
            let member = own.is_none_or(|own| own.is_empty() || own.contains_key(SELF));
            set.nodes.insert(element, Node { member, children: Self::from_json(below) });
        }
        set
    }
}

/// The path element with sorted keys; none if it is invalid.
fn canonical(element: &str) -> Option<String> {
    let (prefix, rest) = element.split_once(':')?;
    match prefix {
        "f" => Some(element.to_owned()),
        "k" | "v" | "i" => {
            let value: Value = serde_json::from_str(rest).ok()?;
            Some(format!("{prefix}:{value}"))
        }
        _ => None,
    }
}

fn show(element: &str) -> String {
    let Some((prefix, rest)) = element.split_once(':') else { return element.to_owned() };
    match prefix {
        "f" => format!(".{rest}"),
        "k" => {
            let keys: Map<String, Value> = serde_json::from_str(rest).unwrap_or_default();
            let keys: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
            format!("[{}]", keys.join(","))
        }
        "v" => format!("[={rest}]"),
        _ => format!("[{rest}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(fields: Value) -> FieldSet {
        FieldSet::from_json(&fields)
    }

    #[test]
    fn unit_sets_round_trip_as_fields_v1() {
        let fields = json!({
            "f:metadata": {"f:labels": {".": {}, "f:app": {}}, "f:finalizers": {"v:\"a\"": {}}},
            "f:spec": {"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}}}},
        });
        assert_eq!(set(fields.clone()).to_json(), fields);
        let unordered = json!({"f:ports": {"k:{\"protocol\":\"TCP\", \"port\":80}": {}}, "odd": {}});
        assert_eq!(
            set(unordered).to_json(),
            json!({"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {}}})
        );
        let expected = [
            ".metadata.finalizers[=\"a\"]",
            ".metadata.labels",
            ".metadata.labels.app",
            ".spec.ports[port=80,protocol=\"TCP\"]",
            ".spec.ports[port=80,protocol=\"TCP\"].port",
        ];
        assert_eq!(set(fields).paths(), expected);
    }

    #[test]
    fn unit_set_operations() {
        let left = set(json!({"f:a": {".": {}, "f:b": {}, "f:c": {}}, "f:d": {}}));
        let right = set(json!({"f:a": {".": {}, "f:b": {}}, "f:e": {}}));
        let check = |set: FieldSet, expected: Value| assert_eq!(set.to_json(), expected);
        check(left.union(&right), json!({"f:a": {".": {}, "f:b": {}, "f:c": {}}, "f:d": {}, "f:e": {}}));
        check(left.intersection(&right), json!({"f:a": {".": {}, "f:b": {}}}));
        check(left.difference(&right), json!({"f:a": {"f:c": {}}, "f:d": {}}));
        check(left.recursive_difference(&right), json!({"f:d": {}}));
        check(
            set(json!({"f:a": {"k:{\"b\":1}": {"f:c": {}}}})).with_parent_fields(),
            json!({"f:a": {".": {}, "k:{\"b\":1}": {"f:c": {}}}}),
        );
    }
}
