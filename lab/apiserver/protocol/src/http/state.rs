//! What the handlers of requests share.

use beeline_apiserver_admission::Api;
use beeline_apiserver_objects::ApiError;
use beeline_apiserver_schema::openapi::OpenApiDocuments;
use http::HeaderMap;
use http::header::ACCEPT;

use crate::LogSource;
use crate::identity::Authenticator;

/// State shared by all requests.
pub(super) struct Server {
    pub api: Api,
    pub authenticator: Authenticator,
    pub documents: OpenApiDocuments,
    pub logs: Option<LogSource>,
}

/// Refuses clients that do not accept JSON.
pub(super) fn check_accept(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(accept) = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()) else { return Ok(()) };
    let reads_json = accept.split(',').any(|one| {
        let kind = one.split(';').next().unwrap_or_default().trim();
        matches!(kind, "application/json" | "application/*" | "*/*" | "application/yaml" | "")
    });
    if reads_json {
        return Ok(());
    }
    let message = "only the following media types are accepted: application/json";
    Err(ApiError::new(406, "NotAcceptable", message))
}
