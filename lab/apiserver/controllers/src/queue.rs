//! The queue of the controllers.
//!
//! An event only enqueues the keys of the affected objects; one loop reconciles queued keys until the
//! queue is empty. Reconciliation reads the objects again, so it is idempotent and independent of the
//! order of events. Failed keys are retried at an interval.

use std::collections::BTreeSet;
use std::time::Duration;

use beeline_apiserver_admission::{Api, WatchOptions};
use beeline_apiserver_objects::ObjectKey;
use beeline_apiserver_schema::Kinds;
use beeline_apiserver_storage::{Watch, WatchEvent};
use tokio::sync::watch;

use super::config::{ClusterConfig, Component};
use super::controller::Controller;
use super::{
    custom_resource, daemon_set, deployment, endpoint_slice, endpoints, garbage, load_balancer, namespace,
    node, replica_set, scheduler,
};

/// Delay before failed keys are retried.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// Reconciliations between two yields to the runtime.
const RECONCILES_PER_STEP: usize = 32;

/// All controllers and their queue.
pub struct Controllers {
    api: Api,
    watches: Vec<(String, Watch)>,
    kinds: Kinds,
    changes: watch::Receiver<u64>,
    controllers: Vec<Box<dyn Controller>>,
    queue: BTreeSet<(usize, ObjectKey)>,
    failed: BTreeSet<(usize, ObjectKey)>,
}

impl Controllers {
    /// The controllers of the components that `config` names. `ca_pem` is published to pods.
    pub fn new(api: &Api, config: &ClusterConfig, ca_pem: &str) -> Self {
        let manager: Vec<Box<dyn Controller>> = vec![
            Box::new(namespace::NamespaceController::new(ca_pem)),
            Box::new(node::NodeController::new(&config.pod_cidrs)),
            Box::new(deployment::DeploymentController),
            Box::new(replica_set::ReplicaSetController),
            Box::new(daemon_set::DaemonSetController),
            Box::new(endpoint_slice::EndpointSliceController),
            Box::new(endpoints::EndpointsController),
            Box::new(garbage::GarbageCollector),
        ];
        let scheduler: Vec<Box<dyn Controller>> = vec![Box::new(scheduler::Scheduler)];
        let custom_resources: Vec<Box<dyn Controller>> =
            vec![Box::new(custom_resource::CustomResourceController)];
        let load_balancers: Vec<Box<dyn Controller>> =
            vec![Box::new(load_balancer::LoadBalancerController::new(&config.load_balancer_cidrs))];
        let parts = [
            (Component::ControllerManager, manager),
            (Component::Scheduler, scheduler),
            (Component::CustomResources, custom_resources),
            (Component::LoadBalancers, load_balancers),
        ];
        let controllers: Vec<Box<dyn Controller>> = parts
            .into_iter()
            .filter(|(component, _)| config.components.contains(component))
            .flat_map(|(_, part)| part)
            .collect();
        let kinds: BTreeSet<&'static str> =
            controllers.iter().flat_map(|one| one.watches()).copied().collect();
        let watches =
            kinds.into_iter().filter_map(|kind| Some((kind.to_owned(), watch_all(api, kind)?))).collect();
        let changes = api.lock().changes();
        let (queue, failed) = Default::default();
        Self { api: api.clone(), watches, kinds: Kinds::built_in(), changes, controllers, queue, failed }
    }

    /// Runs the controllers until the future is dropped.
    pub async fn run(mut self) {
        loop {
            self.changes.mark_unchanged();
            while self.step() {
                tokio::task::yield_now().await;
            }
            if tokio::time::timeout(RETRY_INTERVAL, self.changes.changed()).await.is_err() {
                self.queue.append(&mut self.failed);
            }
        }
    }

    /// Processes pending events and reconciles some keys. Returns false if the queue is empty.
    fn step(&mut self) -> bool {
        self.process_events();
        for _ in 0..RECONCILES_PER_STEP {
            let Some((index, key)) = self.queue.pop_first() else { break };
            let controller = &mut self.controllers[index];
            if let Err(error) = controller.reconcile(&self.api, &key) {
                tracing::debug!(controller = controller.name(), %key, %error, "reconciliation failed and will be retried");
                self.failed.insert((index, key));
            }
        }
        if self.queue.is_empty() {
            self.process_events();
        }
        !self.queue.is_empty()
    }

    /// Starts watches of new custom resources and stops those of removed ones.
    fn update_custom_watches(&mut self) {
        let kinds = self.api.kinds();
        if kinds.ptr_eq(&self.kinds) {
            return;
        }
        let custom = |kinds: &Kinds| -> BTreeSet<String> {
            kinds.iter().filter(|kind| kind.custom.is_some()).map(|kind| kind.resource()).collect()
        };
        let (before, now) = (custom(&self.kinds), custom(&kinds));
        self.watches.retain(|(kind, _)| !before.contains(kind) || now.contains(kind));
        for kind in now.difference(&before) {
            self.watches.extend(watch_all(&self.api, kind).map(|watch| (kind.clone(), watch)));
        }
        self.kinds = kinds;
    }

    fn process_events(&mut self) {
        self.update_custom_watches();
        for (kind, watch) in &mut self.watches {
            loop {
                match watch.try_next() {
                    Ok(Some(event)) => {
                        let is_custom = self.kinds.by_name(kind).is_some_and(|kind| kind.custom.is_some());
                        enqueue(&self.api, &self.controllers, (kind, is_custom), &event, &mut self.queue);
                    }
                    Ok(None) => break,
                    Err(error) => {
                        tracing::debug!(kind, %error, "the watch of the controllers expired and is restarted");
                        let Some(fresh) = watch_all(&self.api, kind) else { break };
                        *watch = fresh;
                    }
                }
            }
        }
    }
}

fn watch_all(api: &Api, kind: &str) -> Option<Watch> {
    api.watch(kind, None, &WatchOptions::default()).ok()
}

fn enqueue(
    api: &Api,
    controllers: &[Box<dyn Controller>],
    (kind, is_custom): (&str, bool),
    event: &WatchEvent,
    queue: &mut BTreeSet<(usize, ObjectKey)>,
) {
    for (index, controller) in controllers.iter().enumerate() {
        let is_watched =
            controller.watches().contains(&kind) || is_custom && controller.watches_custom_resources();
        if !is_watched {
            continue;
        }
        for object in std::iter::once(&event.object).chain(&event.before) {
            queue.extend(controller.keys_for_event(api, kind, object).into_iter().map(|key| (index, key)));
        }
    }
}

#[cfg(test)]
mod tests;
