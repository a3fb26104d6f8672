//! Watches the Kubernetes API and converts its objects to the model.
//!
//! [`Source::start`] returns a stream of [`Update`]s with model objects, in the
//! order of the API server per kind. A full listing is enclosed by `ResetStart`
//! and `ResetEnd`. Invalid objects become a [`Problem`](beeline_model::Problem)
//! in the update and do not stop the stream. Kubernetes objects are converted
//! and dropped.
//!
//! Problems of objects are published as events on them ([`EventRecorder`]).
//!
//! The last known cluster state is journalled in the state directory, and
//! replayed if the API server is unreachable at start.

mod connect;
mod convert;
mod events;
pub mod journal;
mod versions;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use beeline_model::{Change, Problem};
use futures::FutureExt;
use futures::future::BoxFuture;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::sync::watch::channel as watch_channel;
use tokio::task::JoinHandle;

pub use crate::events::{EventCounts, EventRecorder, ProblemChanges};
/// Writing one event, for tests with an API server.
#[doc(hidden)]
pub use crate::events::{Outcome as EventOutcome, write as write_event};
pub use crate::versions::{SyncedVersions, VersionEvent};

/// Updates queued for the reader; the watches block when the queue is full.
const QUEUE_UPDATES_MAX: usize = 1024;

/// A random duration between half and one and a half times `pause`, so that the
/// agents of a cluster do not send requests at the same time.
pub(crate) fn jitter(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.5..1.5))
}

/// Configuration of the source.
#[derive(Clone, Debug)]
pub struct SourceConfig {
    /// Kubeconfig file; none = the pod's service account.
    pub kubeconfig: Option<PathBuf>,
    /// API server URLs, tried in turn; empty = the one of the kubeconfig or the
    /// service account.
    pub servers: Vec<String>,
    /// The node whose pods are watched.
    pub node_name: String,
    /// Directory of the journal; none = no journal.
    pub state_dir: Option<PathBuf>,
    /// How long to wait for the API server at start before the journal is
    /// replayed.
    pub start_timeout: Duration,
    /// Interval of liveness checks of the connected server.
    pub liveness_interval: Duration,
}

impl SourceConfig {
    /// The default configuration of a node.
    pub fn new(node_name: impl Into<String>) -> SourceConfig {
        SourceConfig {
            kubeconfig: None,
            servers: Vec::new(),
            node_name: node_name.into(),
            state_dir: None,
            start_timeout: Duration::from_secs(3),
            liveness_interval: Duration::from_secs(10),
        }
    }
}

/// Why the source could not start.
#[derive(Debug, Error)]
pub enum SourceError {
    /// The kubeconfig cannot be used.
    #[error("kubeconfig {}: {error}; check the path and that this user may read it", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: String,
    },
    /// Neither kubeconfig nor service account.
    #[error("no API server is configured: {0}; set --kubeconfig, or run as a pod with a service account")]
    NoServiceAccount(String),
    /// The server URL is invalid.
    #[error("invalid API server URL `{url}`: {error}; expected https://HOST:PORT")]
    ServerUrl {
        /// The URL.
        url: String,
        /// What is wrong.
        error: String,
    },
}

/// Where an update comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The API server.
    Live,
    /// The journal of an earlier run on this node.
    Journal,
}

/// One update of the stream.
#[derive(Clone, Debug)]
pub struct Update {
    /// The change; none if the object cannot be decoded.
    pub change: Option<Change>,
    /// Problems of the changed object. They replace its previous ones.
    pub problems: Vec<Problem>,
    /// To be recorded in [`SyncedVersions`] once the update is programmed.
    pub version_event: VersionEvent,
    /// The origin of the update.
    pub origin: Origin,
}

/// Connection state, readable at any time.
#[derive(Debug, Default)]
pub struct SourceState {
    connected: AtomicBool,
    failures: AtomicU64,
    /// Bit set of the kinds whose watch currently fails.
    failing: AtomicU64,
}

impl SourceState {
    /// The last contact with the API server succeeded, for every kind.
    pub fn connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed) && self.failing.load(Ordering::Relaxed) == 0
    }

    /// Failed requests since the start.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    pub(crate) fn failed(&self, kind: Option<beeline_model::Kind>) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        match kind {
            Some(kind) => drop(self.failing.fetch_or(1 << kind as u64, Ordering::Relaxed)),
            None => self.connected.store(false, Ordering::Relaxed),
        }
    }

    pub(crate) fn succeeded(&self, kind: Option<beeline_model::Kind>) {
        match kind {
            Some(kind) => drop(self.failing.fetch_and(!(1 << kind as u64), Ordering::Relaxed)),
            None => {
                self.failing.store(0, Ordering::Relaxed);
                self.connected.store(true, Ordering::Relaxed);
            }
        }
    }
}

/// A running source. Dropping it stops the watches and the events.
#[derive(Debug)]
pub struct Source {
    state: Arc<SourceState>,
    recorder: Arc<EventRecorder>,
    tasks: [JoinHandle<()>; 2],
}

impl Source {
    /// Starts watching. Fails only if the configuration is invalid; an
    /// unreachable API server is retried forever.
    ///
    /// The future is boxed: otherwise its code, with all watches, is compiled
    /// again in every crate that awaits it.
    pub fn start(
        config: SourceConfig,
    ) -> BoxFuture<'static, Result<(mpsc::Receiver<Update>, Source), SourceError>> {
        let start = async move {
            // Fails if a provider is already installed, which is then used.
            let _ = rustls::crypto::ring::default_provider().install_default();
            let servers = connect::servers(&config).await?;
            let state = Arc::new(SourceState::default());
            let (sender, receiver) = mpsc::channel(QUEUE_UPDATES_MAX);
            let recorder = Arc::new(EventRecorder::new());
            let (client_sender, clients) = watch_channel(None);
            let recording = tokio::spawn(events::run(recorder.clone(), clients, config.node_name.clone()));
            let watches = tokio::spawn(watch::run(config, servers, state.clone(), sender, client_sender));
            Ok((receiver, Source { state, recorder, tasks: [watches, recording] }))
        };
        start.boxed()
    }

    /// The recorder of events about problems.
    pub fn event_recorder(&self) -> Arc<EventRecorder> {
        self.recorder.clone()
    }

    /// Connection state.
    pub fn state(&self) -> Arc<SourceState> {
        self.state.clone()
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}
