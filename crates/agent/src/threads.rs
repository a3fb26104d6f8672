//! The agent's threads: each waits for one kind of event and passes it to the
//! engine.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use beeline_kernel::datapath::Events;
use beeline_kernel::netlink::{Change, NetlinkError, Watch};
use beeline_source::Update;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::drops;
use crate::engine::Cause;
use crate::host::changes;
use crate::memory;
use crate::shared::Shared;

/// Updates applied under one lock acquisition; CNI calls are served between
/// batches.
const BATCH_UPDATES_MAX: usize = 256;
/// How long host changes are batched before the host is synced. The plugin
/// releases a pod within this time after deleting its device.
const BATCH_WINDOW: Duration = Duration::from_millis(100);
/// Interval of table comparisons.
const COMPARE_INTERVAL: Duration = Duration::from_secs(10);
/// Pause between batches of a comparison, in which others get the engine's
/// lock.
const COMPARE_PAUSE: Duration = Duration::from_millis(2);
/// After a long comparison (large tables, a busy node) the next one starts
/// after this many times its duration: at most 1 % of a CPU.
const COMPARE_IDLE_FACTOR: u32 = 99;
const SECOND: Duration = Duration::from_secs(1);

/// Applies updates of the source until it ends.
pub fn apply_updates(shared: Arc<Shared>, mut updates: mpsc::Receiver<Update>) -> anyhow::Result<()> {
    spawn("source", move || {
        let mut batch = Vec::with_capacity(BATCH_UPDATES_MAX);
        let mut was_synced = false;
        while updates.blocking_recv_many(&mut batch, BATCH_UPDATES_MAX) > 0 {
            let is_synced = shared.change(|engine| {
                engine.apply(batch.drain(..));
                engine.is_synced()
            });
            if is_synced && !was_synced {
                memory::trim();
            }
            was_synced = is_synced;
        }
    })
}

/// Restores the host after changes by other processes, as notified by netlink.
pub fn watch_host(shared: Arc<Shared>, mut watch: Watch) -> anyhow::Result<()> {
    spawn("host", move || {
        // Changes that were relevant when they arrived.
        let mut pending: Vec<Change> = Vec::new();
        loop {
            let changes = match next_changes(&mut watch, pending.is_empty()) {
                Ok(changes) => changes,
                Err(error) => {
                    warn!("cannot watch netlink notifications: {error}; checking the host every 10 s");
                    return;
                }
            };
            // A pod whose device was removed may have been released in the
            // meantime.
            shared.retain_relevant(&mut pending);
            if pending.is_empty() {
                pending = changes::latest(changes);
                shared.retain_relevant(&mut pending);
                continue;
            }
            // The sync also covers changes that arrived in the meantime.
            pending.clear();
            if let Err(error) = shared.change(|engine| engine.sync_host(Cause::Repair)) {
                warn!("cannot read the node's network configuration: {error:#}; retrying");
            }
        }
    })
}

/// Waits for the next changes or, if some are pending, for further ones within
/// [`BATCH_WINDOW`].
fn next_changes(watch: &mut Watch, waits: bool) -> Result<Vec<Change>, NetlinkError> {
    if waits {
        return watch.wait(None);
    }
    thread::sleep(BATCH_WINDOW);
    watch.take_pending()
}

/// Relays drop events to the subscribers.
pub fn relay_events(shared: Arc<Shared>, mut events: Events) -> anyhow::Result<()> {
    spawn("events", move || {
        let mut lost: HashMap<u32, u64> = HashMap::new();
        loop {
            if let Err(error) = poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE)
                && error != nix::Error::EINTR
            {
                warn!("cannot read drop events: {error}; drop counters are not affected");
                return;
            }
            while let Some(event) = events.next() {
                if let Some(record) = drops::record(&event, monotonic_ns(), SystemTime::now()) {
                    lost.insert(record.cpu, record.lost);
                    shared.push_drop(record, lost.values().sum());
                }
            }
        }
    })
}

/// Compares the tables with the desired state, periodically.
pub fn compare_tables(shared: Arc<Shared>) -> anyhow::Result<()> {
    spawn("compare", move || {
        let mut idle = COMPARE_INTERVAL;
        loop {
            thread::sleep(idle);
            let mut busy = Duration::ZERO;
            loop {
                let began = Instant::now();
                let is_finished = shared.change(|engine| engine.compare_batch());
                busy += began.elapsed();
                if is_finished {
                    break;
                }
                thread::sleep(COMPARE_PAUSE);
            }
            idle = COMPARE_INTERVAL.max(busy * COMPARE_IDLE_FACTOR);
        }
    })
}

/// Runs periodic work.
pub fn run_timers(shared: Arc<Shared>) -> anyhow::Result<()> {
    spawn("clock", move || {
        let mut seconds: u64 = 0;
        loop {
            let started = Instant::now();
            shared.change(|engine| {
                engine.tick();
                if seconds % 10 == 9 {
                    engine.check_host();
                }
                if seconds % 60 == 59 {
                    engine.check_take_over();
                }
            });
            if seconds % 60 == 59 {
                memory::trim();
            }
            seconds += 1;
            thread::sleep(SECOND.saturating_sub(started.elapsed()).max(SECOND / 2));
        }
    })
}

/// Logs when the API server becomes unreachable and reachable.
pub fn log_connection(state: Arc<beeline_source::SourceState>) -> anyhow::Result<()> {
    spawn("api", move || {
        let mut connected = true;
        loop {
            thread::sleep(SECOND);
            match (connected, state.connected()) {
                (true, false) => {
                    warn!("the API server is unreachable; the last known cluster state stays in use")
                }
                (false, true) => info!("the API server is reachable again"),
                _ => {}
            }
            connected = state.connected();
        }
    })
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    let spawned = thread::Builder::new().name(name.to_owned()).spawn(work);
    spawned.map(drop).with_context(|| format!("cannot start the thread {name}"))
}

/// The clock of `bpf_ktime_get_ns` (`CLOCK_MONOTONIC`), which timestamps
/// events.
fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live value of the expected type. On error the
    // value stays zero, and events get the current time.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
