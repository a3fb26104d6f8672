//! Responses.

use std::convert::Infallible;
use std::sync::Arc;

use beeline_apiserver_admission::Page;
use beeline_apiserver_objects::ApiError;
use beeline_apiserver_schema::Kind;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use serde_json::Value;

pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Response of a request.
pub(crate) enum ApiResponse {
    /// A stored object.
    Object(StatusCode, Arc<Value>),
    /// A page of a list.
    Page(Arc<Kind>, Page),
    Json(StatusCode, Value),
    /// A body of another media type.
    Bytes(&'static str, Bytes),
    Text(&'static str),
    Stream(Body),
    /// Log of a container.
    Log(Body),
}

pub fn ok(value: Value) -> ApiResponse {
    ApiResponse::Json(StatusCode::OK, value)
}

/// Adds a `Warning` header: code 299, no agent, quoted text.
pub(super) fn add_warning(response: &mut Response<Body>, warning: &str) {
    let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"").replace(['\n', '\r'], " ");
    if let Ok(value) = http::HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
        response.headers_mut().append(http::header::WARNING, value);
    }
}

pub(super) fn json_response(code: StatusCode, value: &Value) -> Response<Body> {
    json_bytes(code, serde_json::to_vec(value).unwrap_or_default())
}

pub(super) fn json_bytes(code: StatusCode, text: Vec<u8>) -> Response<Body> {
    response(code, "application/json", Full::new(Bytes::from(text)).boxed_unsync())
}

pub(super) fn text_response(text: &'static str) -> Response<Body> {
    response(
        StatusCode::OK,
        "text/plain; charset=utf-8",
        Full::new(Bytes::from_static(text.as_bytes())).boxed_unsync(),
    )
}

pub(super) fn stream_response(body: Body) -> Response<Body> {
    response(StatusCode::OK, "application/json", body)
}

pub(super) fn error_response(error: &ApiError) -> Response<Body> {
    let code = StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json_response(code, &error.to_status());
    if code == StatusCode::UNAUTHORIZED {
        let challenge = http::HeaderValue::from_static("Bearer realm=\"beeline-lab\"");
        response.headers_mut().insert(http::header::WWW_AUTHENTICATE, challenge);
    }
    response
}

pub(super) fn response(code: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response
}
