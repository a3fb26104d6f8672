//! State shared by the kubelets of a lab: watches of Services, ConfigMaps and
//! Secrets, the event recorder, and the mount namespace template.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use beeline_lab_net::mount_namespace::MountNamespace;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::{OnceCell, Semaphore, broadcast, watch};

use crate::environment::{self, Environment};
use crate::events::Recorder;
use crate::facts::NodeCapacity;
use crate::objects::Reference;

/// Maximum number of sandboxes created concurrently.
const SANDBOXES_AT_ONCE: usize = 8;

/// Channel capacity of changes; a receiver that lags further behind refreshes
/// everything.
const CHANGES_MAX: usize = 1024;

/// Timeout for the first list of Services.
const SERVICES_TIMEOUT: Duration = Duration::from_secs(10);

/// Key of a ConfigMap or Secret: namespace and reference.
pub type Changed = (String, Reference);

/// Services by namespace and name.
#[derive(Default)]
struct Services {
    known: HashMap<(Option<String>, String), Service>,
    /// The initial list is complete.
    complete: bool,
}

/// State shared by all kubelets.
pub struct Shared {
    /// Limits concurrent sandbox creation on all nodes.
    pub sandboxes: Semaphore,
    /// Event recorder.
    pub events: Recorder,
    /// The capacity of this host, which is reported for every node.
    pub capacity: NodeCapacity,
    client: Client,
    mount_ns: OnceCell<MountNamespace>,
    services: watch::Receiver<Services>,
    changes: broadcast::Sender<Changed>,
    follows: OnceCell<()>,
}

impl Shared {
    /// For one lab.
    pub fn new(client: Client) -> Arc<Shared> {
        let (sender, services) = watch::channel(Services::default());
        tokio::spawn(follow_services(client.clone(), sender));
        Arc::new(Shared {
            sandboxes: Semaphore::new(SANDBOXES_AT_ONCE),
            events: Recorder::start(client.clone()),
            capacity: NodeCapacity::of_this_host(),
            client,
            mount_ns: OnceCell::new(),
            services,
            changes: broadcast::channel(CHANGES_MAX).0,
            follows: OnceCell::new(),
        })
    }

    /// API client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The mount namespace from which those of containers are made.
    pub async fn mount_ns(&self) -> Result<&MountNamespace> {
        let make = || async { tokio::task::spawn_blocking(MountNamespace::template).await? };
        self.mount_ns.get_or_try_init(make).await.context("cannot create mount namespaces for containers")
    }

    /// The environment variables for Services.
    pub async fn services(&self, namespace: &str, links: bool) -> Result<Environment> {
        let mut receiver = self.services.clone();
        let listed =
            tokio::time::timeout(SERVICES_TIMEOUT, receiver.wait_for(|services| services.complete)).await;
        let services = listed.context("cannot list Services")?.context("the lab is shutting down")?;
        Ok(environment::of_services(services.known.values(), namespace, links))
    }

    /// Changes of ConfigMaps and Secrets from now on.
    pub async fn changes(&self) -> broadcast::Receiver<Changed> {
        let receiver = self.changes.subscribe();
        let begin = || async {
            tokio::spawn(follow::<ConfigMap>(self.client.clone(), false, self.changes.clone()));
            tokio::spawn(follow::<Secret>(self.client.clone(), true, self.changes.clone()));
        };
        self.follows.get_or_init(begin).await;
        receiver
    }
}

/// Each event updates the map in place, since there may be thousands of
/// Services. During a relist the previous state stays visible.
async fn follow_services(client: Client, sender: watch::Sender<Services>) {
    let key = |service: &Service| (service.namespace(), service.name_any());
    let mut events = watcher::watcher(Api::<Service>::all(client), watcher::Config::default()).boxed();
    let mut listed = HashMap::new();
    while let Some(event) = next(&mut events).await {
        match event {
            Event::Init => listed.clear(),
            Event::InitApply(service) => drop(listed.insert(key(&service), service)),
            Event::InitDone => {
                let services = Services { known: std::mem::take(&mut listed), complete: true };
                sender.send_replace(services);
            }
            Event::Apply(service) => sender.send_modify(|services| {
                services.known.insert(key(&service), service);
            }),
            Event::Delete(service) => sender.send_modify(|services| {
                services.known.remove(&key(&service));
            }),
        }
    }
}

async fn follow<K>(client: Client, secret: bool, changes: broadcast::Sender<Changed>)
where
    K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned
        + Send
        + 'static,
{
    let mut events = watcher::watcher(Api::<K>::all(client), watcher::Config::default()).boxed();
    while let Some(event) = next(&mut events).await {
        let (Event::Apply(object) | Event::InitApply(object) | Event::Delete(object)) = event else {
            continue;
        };
        let reference = Reference { secret, name: object.name_any() };
        // There may be no receiver.
        let _ = changes.send((object.namespace().unwrap_or_default(), reference));
    }
}

/// The next event; a failed watch is restarted.
async fn next<K>(
    events: &mut (impl futures::Stream<Item = watcher::Result<Event<K>>> + Unpin),
) -> Option<Event<K>> {
    loop {
        match events.try_next().await {
            Ok(event) => return event,
            Err(error) => {
                tracing::debug!("watch failed, restarting it: {error}");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}
