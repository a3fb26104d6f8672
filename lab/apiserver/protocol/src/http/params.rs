//! Parameters in the path of a request.

use axum::extract::{FromRequestParts, RawPathParams};
use beeline_apiserver_objects::ApiError;
use http::request::Parts;

use super::response::Failure;

/// The parameters of the route, decoded, and the path.
pub(super) struct PathParams {
    params: Vec<(String, String)>,
    path: String,
}

impl PathParams {
    pub fn find(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(one, _)| one == name).map(|(_, value)| value.as_str())
    }

    /// Empty if the route has no such parameter.
    pub fn get(&self, name: &str) -> &str {
        self.find(name).unwrap_or_default()
    }

    /// What follows the last slash of the path.
    pub fn last_segment(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }
}

impl<S: Send + Sync> FromRequestParts<S> for PathParams {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        // Fails on text that is not UTF-8, as no name is.
        let params =
            RawPathParams::from_request_parts(parts, state).await.map_err(|_| ApiError::no_such_path())?;
        let params = params.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Ok(Self { params, path: parts.uri.path().to_owned() })
    }
}
