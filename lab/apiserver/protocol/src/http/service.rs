//! From a request to its response.

use beeline_apiserver_admission::Api;
use beeline_apiserver_objects::ApiError;
use beeline_apiserver_schema::Kinds;
use beeline_apiserver_schema::openapi::OpenApiDocuments;
use http::header::ACCEPT;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;

use super::response::{
    ApiResponse, Body, add_warning, error_response, json_bytes, json_response, ok, response, stream_response,
    text_response,
};
use super::{auth, body, discovery, log, page, query, resource, review, route, table};
use crate::LogSource;
use crate::identity::{Authenticator, ISSUER};

/// State shared by all connections.
pub struct Service {
    api: Api,
    authenticator: Authenticator,
    documents: OpenApiDocuments,
    logs: Option<LogSource>,
}

impl Service {
    /// The service of these objects.
    pub fn new(api: Api, authenticator: Authenticator, logs: Option<LogSource>) -> Self {
        Self { api, authenticator, documents: OpenApiDocuments::default(), logs }
    }

    /// The response to a request; errors are a Kubernetes Status.
    pub(super) async fn handle(&self, request: Request<Incoming>) -> Response<Body> {
        let as_table = table::is_requested(request.headers());
        let query = query::Query::parse(request.uri().query().unwrap_or_default());
        let include = table::Include::of(&query).unwrap_or_default();
        let mut warnings = Vec::new();
        let mut response = match self.try_handle(request, &mut warnings).await {
            Ok(ApiResponse::Object(_, object)) if as_table => {
                json_response(StatusCode::OK, &table::of_object(&self.api.kinds(), &object, include))
            }
            Ok(ApiResponse::Page(kind, page)) if as_table => {
                json_response(StatusCode::OK, &table::of_page(&kind, &page, include))
            }
            Ok(ApiResponse::Object(code, object)) => json_response(code, &object),
            Ok(ApiResponse::Page(kind, page)) => json_bytes(StatusCode::OK, page::to_json(&kind, &page)),
            Ok(ApiResponse::Json(code, value)) => json_response(code, &value),
            Ok(ApiResponse::Bytes(media_type, bytes)) => {
                response(StatusCode::OK, media_type, Full::new(bytes).boxed_unsync())
            }
            Ok(ApiResponse::Text(text)) => text_response(text),
            Ok(ApiResponse::Stream(body)) => stream_response(body),
            Ok(ApiResponse::Log(body)) => response(StatusCode::OK, "text/plain", body),
            Err(error) => error_response(&error),
        };
        warnings.iter().for_each(|warning| add_warning(&mut response, warning));
        response
    }

    async fn try_handle(
        &self,
        request: Request<Incoming>,
        warnings: &mut Vec<String>,
    ) -> Result<ApiResponse, ApiError> {
        let (parts, incoming) = request.into_parts();
        let path = parts.uri.path().to_owned();
        if let Some(answer) = discovery::unauthenticated(&path) {
            return Ok(answer);
        }
        let user = auth::authenticate(&parts.headers, &self.authenticator)?;
        let user = auth::impersonated(&parts.headers, &self.api, user)?;
        let query = query::Query::parse(parts.uri.query().unwrap_or_default());
        if let Some(target) = review::target(&path) {
            check_accept(&parts.headers)?;
            let review_request = review::ReviewRequest {
                api: &self.api,
                authenticator: &self.authenticator,
                user: &user,
                target: &target,
            };
            let body = body::read(incoming).await?;
            return review_request.answer(&parts.method, &parts.headers, &query, &body);
        }
        let kinds = self.api.kinds();
        if let Some(answer) = self.server_document(&kinds, &path, &parts.headers) {
            auth::authorize(&self.api, &user, &auth::path_attributes(&parts.method, &path))?;
            return if parts.method == Method::GET {
                Ok(answer)
            } else {
                Err(ApiError::method_not_allowed())
            };
        }
        check_accept(&parts.headers)?;
        let target = route::target(&kinds, &path)?;
        auth::authorize(&self.api, &user, &auth::attributes(&parts.method, &target, &query))?;
        if log::is_log_request(&target) {
            let logs = self.logs.as_ref().map(|source| &*source.0);
            return log::answer(&self.api, logs, &parts.method, &target, &query);
        }
        let body = body::read(incoming).await?;
        resource::answer(&self.api, &parts, &target, &query, &body, warnings)
    }
}

impl Service {
    /// Documents about the server: discovery, OpenAPI, and the keys of service account tokens.
    fn server_document(&self, kinds: &Kinds, path: &str, headers: &HeaderMap) -> Option<ApiResponse> {
        let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
        match path {
            "/openid/v1/jwks" => Some(ok(self.authenticator.signer().jwks())),
            "/.well-known/openid-configuration" => Some(ok(discovery::openid_configuration(ISSUER))),
            path if path.starts_with("/openapi/") => {
                let (media_type, bytes) = self.documents.answer(kinds, path, accept)?;
                Some(ApiResponse::Bytes(media_type, bytes))
            }
            path => discovery::answer(kinds, path, accept),
        }
    }
}

/// Refuses clients that do not accept JSON.
fn check_accept(headers: &HeaderMap) -> Result<(), ApiError> {
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
