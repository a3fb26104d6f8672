//! The containers of a pod: order of start and termination, and status
//! updates.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::facts::PodFacts;
use crate::pod_status::{ContainerKind, containers};
use crate::supervise::{self, ContainerConfig, ContainerEvent};
use crate::volumes::{self, Volumes};
use crate::worker::{Worker, grace, now, remaining_grace, write_status};

/// The running containers, by index.
struct PodContainers {
    kinds: Vec<ContainerKind>,
    next: usize,
    tasks: JoinSet<usize>,
    stops: BTreeMap<usize, watch::Sender<Option<Instant>>>,
    changes: mpsc::Sender<(usize, ContainerEvent)>,
}

/// Runs the containers until the pod is to be terminated and all have exited.
pub async fn run(worker: &mut Worker, facts: PodFacts) {
    let (changes, mut changed) = mpsc::channel(16);
    let kinds = containers(&worker.pod).into_iter().map(|(kind, _)| kind).collect();
    let mut running =
        PodContainers { kinds, next: 0, tasks: JoinSet::new(), stops: BTreeMap::new(), changes };
    let mut desired = worker.desired.clone();
    let left = remaining_grace(&desired.borrow_and_update());
    let mut deadline = left.map(|left| Instant::now() + left);
    let refresher =
        tokio::spawn(refresh_volumes(worker.shared(), worker.volumes(), facts.clone(), desired.clone()));
    let _refresher = AbortOnDrop(refresher);
    loop {
        running.advance(worker, &facts, deadline);
        // Also if the pod was terminated before any container started.
        if deadline.is_some() && running.stops.is_empty() {
            return;
        }
        let desired_is_final = desired.borrow().is_none();
        tokio::select! {
            Some((index, change)) = changed.recv() => record_event(worker, index, change),
            Some(ended) = running.tasks.join_next() => {
                if let Ok(index) = ended {
                    running.stops.remove(&index);
                }
            }
            updated = desired.changed(), if !desired_is_final => {
                let left = if updated.is_err() { Some(Duration::ZERO) } else { remaining_grace(&desired.borrow_and_update()) };
                deadline = earlier_deadline(deadline, left.map(|left| Instant::now() + left));
            }
        }
        // Handle the events of an exited container first.
        while let Ok((index, change)) = changed.try_recv() {
            record_event(worker, index, change);
        }
        write_status(worker).await;
    }
}

/// The deadline of a terminating pod can be shortened, never extended.
fn earlier_deadline(before: Option<Instant>, now: Option<Instant>) -> Option<Instant> {
    match (before, now) {
        (Some(before), Some(now)) => Some(before.min(now)),
        (before, now) => before.or(now),
    }
}

fn record_event(worker: &mut Worker, index: usize, change: ContainerEvent) {
    worker.run.apply_event(index, change, now());
}

impl PodContainers {
    /// Starts or stops the containers that may start or stop in the current
    /// state.
    fn advance(&mut self, worker: &Worker, facts: &PodFacts, deadline: Option<Instant>) {
        if deadline.is_some() || worker.run.finished() {
            let own = Instant::now() + grace(&worker.pod);
            return self.stop(deadline.unwrap_or(own));
        }
        while self.next < self.kinds.len() && (self.next == 0 || worker.run.allows_next(self.next - 1)) {
            self.start(worker, facts);
        }
    }

    fn start(&mut self, worker: &Worker, facts: &PodFacts) {
        let index = self.next;
        self.next += 1;
        let (stop, stopped) = watch::channel(None);
        self.stops.insert(index, stop);
        let config = container_config(worker, facts, index);
        let changes = self.changes.clone();
        self.tasks.spawn(async move {
            supervise::run(config, changes, stopped).await;
            index
        });
    }

    /// Stops the app containers first, then the sidecars in reverse order.
    fn stop(&mut self, deadline: Instant) {
        let sidecar = |index: &usize| self.kinds[*index] == ContainerKind::Sidecar;
        let others = self.stops.keys().copied().filter(|index| !sidecar(index)).collect::<Vec<_>>();
        let now =
            if others.is_empty() { self.stops.keys().copied().last().into_iter().collect() } else { others };
        for stop in now.iter().filter_map(|index| self.stops.get(index)) {
            stop.send_if_modified(|order| {
                let sooner = order.is_none_or(|order| deadline < order);
                if sooner {
                    *order = Some(deadline);
                }
                sooner
            });
        }
    }
}

fn container_config(worker: &Worker, facts: &PodFacts, index: usize) -> ContainerConfig {
    let (kind, spec) = containers(&worker.pod).swap_remove(index);
    let policy = worker.pod.spec.as_ref().and_then(|spec| spec.restart_policy.clone()).unwrap_or_default();
    let list = if kind == ContainerKind::App { "containers" } else { "initContainers" };
    ContainerConfig {
        index,
        field: format!("spec.{list}{{{}}}", spec.name),
        serves: kind.serves(),
        restart_policy: match kind {
            ContainerKind::App => policy,
            ContainerKind::Sidecar => "Always".into(),
            // Init containers that succeeded are not restarted, whatever the
            // policy.
            ContainerKind::Init if policy == "Never" => policy,
            ContainerKind::Init => "OnFailure".into(),
        },
        grace: grace(&worker.pod),
        first_run: worker.run.next_run(index),
        spec,
        facts: facts.clone(),
        record: worker.record.clone(),
        paths: worker.paths.clone(),
        volumes: worker.volumes(),
        client: worker.kubelet.client.clone(),
        shared: worker.shared(),
        images: worker.kubelet.images.clone(),
        own: worker.kubelet.own.clone(),
        node: worker.node.netns.clone(),
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Updates projected volumes when their sources change.
async fn refresh_volumes(
    shared: std::sync::Arc<crate::shared::Shared>,
    volumes: Volumes,
    mut facts: PodFacts,
    mut desired: watch::Receiver<crate::node::DesiredPod>,
) {
    let list = facts.pod.spec.as_ref().and_then(|spec| spec.volumes.clone()).unwrap_or_default();
    if !list.iter().any(crate::projection::is_projection) {
        return;
    }
    let namespace = facts.pod.namespace().unwrap_or_default();
    let mut changes = shared.changes().await;
    let pause = volumes::token_pause(&list);
    loop {
        let old = async {
            match pause {
                Some(pause) => tokio::time::sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = changes.recv() => match changed {
                Ok((changed_namespace, reference)) => {
                    if changed_namespace != namespace || !volumes::shows(&list, &reference) {
                        continue;
                    }
                }
                Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                Err(_) => return,
            },
            updated = desired.changed() => {
                let now = desired.borrow_and_update().clone();
                let (Ok(()), Some(pod)) = (updated, now) else { return };
                let same = pod.labels() == facts.pod.labels() && pod.annotations() == facts.pod.annotations();
                if same || !volumes::show_fields(&list) {
                    continue;
                }
                facts.pod = Pod::clone(&pod);
            }
            () = old => {}
        }
        if let Err(error) = volumes.make(shared.client(), &facts).await {
            tracing::warn!("{namespace}/{}: {error:#}", facts.pod.name_any());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_a_deadline_is_never_extended() {
        let now = Instant::now();
        let later = now + Duration::from_secs(5);
        assert_eq!(earlier_deadline(None, Some(later)), Some(later));
        assert_eq!(earlier_deadline(Some(later), Some(now)), Some(now));
        assert_eq!(earlier_deadline(Some(now), Some(later)), Some(now));
        assert_eq!(earlier_deadline(Some(now), None), Some(now));
    }
}
