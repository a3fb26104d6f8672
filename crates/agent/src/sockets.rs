//! Ends the sockets that the socket hooks connected to a backend that is gone:
//! the engine tells which backends those are ([`gone`]), a thread of its own
//! finds their sockets and destroys them ([`Sockets`]).

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

/// How long backends that go are gathered. Whoever chose one just before is
/// in the table by then.
const GATHER: Duration = Duration::from_millis(50);
/// After a look that took a while, the next waits this many times as long.
const REST: u32 = 9;

/// The socket table, as a reader has it.
pub type Table = KernelTable<SocketKey, SocketValue>;

/// Must the sockets of a backend end, now that `new` takes the place of `old`
/// in the tables?
///
/// Datagrams leave a backend as soon as it takes no new ones, as they do
/// where packets are translated. A stream runs on while its backend
/// terminates; once that is over nobody ends it, if the other end (or its
/// node) died silently. An endpoint that vanishes without having terminated
/// has lost its label or its Service, and still serves its streams.
pub fn is_gone(old: &BackendValue, new: Option<&BackendValue>) -> bool {
    let address = |value: &BackendValue| (value.ip, value.port, value.proto);
    let new = new.filter(|new| address(new) == address(old));
    match old.proto {
        proto::UDP => new
            .is_none_or(|new| old.state == backend_state::ACTIVE && new.state == backend_state::TERMINATING),
        proto::TCP => new.is_none() && old.state == backend_state::TERMINATING,
        _ => false,
    }
}

/// What sockets must leave after these changes of backends and slots.
pub fn gone(
    backends: &BTreeMap<u32, Option<BackendValue>>,
    slots: &BTreeMap<SlotKey, Option<SlotValue>>,
    written: &HashMap<u32, BackendValue>,
) -> RemovedBackends {
    let old = backends.iter().filter_map(|(id, new)| Some((*id, *written.get(id)?, new.as_ref())));
    let backends = old.filter(|(_, old, new)| is_gone(old, *new)).map(|(id, old, _)| (id, old)).collect();
    let members = slots.iter().filter(|(key, value)| key.generation == SLOT_BY_BACKEND && value.is_none());
    RemovedBackends { backends, service_backends: members.map(|(key, _)| (key.service, key.slot)).collect() }
}

/// A pod's network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Where the runtime bound it.
    pub path: PathBuf,
    /// What it was when the pod was born: the path may be another's by now.
    pub cookie: u64,
}

enum Order {
    /// From now on sockets are looked for in this table.
    Table(Box<Table>),
    /// They have to leave these.
    End { gone: RemovedBackends, pods: Vec<Namespace> },
}

/// What the thread tells.
#[derive(Debug, Default)]
struct Told {
    destroyed: AtomicU64,
    /// Why sockets cannot be ended: of the host, of pods.
    problems: Mutex<BTreeMap<&'static str, String>>,
}

/// The engine's side. Dropping it ends the thread.
#[derive(Debug)]
pub struct Sockets {
    orders: Sender<Order>,
    told: Arc<Told>,
}

impl Sockets {
    /// Starts the thread. To be called before the agent gives its privileges
    /// away: if sockets of pods are to be ended, this thread alone keeps the
    /// one that lets it into their namespaces.
    pub fn start(of_pods: bool) -> anyhow::Result<Sockets> {
        let (orders, received) = channel();
        let sockets = Sockets { orders, told: Arc::default() };
        let told = sockets.told.clone();
        let run = move || {
            let reduced = if of_pods { privileges::reduce_to_sockets() } else { privileges::reduce() };
            if let Err(error) = reduced {
                told.set_problem(
                    "privileges",
                    Some(format!("sockets to backends that are gone stay: {error:#}")),
                );
                return;
            }
            told.try_destroy();
            told.work(&received);
        };
        let spawned = thread::Builder::new().name("sockets".to_owned()).spawn(run);
        spawned.context("the thread that ends sockets cannot be started")?;
        Ok(sockets)
    }

    /// What the hooks write.
    pub fn set_table(&self, table: Table) {
        // A thread that has ended has told why.
        let _ = self.orders.send(Order::Table(Box::new(table)));
    }

    /// Ends the sockets that have to leave, on the host and in these namespaces.
    pub fn end(&self, gone: RemovedBackends, pods: Vec<Namespace>) {
        let _ = self.orders.send(Order::End { gone, pods });
    }

    /// How many sockets were ended.
    pub fn destroyed(&self) -> u64 {
        self.told.destroyed.load(Ordering::Relaxed)
    }

    /// Why sockets cannot be ended, in words.
    pub fn problems(&self) -> Vec<String> {
        self.told.problems.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

impl Told {
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
                "sockets to backends that are gone cannot be ended ({error}): clients that keep a UDP socket \
                 connected to a Service must reconnect by themselves; a kernel with CONFIG_INET_UDP_DIAG and \
                 CONFIG_INET_DIAG_DESTROY does it"
            )
        }));
    }

    fn work(&self, orders: &Receiver<Order>) {
        let mut table = None;
        while let Ok(first) = orders.recv() {
            thread::sleep(GATHER);
            let (mut gone, mut pods) = (RemovedBackends::default(), Vec::new());
            for order in std::iter::once(first).chain(orders.try_iter()) {
                match order {
                    Order::Table(new) => table = Some(new),
                    Order::End { gone: more, pods: latest } => {
                        gone.extend(more);
                        pods = latest;
                    }
                }
            }
            let Some(table) = table.as_deref().filter(|_| !gone.is_empty()) else { continue };
            let started = Instant::now();
            self.look(table, &gone, &pods);
            thread::sleep(started.elapsed() * REST);
        }
    }

    fn look(&self, table: &Table, gone: &RemovedBackends, pods: &[Namespace]) {
        let mut abandoned = match StaleSockets::find(table, gone) {
            Ok(abandoned) if abandoned.is_empty() => return,
            Ok(abandoned) => abandoned,
            Err(error) => return warn!("{error}; sockets to backends that are gone stay: {gone:?}"),
        };
        let on_host = SocketDiag::open().and_then(|mut diag| abandoned.destroy(&mut diag));
        let mut destroyed = *on_host.as_ref().unwrap_or(&0);
        let problem = |error| format!("sockets of this node to backends that are gone stay: {error}");
        self.set_problem("host", on_host.err().map(problem));
        let mut failed = None;
        for pod in pods {
            if abandoned.is_empty() {
                break;
            }
            match in_namespace(pod, &mut abandoned) {
                Ok(count) => destroyed += count,
                // A pod that is on its way out takes its sockets with it.
                Err(error) if !pod.path.exists() => debug!("{}: {error:#}", pod.path.display()),
                Err(error) => {
                    failed = Some(format!("sockets of pods to backends that are gone stay: {error:#}"));
                }
            }
        }
        self.set_problem("pods", failed);
        self.destroyed.fetch_add(destroyed, Ordering::Relaxed);
    }
}

fn in_namespace(pod: &Namespace, abandoned: &mut StaleSockets) -> anyhow::Result<u64> {
    let namespace = NetNs::open(&pod.path)?;
    let opened = namespace.enter(|| anyhow::Ok((netns::current_cookie()?, SocketDiag::open()?)))?;
    let (cookie, mut diag) = opened.with_context(|| shown(&pod.path))?;
    if cookie != pod.cookie {
        return Ok(0);
    }
    abandoned.destroy(&mut diag).with_context(|| shown(&pod.path))
}

fn shown(path: &Path) -> String {
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
    fn unit_datagrams_leave_at_once_and_streams_when_the_backend_has_ended() {
        let (active, ending) = (backend_state::ACTIVE, backend_state::TERMINATING);
        let (udp, tcp) = (|state| backend(proto::UDP, state), |state| backend(proto::TCP, state));
        assert!(is_gone(&udp(active), None) && is_gone(&udp(ending), None));
        assert!(is_gone(&udp(active), Some(&udp(ending))), "others take its datagrams");
        assert!(!is_gone(&udp(ending), Some(&udp(active))) && !is_gone(&udp(active), Some(&udp(active))));
        assert!(is_gone(&tcp(ending), None));
        assert!(!is_gone(&tcp(active), None), "its label was taken away: it still serves");
        assert!(!is_gone(&tcp(active), Some(&tcp(ending))));
        let renumbered = BackendValue { port: Port::new(54), ..udp(active) };
        assert!(is_gone(&udp(active), Some(&renumbered)), "the number is another's");
    }

    #[test]
    fn unit_only_backends_that_were_written_have_sockets() {
        let old = backend(proto::UDP, backend_state::ACTIVE);
        let written = HashMap::from([(1, old), (2, old)]);
        let changes = BTreeMap::from([(1, None), (3, None), (4, Some(old))]);
        let member = |service, slot| SlotKey { service, generation: SLOT_BY_BACKEND, slot };
        let slots = BTreeMap::from([
            (member(5, 2), None),
            (member(6, 2), Some(SlotValue::default())),
            (SlotKey { generation: 3, ..member(7, 2) }, None),
        ]);
        let found = gone(&changes, &slots, &written);
        assert_eq!(found.backends, HashMap::from([(1, old)]));
        assert_eq!(found.service_backends.into_iter().collect::<Vec<_>>(), [(5, 2)], "only as a member");
    }
}
