//! Responses.

use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use beeline_apiserver_admission::Page;
use beeline_apiserver_objects::ApiError;
use beeline_apiserver_schema::Kind;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use serde_json::Value;

use super::page;

/// Response of a request.
pub(super) enum ApiResponse {
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

impl IntoResponse for ApiResponse {
    fn into_response(self) -> Response {
        match self {
            Self::Object(code, object) => json(code, &object),
            Self::Page(kind, page) => response(StatusCode::OK, JSON, page::to_json(&kind, &page)),
            Self::Json(code, value) => json(code, &value),
            Self::Bytes(media_type, bytes) => response(StatusCode::OK, media_type, bytes),
            Self::Text(text) => response(StatusCode::OK, "text/plain; charset=utf-8", text),
            Self::Stream(body) => response(StatusCode::OK, JSON, body),
            Self::Log(body) => response(StatusCode::OK, "text/plain", body),
        }
    }
}

pub(super) fn ok(value: Value) -> ApiResponse {
    ApiResponse::Json(StatusCode::OK, value)
}

/// An error as a Kubernetes Status.
pub(super) struct Failure(ApiError);

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Self(error) = self;
        let code = StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = json(code, &error.to_status());
        if code == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer realm=\"beeline-lab\"");
            response.headers_mut().insert(http::header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

/// Adds a `Warning` header: code 299, no agent, quoted text.
pub(super) fn add_warning(response: &mut Response, warning: &str) {
    let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"").replace(['\n', '\r'], " ");
    if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
        response.headers_mut().append(http::header::WARNING, value);
    }
}

const JSON: &str = "application/json";

fn json(code: StatusCode, value: &Value) -> Response {
    response(code, JSON, serde_json::to_vec(value).unwrap_or_default())
}

fn response(code: StatusCode, content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
