//! Namespaces: creates the label, the default service account and the root CA ConfigMap; deletes the
//! contents of a deleted namespace.

use std::sync::Arc;

use beeline_apiserver_admission::{Api, DeleteOptions, ListOptions, Subresource, WriteOptions};
use beeline_apiserver_objects::{ApiError, ObjectKey, PatchKind, object};
use beeline_apiserver_schema::Kind;
use serde_json::{Value, json};

use super::bootstrap::ensure;
use super::controller::Controller;

/// ConfigMap with the CA certificate of the API server.
const ROOT_CA: &str = "kube-root-ca.crt";

pub(super) struct NamespaceController {
    ca_pem: String,
}

impl NamespaceController {
    pub fn new(ca_pem: &str) -> Self {
        Self { ca_pem: ca_pem.to_owned() }
    }

    fn publish_ca(&self, api: &Api, namespace: &str) -> Result<(), ApiError> {
        let data = json!({"ca.crt": self.ca_pem});
        match api.get("configmaps", namespace, ROOT_CA) {
            Ok(found) if found["data"] == data => Ok(()),
            Ok(_) => {
                let patch = json!([{"op": "add", "path": "/data", "value": data}]);
                api.patch("configmaps", namespace, ROOT_CA, &PatchKind::Json, &patch).map(|_| ())
            }
            Err(_) => {
                let description = "CA certificate for verifying the API server; written by the lab.";
                let annotations = json!({"kubernetes.io/description": description});
                let metadata = json!({"name": ROOT_CA, "namespace": namespace, "annotations": annotations});
                ensure(api, "configmaps", json!({"metadata": metadata, "data": data}))
            }
        }
    }
}

impl Controller for NamespaceController {
    fn name(&self) -> &'static str {
        "namespace"
    }

    fn watches(&self) -> &'static [&'static str] {
        &["configmaps", "namespaces", "pods", "serviceaccounts"]
    }

    fn keys_for_event(&self, _: &Api, kind: &str, object: &Value) -> Vec<ObjectKey> {
        let name = if kind == "namespaces" { object::name(object) } else { object::namespace(object) };
        vec![ObjectKey::new("", name)]
    }

    fn reconcile(&mut self, api: &Api, key: &ObjectKey) -> Result<(), ApiError> {
        let Ok(namespace) = api.get("namespaces", "", &key.name) else { return Ok(()) };
        if object::is_deleting(&namespace) {
            return delete_contents(api, &namespace);
        }
        if object::label(&namespace, "kubernetes.io/metadata.name") != Some(&key.name) {
            let patch = json!({"metadata": {"labels": {"kubernetes.io/metadata.name": key.name}}});
            api.patch("namespaces", "", &key.name, &PatchKind::Merge, &patch)?;
        }
        if api.get("serviceaccounts", &key.name, "default").is_err() {
            ensure(api, "serviceaccounts", json!({"metadata": {"name": "default", "namespace": key.name}}))?;
        }
        self.publish_ca(api, &key.name)
    }
}

/// Deletes the contents of the namespace, then removes its finalizer.
fn delete_contents(api: &Api, namespace: &Value) -> Result<(), ApiError> {
    let name = object::name(namespace);
    let mut left = 0;
    let kinds: Vec<Arc<Kind>> = api.kinds().iter().filter(|kind| kind.namespaced).cloned().collect();
    for kind in kinds {
        api.delete_collection(&kind, Some(name), &ListOptions::default(), &DeleteOptions::default())?;
        left += api.list_of(&kind, Some(name), &ListOptions::default())?.items.len();
    }
    if left > 0 {
        let why = format!("namespace {name} still contains {left} objects that are being deleted");
        return Err(ApiError::new(409, "Conflict", why));
    }
    let mut last = namespace.clone();
    object::child_mut(&mut last, "spec").insert("finalizers".to_owned(), json!([]));
    object::metadata(&mut last).remove("resourceVersion");
    api.update_of(&api.kind("namespaces")?, Subresource::Finalize, last, &WriteOptions::default())?;
    Ok(())
}
