//! The routes.

use std::sync::Arc;

use axum::routing::{MethodRouter, any};
use axum::{Router, middleware};

use super::document::{self, About, DocumentRequest};
use super::response::{ApiResponse, ok};
use super::state::Server;
use super::{discovery, handle, review};
use crate::identity::ISSUER;

/// All routes. Only health checks and the version need no authentication.
pub(super) fn router(server: Arc<Server>) -> Router {
    documents()
        .merge(reviews())
        .merge(resources(any(handle::resource)))
        .fallback(handle::unknown_path)
        .layer(middleware::from_fn_with_state(server.clone(), handle::authenticate))
        .merge(public())
        .with_state(server)
}

fn public() -> Router<Arc<Server>> {
    let healthy = || any(|| async { ApiResponse::Text("ok") });
    Router::new()
        .route("/healthz", healthy())
        .route("/livez", healthy())
        .route("/readyz", healthy())
        .route("/version", any(|| async { ok(discovery::version()) }))
}

/// Documents about the server: discovery, OpenAPI, and the keys of service account tokens.
fn documents() -> Router<Arc<Server>> {
    Router::new()
        .route("/", document(|_| Some(ok(discovery::root()))))
        .route("/api", document(|about| Some(discovery::core(about.kinds, about.accept))))
        .route("/apis", document(|about| Some(discovery::groups(about.kinds, about.accept))))
        .route(
            "/apis/{group}",
            document(|about| discovery::group(about.kinds, about.path.get("group")).map(ok)),
        )
        .route("/api/v1", document(|about| discovery::resources(about.kinds, "", "v1").map(ok)))
        .route(
            "/apis/{group}/{version}",
            document(|about| {
                let (group, version) = (about.path.get("group"), about.path.get("version"));
                discovery::resources(about.kinds, group, version).map(ok)
            }),
        )
        .route("/openapi/{*document}", document(openapi))
        .route("/openid/v1/jwks", document(|about| Some(ok(about.server.authenticator.signer().jwks()))))
        .route(
            "/.well-known/openid-configuration",
            document(|_| Some(ok(discovery::openid_configuration(ISSUER)))),
        )
}

fn document(find: document::Find) -> MethodRouter<Arc<Server>> {
    any(move |request: DocumentRequest| async move { request.answer(find) })
}

fn openapi(about: &About<'_>) -> Option<ApiResponse> {
    let path = format!("/openapi/{}", about.path.get("document"));
    let (media_type, bytes) = about.server.documents.answer(about.kinds, &path, about.accept)?;
    Some(ApiResponse::Bytes(media_type, bytes))
}

/// Resources that are created but never stored.
fn reviews() -> Router<Arc<Server>> {
    review::RESOURCES.iter().chain([&review::TOKEN_REQUEST]).fold(Router::new(), |router, resource| {
        let handler = any(move |server, user, path, request| async move {
            handle::review(resource, server, user, path, request).await
        });
        router.route(&review::route(resource), handler)
    })
}

/// Collections, objects and their subresources.
fn resources<S: Clone + Send + Sync + 'static>(handler: MethodRouter<S>) -> Router<S> {
    const BELOW: [&str; 3] = ["{plural}", "{plural}/{name}", "{plural}/{name}/{subresource}"];
    let mut router = Router::new();
    for root in ["/api/v1", "/apis/{group}/{version}"] {
        for below in BELOW {
            router = router
                .route(&format!("{root}/{below}"), handler.clone())
                .route(&format!("{root}/namespaces/{{namespace}}/{below}"), handler.clone());
        }
    }
    // `namespaces/NAME/PLURAL` is a collection in a namespace unless PLURAL is a subresource of
    // namespaces.
    for subresource in ["status", "finalize"] {
        router = router.route(&format!("/api/v1/namespaces/{{name}}/{subresource}"), handler.clone());
    }
    router
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Mutex;

    use axum::body::Body;
    use beeline_apiserver_objects::ApiError;
    use beeline_apiserver_schema::Kinds;
    use beeline_apiserver_schema::openapi::OpenApiDocuments;
    use http::Request;
    use http_body_util::BodyExt;
    use serde_json::Value;
    use tower::ServiceExt;

    use super::super::params::PathParams;
    use super::super::target::Target;
    use super::*;
    use crate::identity::{Authenticator, Signer};

    /// The target that the routes find for a path.
    pub(in crate::http) fn target(path: &str) -> Result<Target, ApiError> {
        let found = Arc::new(Mutex::new(Err(ApiError::no_such_path())));
        let kept = found.clone();
        let router: Router = resources(any(move |path: PathParams| async move {
            *kept.lock().unwrap() = Target::of(&Kinds::built_in(), &path);
        }));
        let request = Request::get(path).body(Body::empty()).unwrap();
        futures::executor::block_on(router.oneshot(request)).unwrap();
        std::mem::replace(&mut *found.lock().unwrap(), Err(ApiError::no_such_path()))
    }

    fn check(path: &str, expected: &str) {
        let shown = match target(path) {
            Ok(target) => format!(
                "{} {} {} {}",
                target.kind.resource(),
                target.namespace.as_deref().unwrap_or("-"),
                target.name.as_deref().unwrap_or("-"),
                target.subresource.as_deref().unwrap_or("-"),
            ),
            Err(error) => error.code.to_string(),
        };
        assert_eq!(shown, expected, "{path}");
    }

    #[test]
    fn unit_paths_are_parsed() {
        check("/api/v1/pods", "pods - - -");
        check("/api/v1/nodes/node-1/status", "nodes - node-1 status");
        check("/api/v1/namespaces", "namespaces - - -");
        check("/api/v1/namespaces/a", "namespaces - a -");
        check("/api/v1/namespaces/a/finalize", "namespaces - a finalize");
        check("/api/v1/namespaces/a/status", "namespaces - a status");
        check("/api/v1/namespaces/a/pods", "pods a - -");
        check("/api/v1/namespaces/a/pods/b/log", "pods a b log");
        check("/apis/apps/v1/namespaces/a/deployments/web/scale", "deployments.apps a web scale");
        check(
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/a%3Ab",
            "clusterroles.rbac.authorization.k8s.io - a:b -",
        );
        check("/api/v1/pods/web", "404");
        check("/api/v1/namespaces/a/nodes", "404");
        check("/apis/apps/v2/deployments", "404");
        check("/api/v1/namespaces/a/pods/b/c/d", "404");
        check("/", "404");
    }

    #[tokio::test]
    async fn unit_only_health_and_version_need_no_token() {
        let api = crate::tests::cluster();
        let authenticator = Authenticator::new(api.clone(), "secret".to_owned(), Signer::generate().unwrap());
        let documents = OpenApiDocuments::default();
        let router = router(Arc::new(Server { api, authenticator, documents, logs: None }));
        for (path, token, expected) in [
            ("/healthz", "", 200),
            ("/version", "", 200),
            ("/api", "", 401),
            ("/nothing", "", 401),
            ("/nothing", "secret", 404),
            ("/", "secret", 200),
            ("/api", "secret", 200),
            ("/apis/apps/v1", "secret", 200),
            ("/apis/none", "secret", 404),
            ("/openapi/v2", "secret", 200),
            ("/openapi/v3/apis/apps/v1", "secret", 200),
            ("/openapi/v4", "secret", 404),
            ("/openid/v1/jwks", "secret", 200),
            ("/api/v1/pods", "secret", 200),
            ("/api/v1/namespaces/default/serviceaccounts/none", "secret", 404),
            ("/api/v1/namespaces/default/serviceaccounts/none/token", "secret", 405),
            ("/apis/authentication.k8s.io/v1/tokenreviews", "secret", 405),
            ("/apis/authentication.k8s.io/v1/nothings", "secret", 404),
            ("/api/v1/namespaces/%ff", "secret", 404),
        ] {
            let mut request = Request::get(path);
            if !token.is_empty() {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            let response = router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
            assert_eq!(response.status(), expected, "{path}");
            let body = response.into_body().collect().await.unwrap().to_bytes();
            if expected != 200 {
                let status: Value = serde_json::from_slice(&body).unwrap();
                assert_eq!(
                    (&status["kind"], &status["code"]),
                    (&"Status".into(), &expected.into()),
                    "{path}"
                );
            }
        }
    }
}
