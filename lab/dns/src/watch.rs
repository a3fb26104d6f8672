//! Keeps the facts in sync with the API server: one watch per kind.

use std::collections::HashSet;
use std::fmt::Debug;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt};
use serde::de::DeserializeOwned;

use crate::facts::{Facts, Key, key_of};

/// Delay after a failed watch.
const PAUSE: Duration = Duration::from_millis(200);

/// Number of watched kinds.
const KINDS: usize = 3;

/// The facts, and whether the initial lists are complete.
#[derive(Debug, Default)]
pub struct SharedFacts {
    facts: RwLock<Facts>,
    listed: AtomicUsize,
}

impl SharedFacts {
    /// Reads the facts; none until every kind has been listed.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&Facts) -> T) -> Option<T> {
        let complete = self.listed.load(Ordering::Acquire) >= KINDS;
        complete.then(|| look(&self.facts.read().unwrap_or_else(PoisonError::into_inner)))
    }

    fn change(&self, change: impl FnOnce(&mut Facts)) {
        change(&mut self.facts.write().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Watches the API server for as long as it is polled.
pub async fn watch(client: Client, facts: &SharedFacts) {
    let namespaces = follow::<Namespace>(
        Api::all(client.clone()),
        facts,
        |facts, namespace| facts.apply_namespace(&namespace.name_any()),
        |facts, (_, name)| facts.delete_namespace(name),
    );
    let services =
        follow::<Service>(Api::all(client.clone()), facts, Facts::apply_service, Facts::delete_service);
    let slices = follow::<EndpointSlice>(Api::all(client), facts, Facts::apply_slice, Facts::delete_slice);
    tokio::join!(namespaces, services, slices);
}

async fn follow<K>(api: Api<K>, facts: &SharedFacts, apply: fn(&mut Facts, &K), delete: fn(&mut Facts, &Key))
where
    K: ResourceExt + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let mut events = watcher::watcher(api, watcher::Config::default()).boxed();
    let (mut known, mut listed, mut first) = (HashSet::new(), HashSet::new(), true);
    loop {
        match events.try_next().await {
            Ok(Some(Event::Init)) => listed.clear(),
            Ok(Some(Event::InitApply(object))) => {
                listed.insert(key_of(&object));
                facts.change(|facts| apply(facts, &object));
            }
            Ok(Some(Event::InitDone)) => {
                let now = std::mem::take(&mut listed);
                facts.change(|facts| known.difference(&now).for_each(|gone| delete(facts, gone)));
                known = now;
                facts.listed.fetch_add(usize::from(std::mem::take(&mut first)), Ordering::Release);
            }
            Ok(Some(Event::Apply(object))) => {
                known.insert(key_of(&object));
                facts.change(|facts| apply(facts, &object));
            }
            Ok(Some(Event::Delete(object))) => {
                let gone = key_of(&object);
                facts.change(|facts| delete(facts, &gone));
                known.remove(&gone);
            }
            Ok(None) => return,
            Err(error) => {
                tracing::warn!("DNS: watch failed, restarting it: {error}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
