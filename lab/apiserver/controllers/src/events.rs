//! Events of the controllers, with the reasons and messages of Kubernetes. A failure to write an
//! event does not affect reconciliation.

use std::hash::{DefaultHasher, Hash, Hasher};

use beeline_apiserver_admission::Api;
use beeline_apiserver_objects::{ApiError, PatchKind, object};
use serde_json::{Value, json};

/// Event recorder; the name is the reporting component.
#[derive(Clone, Copy)]
pub(super) struct Recorder(pub &'static str);

impl Recorder {
    /// Records a Normal event about the object (of this plural).
    pub fn normal(self, api: &Api, plural: &str, regarding: &Value, reason: &str, message: &str) {
        self.record(api, plural, regarding, ("Normal", reason, message));
    }

    /// Records a Warning event about the object (of this plural).
    pub fn warning(self, api: &Api, plural: &str, regarding: &Value, reason: &str, message: &str) {
        self.record(api, plural, regarding, ("Warning", reason, message));
    }

    fn record(self, api: &Api, plural: &str, regarding: &Value, what: (&str, &str, &str)) {
        if let Err(error) = self.write(api, plural, regarding, what) {
            tracing::debug!(%error, regarding = object::name(regarding), reason = what.1, "could not write an event");
        }
    }

    fn write(
        self,
        api: &Api,
        plural: &str,
        regarding: &Value,
        what: (&str, &str, &str),
    ) -> Result<(), ApiError> {
        let (kind_of_event, reason, message) = what;
        let kind = api.kind(plural)?;
        let namespace = match object::namespace(regarding) {
            "" => "default",
            namespace => namespace,
        };
        // Equal events have the same name, so a repetition increments the count.
        let mut hasher = DefaultHasher::new();
        (object::uid(regarding), what).hash(&mut hasher);
        let name = format!("{}.{:016x}", object::name(regarding), hasher.finish());
        let now = object::now();
        let event = json!({
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": {
                "apiVersion": kind.api_version(), "kind": kind.kind, "name": object::name(regarding),
                "namespace": regarding["metadata"]["namespace"], "uid": regarding["metadata"]["uid"],
                "resourceVersion": regarding["metadata"]["resourceVersion"],
            },
            "type": kind_of_event, "reason": reason, "message": message, "count": 1,
            "source": {"component": self.0}, "reportingComponent": self.0,
            "firstTimestamp": now, "lastTimestamp": now,
        });
        match api.create("events", event) {
            Err(error) if error.reason == "AlreadyExists" => {
                let there = api.get("events", namespace, &name)?;
                let count = object::i64_at(&there, "/count").unwrap_or(1) + 1;
                let patch = json!({"count": count, "lastTimestamp": now});
                api.patch("events", namespace, &name, &PatchKind::Merge, &patch).map(drop)
            }
            other => other.map(drop),
        }
    }
}
