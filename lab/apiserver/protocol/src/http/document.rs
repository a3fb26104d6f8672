//! Documents about the server: discovery, OpenAPI, and the keys of service account tokens.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::response::{IntoResponse, Response};
use beeline_apiserver_objects::ApiError;
use beeline_apiserver_schema::Kinds;
use http::header::ACCEPT;
use http::{HeaderMap, Method};

use super::auth;
use super::client_path::ClientPath;
use super::params::PathParams;
use super::response::{ApiResponse, Failure};
use super::state::{Server, check_accept};
use crate::identity::User;

/// What a document is made of.
pub(super) struct About<'a> {
    pub server: &'a Server,
    pub kinds: &'a Kinds,
    pub path: &'a PathParams,
    /// The Accept header.
    pub accept: &'a str,
}

/// Makes a document, if it exists.
pub(super) type Find = fn(&About<'_>) -> Option<ApiResponse>;

/// A request for a document about the server.
pub(super) struct DocumentRequest {
    server: Arc<Server>,
    user: User,
    path: PathParams,
    client_path: String,
    method: Method,
    headers: HeaderMap,
}

impl FromRequest<Arc<Server>> for DocumentRequest {
    type Rejection = Response;

    async fn from_request(request: Request, server: &Arc<Server>) -> Result<Self, Response> {
        let (mut parts, _) = request.into_parts();
        let Extension(user) = Extension::<User>::from_request_parts(&mut parts, server)
            .await
            .map_err(IntoResponse::into_response)?;
        let path = PathParams::from_request_parts(&mut parts, server).await;
        let path = path.map_err(IntoResponse::into_response)?;
        let client_path = ClientPath::of(&parts).to_owned();
        let (method, headers) = (parts.method, parts.headers);
        Ok(Self { server: server.clone(), user, path, client_path, method, headers })
    }
}

impl DocumentRequest {
    /// The document, if it exists and the user may read it.
    pub fn answer(&self, find: Find) -> Result<ApiResponse, Failure> {
        let accept = self.headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
        let kinds = self.server.api.kinds();
        let about = About { server: &self.server, kinds: &kinds, path: &self.path, accept };
        let Some(found) = find(&about) else {
            check_accept(&self.headers)?;
            return Err(ApiError::no_such_path().into());
        };
        let attributes = auth::path_attributes(&self.method, &self.client_path);
        auth::authorize(&self.server.api, &self.user, &attributes)?;
        if self.method == Method::GET { Ok(found) } else { Err(ApiError::method_not_allowed().into()) }
    }
}
