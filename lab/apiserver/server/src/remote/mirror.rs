//! Keeps the mirror up to date with one watch per kind.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use beeline_apiserver_admission::Api;
use beeline_apiserver_objects::ObjectKey;
use beeline_apiserver_schema::{Kind, Kinds};
use futures::future::join_all;
use futures::{StreamExt, TryStreamExt};
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::watcher::{self, Event};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::watch;

/// Delay before a failed watch is restarted.
const RETRY_DELAY: Duration = Duration::from_millis(500);

/// Number of kinds whose first list is complete.
pub(super) struct Listed(watch::Sender<usize>);

impl Default for Listed {
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

impl Listed {
    /// Waits until this many kinds are listed.
    pub(super) async fn wait_for_count(&self, count: usize) {
        // Cannot fail: the sender lives as long as `self`.
        let _ = self.0.subscribe().wait_for(|listed| *listed >= count).await;
    }
}

/// Updates the mirror until the future is dropped.
pub(super) async fn run(api: &Api, client: &Client, listed: &Listed) {
    let built_in = Kinds::built_in();
    let kinds: Vec<&Arc<Kind>> = built_in.iter().collect();
    join_all(kinds.iter().map(|kind| mirror_kind(api, client, kind, listed))).await;
}

async fn mirror_kind(api: &Api, client: &Client, kind: &Arc<Kind>, listed: &Listed) {
    let resource = resource(kind);
    let objects = kube::Api::<DynamicObject>::all_with(client.clone(), &resource);
    let mut events = watcher::watcher(objects, watcher::Config::default()).boxed();
    let (mut seen, mut first) = (BTreeSet::new(), true);
    loop {
        match events.try_next().await {
            Ok(Some(Event::Init)) => seen.clear(),
            Ok(Some(Event::InitApply(object))) => {
                seen.insert(ObjectKey::new(object.namespace().unwrap_or_default(), object.name_any()));
                api.mirror_put(kind, with_type_meta(kind, &object));
            }
            Ok(Some(Event::InitDone)) => {
                api.mirror_retain(kind, &std::mem::take(&mut seen));
                listed.0.send_modify(|count| *count += usize::from(std::mem::take(&mut first)));
            }
            Ok(Some(Event::Apply(object))) => api.mirror_put(kind, with_type_meta(kind, &object)),
            Ok(Some(Event::Delete(object))) => api.mirror_delete(kind, &with_type_meta(kind, &object)),
            Ok(None) => return,
            Err(error) => {
                // Kinds that the remote server does not serve stay empty.
                if first && not_served(&error) {
                    listed.0.send_modify(|count| *count += 1);
                    return;
                }
                tracing::debug!(kind = kind.resource(), %error, "the watch failed and is restarted");
                tokio::time::sleep(RETRY_DELAY).await;
            }
        }
    }
}

fn not_served(error: &watcher::Error) -> bool {
    let (watcher::Error::InitialListFailed(cause) | watcher::Error::WatchStartFailed(cause)) = error else {
        return false;
    };
    matches!(cause, kube::Error::Api(status) if matches!(status.code, 404 | 405))
}

fn resource(kind: &Kind) -> ApiResource {
    ApiResource {
        group: kind.group.to_string(),
        version: kind.version.to_string(),
        api_version: kind.api_version(),
        kind: kind.kind.to_string(),
        plural: kind.plural.to_string(),
    }
}

/// Adds `apiVersion` and `kind`, which objects in lists lack.
fn with_type_meta(kind: &Kind, object: &DynamicObject) -> Value {
    let mut value = serde_json::to_value(object).unwrap_or_default();
    value["apiVersion"] = json!(kind.api_version());
    value["kind"] = json!(kind.kind);
    value
}
