//! One watch per kind, all into one channel; connection and backoff.

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
use crate::{Mark, Origin, SourceConfig, SourceState, Update, connect, convert, journal};

/// Pause after a failure: from the first to the last, doubled each time.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// The last pause if nobody answers: short, so that what was changed meanwhile
/// is in force soon after the server is back.
const BACKOFF_LAST_SILENT: Duration = Duration::from_secs(1);
/// The last pause if the server answers, but with an error.
const BACKOFF_LAST_REFUSED: Duration = Duration::from_secs(5);
/// Failures in a row of one watch before another server is tried.
const FAILURES_BEFORE_SWITCH: u32 = 5;
/// Objects per page of a listing.
const PAGE_OBJECTS: u32 = 500;

/// Watches for ever; ends when nobody reads any more. `clients` is told the
/// way to the server of the moment.
pub async fn run(
    config: SourceConfig,
    servers: Vec<Config>,
    state: Arc<SourceState>,
    updates: mpsc::Sender<Update>,
    clients: watch::Sender<Option<Client>>,
) {
    let mut first = tokio::select! {
        first = reach(&servers, 0, &state) => first,
        () = updates.closed() => return,
        () = tokio::time::sleep(config.patience) => {
            tell_journal(&config, &updates).await;
            reach_for(&updates, &servers, 0, &state).await
        }
    };
    let journal = Journal::open(config.state_dir.as_deref());
    while let Some((client, index)) = first {
        let door = Door { updates: updates.clone(), state: state.clone(), journal: journal.clone() };
        let others = servers.len() > 1;
        clients.send_replace(Some(client.clone()));
        if watch_all(client, &config, door, others).await == Ended::NobodyReads {
            return;
        }
        state.failed(None);
        first = reach_for(&updates, &servers, index + 1, &state).await;
    }
}

/// The first server that answers; none if nobody reads any more.
async fn reach_for(
    updates: &mpsc::Sender<Update>,
    servers: &[Config],
    first: usize,
    state: &SourceState,
) -> Option<(Client, usize)> {
    tokio::select! {
        found = reach(servers, first, state) => found,
        () = updates.closed() => None,
    }
}

/// The first server that answers, whenever that is.
async fn reach(servers: &[Config], first: usize, state: &SourceState) -> Option<(Client, usize)> {
    let mut backoff = BACKOFF_FIRST;
    loop {
        let found = connect::connect(servers, first, state).await;
        if found.is_some() {
            return found;
        }
        pause(&mut backoff, BACKOFF_LAST_SILENT).await;
    }
}

async fn tell_journal(config: &SourceConfig, updates: &mpsc::Sender<Update>) {
    let Some(dir) = &config.state_dir else { return };
    let changes = match journal::load(dir) {
        Ok(changes) => changes,
        Err(error) => {
            warn!("{error}; the node starts without its last state");
            return;
        }
    };
    info!(objects = changes.len(), "the API server does not answer: starting from the last good state");
    for change in changes {
        let update = Update {
            change: Some(change),
            problems: Vec::new(),
            mark: Mark::Nothing,
            origin: Origin::Journal,
        };
        if updates.send(update).await.is_err() {
            return;
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    NobodyReads,
    TryAnotherServer,
}

/// All watches; returns when one of them wants another server.
async fn watch_all(client: Client, config: &SourceConfig, door: Door, others: bool) -> Ended {
    let all = watcher::Config::default().page_size(PAGE_OBJECTS);
    let local_pods = all.clone().fields(&format!("spec.nodeName={}", config.node_name));
    let of_services = all.clone().labels(convert::SERVICE_NAME_LABEL);
    let mut tasks = JoinSet::new();
    let c = || client.clone();
    tasks.spawn(watch(Kind::Node, stream::<Node>(c(), all.clone()), convert::node, door.clone(), others));
    tasks.spawn(watch(
        Kind::Namespace,
        stream::<Namespace>(c(), all.clone()),
        convert::namespace,
        door.clone(),
        others,
    ));
    tasks.spawn(watch(Kind::Pod, stream::<Pod>(c(), local_pods), convert::pod, door.clone(), others));
    tasks.spawn(watch(Kind::Service, stream::<Service>(c(), all), convert::service, door.clone(), others));
    tasks.spawn(watch(
        Kind::EndpointSlice,
        stream::<EndpointSlice>(c(), of_services),
        convert::endpoint_slice,
        door,
        others,
    ));
    // A set that is dropped aborts what is left in it.
    let ended = tokio::select! {
        ended = tasks.join_next() => ended,
        why = connect::falls_silent(&client, config.liveness) => {
            warn!("the API server has fallen silent ({why}); its watches are given up");
            return Ended::TryAnotherServer;
        }
    };
    match ended {
        Some(Ok(ended)) => ended,
        Some(Err(error)) => {
            warn!(%error, "a watch ended unexpectedly; all are started anew");
            Ended::TryAnotherServer
        }
        None => Ended::TryAnotherServer,
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

/// Where converted objects leave this room.
#[derive(Clone)]
struct Door {
    updates: mpsc::Sender<Update>,
    state: Arc<SourceState>,
    journal: Journal,
}

impl Door {
    /// False if nobody reads any more.
    async fn tell(&self, change: Option<Change>, problems: Vec<Problem>, mark: Mark) -> bool {
        if let Some(change) = &change {
            self.journal.record(change);
        }
        self.updates.send(Update { change, problems, mark, origin: Origin::Live }).await.is_ok()
    }
}

/// Follows one kind.
async fn watch<K: Resource>(
    kind: Kind,
    stream: impl Stream<Item = watcher::Result<Event<Guarded<K>>>> + Send,
    convert: fn(&K, &mut Vec<Problem>) -> Object,
    door: Door,
    others: bool,
) -> Ended {
    let mut stream = pin!(stream);
    let (mut backoff, mut failures) = (BACKOFF_FIRST, 0);
    while let Some(event) = stream.next().await {
        match event {
            Ok(event) => {
                (backoff, failures) = (BACKOFF_FIRST, 0);
                if !matches!(event, Event::Init) {
                    door.state.succeeded(Some(kind));
                }
                if !tell(kind, event, convert, &door).await {
                    return Ended::NobodyReads;
                }
            }
            Err(error) => {
                failures += 1;
                complain(kind, &error, failures, &door.state);
                let answered = is_answer(&error);
                if others && !answered && failures >= FAILURES_BEFORE_SWITCH {
                    return Ended::TryAnotherServer;
                }
                let last = if answered { BACKOFF_LAST_REFUSED } else { BACKOFF_LAST_SILENT };
                pause(&mut backoff, last).await;
            }
        }
    }
    Ended::TryAnotherServer
}

/// Did a server that works say so? Another one would say the same (a missing
/// right, say), and all watches would be begun anew for it.
fn is_answer(error: &watcher::Error) -> bool {
    let works = |code: u16| (400..500).contains(&code);
    match error {
        watcher::Error::WatchError(status) => works(status.code),
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status)) => works(status.code),
        watcher::Error::NoResourceVersion => true,
        _ => false,
    }
}

fn complain(kind: Kind, error: &watcher::Error, failures: u32, state: &SourceState) {
    // An expired version is answered by a new listing: no failure of the server.
    if matches!(error, watcher::Error::WatchError(status) if status.code == 410) {
        return;
    }
    state.failed(Some(kind));
    if failures.is_power_of_two() {
        warn!(?kind, failures, "watching failed: {error}; trying again");
    }
}

async fn tell<K: Resource>(
    kind: Kind,
    event: Event<Guarded<K>>,
    convert: fn(&K, &mut Vec<Problem>) -> Object,
    door: &Door,
) -> bool {
    match event {
        Event::Init => door.tell(Some(Change::ResetStart(kind)), Vec::new(), Mark::Start(kind)).await,
        Event::InitDone => door.tell(Some(Change::ResetEnd(kind)), Vec::new(), Mark::End(kind)).await,
        Event::InitApply(object) | Event::Apply(object) => {
            let (name, version) = identity(object.meta());
            let mark = Mark::applied(kind, &name, version);
            let (change, problems) = match object.0 {
                Ok(object) => {
                    let mut problems = Vec::new();
                    let object = convert(&object, &mut problems);
                    (Some(Change::Apply(Box::new(object))), problems)
                }
                Err(invalid) => (None, vec![unreadable(kind, &name, &invalid.error)]),
            };
            door.tell(change, problems, mark).await
        }
        Event::Delete(object) => {
            let (name, version) = identity(object.meta());
            let mark = Mark::deleted(kind, &name, version);
            door.tell(Some(Change::Delete(kind, name)), Vec::new(), mark).await
        }
    }
}

fn unreadable(kind: Kind, name: &ObjectName, error: &str) -> Problem {
    Problem {
        kind,
        name: name.clone(),
        reason: Reason::ObjectUnreadable,
        message: format!(
            "the object cannot be read ({error}); what it said before stays in force: correct it"
        ),
    }
}

fn identity(meta: &kube::core::ObjectMeta) -> (ObjectName, u64) {
    let version = meta.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or_default();
    (convert::object_name(meta), version)
}

async fn pause(backoff: &mut Duration, last: Duration) {
    tokio::time::sleep(crate::jitter(*backoff)).await;
    *backoff = (*backoff * 2).min(last);
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::Status;

    #[test]
    fn unit_a_refusal_is_an_answer_and_silence_is_none() {
        let status = |code| Box::new(Status { code, ..Status::default() });
        for code in [401, 403, 404, 410, 429] {
            assert!(is_answer(&watcher::Error::InitialListFailed(kube::Error::Api(status(code)))), "{code}");
            assert!(is_answer(&watcher::Error::WatchError(status(code))), "{code}");
        }
        for code in [500, 503, 504] {
            assert!(!is_answer(&watcher::Error::WatchStartFailed(kube::Error::Api(status(code)))), "{code}");
        }
        let broken = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        assert!(!is_answer(&watcher::Error::WatchFailed(kube::Error::ReadEvents(broken))));
    }
}
