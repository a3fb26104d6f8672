//! API errors with the messages of Kubernetes. Each becomes a `Status` object.

use serde_json::{Value, json};

/// One reason why an object is invalid, with the path of the field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// Kubernetes' cause type, such as `FieldValueInvalid`.
    pub reason: &'static str,
    /// Path of the field, such as `spec.ports[0].port`.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

impl Cause {
    /// The value is not allowed.
    pub fn invalid(field: impl Into<String>, value: &Value, why: impl AsRef<str>) -> Self {
        let message = format!("Invalid value: {value}: {}", why.as_ref());
        Self { reason: "FieldValueInvalid", field: field.into(), message }
    }

    /// A required field is missing.
    pub fn required(field: impl Into<String>, why: impl AsRef<str>) -> Self {
        let message = match why.as_ref() {
            "" => "Required value".to_owned(),
            why => format!("Required value: {why}"),
        };
        Self { reason: "FieldValueRequired", field: field.into(), message }
    }

    /// The referenced object does not exist.
    pub fn not_found(field: impl Into<String>, value: &Value) -> Self {
        let message = format!("Not found: {value}");
        Self { reason: "FieldValueNotFound", field: field.into(), message }
    }

    /// The value occurs twice in a list.
    pub fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        Self {
            reason: "FieldValueDuplicate",
            field: field.into(),
            message: format!("Duplicate value: {value}"),
        }
    }

    /// The string is not one of the supported values.
    pub fn unsupported(field: impl Into<String>, value: &Value, known: &[&str]) -> Self {
        let known: Vec<String> = known.iter().map(|supported| format!("{supported:?}")).collect();
        let message = format!("Unsupported value: {value}: supported values: {}", known.join(", "));
        Self { reason: "FieldValueNotSupported", field: field.into(), message }
    }

    /// The value is not one of the supported values.
    pub fn unsupported_of(field: &str, value: &Value, known: &[Value]) -> Self {
        let known: Vec<String> = known.iter().map(Value::to_string).collect();
        let message = format!("Unsupported value: {value}: supported values: {}", known.join(", "));
        Self { reason: "FieldValueNotSupported", field: field.into(), message }
    }

    /// The value has another type than the schema requires.
    pub fn wrong_type(field: &str, given: &str, expected: &str) -> Self {
        let place = if field.is_empty() { String::new() } else { format!("{field} ") };
        let message =
            format!("Invalid value: {given:?}: {place}in body must be of type {expected}: {given:?}");
        let field = if field.is_empty() { "<nil>" } else { field };
        Self { reason: "FieldValueTypeInvalid", field: field.into(), message }
    }

    /// The string is too long.
    pub fn too_long(field: &str, max: u64) -> Self {
        let message = format!("Too long: may not be more than {max} bytes");
        Self { reason: "FieldValueTooLong", field: field.into(), message }
    }

    /// The list or map has too many elements.
    pub fn too_many(field: &str, count: usize, max: u64) -> Self {
        let message = format!("Too many: {count}: must have at most {max} items");
        Self { reason: "FieldValueTooMany", field: field.into(), message }
    }

    /// The field must not be set or changed.
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

/// The names of a kind, as messages show them.
pub trait KindNames {
    /// API group; empty for the core group.
    fn group(&self) -> &str;

    /// Kind, such as `Pod`.
    fn kind(&self) -> &str;

    /// Plural name, such as `pods`.
    fn plural(&self) -> &str;

    /// The resource as in messages: `pods`, `deployments.apps`.
    fn resource(&self) -> String {
        match self.group() {
            "" => self.plural().to_owned(),
            group => format!("{}.{group}", self.plural()),
        }
    }
}

impl<T: KindNames> KindNames for std::sync::Arc<T> {
    fn group(&self) -> &str {
        T::group(self)
    }

    fn kind(&self) -> &str {
        T::kind(self)
    }

    fn plural(&self) -> &str {
        T::plural(self)
    }
}

/// Error of a request: the contents of a Kubernetes `Status`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP status code.
    pub code: u16,
    /// Kubernetes' reason, such as `NotFound`.
    pub reason: &'static str,
    /// Human-readable message.
    pub message: String,
    /// The object concerned.
    pub details: Box<Details>,
}

/// The object that an error is about. Fields are empty if it is about none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// Group of the object's kind.
    pub group: String,
    /// Plural of the kind; for invalid objects the kind itself.
    pub kind: String,
    /// Name of the object, empty if there is none.
    pub name: String,
    /// Invalid fields.
    pub causes: Vec<Cause>,
}

impl ApiError {
    /// An error that is not about an object.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: Box::default() }
    }

    fn about(mut self, kind: &impl KindNames, name: &str) -> Self {
        self.details.group = kind.group().to_owned();
        self.details.kind = kind.plural().to_owned();
        self.details.name = name.to_owned();
        self
    }

    /// 400: the request is malformed.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 404: the object does not exist.
    pub fn not_found(kind: &impl KindNames, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} {name:?} not found", kind.resource())).about(kind, name)
    }

    /// 404: the path does not exist.
    pub fn no_such_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource")
    }

    /// 409: the object exists already.
    pub fn already_exists(kind: &impl KindNames, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{} {name:?} already exists", kind.resource()))
            .about(kind, name)
    }

    /// 409: the object was modified, or a precondition failed.
    pub fn conflict(kind: &impl KindNames, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", kind.resource());
        Self::new(409, "Conflict", message).about(kind, name)
    }

    /// 403: not allowed in the current state.
    pub fn forbidden(kind: &impl KindNames, name: &str, why: &str) -> Self {
        Self::new(403, "Forbidden", format!("{} {name:?} is forbidden: {why}", kind.resource()))
            .about(kind, name)
    }

    /// 405: the resource does not support the method.
    pub fn method_not_allowed() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    }

    /// 410: the requested revision is no longer available; the client must list again.
    pub fn gone(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 422: the object is invalid; `causes` lists the fields.
    pub fn invalid(kind: &impl KindNames, name: &str, causes: Vec<Cause>) -> Self {
        let list: Vec<String> = causes.iter().map(Cause::to_string).collect();
        let list = if let [one] = list.as_slice() { one.clone() } else { format!("[{}]", list.join(", ")) };
        let subject = match kind.group() {
            "" => kind.kind().to_owned(),
            group => format!("{}.{group}", kind.kind()),
        };
        let mut error =
            Self::new(422, "Invalid", format!("{subject} {name:?} is invalid: {list}")).about(kind, name);
        error.details.kind = kind.kind().to_owned();
        error.details.causes = causes;
        error
    }

    /// Whether it is a conflict (409).
    pub fn is_conflict(&self) -> bool {
        self.reason == "Conflict"
    }

    /// Whether it is "not found" (404).
    pub fn is_not_found(&self) -> bool {
        self.code == 404
    }

    /// The `Status` object for the client.
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
