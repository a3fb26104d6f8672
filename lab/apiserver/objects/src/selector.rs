//! Label and field selectors.

use serde_json::Value;

use crate::{ApiError, object};

/// Selectors of a list or watch; empty ones match everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<FieldRequirement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Operator {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct FieldRequirement {
    pointer: String,
    value: String,
    equal: bool,
}

/// Supported field selectors of all kinds or of the named ones.
const FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.hostNetwork",
    "spec.unschedulable",
    "spec.clusterIP",
    "spec.type",
    "status.phase",
    "status.podIP",
    "status.nominatedNodeName",
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "regarding.kind",
    "regarding.namespace",
    "regarding.name",
    "regarding.uid",
    "reason",
    "reportingController",
    "reportingComponent",
    "source",
    "type",
];

impl Selector {
    /// Parses both query parameters. `selectable` are the paths that field selectors of a custom kind
    /// accept; none for built-in kinds.
    pub fn for_kind(selectable: Option<&[String]>, labels: &str, fields: &str) -> Result<Self, ApiError> {
        let labels = parse_labels(labels)?;
        let fields = match selectable {
            None => parse_fields(fields, FIELDS)?,
            Some(selectable) => {
                let own = selectable.iter().map(String::as_str);
                let known: Vec<&str> =
                    ["metadata.name", "metadata.namespace"].into_iter().chain(own).collect();
                parse_fields(fields, &known)?
            }
        };
        Ok(Self { labels, fields })
    }

    /// Converts a `LabelSelector` (`matchLabels`, `matchExpressions`).
    pub fn from_label_selector(selector: &Value) -> Self {
        let mut labels = from_map(&selector["matchLabels"]);
        for expression in object::array_at(selector, "/matchExpressions") {
            labels.push(of_expression(expression));
        }
        Self { labels, fields: Vec::new() }
    }

    /// Converts a map of labels, as in a Service's selector or a node selector.
    pub fn from_map(selector: &Value) -> Self {
        Self { labels: from_map(selector), fields: Vec::new() }
    }

    /// Whether it matches everything.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Whether it matches the object.
    pub fn matches(&self, object: &Value) -> bool {
        self.labels.iter().all(|one| one.matches(object)) && self.fields.iter().all(|one| one.matches(object))
    }
}

impl Requirement {
    fn matches(&self, object: &Value) -> bool {
        let value = object::label(object, &self.key);
        match &self.operator {
            Operator::In(values) => value.is_some_and(|value| values.iter().any(|one| one == value)),
            Operator::NotIn(values) => value.is_none_or(|value| values.iter().all(|one| one != value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

impl FieldRequirement {
    fn matches(&self, object: &Value) -> bool {
        let equal = match object.pointer(&self.pointer) {
            None | Some(Value::Null) => self.value.is_empty() || self.value == "false",
            Some(Value::String(text)) => *text == self.value,
            Some(Value::Bool(truth)) => self.value == if *truth { "true" } else { "false" },
            Some(Value::Number(number)) => self.value == number.to_string(),
            Some(_) => false,
        };
        equal == self.equal
    }
}

fn from_map(selector: &Value) -> Vec<Requirement> {
    let pairs = selector.as_object().into_iter().flatten();
    let requirement = |(key, value): (&String, &Value)| Requirement {
        key: key.clone(),
        operator: Operator::In(vec![value.as_str().unwrap_or_default().to_owned()]),
    };
    pairs.map(requirement).collect()
}

fn of_expression(expression: &Value) -> Requirement {
    let values = object::strs_at(expression, "/values").into_iter().map(str::to_owned).collect();
    let operator = match expression["operator"].as_str() {
        Some("NotIn") => Operator::NotIn(values),
        Some("Exists") => Operator::Exists,
        Some("DoesNotExist") => Operator::DoesNotExist,
        _ => Operator::In(values),
    };
    Requirement { key: object::str_at(expression, "/key").to_owned(), operator }
}

fn parse_fields(text: &str, known: &[&str]) -> Result<Vec<FieldRequirement>, ApiError> {
    text.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(|part| parse_field(part, known))
        .collect()
}

fn parse_field(part: &str, known: &[&str]) -> Result<FieldRequirement, ApiError> {
    let (field, value, equal) = split_operator(part).ok_or_else(|| {
        ApiError::bad_request(format!("invalid field selector {part:?}: write FIELD=VALUE or FIELD!=VALUE"))
    })?;
    if !known.contains(&field) {
        let message = format!("field label not supported: {field:?}; supported: {}", known.join(", "));
        return Err(ApiError::bad_request(message));
    }
    Ok(FieldRequirement { pointer: format!("/{}", field.replace('.', "/")), value: value.to_owned(), equal })
}

fn split_operator(part: &str) -> Option<(&str, &str, bool)> {
    let (key, value, equal) = if let Some((key, value)) = part.split_once("!=") {
        (key, value, false)
    } else if let Some((key, value)) = part.split_once("==") {
        (key, value, true)
    } else {
        let (key, value) = part.split_once('=')?;
        (key, value, true)
    };
    Some((key.trim(), value.trim(), equal))
}

fn parse_labels(text: &str) -> Result<Vec<Requirement>, ApiError> {
    split_outside_parentheses(text).into_iter().map(parse_label).collect()
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0_usize);
    for (at, letter) in text.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts.into_iter().map(str::trim).filter(|part| !part.is_empty()).collect()
}

fn parse_label(part: &str) -> Result<Requirement, ApiError> {
    let (key, operator) = if let Some((key, value, equal)) = split_operator(part) {
        let values = vec![value.to_owned()];
        (key, if equal { Operator::In(values) } else { Operator::NotIn(values) })
    } else if let Some((head, values)) = part.strip_suffix(')').and_then(|part| part.split_once('(')) {
        let values = values.split(',').map(|value| value.trim().to_owned()).collect();
        match head.trim().rsplit_once(char::is_whitespace) {
            Some((key, "in")) => (key.trim(), Operator::In(values)),
            Some((key, "notin")) => (key.trim(), Operator::NotIn(values)),
            _ => return Err(bad_label(part)),
        }
    } else if let Some(key) = part.strip_prefix('!') {
        (key.trim(), Operator::DoesNotExist)
    } else {
        (part, Operator::Exists)
    };
    if key.is_empty() || key.contains(|letter: char| letter.is_whitespace() || "()!=,".contains(letter)) {
        return Err(bad_label(part));
    }
    Ok(Requirement { key: key.to_owned(), operator })
}

fn bad_label(part: &str) -> ApiError {
    let forms = "KEY=VALUE, KEY!=VALUE, KEY in (A,B), KEY notin (A,B), KEY, !KEY";
    ApiError::bad_request(format!(
        "unable to parse label selector requirement {part:?}: write one of {forms}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(labels: &str, fields: &str, expected: bool) {
        let pod = json!({
            "metadata": {"name": "web-1", "namespace": "default", "labels": {"app": "web", "tier": "front"}},
            "spec": {"nodeName": "node-1"}, "status": {"phase": "Running"},
        });
        assert_eq!(
            Selector::for_kind(None, labels, fields).unwrap().matches(&pod),
            expected,
            "{labels} {fields}"
        );
    }

    #[test]
    fn unit_selectors_match_labels() {
        check("", "", true);
        check("app=web", "", true);
        check("app==web,tier!=back", "", true);
        check("app in (web, db),tier", "", true);
        check("app notin (web)", "", false);
        check("!zone", "", true);
        check("zone", "", false);
        check("zone!=a", "", true);
    }

    #[test]
    fn unit_selectors_match_fields() {
        check("", "metadata.name=web-1", true);
        check("", "spec.nodeName=node-2", false);
        check("", "spec.nodeName!=node-2,status.phase=Running", true);
    }

    #[test]
    fn unit_selectors_refuse_unknown_syntax() {
        assert!(Selector::for_kind(None, "a b", "").is_err());
        assert!(Selector::for_kind(None, "in (a)", "").is_err());
        assert_eq!(Selector::for_kind(None, "", "spec.colour=red").unwrap_err().code, 400);
    }

    #[test]
    fn unit_selector_objects_match() {
        let selector = json!({"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "zone", "operator": "DoesNotExist"}]});
        assert!(
            Selector::from_label_selector(&selector)
                .matches(&json!({"metadata": {"labels": {"app": "web"}}}))
        );
        assert!(
            !Selector::from_label_selector(&selector)
                .matches(&json!({"metadata": {"labels": {"app": "web", "zone": "a"}}}))
        );
    }
}
