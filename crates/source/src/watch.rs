//! Watches every kind into one channel; handles connection failures and
//! backoff.

use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use beeline_model::{Change, Kind, Object, ObjectName, Problem, Reason};
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::core::DeserializeGuard;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Config, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::journal::Journal;
use crate::{Origin, SourceConfig, SourceState, Update, VersionEvent, connect, convert, journal};

/// Minimum backoff after a failure, doubled each time.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Maximum backoff while no server responds: short, so that changes are
/// programmed soon after it returns.
const BACKOFF_MAX_UNREACHABLE: Duration = Duration::from_secs(1);
/// Maximum backoff if the server responds with an error.
const BACKOFF_MAX_ERROR: Duration = Duration::from_secs(5);
/// Consecutive failures of one watch before another server is tried.
const FAILURES_BEFORE_SWITCH: u32 = 5;
/// Objects per page of a listing.
const PAGE_OBJECTS: u32 = 500;

/// Watches forever; returns when the receiver is closed. The current client is
/// sent to `clients`.
pub async fn run(
    config: SourceConfig,
    servers: Vec<Config>,
    state: Arc<SourceState>,
    updates: mpsc::Sender<Update>,
    clients: watch::Sender<Option<Client>>,
) {
    let mut first = tokio::select! {
        first = connect_with_backoff(&servers, 0, &state) => first,
        () = updates.closed() => return,
        () = tokio::time::sleep(config.start_timeout) => {
            replay_journal(&config, &updates).await;
            connect_or_closed(&updates, &servers, 0, &state).await
        }
    };
    let journal = Journal::open(config.state_dir.as_deref());
    while let Some((client, index)) = first {
        let sink = UpdateSink { updates: updates.clone(), state: state.clone(), journal: journal.clone() };
        let has_alternatives = servers.len() > 1;
        clients.send_replace(Some(client.clone()));
        if watch_all(client, &config, sink, has_alternatives).await == Ended::ReceiverClosed {
            return;
        }
        state.failed(None);
        first = connect_or_closed(&updates, &servers, index + 1, &state).await;
    }
}

/// Connects to the first server that responds. `None` if the receiver is
/// closed.
async fn connect_or_closed(
    updates: &mpsc::Sender<Update>,
    servers: &[Config],
    first: usize,
    state: &SourceState,
) -> Option<(Client, usize)> {
    tokio::select! {
        found = connect_with_backoff(servers, first, state) => found,
        () = updates.closed() => None,
    }
}

/// Connects to the first server that responds; retries forever.
async fn connect_with_backoff(
    servers: &[Config],
    first: usize,
    state: &SourceState,
) -> Option<(Client, usize)> {
    let mut backoff = BACKOFF_MIN;
    loop {
        let found = connect::connect(servers, first, state).await;
        if found.is_some() {
            return found;
        }
        pause(&mut backoff, BACKOFF_MAX_UNREACHABLE).await;
    }
}

async fn replay_journal(config: &SourceConfig, updates: &mpsc::Sender<Update>) {
    let Some(dir) = &config.state_dir else { return };
    let changes = match journal::load(dir) {
        Ok(changes) => changes,
        Err(error) => {
            warn!("{error}; starting without the last known cluster state");
            return;
        }
    };
    info!(
        objects = changes.len(),
        "the API server is unreachable: starting from the last known cluster state"
    );
    for change in changes {
        let update = Update {
            change: Some(change),
            problems: Vec::new(),
            version_event: VersionEvent::None,
            origin: Origin::Journal,
        };
        if updates.send(update).await.is_err() {
            return;
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    ReceiverClosed,
    SwitchServer,
}

/// Runs all watches; returns when one of them requests another server.
async fn watch_all(client: Client, config: &SourceConfig, sink: UpdateSink, has_alternatives: bool) -> Ended {
    let all = watcher::Config::default().page_size(PAGE_OBJECTS);
    let local_pods = all.clone().fields(&format!("spec.nodeName={}", config.node_name));
    let of_services = all.clone().labels(convert::SERVICE_NAME_LABEL);
    let mut tasks = JoinSet::new();
    let c = || client.clone();
    tasks.spawn(watch(
        Kind::Node,
        stream::<Node>(c(), all.clone()),
        convert::node,
        sink.clone(),
        has_alternatives,
    ));
    tasks.spawn(watch(
        Kind::Namespace,
        stream::<Namespace>(c(), all.clone()),
        convert::namespace,
        sink.clone(),
        has_alternatives,
    ));
    tasks.spawn(watch(
        Kind::Pod,
        stream::<Pod>(c(), local_pods),
        convert::pod,
        sink.clone(),
        has_alternatives,
    ));
    tasks.spawn(watch(
        Kind::Service,
        stream::<Service>(c(), all),
        convert::service,
        sink.clone(),
        has_alternatives,
    ));
    tasks.spawn(watch(
        Kind::EndpointSlice,
        stream::<EndpointSlice>(c(), of_services),
        convert::endpoint_slice,
        sink,
        has_alternatives,
    ));
    // Dropping the set aborts the remaining tasks.
    let ended = tokio::select! {
        ended = tasks.join_next() => ended,
        why = connect::wait_until_unresponsive(&client, config.liveness_interval) => {
            warn!("the API server is unresponsive ({why}); restarting all watches");
            return Ended::SwitchServer;
        }
    };
    match ended {
        Some(Ok(ended)) => ended,
        Some(Err(error)) => {
            warn!(%error, "a watch ended unexpectedly; restarting all watches");
            Ended::SwitchServer
        }
        None => Ended::SwitchServer,
    }
}

type Guarded<K> = DeserializeGuard<K>;

fn stream<K>(
    client: Client,
    config: watcher::Config,
) -> impl Stream<Item = watcher::Result<Event<Guarded<K>>>> + Send
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    watcher(Api::<Guarded<K>>::all(client), config)
}

/// The destination of converted objects.
#[derive(Clone)]
struct UpdateSink {
    updates: mpsc::Sender<Update>,
    state: Arc<SourceState>,
    journal: Journal,
}

impl UpdateSink {
    /// Returns false if the receiver is closed.
    async fn send(
        &self,
        change: Option<Change>,
        problems: Vec<Problem>,
        version_event: VersionEvent,
    ) -> bool {
        if let Some(change) = &change {
            self.journal.record(change);
        }
        self.updates.send(Update { change, problems, version_event, origin: Origin::Live }).await.is_ok()
    }
}

/// Watches one kind.
async fn watch<K: Resource>(
    kind: Kind,
    stream: impl Stream<Item = watcher::Result<Event<Guarded<K>>>> + Send,
    convert: fn(&K, &mut Vec<Problem>) -> Object,
    sink: UpdateSink,
    has_alternatives: bool,
) -> Ended {
    let mut stream = pin!(stream);
    let (mut backoff, mut failures) = (BACKOFF_MIN, 0);
    while let Some(event) = stream.next().await {
        match event {
            Ok(event) => {
                (backoff, failures) = (BACKOFF_MIN, 0);
                if !matches!(event, Event::Init) {
                    sink.state.succeeded(Some(kind));
                }
                if !forward(kind, event, convert, &sink).await {
                    return Ended::ReceiverClosed;
                }
            }
            Err(error) => {
                failures += 1;
                report_failure(kind, &error, failures, &sink.state);
                let responded = is_server_response(&error);
                if has_alternatives && !responded && failures >= FAILURES_BEFORE_SWITCH {
                    return Ended::SwitchServer;
                }
                let max = if responded { BACKOFF_MAX_ERROR } else { BACKOFF_MAX_UNREACHABLE };
                pause(&mut backoff, max).await;
            }
        }
    }
    Ended::SwitchServer
}

/// Whether a working server reported the error. Another server would report the
/// same (for example a missing permission), and switching would restart all
/// watches.
fn is_server_response(error: &watcher::Error) -> bool {
    let is_client_error = |code: u16| (400..500).contains(&code);
    match error {
        watcher::Error::WatchError(status) => is_client_error(status.code),
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status)) => is_client_error(status.code),
        watcher::Error::NoResourceVersion => true,
        _ => false,
    }
}

fn report_failure(kind: Kind, error: &watcher::Error, failures: u32, state: &SourceState) {
    // An expired version is followed by a new listing and is not a failure of
    // the server.
    if matches!(error, watcher::Error::WatchError(status) if status.code == 410) {
        return;
    }
    state.failed(Some(kind));
    if failures.is_power_of_two() {
        warn!(?kind, failures, "watch failed: {error}; retrying");
    }
}

async fn forward<K: Resource>(
    kind: Kind,
    event: Event<Guarded<K>>,
    convert: fn(&K, &mut Vec<Problem>) -> Object,
    sink: &UpdateSink,
) -> bool {
    match event {
        Event::Init => {
            sink.send(Some(Change::ResetStart(kind)), Vec::new(), VersionEvent::ListStart(kind)).await
        }
        Event::InitDone => {
            sink.send(Some(Change::ResetEnd(kind)), Vec::new(), VersionEvent::ListEnd(kind)).await
        }
        Event::InitApply(object) | Event::Apply(object) => {
            let (name, version) = identity(object.meta());
            let version_event = VersionEvent::applied(kind, &name, version);
            let (change, problems) = match object.0 {
                Ok(object) => {
                    let mut problems = Vec::new();
                    let object = convert(&object, &mut problems);
                    (Some(Change::Apply(Box::new(object))), problems)
                }
                Err(invalid) => (None, vec![unreadable(kind, &name, &invalid.error)]),
            };
            sink.send(change, problems, version_event).await
        }
        Event::Delete(object) => {
            let (name, version) = identity(object.meta());
            let version_event = VersionEvent::deleted(kind, &name, version);
            sink.send(Some(Change::Delete(kind, name)), Vec::new(), version_event).await
        }
    }
}

fn unreadable(kind: Kind, name: &ObjectName, error: &str) -> Problem {
    Problem {
        kind,
        name: name.clone(),
        reason: Reason::ObjectUnreadable,
        message: format!(
            "the object cannot be decoded ({error}): its last valid version stays in use; correct it"
        ),
    }
}

fn identity(meta: &kube::core::ObjectMeta) -> (ObjectName, u64) {
    let version = meta.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or_default();
    (convert::object_name(meta), version)
}

async fn pause(backoff: &mut Duration, max: Duration) {
    tokio::time::sleep(crate::jitter(*backoff)).await;
    *backoff = (*backoff * 2).min(max);
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::Status;

    #[test]
    fn unit_client_errors_are_server_responses_and_server_errors_are_not() {
        let status = |code| Box::new(Status { code, ..Status::default() });
        for code in [401, 403, 404, 410, 429] {
            assert!(
                is_server_response(&watcher::Error::InitialListFailed(kube::Error::Api(status(code)))),
                "{code}"
            );
            assert!(is_server_response(&watcher::Error::WatchError(status(code))), "{code}");
        }
        for code in [500, 503, 504] {
            assert!(
                !is_server_response(&watcher::Error::WatchStartFailed(kube::Error::Api(status(code)))),
                "{code}"
            );
        }
        let broken = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        assert!(!is_server_response(&watcher::Error::WatchFailed(kube::Error::ReadEvents(broken))));
    }
}
