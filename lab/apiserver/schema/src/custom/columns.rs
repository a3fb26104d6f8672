//! Additional printer columns of a definition.

use beeline_apiserver_objects::object::{self, array_at, i64_at, str_at};
use jsonpath_rust::JsonPath;
use serde_json::{Value, json};

/// One column of a table.
#[derive(Clone, Debug)]
pub struct Column {
    /// Heading.
    pub name: String,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub kind: String,
    /// Format of the type, such as `int32`.
    pub format: String,
    /// Description.
    pub description: String,
    /// 0 for columns that are always shown.
    pub priority: i64,
    path: String,
}

/// Columns of a version; only the age if it defines none.
pub(super) fn of(version: &Value) -> Vec<Column> {
    let columns: Vec<Column> = array_at(version, "/additionalPrinterColumns").iter().map(column).collect();
    if columns.is_empty() { vec![age()] } else { columns }
}

fn column(source: &Value) -> Column {
    let string = |field: &str| str_at(source, field).to_owned();
    Column {
        name: string("/name"),
        kind: string("/type"),
        format: string("/format"),
        description: string("/description"),
        priority: i64_at(source, "/priority").unwrap_or(0),
        path: standard_path(str_at(source, "/jsonPath")),
    }
}

fn age() -> Column {
    column(&json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}))
}

impl Column {
    /// Value of the column for an object; null if the path does not exist.
    pub fn cell(&self, object: &Value) -> Value {
        let found = object.query(&self.path).ok();
        let Some(first) = found.and_then(|found| found.into_iter().next()) else { return Value::Null };
        match (self.kind.as_str(), first) {
            ("string", Value::String(text)) => json!(text),
            ("string", Value::Null) => Value::Null,
            ("string", other) => json!(other.to_string()),
            ("date", Value::String(time)) => json!(object::age_of(time)),
            ("integer", Value::Number(number)) => {
                json!(number.as_i64().or(number.as_f64().map(|n| n as i64)))
            }
            ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => first.clone(),
            _ => Value::Null,
        }
    }
}

/// Converts Kubernetes' dialect of JSONPath to RFC 9535: names are put into brackets because they may
/// contain dashes, slashes and (escaped) dots.
fn standard_path(path: &str) -> String {
    let mut standard = String::from("$");
    let mut rest = path.trim_start_matches('{').trim_end_matches('}');
    while let Some(first) = rest.chars().next() {
        if first == '[' {
            let end = closing_bracket(rest);
            standard.push_str(&rest[..end]);
            rest = &rest[end..];
            continue;
        }
        rest = rest.strip_prefix('.').unwrap_or(rest);
        let (name, after) = take_name(rest);
        match name.as_str() {
            "" => {}
            "*" => standard.push_str("[*]"),
            name => standard.push_str(&format!("['{}']", name.replace('\'', "\\'"))),
        }
        if after.len() == rest.len() && !rest.starts_with(['.', '[']) {
            break;
        }
        rest = after;
    }
    standard
}

fn take_name(text: &str) -> (String, &str) {
    let (mut name, mut letters) = (String::new(), text.char_indices());
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' => name.extend(letters.next().map(|(_, escaped)| escaped)),
            '.' | '[' => return (name, &text[at..]),
            letter => name.push(letter),
        }
    }
    (name, "")
}

/// Index of the bracket that closes the one at the start of the text, skipping nested brackets and
/// quoted strings.
fn closing_bracket(text: &str) -> usize {
    let (mut depth, mut quote) = (0_usize, None);
    for (at, letter) in text.char_indices() {
        match (quote, letter) {
            (Some(open), letter) if letter == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(letter),
            (None, '[') => depth += 1,
            (None, ']') if depth <= 1 => return at + 1,
            (None, ']') => depth -= 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: &str, path: &str, expected: Value) {
        let object = json!({
            "metadata": {"annotations": {"a.b/c": "dotted"}},
            "spec": {"replicas": 3, "host-names": ["a", "b"], "on": true},
            "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Other", "status": "False"}]},
        });
        let column = column(&json!({"name": "x", "type": kind, "jsonPath": path}));
        assert_eq!(column.cell(&object), expected, "{path} as {}", column.path);
    }

    #[test]
    fn unit_columns_follow_their_paths() {
        check("integer", ".spec.replicas", json!(3));
        check("string", ".spec.replicas", json!("3"));
        check("boolean", ".spec.on", json!(true));
        check("string", ".spec.host-names", json!(r#"["a","b"]"#));
        check("string", ".spec.host-names[1]", json!("b"));
        check("string", r#".status.conditions[?(@.type=="Ready")].status"#, json!("True"));
        check("string", r#".status.conditions[?(@.type=='Other')].status"#, json!("False"));
        check("string", ".status.conditions[*].type", json!("Ready"));
        check("string", r".metadata.annotations.a\.b/c", json!("dotted"));
        check("string", ".spec.none.deeper", Value::Null);
        check("integer", ".spec.on", Value::Null);
    }
}
