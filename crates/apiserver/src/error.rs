//! Errors as Kubernetes words them: every one becomes a `Status` object.

use serde_json::{Value, json};

/// One reason why an object was refused, with the path of the field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// Kubernetes' cause word, such as `FieldValueInvalid`.
    pub reason: &'static str,
    /// The field's path, such as `spec.ports[0].port`.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

impl Cause {
    /// A value that is not allowed there.
    pub fn invalid(field: impl Into<String>, value: &Value, why: impl AsRef<str>) -> Self {
        let message = format!("Invalid value: {value}: {}", why.as_ref());
        Self { reason: "FieldValueInvalid", field: field.into(), message }
    }

    /// A value that must be there.
    pub fn required(field: impl Into<String>, why: impl AsRef<str>) -> Self {
        let message = match why.as_ref() {
            "" => "Required value".to_owned(),
            why => format!("Required value: {why}"),
        };
        Self { reason: "FieldValueRequired", field: field.into(), message }
    }

    /// A name of something that is not there.
    pub fn not_found(field: impl Into<String>, value: &Value) -> Self {
        let message = format!("Not found: {value}");
        Self { reason: "FieldValueNotFound", field: field.into(), message }
    }

    /// A value that stands in a list twice.
    pub fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        Self {
            reason: "FieldValueDuplicate",
            field: field.into(),
            message: format!("Duplicate value: {value}"),
        }
    }

    /// A word that is not one of the known ones.
    pub fn unsupported(field: impl Into<String>, value: &Value, known: &[&str]) -> Self {
        let known: Vec<String> = known.iter().map(|supported| format!("{supported:?}")).collect();
        let message = format!("Unsupported value: {value}: supported values: {}", known.join(", "));
        Self { reason: "FieldValueNotSupported", field: field.into(), message }
    }

    /// A value that is not one of the known ones, words or not.
    pub(crate) fn unsupported_of(field: &str, value: &Value, known: &[Value]) -> Self {
        let known: Vec<String> = known.iter().map(Value::to_string).collect();
        let message = format!("Unsupported value: {value}: supported values: {}", known.join(", "));
        Self { reason: "FieldValueNotSupported", field: field.into(), message }
    }

    /// A value of another type than the schema wants.
    pub(crate) fn wrong_type(field: &str, given: &str, expected: &str) -> Self {
        let place = if field.is_empty() { String::new() } else { format!("{field} ") };
        let message =
            format!("Invalid value: {given:?}: {place}in body must be of type {expected}: {given:?}");
        let field = if field.is_empty() { "<nil>" } else { field };
        Self { reason: "FieldValueTypeInvalid", field: field.into(), message }
    }

    /// A text of too many letters.
    pub(crate) fn too_long(field: &str, max: u64) -> Self {
        let message = format!("Too long: may not be more than {max} bytes");
        Self { reason: "FieldValueTooLong", field: field.into(), message }
    }

    /// A list or map of too many elements.
    pub(crate) fn too_many(field: &str, count: usize, max: u64) -> Self {
        let message = format!("Too many: {count}: must have at most {max} items");
        Self { reason: "FieldValueTooMany", field: field.into(), message }
    }

    /// A value that may not be changed or set.
    pub fn forbidden(field: impl Into<String>, why: impl AsRef<str>) -> Self {
        Self {
            reason: "FieldValueForbidden",
            field: field.into(),
            message: format!("Forbidden: {}", why.as_ref()),
        }
    }
}

impl std::fmt::Display for Cause {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}: {}", self.field, self.message)
    }
}

/// A request that was refused: the contents of a Kubernetes `Status`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP status code.
    pub code: u16,
    /// Kubernetes' reason word, such as `NotFound`.
    pub reason: &'static str,
    /// The sentence for people.
    pub message: String,
    /// What it is about.
    pub details: Box<Details>,
}

/// The object that an error is about, as far as it is about one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// Group of the object's kind.
    pub group: String,
    /// Plural (or, for invalid objects, kind).
    pub kind: String,
    /// Name of the object, empty when it is about none.
    pub name: String,
    /// Field by field, for invalid objects.
    pub causes: Vec<Cause>,
}

impl ApiError {
    /// An error about no object in particular.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: Box::default() }
    }

    fn about(mut self, kind: &crate::Kind, name: &str) -> Self {
        self.details.group = kind.group.to_string();
        self.details.kind = kind.plural.to_string();
        self.details.name = name.to_owned();
        self
    }

    /// 400: the request cannot be understood.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 404: there is no such object.
    pub fn not_found(kind: &crate::Kind, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} {name:?} not found", kind.resource())).about(kind, name)
    }

    /// 404: there is no such path.
    pub fn no_such_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource")
    }

    /// 409: there is one already.
    pub fn already_exists(kind: &crate::Kind, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{} {name:?} already exists", kind.resource()))
            .about(kind, name)
    }

    /// 409: somebody else was faster, or the object is not what the caller thinks.
    pub fn conflict(kind: &crate::Kind, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", kind.resource());
        Self::new(409, "Conflict", message).about(kind, name)
    }

    /// 403: not allowed in this state.
    pub fn forbidden(kind: &crate::Kind, name: &str, why: &str) -> Self {
        Self::new(403, "Forbidden", format!("{} {name:?} is forbidden: {why}", kind.resource()))
            .about(kind, name)
    }

    /// 405: the resource does not offer this verb.
    pub fn method_not_allowed() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    }

    /// 410: the history that the caller asks for is gone; list again.
    pub fn gone(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 422: the object breaks rules, which `causes` name.
    pub fn invalid(kind: &crate::Kind, name: &str, causes: Vec<Cause>) -> Self {
        let list: Vec<String> = causes.iter().map(Cause::to_string).collect();
        let list = if let [one] = list.as_slice() { one.clone() } else { format!("[{}]", list.join(", ")) };
        let subject = match kind.group.as_ref() {
            "" => kind.kind.to_string(),
            group => format!("{}.{group}", kind.kind),
        };
        let mut error =
            Self::new(422, "Invalid", format!("{subject} {name:?} is invalid: {list}")).about(kind, name);
        error.details.kind = kind.kind.to_string();
        error.details.causes = causes;
        error
    }

    /// Whether somebody else changed the object meanwhile.
    pub fn is_conflict(&self) -> bool {
        self.reason == "Conflict"
    }

    /// Whether the object does not exist.
    pub fn is_not_found(&self) -> bool {
        self.code == 404
    }

    /// The `Status` object that a client gets.
    pub fn to_status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        let details = self.details.to_map();
        if !details.is_empty() {
            status["details"] = Value::Object(details);
        }
        status
    }
}

impl Details {
    fn to_map(&self) -> serde_json::Map<String, Value> {
        let mut details = serde_json::Map::new();
        for (key, value) in [("name", &self.name), ("group", &self.group), ("kind", &self.kind)] {
            if !value.is_empty() {
                details.insert(key.to_owned(), json!(value));
            }
        }
        if !self.causes.is_empty() {
            let causes = self.causes.iter();
            let causes =
                causes.map(|one| json!({"reason": one.reason, "message": one.message, "field": one.field}));
            details.insert("causes".to_owned(), causes.collect());
        }
        details
    }
}
