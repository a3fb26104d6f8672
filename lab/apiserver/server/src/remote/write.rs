//! Requests to the remote API server.

use beeline_apiserver_admission::{DeleteOptions, Propagation, Remote, Subresource};
use beeline_apiserver_objects::object::{self, str_at};
use beeline_apiserver_objects::{ApiError, Cause, ObjectKey, PatchKind};
use beeline_apiserver_schema::Kind;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

/// Client of the remote API server.
pub(super) struct RemoteClient {
    client: Client,
}

/// A request.
struct RemoteRequest<'a> {
    method: Method,
    path: String,
    content_type: &'static str,
    body: &'a Value,
}

impl RemoteClient {
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// Sends the request and waits for the response.
    fn send(&self, kind: &Kind, call: RemoteRequest<'_>) -> Result<(StatusCode, Value), ApiError> {
        let answered =
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(self.exchange(&call)));
        let (code, answer) = answered.map_err(|error| {
            let message = format!("the API server does not answer {} {}: {error}", call.method, call.path);
            ApiError::new(503, "ServiceUnavailable", message)
        })?;
        if code.is_success() { Ok((code, answer)) } else { Err(error_of_status(kind, code, &answer)) }
    }

    async fn exchange(
        &self,
        call: &RemoteRequest<'_>,
    ) -> Result<(StatusCode, Value), Box<dyn std::error::Error + Send + Sync>> {
        let body = if call.body.is_null() { Vec::new() } else { serde_json::to_vec(call.body)? };
        let request = Request::builder()
            .method(&call.method)
            .uri(&call.path)
            .header(http::header::CONTENT_TYPE, call.content_type)
            .header(http::header::ACCEPT, JSON)
            .body(Body::from(body))?;
        let response = self.client.send(request).await?;
        let code = response.status();
        let bytes = response.into_body().collect().await?.to_bytes();
        Ok((code, serde_json::from_slice(&bytes).unwrap_or_default()))
    }
}

impl Remote for RemoteClient {
    fn get(&self, kind: &Kind, key: &ObjectKey) -> Result<Value, ApiError> {
        let path = path(kind, &key.namespace, &key.name, "");
        let call = RemoteRequest { method: Method::GET, path, content_type: JSON, body: &Value::Null };
        self.send(kind, call).map(|(_, found)| found)
    }

    fn create(&self, kind: &Kind, mut body: Value) -> Result<Value, ApiError> {
        set_type_meta(kind, &mut body);
        let path = path(kind, object::namespace(&body), "", "");
        let (_, created) =
            self.send(kind, RemoteRequest { method: Method::POST, path, content_type: JSON, body: &body })?;
        Ok(created)
    }

    fn update(&self, kind: &Kind, subresource: Subresource, mut body: Value) -> Result<Value, ApiError> {
        set_type_meta(kind, &mut body);
        let key = ObjectKey::of(&body);
        let path = path(kind, &key.namespace, &key.name, subresource_path(subresource));
        let (_, updated) =
            self.send(kind, RemoteRequest { method: Method::PUT, path, content_type: JSON, body: &body })?;
        Ok(updated)
    }

    fn patch(
        &self,
        kind: &Kind,
        subresource: Subresource,
        key: &ObjectKey,
        language: &PatchKind,
        change: &Value,
    ) -> Result<(Value, bool), ApiError> {
        let mut path = path(kind, &key.namespace, &key.name, subresource_path(subresource));
        let content_type = match language {
            PatchKind::Merge => "application/merge-patch+json",
            PatchKind::Json => "application/json-patch+json",
            PatchKind::Strategic => "application/strategic-merge-patch+json",
            PatchKind::Apply { manager, force } => {
                path.push_str(&format!("?fieldManager={}&force={force}", percent_encode(manager)));
                "application/apply-patch+yaml"
            }
        };
        let (code, patched) =
            self.send(kind, RemoteRequest { method: Method::PATCH, path, content_type, body: change })?;
        Ok((patched, code == StatusCode::CREATED))
    }

    fn delete(&self, kind: &Kind, key: &ObjectKey, options: &DeleteOptions) -> Result<Value, ApiError> {
        let path = path(kind, &key.namespace, &key.name, "");
        let body = delete_options(options);
        let (_, last) =
            self.send(kind, RemoteRequest { method: Method::DELETE, path, content_type: JSON, body: &body })?;
        Ok(last)
    }

    fn bind(&self, kind: &Kind, key: &ObjectKey, node: &str) -> Result<(), ApiError> {
        let body = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": key.name, "namespace": key.namespace},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        let path = path(kind, &key.namespace, &key.name, "binding");
        self.send(kind, RemoteRequest { method: Method::POST, path, content_type: JSON, body: &body })?;
        Ok(())
    }
}

const JSON: &str = "application/json";

fn set_type_meta(kind: &Kind, body: &mut Value) {
    body["apiVersion"] = json!(kind.api_version());
    body["kind"] = json!(kind.kind);
}

fn subresource_path(subresource: Subresource) -> &'static str {
    match subresource {
        Subresource::None | Subresource::Internal => "",
        Subresource::Status => "status",
        Subresource::Finalize => "finalize",
    }
}

fn path(kind: &Kind, namespace: &str, name: &str, below: &str) -> String {
    let root = match kind.group.as_ref() {
        "" => format!("/api/{}", kind.version),
        group => format!("/apis/{group}/{}", kind.version),
    };
    let namespace = if kind.namespaced { format!("/namespaces/{namespace}") } else { String::new() };
    let tail = [name, below].into_iter().filter(|part| !part.is_empty()).map(|part| format!("/{part}"));
    format!("{root}{namespace}/{}{}", kind.plural, tail.collect::<String>())
}

/// Percent-encodes a query parameter.
fn percent_encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let one = |byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(one).collect()
}

fn delete_options(options: &DeleteOptions) -> Value {
    let propagation = match options.propagation {
        Propagation::Background => "Background",
        Propagation::Foreground => "Foreground",
        Propagation::Orphan => "Orphan",
    };
    let mut body = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": propagation});
    if let Some(seconds) = options.grace_seconds {
        body["gracePeriodSeconds"] = json!(seconds);
    }
    let fields = [("uid", &options.uid), ("resourceVersion", &options.resource_version)];
    for (field, value) in fields {
        if let Some(value) = value {
            body["preconditions"][field] = json!(value);
        }
    }
    body
}

/// Converts a `Status` of the server to an error.
fn error_of_status(kind: &Kind, code: StatusCode, status: &Value) -> ApiError {
    let message = match str_at(status, "/message") {
        "" => format!("the API server answered {code}"),
        message => message.to_owned(),
    };
    let known = [
        "NotFound",
        "AlreadyExists",
        "Conflict",
        "Invalid",
        "Forbidden",
        "BadRequest",
        "Unauthorized",
        "MethodNotAllowed",
        "Expired",
        "NotAcceptable",
        "TooManyRequests",
        "InternalError",
    ];
    let reason = known.into_iter().find(|known| *known == str_at(status, "/reason")).unwrap_or("Unknown");
    let mut error = ApiError::new(code.as_u16(), reason, message);
    error.details.kind = kind.plural.to_string();
    error.details.group = kind.group.to_string();
    error.details.name = str_at(status, "/details/name").to_owned();
    let causes = object::array_at(status, "/details/causes").iter();
    let causes_known = ["FieldManagerConflict", "FieldValueRequired", "FieldValueNotSupported"];
    error.details.causes = causes
        .map(|cause| Cause {
            reason: causes_known
                .into_iter()
                .find(|known| *known == str_at(cause, "/reason"))
                .unwrap_or("FieldValueInvalid"),
            field: str_at(cause, "/field").to_owned(),
            message: str_at(cause, "/message").to_owned(),
        })
        .collect();
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use beeline_apiserver_schema::Kinds;

    #[test]
    fn unit_paths_follow_the_kubernetes_api() {
        let kinds = Kinds::built_in();
        let of = |plural: &str, namespace: &str, name: &str, below: &str| {
            path(kinds.by_name(plural).unwrap(), namespace, name, below)
        };
        assert_eq!(of("pods", "shop", "web", "binding"), "/api/v1/namespaces/shop/pods/web/binding");
        assert_eq!(of("nodes", "", "node-1", "status"), "/api/v1/nodes/node-1/status");
        assert_eq!(of("deployments", "shop", "", ""), "/apis/apps/v1/namespaces/shop/deployments");
        assert_eq!(percent_encode("a-1_b.c~ &f=ü"), "a-1_b.c~%20%26f%3D%C3%BC");
    }

    #[test]
    fn unit_errors_keep_their_reason() {
        let kinds = Kinds::built_in();
        let status = json!({"reason": "AlreadyExists", "message": "pods \"a\" already exists", "code": 409});
        let error = error_of_status(kinds.by_name("pods").unwrap(), StatusCode::CONFLICT, &status);
        assert_eq!((error.reason, error.code), ("AlreadyExists", 409));
        assert_eq!(error.message, "pods \"a\" already exists");
        let unknown = error_of_status(kinds.by_name("pods").unwrap(), StatusCode::BAD_GATEWAY, &Value::Null);
        assert_eq!((unknown.reason, unknown.code), ("Unknown", 502));
    }
}
