//! The threads beside the socket: each waits for one thing and hands it to
//! the engine.

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

/// Updates that are programmed in one go; CNI calls come in between.
const BATCH_UPDATES_MAX: usize = 256;
/// How long changes of the host are gathered before they are looked at. The
/// plugin releases a pod within this time of deleting its device.
const GATHER: Duration = Duration::from_millis(100);
/// How often the tables are compared with what they should hold.
const COMPARE_EVERY: Duration = Duration::from_secs(10);
/// A comparison stops so often to let others have the engine.
const COMPARE_PAUSE: Duration = Duration::from_millis(2);
/// After a comparison that took long (large tables, a busy node), the next
/// one waits this many times as long: it takes at most a hundredth of a CPU.
const COMPARE_REST: u32 = 99;
const SECOND: Duration = Duration::from_secs(1);

/// Programs what the source tells, until the source ends.
pub fn follow_source(shared: Arc<Shared>, mut updates: mpsc::Receiver<Update>) -> anyhow::Result<()> {
    spawn("source", move || {
        let mut batch = Vec::with_capacity(BATCH_UPDATES_MAX);
        let mut was_in_step = false;
        while updates.blocking_recv_many(&mut batch, BATCH_UPDATES_MAX) > 0 {
            let is_in_step = shared.change(|engine| {
                engine.apply(batch.drain(..));
                engine.is_in_step()
            });
            if is_in_step && !was_in_step {
                memory::give_back();
            }
            was_in_step = is_in_step;
        }
    })
}

/// Repairs what somebody changes on the host, when the kernel tells it.
pub fn follow_host(shared: Arc<Shared>, mut watch: Watch) -> anyhow::Result<()> {
    spawn("host", move || {
        // What mattered when it came.
        let mut pending: Vec<Change> = Vec::new();
        loop {
            let changes = match next_changes(&mut watch, pending.is_empty()) {
                Ok(changes) => changes,
                Err(error) => {
                    warn!("changes of the host cannot be followed: {error}; looking every 10 s");
                    return;
                }
            };
            // A pod whose device has gone may be released by now.
            shared.keep_what_matters(&mut pending);
            if pending.is_empty() {
                pending = changes::latest(changes);
                shared.keep_what_matters(&mut pending);
                continue;
            }
            // The look covers what has come meanwhile, too.
            pending.clear();
            if let Err(error) = shared.change(|engine| engine.sync_host(Cause::Repair)) {
                warn!("the node's network cannot be read: {error:#}; trying again");
            }
        }
    })
}

/// The next changes, or, if some are pending, those that come within
/// [`GATHER`].
fn next_changes(watch: &mut Watch, waits: bool) -> Result<Vec<Change>, NetlinkError> {
    if waits {
        return watch.wait(None);
    }
    thread::sleep(GATHER);
    watch.take_pending()
}

/// Relays drop events to whoever listens on the socket.
pub fn follow_events(shared: Arc<Shared>, mut events: Events) -> anyhow::Result<()> {
    spawn("events", move || {
        let mut lost: HashMap<u32, u64> = HashMap::new();
        loop {
            if let Err(error) = poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE)
                && error != nix::Error::EINTR
            {
                warn!("drop events cannot be read any more: {error}; the counters go on");
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

/// Compares the tables with what they should hold, again and again.
pub fn compare_tables(shared: Arc<Shared>) -> anyhow::Result<()> {
    spawn("compare", move || {
        let mut rest = COMPARE_EVERY;
        loop {
            thread::sleep(rest);
            let mut busy = Duration::ZERO;
            loop {
                let began = Instant::now();
                let is_finished = shared.change(|engine| engine.compare_some());
                busy += began.elapsed();
                if is_finished {
                    break;
                }
                thread::sleep(COMPARE_PAUSE);
            }
            rest = COMPARE_EVERY.max(busy * COMPARE_REST);
        }
    })
}

/// What is due by the clock.
pub fn keep_time(shared: Arc<Shared>) -> anyhow::Result<()> {
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
                memory::give_back();
            }
            seconds += 1;
            thread::sleep(SECOND.saturating_sub(started.elapsed()).max(SECOND / 2));
        }
    })
}

/// Says when the API server goes and comes.
pub fn watch_connection(state: Arc<beeline_source::SourceState>) -> anyhow::Result<()> {
    spawn("api", move || {
        let mut connected = true;
        loop {
            thread::sleep(SECOND);
            match (connected, state.connected()) {
                (true, false) => warn!("the API server is out of reach; what it said last stays in force"),
                (false, true) => info!("the API server answers again"),
                _ => {}
            }
            connected = state.connected();
        }
    })
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    let spawned = thread::Builder::new().name(name.to_owned()).spawn(work);
    spawned.map(drop).with_context(|| format!("the thread {name} cannot be started"))
}

/// The clock of `bpf_ktime_get_ns`, by which events are stamped.
fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live value of the type that is expected; an
    // error leaves it zero, which makes an event look as if it were now.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
