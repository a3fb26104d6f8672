//! Publishes problems as Kubernetes events on the affected objects, so that
//! `kubectl describe` shows them.
//!
//! Most problems are seen by every node, and the nodes do not coordinate: the
//! name of an event is derived from its content, so that only the first node
//! creates it. Nothing waits for an event, and a failure to write one has no
//! other effect.

mod queue;
mod write;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use beeline_model::Problem;
use kube::Client;
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use queue::{EventQueue, Next};

pub use queue::Outcome;
pub use write::write;

/// Timeout of one write to the API server.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Changes of the problems of objects.
#[derive(Clone, Debug, Default)]
pub struct ProblemChanges {
    /// Problems that are resolved.
    pub resolved: Vec<Problem>,
    /// New problems; applied after the resolved ones.
    pub added: Vec<Problem>,
    /// Number of nodes of the cluster, all of which see the same cluster-wide
    /// problems.
    pub nodes: usize,
}

impl ProblemChanges {
    /// Whether nothing has changed.
    pub fn is_empty(&self) -> bool {
        self.resolved.is_empty() && self.added.is_empty()
    }
}

/// Counters of problems by outcome, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventCounts {
    /// Problems with an event, created by this node or another.
    pub published: u64,
    /// Problems dropped because the queue was full.
    pub dropped: u64,
    /// Failed attempts. They are retried unless the API server rejects the
    /// event itself.
    pub failed: u64,
}

/// Records events about problems.
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

    /// Applies changes. Never blocks for long; the number of queued problems is
    /// bounded, and dropped ones are counted.
    pub fn update(&self, changes: ProblemChanges) {
        self.queue().update(Instant::now(), changes);
        self.changed.notify_one();
    }

    /// The counters.
    pub fn counts(&self) -> EventCounts {
        self.queue().counts()
    }

    /// Why no event can be written, if the API server forbids it.
    pub fn problem(&self) -> Option<String> {
        self.forbidden.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn queue(&self) -> MutexGuard<'_, EventQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs the begin and the end of the condition once each.
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

/// Publishes events one at a time, forever, with the current client.
pub(crate) async fn run(
    recorder: Arc<EventRecorder>,
    mut clients: watch::Receiver<Option<Client>>,
    node: String,
) {
    loop {
        // Wait for the first connection to an API server.
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
