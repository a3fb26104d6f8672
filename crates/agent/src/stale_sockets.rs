//! Destroys sockets that the socket hooks connected to a backend that was
//! removed. The engine determines the backends ([`stale_backends`]); a separate
//! thread finds and destroys their sockets ([`SocketDestroyer`]).

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use beeline_abi::ip::proto;
use beeline_abi::service::{BackendValue, SLOT_BY_BACKEND, SlotKey, SlotValue, backend_state};
use beeline_abi::socket::{SocketKey, SocketValue};
use beeline_kernel::datapath::{KernelTable, RemovedBackends, StaleSockets};
use beeline_kernel::netlink::SocketDiag;
use beeline_kernel::netns::{self, NetNs};
use tracing::{debug, warn};

use crate::privileges;

/// How long removed backends are batched. A socket that selected one just
/// before its removal is in the socket table by then.
const BATCH_WINDOW: Duration = Duration::from_millis(50);
/// After each scan the thread sleeps this many times the duration of the scan.
const IDLE_FACTOR: u32 = 9;

/// The socket table.
pub type Table = KernelTable<SocketKey, SocketValue>;

/// Whether sockets connected to a backend are stale after `new` replaces `old`
/// in the tables.
///
/// A UDP socket is stale as soon as its backend gets no new datagrams, as with
/// per-packet translation. A TCP connection stays established while its backend
/// terminates and is stale afterwards: if the peer or its node failed, nothing
/// else closes it. An endpoint that is removed without terminating has lost its
/// label or its Service, and still serves its connections.
pub fn is_stale(old: &BackendValue, new: Option<&BackendValue>) -> bool {
    let address = |value: &BackendValue| (value.ip, value.port, value.proto);
    let new = new.filter(|new| address(new) == address(old));
    match old.proto {
        proto::UDP => new
            .is_none_or(|new| old.state == backend_state::ACTIVE && new.state == backend_state::TERMINATING),
        proto::TCP => new.is_none() && old.state == backend_state::TERMINATING,
        _ => false,
    }
}

/// The backends whose sockets are stale after these changes of backends and
/// slots.
pub fn stale_backends(
    backends: &BTreeMap<u32, Option<BackendValue>>,
    slots: &BTreeMap<SlotKey, Option<SlotValue>>,
    written: &HashMap<u32, BackendValue>,
) -> RemovedBackends {
    let old = backends.iter().filter_map(|(id, new)| Some((*id, *written.get(id)?, new.as_ref())));
    let backends = old.filter(|(_, old, new)| is_stale(old, *new)).map(|(id, old, _)| (id, old)).collect();
    let members = slots.iter().filter(|(key, value)| key.generation == SLOT_BY_BACKEND && value.is_none());
    RemovedBackends { backends, service_backends: members.map(|(key, _)| (key.service, key.slot)).collect() }
}

/// A pod's network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Path of the bind mount made by the runtime.
    pub path: PathBuf,
    /// Cookie of the namespace when the pod was added: the path may have been
    /// reused.
    pub cookie: u64,
}

enum Request {
    /// Sets the table in which sockets are looked up.
    SetTable(Box<Table>),
    /// Destroys the sockets connected to these backends.
    Destroy { stale: RemovedBackends, pods: Vec<Namespace> },
}

/// State shared by the thread and its handle.
#[derive(Debug, Default)]
struct Worker {
    destroyed: AtomicU64,
    /// Why sockets cannot be destroyed, by scope.
    problems: Mutex<BTreeMap<&'static str, String>>,
}

/// Handle of the thread. Dropping it stops the thread.
#[derive(Debug)]
pub struct SocketDestroyer {
    requests: Sender<Request>,
    worker: Arc<Worker>,
}

impl SocketDestroyer {
    /// Starts the thread. Must be called before the agent drops its privileges:
    /// if sockets of pods are to be destroyed, only this thread keeps the
    /// capability to enter their network namespaces.
    pub fn start(of_pods: bool) -> anyhow::Result<SocketDestroyer> {
        let (requests, received) = channel();
        let sockets = SocketDestroyer { requests, worker: Arc::default() };
        let worker = sockets.worker.clone();
        let run = move || {
            let reduced = if of_pods {
                privileges::drop_socket_capabilities()
            } else {
                privileges::drop_capabilities()
            };
            if let Err(error) = reduced {
                worker.set_problem(
                    "privileges",
                    Some(format!("cannot destroy sockets connected to removed backends: {error:#}")),
                );
                return;
            }
            worker.try_destroy();
            worker.work(&received);
        };
        let spawned = thread::Builder::new().name("sockets".to_owned()).spawn(run);
        spawned.context("cannot start the thread that destroys stale sockets")?;
        Ok(sockets)
    }

    /// Sets the table that the socket hooks write.
    pub fn set_table(&self, table: Table) {
        // Fails only if the thread has stopped, which is reported as a problem.
        let _ = self.requests.send(Request::SetTable(Box::new(table)));
    }

    /// Destroys stale sockets on the host and in these network namespaces.
    pub fn destroy(&self, stale: RemovedBackends, pods: Vec<Namespace>) {
        let _ = self.requests.send(Request::Destroy { stale, pods });
    }

    /// The number of destroyed sockets.
    pub fn destroyed(&self) -> u64 {
        self.worker.destroyed.load(Ordering::Relaxed)
    }

    /// Why sockets cannot be destroyed, as messages.
    pub fn problems(&self) -> Vec<String> {
        self.worker.problems.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

impl Worker {
    fn set_problem(&self, about: &'static str, problem: Option<String>) {
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        match problem {
            Some(problem) => drop(problems.insert(about, problem)),
            None => drop(problems.remove(about)),
        }
    }

    fn try_destroy(&self) {
        let tried = SocketDiag::open().and_then(|mut diag| diag.probe_destroy());
        self.set_problem("kernel", tried.err().map(|error| {
            format!(
                "cannot destroy sockets connected to removed backends ({error}): clients with a UDP socket \
                 connected to a Service must reconnect themselves; use a kernel with CONFIG_INET_UDP_DIAG and \
                 CONFIG_INET_DIAG_DESTROY"
            )
        }));
    }

    fn work(&self, requests: &Receiver<Request>) {
        let mut table = None;
        while let Ok(first) = requests.recv() {
            thread::sleep(BATCH_WINDOW);
            let (mut stale, mut pods) = (RemovedBackends::default(), Vec::new());
            for request in std::iter::once(first).chain(requests.try_iter()) {
                match request {
                    Request::SetTable(new) => table = Some(new),
                    Request::Destroy { stale: more, pods: latest } => {
                        stale.extend(more);
                        pods = latest;
                    }
                }
            }
            let Some(table) = table.as_deref().filter(|_| !stale.is_empty()) else { continue };
            let started = Instant::now();
            self.destroy_stale(table, &stale, &pods);
            thread::sleep(started.elapsed() * IDLE_FACTOR);
        }
    }

    fn destroy_stale(&self, table: &Table, stale: &RemovedBackends, pods: &[Namespace]) {
        let mut sockets = match StaleSockets::find(table, stale) {
            Ok(sockets) if sockets.is_empty() => return,
            Ok(sockets) => sockets,
            Err(error) => {
                return warn!("{error}; sockets connected to removed backends are not destroyed: {stale:?}");
            }
        };
        let on_host = SocketDiag::open().and_then(|mut diag| sockets.destroy(&mut diag));
        let mut destroyed = *on_host.as_ref().unwrap_or(&0);
        let problem =
            |error| format!("cannot destroy sockets of this node connected to removed backends: {error}");
        self.set_problem("host", on_host.err().map(problem));
        let mut failed = None;
        for pod in pods {
            if sockets.is_empty() {
                break;
            }
            match destroy_in_namespace(pod, &mut sockets) {
                Ok(count) => destroyed += count,
                // The namespace of a deleted pod is removed with its sockets.
                Err(error) if !pod.path.exists() => debug!("{}: {error:#}", pod.path.display()),
                Err(error) => {
                    failed = Some(format!(
                        "cannot destroy sockets of pods connected to removed backends: {error:#}"
                    ));
                }
            }
        }
        self.set_problem("pods", failed);
        self.destroyed.fetch_add(destroyed, Ordering::Relaxed);
    }
}

fn destroy_in_namespace(pod: &Namespace, sockets: &mut StaleSockets) -> anyhow::Result<u64> {
    let namespace = NetNs::open(&pod.path)?;
    let opened = namespace.enter(|| anyhow::Ok((netns::current_cookie()?, SocketDiag::open()?)))?;
    let (cookie, mut diag) = opened.with_context(|| display(&pod.path))?;
    if cookie != pod.cookie {
        return Ok(0);
    }
    sockets.destroy(&mut diag).with_context(|| display(&pod.path))
}

fn display(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use beeline_abi::{Ip, Port};

    use super::*;

    fn backend(proto: u8, state: u8) -> BackendValue {
        let ip = Ip::from(std::net::IpAddr::from([10, 0, 0, 1]));
        BackendValue { ip, port: Port::new(53), proto, state, ..BackendValue::default() }
    }

    #[test]
    fn unit_udp_sockets_are_stale_at_once_and_tcp_sockets_after_termination() {
        let (active, terminating) = (backend_state::ACTIVE, backend_state::TERMINATING);
        let (udp, tcp) = (|state| backend(proto::UDP, state), |state| backend(proto::TCP, state));
        assert!(is_stale(&udp(active), None) && is_stale(&udp(terminating), None));
        assert!(is_stale(&udp(active), Some(&udp(terminating))), "other backends take its datagrams");
        assert!(
            !is_stale(&udp(terminating), Some(&udp(active))) && !is_stale(&udp(active), Some(&udp(active)))
        );
        assert!(is_stale(&tcp(terminating), None));
        assert!(!is_stale(&tcp(active), None), "removed without terminating: it still serves");
        assert!(!is_stale(&tcp(active), Some(&tcp(terminating))));
        let renumbered = BackendValue { port: Port::new(54), ..udp(active) };
        assert!(is_stale(&udp(active), Some(&renumbered)), "the id was reused for another address");
    }

    #[test]
    fn unit_only_backends_that_were_written_can_be_stale() {
        let old = backend(proto::UDP, backend_state::ACTIVE);
        let written = HashMap::from([(1, old), (2, old)]);
        let changes = BTreeMap::from([(1, None), (3, None), (4, Some(old))]);
        let member = |service, slot| SlotKey { service, generation: SLOT_BY_BACKEND, slot };
        let slots = BTreeMap::from([
            (member(5, 2), None),
            (member(6, 2), Some(SlotValue::default())),
            (SlotKey { generation: 3, ..member(7, 2) }, None),
        ]);
        let found = stale_backends(&changes, &slots, &written);
        assert_eq!(found.backends, HashMap::from([(1, old)]));
        assert_eq!(
            found.service_backends.into_iter().collect::<Vec<_>>(),
            [(5, 2)],
            "only slots of the member list"
        );
    }
}
