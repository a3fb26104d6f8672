//! Requests to the remote API server.

use std::sync::Arc;

use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

use crate::api::{DeleteOptions, Deleted, PatchKind, Propagation, Subresource};
use crate::object::{self, ObjectKey, str_at};
use crate::{Api, ApiError, Cause, Kind};

/// Client of the remote API server.
pub(crate) struct Remote {
    client: Client,
}

/// A request.
struct RemoteRequest<'a> {
    method: Method,
    path: String,
    content_type: &'static str,
    body: &'a Value,
}

impl Remote {
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// Reads the current object from the server.
    pub fn get(&self, kind: &Kind, key: &ObjectKey) -> Result<Value, ApiError> {
        let path = path(kind, &key.namespace, &key.name, "");
        let call = RemoteRequest { method: Method::GET, path, content_type: JSON, body: &Value::Null };
        self.send(kind, call).map(|(_, found)| found)
    }

    pub fn create(&self, api: &Api, kind: &Arc<Kind>, mut body: Value) -> Result<Arc<Value>, ApiError> {
        set_type_meta(kind, &mut body);
        let path = path(kind, object::namespace(&body), "", "");
        let (_, created) =
            self.send(kind, RemoteRequest { method: Method::POST, path, content_type: JSON, body: &body })?;
        Ok(mirror_put(api, kind, created))
    }

    pub fn update(
        &self,
        api: &Api,
        kind: &Arc<Kind>,
        subresource: Subresource,
        mut body: Value,
    ) -> Result<Arc<Value>, ApiError> {
        set_type_meta(kind, &mut body);
        let key = ObjectKey::of(&body);
        let path = path(kind, &key.namespace, &key.name, subresource_path(subresource));
        let (_, updated) =
            self.send(kind, RemoteRequest { method: Method::PUT, path, content_type: JSON, body: &body })?;
        Ok(mirror_put(api, kind, updated))
    }

    /// The flag is true if the object was created.
    pub fn patch(
        &self,
        api: &Api,
        kind: &Arc<Kind>,
        subresource: Subresource,
        key: &ObjectKey,
        language: &PatchKind,
        change: &Value,
    ) -> Result<(Arc<Value>, bool), ApiError> {
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
        Ok((mirror_put(api, kind, patched), code == StatusCode::CREATED))
    }

    pub fn delete(
        &self,
        api: &Api,
        kind: &Arc<Kind>,
        key: &ObjectKey,
        options: &DeleteOptions,
    ) -> Result<Deleted, ApiError> {
        let path = path(kind, &key.namespace, &key.name, "");
        let body = delete_options(options);
        let (_, last) =
            self.send(kind, RemoteRequest { method: Method::DELETE, path, content_type: JSON, body: &body })?;
        let before = api.lock().get(kind, key).cloned();
        if last["kind"] == "Status" {
            let object = before.unwrap_or_default();
            api.lock().mirror_delete(kind, &object);
            return Ok(Deleted { object, removed: true });
        }
        let held = !object::strs_at(&last, "/metadata/finalizers").is_empty();
        let grace = object::i64_at(&last, "/metadata/deletionGracePeriodSeconds").unwrap_or(0);
        let removed = !held && grace == 0 && !kind.is("namespaces");
        if removed {
            api.lock().mirror_delete(kind, &last);
            return Ok(Deleted { object: Arc::new(last), removed });
        }
        Ok(Deleted { object: mirror_put(api, kind, last), removed })
    }

    /// Binds a pod to a node. The response does not contain the pod, so it is read again: scheduling
    /// of the next pod depends on it.
    pub fn bind(&self, api: &Api, kind: &Arc<Kind>, key: &ObjectKey, node: &str) -> Result<(), ApiError> {
        let body = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": key.name, "namespace": key.namespace},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        let path = path(kind, &key.namespace, &key.name, "binding");
        self.send(kind, RemoteRequest { method: Method::POST, path, content_type: JSON, body: &body })?;
        api.mirror_put(kind, self.get(kind, key)?);
        Ok(())
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

const JSON: &str = "application/json";

/// Writes the response to the mirror.
fn mirror_put(api: &Api, kind: &Arc<Kind>, value: Value) -> Arc<Value> {
    api.mirror_put(kind, value.clone());
    let known = api.lock().get(kind, &ObjectKey::of(&value)).cloned();
    // Return the response even if the mirror already has a newer object.
    known.unwrap_or_else(|| Arc::new(value))
}

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
    use crate::Kinds;

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
