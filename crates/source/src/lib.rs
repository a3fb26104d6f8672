//! Watches the Kubernetes API and converts at the door.
//!
//! [`Source::start`] gives a stream of [`Update`]s: plain model objects, in
//! the order of the API server for each kind. A full listing is bounded by
//! `ResetStart` and `ResetEnd`. What cannot be used becomes a
//! [`Problem`](beeline_model::Problem) beside the change and stops nothing.
//! No Kubernetes object is kept: each is converted and dropped.
//!
//! What is wrong with an object goes back as an event on it ([`EventRecorder`]).
//!
//! The last good state is journalled below the state directory and told first
//! when the API server cannot be reached at start.

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
pub use crate::versions::{SyncedVersions, VersionEvent};

/// Updates that may wait for the reader; the watches pause when it is full.
const QUEUE_UPDATES_MAX: usize = 1024;

/// A pause of about this length: between a half more and a half less, so that
/// the agents of a cluster do not all ask at once.
pub(crate) fn jitter(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.5..1.5))
}

/// What the source needs to know.
#[derive(Clone, Debug)]
pub struct SourceConfig {
    /// Kubeconfig file; none = the pod's service account.
    pub kubeconfig: Option<PathBuf>,
    /// API server URLs, tried in turn; empty = the one that the kubeconfig or
    /// the service account names.
    pub servers: Vec<String>,
    /// The node whose pods are watched.
    pub node_name: String,
    /// Where the last good state is kept; none = nowhere.
    pub state_dir: Option<PathBuf>,
    /// How long the API server may stay out of reach at start before the last
    /// good state is told.
    pub start_timeout: Duration,
    /// How often a server that is watched is asked whether it is still there.
    pub liveness_interval: Duration,
}

impl SourceConfig {
    /// The usual configuration of a node.
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
    /// A server URL is none.
    #[error("invalid API server URL `{url}`: {error}; expected https://HOST:PORT")]
    ServerUrl {
        /// What was written.
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
    /// The journal of an earlier life of this node.
    Journal,
}

/// One thing that the source tells.
#[derive(Clone, Debug)]
pub struct Update {
    /// The change; none if the object cannot be read at all.
    pub change: Option<Change>,
    /// Problems of the object that the change is about. They replace those
    /// that were told about it before.
    pub problems: Vec<Problem>,
    /// What to note in [`SyncedVersions`] once the update is programmed.
    pub version_event: VersionEvent,
    /// Where it comes from.
    pub origin: Origin,
}

/// State that others may read at any time.
#[derive(Debug, Default)]
pub struct SourceState {
    connected: AtomicBool,
    failures: AtomicU64,
    /// Bits of the kinds whose watches fail at the moment.
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

/// A running source; dropping it ends the watches and the events.
#[derive(Debug)]
pub struct Source {
    state: Arc<SourceState>,
    recorder: Arc<EventRecorder>,
    tasks: [JoinHandle<()>; 2],
}

impl Source {
    /// Starts watching. Fails only if the configuration is unusable: an API
    /// server out of reach is tried again for ever.
    ///
    /// The future is boxed: the code of an unboxed one, with all its watches,
    /// is compiled again in every crate that awaits it.
    pub fn start(
        config: SourceConfig,
    ) -> BoxFuture<'static, Result<(mpsc::Receiver<Update>, Source), SourceError>> {
        let start = async move {
            // Another provider may have been installed already: then it is used.
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

    /// Who writes events about problems.
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
