//! The threads beside the socket: each waits for one thing and hands it to
//! the engine.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use beeline_abi::GATEWAY_MAC;
use beeline_kernel::datapath::Events;
use beeline_kernel::netlink::{Change, Watch, protocol};
use beeline_source::Update;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::drops;
use crate::engine::Cause;
use crate::host::desired::is_pod_link;
use crate::shared::Shared;

/// Updates that are programmed in one go; CNI calls come in between.
const BATCH_UPDATES_MAX: usize = 256;
/// How long changes of the host are gathered before they are looked at.
const GATHER: Duration = Duration::from_millis(30);
const SECOND: Duration = Duration::from_secs(1);

/// Programs what the source tells, until the source ends.
pub fn follow_source(shared: Arc<Shared>, mut updates: mpsc::Receiver<Update>) -> anyhow::Result<()> {
    spawn("source", move || {
        let mut batch = Vec::with_capacity(BATCH_UPDATES_MAX);
        while updates.blocking_recv_many(&mut batch, BATCH_UPDATES_MAX) > 0 {
            shared.change(|engine| engine.apply(batch.drain(..)));
        }
    })
}

/// Repairs what somebody changes on the host, when the kernel tells it.
pub fn follow_host(shared: Arc<Shared>, mut watch: Watch) -> anyhow::Result<()> {
    spawn("host", move || {
        loop {
            match watch.wait(None) {
                Ok(changes) if changes.iter().any(matters) => {}
                Ok(_) => continue,
                Err(error) => {
                    warn!("changes of the host cannot be followed: {error}; looking every 10 s");
                    return;
                }
            }
            thread::sleep(GATHER);
            // What has come meanwhile is covered by the look that follows.
            let _ = watch.drain();
            let looked = shared.change(|engine| engine.sync_host(Cause::Repair));
            if let Err(error) = looked {
                warn!("the node's network cannot be read: {error:#}; trying again");
            }
        }
    })
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
                    engine.compare_tables();
                }
            });
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

/// Can this change of the host be one that has to be put right? What the
/// agent itself does is left out: its own routes that come, its own
/// neighbours, pods' devices as they should be.
fn matters(change: &Change) -> bool {
    match change {
        Change::Link(link) if is_pod_link(link) => !link.up || link.mac != Some(GATEWAY_MAC),
        Change::Link(_) | Change::LinkGone(_) | Change::Address(_) | Change::AddressGone(_) => true,
        Change::Route(route) => route.protocol != protocol::BEELINE,
        Change::RouteGone(_) | Change::Lost => true,
        Change::Neighbour(neighbour) => neighbour.mac == Some(GATEWAY_MAC),
        Change::NeighbourGone(neighbour) => neighbour.permanent,
    }
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
