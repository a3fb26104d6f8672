//! Problems become Kubernetes events on the objects that have them, so that
//! `kubectl describe` tells what the agent's status tells.
//!
//! Every node sees most problems, and none asks another: an event's name
//! follows from what it says, so that the first node to write it has told for
//! all. Nothing waits for an event, and one that cannot be written harms
//! nobody.

mod ledger;
mod write;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use beeline_model::Problem;
use kube::Client;
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use ledger::{Ledger, Next, Outcome};

/// How long the API server may take for one event.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// What has changed about the problems of objects.
#[derive(Clone, Debug, Default)]
pub struct ProblemChanges {
    /// Those that are no more.
    pub gone: Vec<Problem>,
    /// Those that are new; they count after those that are no more.
    pub appeared: Vec<Problem>,
    /// Nodes of the cluster, which all see the same.
    pub nodes: usize,
}

impl ProblemChanges {
    /// Nothing has changed.
    pub fn is_empty(&self) -> bool {
        self.gone.is_empty() && self.appeared.is_empty()
    }
}

/// What became of problems that were to be told, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventCounts {
    /// There is an event, by this node or by another.
    pub told: u64,
    /// There were too many at once.
    pub dropped: u64,
    /// Attempts that failed; they are repeated, unless the API server refuses
    /// the event itself.
    pub failed: u64,
}

/// Writes events about the problems that it is given.
#[derive(Debug)]
pub struct Teller {
    ledger: Mutex<Ledger>,
    changed: Notify,
    refused: Mutex<Option<String>>,
}

impl Teller {
    pub(crate) fn new() -> Teller {
        let ledger = Ledger::new(Instant::now(), rand::random());
        Teller { ledger: Mutex::new(ledger), changed: Notify::new(), refused: Mutex::default() }
    }

    /// Takes in what has changed. Never blocks for long, keeps a bounded
    /// number of problems and counts those that are one too many.
    pub fn change(&self, changes: ProblemChanges) {
        self.ledger().change(Instant::now(), changes);
        self.changed.notify_one();
    }

    /// What became of them.
    pub fn counts(&self) -> EventCounts {
        self.ledger().counts()
    }

    /// Why no event can be written, if this server forbids it.
    pub fn problem(&self) -> Option<String> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logged once when it begins and once when it ends.
    fn set_refused(&self, why: Option<String>) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*refused, &why) {
            (None, Some(why)) => warn!("{why}"),
            (Some(_), None) => info!("problems of objects are told by events again"),
            _ => {}
        }
        *refused = why;
    }

    fn report(&self, problem: &Problem, outcome: Outcome) {
        match &outcome {
            Outcome::Forbidden(why) => self.set_refused(Some(format!(
                "problems of objects are not told by events: the API server forbids it ({why}); the agent's \
                 ClusterRole needs `create` and `patch` of `events`, which the chart of this release gives it"
            ))),
            Outcome::Created(_) | Outcome::Known => self.set_refused(None),
            Outcome::Gone | Outcome::Invalid(_) | Outcome::Failed(_) => {}
        }
        self.ledger().report(Instant::now(), problem, outcome);
    }
}

/// Tells for ever, one event after the other, by the client of the moment.
pub(crate) async fn work(teller: Arc<Teller>, mut clients: watch::Receiver<Option<Client>>, node: String) {
    loop {
        // Until the first server has answered there is nobody to tell.
        let Ok(client) = clients.wait_for(Option::is_some).await.map(|client| client.clone()) else { return };
        let next = teller.ledger().next(Instant::now());
        match (next, client) {
            (Next::Tell(problem, written), Some(client)) => {
                let write = write::write(&client, &node, &problem, written);
                let late = |_| Outcome::Failed(format!("no answer within {} s", WRITE_TIMEOUT.as_secs()));
                let outcome = tokio::time::timeout(WRITE_TIMEOUT, write).await.unwrap_or_else(late);
                teller.report(&problem, outcome);
            }
            (Next::Wait(pause), _) => {
                let _ = tokio::time::timeout(pause, teller.changed.notified()).await;
            }
            _ => teller.changed.notified().await,
        }
    }
}
