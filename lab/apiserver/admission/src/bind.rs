//! Binding of pods to nodes.

use beeline_apiserver_objects::object::{self, set_condition, str_at};
use beeline_apiserver_objects::{ApiError, ObjectKey};
use serde_json::{Value, json};

use super::api::Api;
use super::options::{Subresource, WriteOptions};

impl Api {
    /// Binds a pod to a node. A binding is final.
    pub fn bind(&self, key: &ObjectKey, node: &str) -> Result<(), ApiError> {
        let kind = self.kind("pods")?;
        let pod = self.get_of(&kind, key)?;
        match str_at(&pod, "/spec/nodeName") {
            "" => {}
            same if same == node => return Ok(()),
            other => {
                let why = format!("pod {key} is already assigned to node {other:?}");
                return Err(ApiError::conflict(&kind, &key.name, &why));
            }
        }
        if let Some(remote) = self.remote() {
            remote.bind(&kind, key, node)?;
            // The response does not contain the pod, and scheduling of the next pod depends on it.
            self.mirror_put(&kind, remote.get(&kind, key)?);
            return Ok(());
        }
        let mut next = Value::clone(&pod);
        object::child_mut(&mut next, "spec").insert("nodeName".to_owned(), json!(node));
        let condition =
            json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": object::now()});
        set_condition(&mut next["status"], condition);
        self.update_of(&kind, Subresource::Internal, next, &WriteOptions::default()).map(|_| ())
    }
}
