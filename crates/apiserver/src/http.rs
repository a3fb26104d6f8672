//! HTTPS protocol: routing of requests, responses and watch streams.

mod auth;
mod body;
mod discovery;
mod log;
mod page;
mod query;
mod resource;
mod resource_version;
mod review;
mod route;
mod table;
mod watch;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::identity::{Authenticator, ISSUER};
use crate::openapi::OpenApiDocuments;
use crate::{Api, ApiError, Kind, Kinds, LogSource, Page};

pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Maximum number of connections per listener; more wait in the kernel's accept queue.
const CONNECTIONS_MAX: usize = 4096;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// State shared by all connections.
pub(crate) struct Service {
    api: Api,
    authenticator: Authenticator,
    documents: OpenApiDocuments,
    logs: Option<LogSource>,
}

impl Service {
    pub fn new(api: Api, authenticator: Authenticator, logs: Option<LogSource>) -> Self {
        Self { api, authenticator, documents: OpenApiDocuments::default(), logs }
    }

    async fn handle(&self, request: Request<Incoming>) -> Response<Body> {
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

pub(crate) fn ok(value: Value) -> ApiResponse {
    ApiResponse::Json(StatusCode::OK, value)
}

/// Accepts connections until the future is dropped, which also closes the connections.
pub(crate) async fn serve(listener: TcpListener, acceptor: TlsAcceptor, service: Arc<Service>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        if connections.len() >= CONNECTIONS_MAX {
            connections.join_next().await;
        }
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(connection(stream, acceptor.clone(), service.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "the API server cannot accept a connection; trying again");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, service: Arc<Service>) {
    // Disable Nagle's algorithm, so that small responses are not delayed.
    let _ = stream.set_nodelay(true);
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await;
    let stream = match handshake {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "a client's TLS handshake failed"),
        Err(_) => return tracing::debug!("a client did not finish its TLS handshake"),
    };
    let answer = service_fn(move |request| {
        let service = service.clone();
        async move { Ok::<_, Infallible>(service.handle(request).await) }
    });
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(None);
    if let Err(error) = server.serve_connection(TokioIo::new(stream), answer).await {
        tracing::debug!(%error, "a connection ended early");
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

/// Adds a `Warning` header: code 299, no agent, quoted text.
fn add_warning(response: &mut Response<Body>, warning: &str) {
    let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"").replace(['\n', '\r'], " ");
    if let Ok(value) = http::HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
        response.headers_mut().append(http::header::WARNING, value);
    }
}

fn json_response(code: StatusCode, value: &Value) -> Response<Body> {
    json_bytes(code, serde_json::to_vec(value).unwrap_or_default())
}

fn json_bytes(code: StatusCode, text: Vec<u8>) -> Response<Body> {
    response(code, "application/json", Full::new(Bytes::from(text)).boxed_unsync())
}

fn text_response(text: &'static str) -> Response<Body> {
    response(
        StatusCode::OK,
        "text/plain; charset=utf-8",
        Full::new(Bytes::from_static(text.as_bytes())).boxed_unsync(),
    )
}

fn stream_response(body: Body) -> Response<Body> {
    response(StatusCode::OK, "application/json", body)
}

fn error_response(error: &ApiError) -> Response<Body> {
    let code = StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json_response(code, &error.to_status());
    if code == StatusCode::UNAUTHORIZED {
        let challenge = http::HeaderValue::from_static("Bearer realm=\"beeline-lab\"");
        response.headers_mut().insert(http::header::WWW_AUTHENTICATE, challenge);
    }
    response
}

fn response(code: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response
}
