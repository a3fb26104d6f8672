//! Problems become Kubernetes events on the objects that have them, so that
//! `kubectl describe` tells what the agent's status tells.
//!
//! Every node sees most problems, and none asks another: an event's name
//! follows from what it says, so that the first node to write it has told for
//! all. Nothing waits for an event, and one that cannot be written harms
//! nobody.

mod queue;
mod write;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use beeline_model::Problem;
use kube::Client;
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use queue::{EventQueue, Next, Outcome};

/// How long the API server may take for one event.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// What has changed about the problems of objects.
#[derive(Clone, Debug, Default)]
pub struct ProblemChanges {
    /// Those that are no more.
    pub resolved: Vec<Problem>,
    /// Those that are new; they count after those that are no more.
    pub added: Vec<Problem>,
    /// Nodes of the cluster, which all see the same.
    pub nodes: usize,
}

impl ProblemChanges {
    /// Nothing has changed.
    pub fn is_empty(&self) -> bool {
        self.resolved.is_empty() && self.added.is_empty()
    }
}

/// What became of problems that were to be told, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventCounts {
    /// There is an event, by this node or by another.
    pub published: u64,
    /// There were too many at once.
    pub dropped: u64,
    /// Attempts that failed; they are repeated, unless the API server refuses
    /// the event itself.
    pub failed: u64,
}

/// Writes events about the problems that it is given.
#[derive(Debug)]
pub struct EventRecorder {
    queue: Mutex<EventQueue>,
    changed: Notify,
    forbidden: Mutex<Option<String>>,
}

impl EventRecorder {
    pub(crate) fn new() -> EventRecorder {
        let queue = EventQueue::new(Instant::now(), rand::random());
        EventRecorder { queue: Mutex::new(queue), changed: Notify::new(), forbidden: Mutex::default() }
    }

    /// Takes in what has changed. Never blocks for long, keeps a bounded
    /// number of problems and counts those that are one too many.
    pub fn update(&self, changes: ProblemChanges) {
        self.queue().update(Instant::now(), changes);
        self.changed.notify_one();
    }

    /// What became of them.
    pub fn counts(&self) -> EventCounts {
        self.queue().counts()
    }

    /// Why no event can be written, if this server forbids it.
    pub fn problem(&self) -> Option<String> {
        self.forbidden.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn queue(&self) -> MutexGuard<'_, EventQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logged once when it begins and once when it ends.
    fn set_forbidden(&self, why: Option<String>) {
        let mut forbidden = self.forbidden.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*forbidden, &why) {
            (None, Some(why)) => warn!("{why}"),
            (Some(_), None) => info!("events about problems are published again"),
            _ => {}
        }
        *forbidden = why;
    }

    fn report(&self, problem: &Problem, outcome: Outcome) {
        match &outcome {
            Outcome::Forbidden(why) => self.set_forbidden(Some(format!(
                "events about problems cannot be published: the API server forbids it ({why}); the agent's \
                 ClusterRole needs `create` and `patch` on `events`, which the chart of this release grants"
            ))),
            Outcome::Created(_) | Outcome::AlreadyExists => self.set_forbidden(None),
            Outcome::ObjectDeleted | Outcome::Invalid(_) | Outcome::Failed(_) => {}
        }
        self.queue().report(Instant::now(), problem, outcome);
    }
}

/// Tells for ever, one event after the other, by the client of the moment.
pub(crate) async fn run(
    recorder: Arc<EventRecorder>,
    mut clients: watch::Receiver<Option<Client>>,
    node: String,
) {
    loop {
        // Until the first server has answered there is nobody to tell.
        let Ok(client) = clients.wait_for(Option::is_some).await.map(|client| client.clone()) else { return };
        let next = recorder.queue().next(Instant::now());
        match (next, client) {
            (Next::Publish(problem, written), Some(client)) => {
                let write = write::write(&client, &node, &problem, written);
                let timed_out =
                    |_| Outcome::Failed(format!("no response within {} s", WRITE_TIMEOUT.as_secs()));
                let outcome = tokio::time::timeout(WRITE_TIMEOUT, write).await.unwrap_or_else(timed_out);
                recorder.report(&problem, outcome);
            }
            (Next::Wait(pause), _) => {
                let _ = tokio::time::timeout(pause, recorder.changed.notified()).await;
            }
            _ => recorder.changed.notified().await,
        }
    }
}
