//! From a request to its response: authentication, authorization, and the operation.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use beeline_apiserver_objects::ApiError;
use http::request::Parts;
use http::{HeaderMap, StatusCode};

use super::params::PathParams;
use super::query::Query;
use super::response::{ApiResponse, Failure, add_warning};
use super::review::{self, ReviewRequest};
use super::state::{Server, check_accept};
use super::target::Target;
use super::{auth, body, log, resource as operations, table};
use crate::identity::User;

/// Authenticates a request; there are no anonymous ones.
pub(super) async fn authenticate(
    State(server): State<Arc<Server>>,
    mut request: Request,
    next: Next,
) -> Result<Response, Failure> {
    let user = auth::authenticate(request.headers(), &server.authenticator)?;
    let user = auth::impersonated(request.headers(), &server.api, user)?;
    request.extensions_mut().insert(user);
    Ok(next.run(request).await)
}

/// A path without a route.
pub(super) async fn unknown_path(headers: HeaderMap) -> Failure {
    check_accept(&headers).err().unwrap_or_else(ApiError::no_such_path).into()
}

/// A review or a token request.
pub(super) async fn review(
    resource: &'static review::Resource,
    State(server): State<Arc<Server>>,
    Extension(user): Extension<User>,
    path: PathParams,
    request: Request,
) -> Result<ApiResponse, Failure> {
    let (parts, body) = request.into_parts();
    check_accept(&parts.headers)?;
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    let target = review::Target::of(resource, &path);
    let body = body::read(body).await?;
    let review = ReviewRequest {
        api: &server.api,
        authenticator: &server.authenticator,
        user: &user,
        target: &target,
    };
    Ok(review.answer(&parts.method, &parts.headers, &query, &body)?)
}

/// A request for a collection, an object or a subresource.
pub(super) async fn resource(
    State(server): State<Arc<Server>>,
    Extension(user): Extension<User>,
    path: PathParams,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    let mut warnings = Vec::new();
    let answer = operate(&server, &user, &path, &parts, &query, body, &mut warnings).await;
    let answer = if table::is_requested(&parts.headers) {
        let include = table::Include::of(&query).unwrap_or_default();
        answer.map(|answer| as_table(&server, answer, include))
    } else {
        answer
    };
    let mut response = answer.map_err(Failure::from).into_response();
    warnings.iter().for_each(|warning| add_warning(&mut response, warning));
    response
}

async fn operate(
    server: &Server,
    user: &User,
    path: &PathParams,
    parts: &Parts,
    query: &Query,
    body: axum::body::Body,
    warnings: &mut Vec<String>,
) -> Result<ApiResponse, ApiError> {
    check_accept(&parts.headers)?;
    let target = Target::of(&server.api.kinds(), path)?;
    auth::authorize(&server.api, user, &auth::attributes(&parts.method, &target, query))?;
    if log::is_log_request(&target) {
        let logs = server.logs.as_ref().map(|source| &*source.0);
        return log::answer(&server.api, logs, &parts.method, &target, query);
    }
    let body = body::read(body).await?;
    operations::answer(&server.api, parts, &target, query, &body, warnings)
}

/// Objects and lists as tables; other responses as they are.
fn as_table(server: &Server, answer: ApiResponse, include: table::Include) -> ApiResponse {
    match answer {
        ApiResponse::Object(_, object) => {
            ApiResponse::Json(StatusCode::OK, table::of_object(&server.api.kinds(), &object, include))
        }
        ApiResponse::Page(kind, page) => {
            ApiResponse::Json(StatusCode::OK, table::of_page(&kind, &page, include))
        }
        other => other,
    }
}
