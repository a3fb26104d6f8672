//! The engine behind its lock, for the socket and the HTTP server.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use beeline_abi::Mac;
use beeline_api::{ApiError, Call, ErrorKind, ObjectVersion, Response};
use beeline_kernel::netlink::Change;
use beeline_source::{EventCounts, EventRecorder, SourceState};

use crate::drops::{Drops, Subscription};
use crate::endpoints::{Link, PodReference};
use crate::engine::{AwaitedObject, Engine};
use crate::health_check_node_port::Health;
use crate::http::StatusSource;
use crate::metrics::Snapshot;
use crate::server::Handler;

/// Upper bound of the timeout of a call.
const SYNC_WAIT_MAX: Duration = Duration::from_secs(600);

/// See the module documentation.
pub struct Shared {
    engine: Mutex<Engine>,
    /// Notified after every change of the engine.
    progressed: Condvar,
    /// Outside the engine's lock, so that readiness can be read while it is
    /// held.
    not_ready_reason: Mutex<Option<String>>,
    health: Arc<Health>,
    source: Arc<SourceState>,
    recorder: Arc<EventRecorder>,
    drops: Drops,
    events_read: AtomicU64,
    events_lost: AtomicU64,
}

impl Shared {
    /// Wraps an engine.
    pub fn new(engine: Engine, source: Arc<SourceState>, recorder: Arc<EventRecorder>) -> Shared {
        let not_ready_reason = Mutex::new(engine.not_ready_reason());
        Shared {
            engine: Mutex::new(engine),
            progressed: Condvar::new(),
            not_ready_reason,
            health: Arc::default(),
            source,
            recorder,
            drops: Drops::new(),
            events_read: AtomicU64::default(),
            events_lost: AtomicU64::default(),
        }
    }

    /// Runs `work` on the engine and notifies all waiters.
    pub fn change<T>(&self, work: impl FnOnce(&mut Engine) -> T) -> T {
        let mut engine = self.lock();
        let result = work(&mut engine);
        let not_ready_reason = engine.not_ready_reason();
        self.health.set_node(not_ready_reason.is_none(), engine.node_is_leaving());
        self.health.set_checks(engine.take_health_changes());
        *self.not_ready_reason.lock().unwrap_or_else(PoisonError::into_inner) = not_ready_reason;
        // Sent while the lock is held, to preserve the order of changes.
        if let Some(problems) = engine.take_problem_changes() {
            self.recorder.update(problems);
        }
        drop(engine);
        self.progressed.notify_all();
        result
    }

    /// Keeps only changes that require a sync of the host.
    pub fn retain_relevant(&self, changes: &mut Vec<Change>) {
        let engine = self.lock();
        changes.retain(|change| engine.needs_sync(change));
    }

    /// The state of the health checks.
    pub fn health(&self) -> Arc<Health> {
        self.health.clone()
    }

    /// Adds a drop event. `lost` is the total number of lost events over all
    /// CPUs.
    pub fn push_drop(&self, record: beeline_api::DropRecord, lost: u64) {
        self.events_read.fetch_add(1, Ordering::Relaxed);
        self.events_lost.store(lost, Ordering::Relaxed);
        self.drops.push(record);
    }

    /// Ignores poisoning: a panic fails only its own call. The engine's steps
    /// are idempotent and the next one corrects the state.
    fn lock(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_for_sync(&self, timeout: Duration, objects: &[ObjectVersion]) -> Result<(), ApiError> {
        let awaited: Vec<AwaitedObject> =
            objects.iter().map(AwaitedObject::parse).collect::<Result<_, _>>()?;
        let unsynced = |engine: &mut Engine| !engine.is_synced_with(&awaited);
        let waited = self.progressed.wait_timeout_while(self.lock(), timeout.min(SYNC_WAIT_MAX), unsynced);
        let (engine, result) = waited.unwrap_or_else(PoisonError::into_inner);
        match result.timed_out() {
            false => Ok(()),
            true => Err(ApiError {
                kind: ErrorKind::TryAgain,
                message: format!("after {} ms: {}", timeout.as_millis(), engine.why_not_synced(&awaited)),
            }),
        }
    }

    fn try_handle(&self, call: Call) -> Result<Response, ApiError> {
        let done = |()| Response::Done;
        match call {
            Call::Allocate { attachment, pod_namespace, pod_name, pod_uid, netns } => {
                let pod = PodReference { namespace: pod_namespace, name: pod_name, uid: pod_uid, netns };
                self.change(|engine| engine.allocate(&attachment, pod)).map(Response::Allocated)
            }
            Call::Commit { attachment, host_ifindex, pod_mac, netns_cookie } => {
                let mac = Mac::parse(&pod_mac).ok_or_else(|| ApiError {
                    kind: ErrorKind::Invalid,
                    message: format!("{pod_mac:?} is not a MAC address"),
                })?;
                let link = Link { host_ifindex, pod_mac: mac.0, netns_cookie };
                self.change(|engine| engine.commit(&attachment, link)).map(done)
            }
            Call::Release { attachment } => self.change(|engine| engine.release(&attachment)).map(done),
            Call::Check { attachment } => self.change(|engine| engine.check(&attachment)).map(done),
            Call::Collect { valid } => self.change(|engine| engine.collect(&valid)).map(done),
            Call::Ready => match self.not_ready_reason() {
                None => Ok(Response::Done),
                Some(message) => Err(ApiError { kind: ErrorKind::TryAgain, message }),
            },
            Call::Status => {
                let mut status = self.lock().status(self.source.connected());
                status.problems.extend(self.recorder.problem());
                Ok(Response::Status(Box::new(status)))
            }
            Call::Names => Ok(Response::Names(self.lock().names())),
            Call::WaitForSync { timeout_ms, objects } => {
                self.wait_for_sync(Duration::from_millis(timeout_ms), &objects).map(done)
            }
            Call::Drops { .. } => Err(ApiError {
                kind: ErrorKind::Internal,
                message: "drops are streamed by the server itself".to_owned(),
            }),
        }
    }
}

impl Handler for Shared {
    fn handle(&self, call: Call) -> Response {
        self.try_handle(call).unwrap_or_else(Response::Error)
    }

    fn drops(&self) -> Subscription {
        self.drops.subscribe()
    }
}

impl StatusSource for Shared {
    fn snapshot(&self) -> Snapshot {
        Snapshot {
            api_connected: self.source.connected(),
            object_events: object_events(self.recorder.counts()),
            events_read: self.events_read.load(Ordering::Relaxed),
            events_lost: self.events_lost.load(Ordering::Relaxed),
            resident_bytes: resident_bytes().unwrap_or_default(),
            ..self.lock().snapshot()
        }
    }

    fn not_ready_reason(&self) -> Option<String> {
        self.not_ready_reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn object_events(counts: EventCounts) -> Vec<(&'static str, u64)> {
    let EventCounts { published, dropped, failed } = counts;
    vec![("told", published), ("dropped", dropped), ("failed", failed)]
}

/// Reads `/proc/self/statm`.
fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    Some(pages * page as u64)
}
