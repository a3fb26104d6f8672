//! What a controller is.

use beeline_apiserver_admission::Api;
use beeline_apiserver_objects::{ApiError, ObjectKey};
use serde_json::Value;

/// A controller. Its keys are those of its own kind unless documented otherwise.
pub(super) trait Controller: Send {
    fn name(&self) -> &'static str;

    /// Kinds (plural) whose events the controller watches.
    fn watches(&self) -> &'static [&'static str];

    /// Whether it also watches all custom resources.
    fn watches_custom_resources(&self) -> bool {
        false
    }

    /// Keys to enqueue for an event. Called with the object after the change and with the one before
    /// it.
    fn keys_for_event(&self, api: &Api, kind: &str, object: &Value) -> Vec<ObjectKey>;

    /// Reconciles one key. On error the key is retried.
    fn reconcile(&mut self, api: &Api, key: &ObjectKey) -> Result<(), ApiError>;
}
