//! Request bodies in JSON, YAML or protobuf, with a maximum size.

use axum::body::Body;
use beeline_apiserver_objects::{ApiError, PatchKind};
use beeline_apiserver_schema::{Kind, protobuf};
use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::Value;

use super::query::Query;

/// The limit of Kubernetes, which is twice the request size limit of etcd.
const BODY_MAX: usize = 3 * 1024 * 1024;

pub(super) async fn read(body: Body) -> Result<Bytes, ApiError> {
    match Limited::new(body, BODY_MAX).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            let message = format!("Request entity too large: limit is {BODY_MAX} bytes");
            Err(ApiError::new(413, "RequestEntityTooLarge", message))
        }
        Err(error) => Err(ApiError::bad_request(format!("the request's body ended early: {error}"))),
    }
}

/// The content type without parameters.
fn content_type(headers: &HeaderMap) -> &str {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("application/json");
    value.split(';').next().unwrap_or_default().trim()
}

/// The object in the body of a POST or PUT.
pub(super) fn object(headers: &HeaderMap, body: &[u8]) -> Result<Value, ApiError> {
    match content_type(headers) {
        "application/json" | "" => parse_json(body),
        "application/yaml" => parse_yaml(body),
        protobuf::MEDIA_TYPE => Ok(protobuf::decode(body)?),
        other => {
            let known = format!("application/json, application/yaml, {}", protobuf::MEDIA_TYPE);
            Err(unsupported(other, &known))
        }
    }
}

/// The object in a body for a kind. Only built-in kinds have protobuf messages.
pub(super) fn object_of_kind(kind: &Kind, headers: &HeaderMap, body: &[u8]) -> Result<Value, ApiError> {
    match content_type(headers) {
        protobuf::MEDIA_TYPE if kind.custom.is_some() => {
            Err(unsupported(protobuf::MEDIA_TYPE, "application/json, application/yaml"))
        }
        _ => object(headers, body),
    }
}

/// The options in the body of a DELETE, which may be empty.
pub(super) fn optional_object(headers: &HeaderMap, body: &[u8]) -> Result<Value, ApiError> {
    if body.iter().all(u8::is_ascii_whitespace) { Ok(Value::Null) } else { object(headers, body) }
}

/// The patch type and the body of a PATCH.
pub(super) fn patch(headers: &HeaderMap, body: &[u8], query: &Query) -> Result<(PatchKind, Value), ApiError> {
    let (manager, force) = (query.get("fieldManager"), query.flag("force"));
    if force && content_type(headers) != "application/apply-patch+yaml" {
        let why = "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for non-apply patch";
        return Err(ApiError::new(422, "Invalid", why));
    }
    Ok(match content_type(headers) {
        "application/json-patch+json" => (PatchKind::Json, parse_json(body)?),
        "application/merge-patch+json" => (PatchKind::Merge, parse_json(body)?),
        "application/strategic-merge-patch+json" => (PatchKind::Strategic, parse_json(body)?),
        "application/apply-patch+yaml" => {
            if manager.is_empty() {
                let why = "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch";
                return Err(ApiError::new(422, "Invalid", why));
            }
            (PatchKind::Apply { manager: manager.to_owned(), force }, parse_yaml(body)?)
        }
        other => {
            let known = "application/json-patch+json, application/merge-patch+json, \
                         application/strategic-merge-patch+json, application/apply-patch+yaml";
            return Err(unsupported(other, known));
        }
    })
}

/// Maximum length of a field manager's name.
const FIELD_MANAGER_BYTES_MAX: usize = 128;

/// The field manager: the query parameter, else the program name of the user agent.
pub(super) fn field_manager(headers: &HeaderMap, query: &Query) -> Result<String, ApiError> {
    let given = query.get("fieldManager");
    let refuse = |why: String| {
        Err(ApiError::new(422, "Invalid", format!("fieldManager: Invalid value: {given:?}: {why}")))
    };
    if given.len() > FIELD_MANAGER_BYTES_MAX {
        return refuse(format!("may not be more than {FIELD_MANAGER_BYTES_MAX} bytes"));
    }
    if given.chars().any(char::is_control) {
        return refuse("should only contain printable characters".to_owned());
    }
    if !given.is_empty() {
        return Ok(given.to_owned());
    }
    let agent = headers.get(USER_AGENT).map(|agent| String::from_utf8_lossy(agent.as_bytes()).into_owned());
    let agent = agent.unwrap_or_default();
    let name = agent.split('/').next().unwrap_or_default().chars().filter(|letter| !letter.is_control());
    let name: String = name.take(FIELD_MANAGER_BYTES_MAX).collect();
    Ok(if name.is_empty() { "unknown".to_owned() } else { name })
}

fn parse_json(body: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(body)
        .map_err(|error| ApiError::bad_request(format!("the body is not JSON: {error}")))
}

fn parse_yaml(body: &[u8]) -> Result<Value, ApiError> {
    // Try JSON first: most clients send it, and it is faster to parse.
    if let Ok(value) = serde_json::from_slice(body) {
        return Ok(value);
    }
    let text = std::str::from_utf8(body).map_err(|_| ApiError::bad_request("the body is not UTF-8"))?;
    serde_saphyr::from_str(text)
        .map_err(|error| ApiError::bad_request(format!("the body is not YAML: {error}")))
}

fn unsupported(given: &str, known: &str) -> ApiError {
    let message = format!(
        "the body of the request was in an unknown format ({given}) - accepted media types include: {known}"
    );
    ApiError::new(415, "UnsupportedMediaType", message)
}
