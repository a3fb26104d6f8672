//! The path of a request as the client sent it. The routes see it without empty segments.

use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Request, Uri};

/// The path as the client sent it, in the extensions of a request whose path was changed.
#[derive(Clone)]
pub(super) struct ClientPath(String);

impl ClientPath {
    /// The path of this request as the client sent it.
    pub fn of(parts: &Parts) -> &str {
        parts.extensions.get::<Self>().map_or(parts.uri.path(), |path| &path.0)
    }
}

/// Removes empty segments (`//`, and a slash at the end), which no path of the API has.
pub(super) fn without_empty_segments<B>(mut request: Request<B>) -> Request<B> {
    if let Some(uri) = shortened(request.uri()) {
        let sent = ClientPath(request.uri().path().to_owned());
        request.extensions_mut().insert(sent);
        *request.uri_mut() = uri;
    }
    request
}

/// None if there is nothing to remove.
fn shortened(uri: &Uri) -> Option<Uri> {
    let path = uri.path();
    if !path.contains("//") && (path == "/" || !path.ends_with('/')) {
        return None;
    }
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = PathAndQuery::try_from(format!("/{}{query}", segments.join("/"))).ok();
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_empty_segments_are_removed() {
        for (path, expected) in [
            ("/", None),
            ("/api/v1/pods?watch=1", None),
            ("/api/", Some("/api")),
            ("//api//v1/pods/?watch=1", Some("/api/v1/pods?watch=1")),
        ] {
            let shown = shortened(&path.parse().unwrap()).map(|uri| uri.to_string());
            assert_eq!(shown.as_deref(), expected, "{path}");
        }
    }
}
