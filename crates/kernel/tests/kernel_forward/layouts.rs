//! Upgrades and downgrades of the table layout while connections are open and
//! new ones are created; also partial and interrupted ones.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use beeline_abi::ABI_VERSION;
use beeline_abi::maps::programs;
use beeline_kernel::datapath::{AttachMode, EMBEDDED, Options};

use crate::next_layout::{CONNECTION, VALUES, grown};
use crate::support::{attach_modes, no_programs};
use crate::topology::{FAMILIES, PORT, SERVICE_PORT, Topology};
use crate::traffic::{EchoStream, exchange_datagram};
use crate::{at, send_traffic_until};

/// Connections of each type and family: enough to reach both backends.
const STREAMS: usize = 6;
/// How long layouts change under traffic.
const CHANGING: Duration = Duration::from_secs(2);

fn next_layout() -> Vec<u8> {
    grown(EMBEDDED, &[VALUES, CONNECTION].concat())
}

/// Opens connections through the Service and from outside, in both families.
fn open_streams(topology: &Topology, streams: &mut Vec<EchoStream>) {
    for f in &FAMILIES {
        for _ in 0..STREAMS {
            streams.push(EchoStream::open(&topology.pod, at(f.service, SERVICE_PORT)));
            streams.push(EchoStream::open(&topology.outside, at(f.other_pod, PORT)));
            exchange_datagram(&topology.pod, at(f.service, SERVICE_PORT), 100);
        }
    }
    exchange_on_all(streams);
}

fn exchange_on_all(streams: &mut [EchoStream]) {
    streams.iter_mut().for_each(|stream| stream.exchange(2000));
}

/// Whether the connection table has the layout of this binary.
fn is_this_layout(topology: &Topology) -> bool {
    topology.datapath().conntrack().is_ok()
}

#[test]
fn kernel_connections_are_known_to_hooks_of_both_layouts() {
    if no_programs() || !attach_modes().contains(&AttachMode::Tcx) {
        return;
    }
    let next = next_layout();
    let this = Options::default();
    let next = Options { object: &next, abi_version: ABI_VERSION + 1, ..this };
    for held in [programs::FROM_POD, programs::FROM_UPLINK, programs::TO_POD] {
        let topology = Topology::new(AttachMode::Tcx);
        let _listeners = topology.listen();
        let mut streams = Vec::new();
        open_streams(&topology, &mut streams);
        for options in [next, this] {
            println!("layout {}, links of {held} blocked", options.abi_version);
            let link = topology.block_link_update(held);
            let error = topology.try_restart(&options).expect_err("a link cannot be updated");
            assert!(error.to_string().contains(held), "{error}");
            exchange_on_all(&mut streams);
            open_streams(&topology, &mut streams);
            drop(link);
            // The next start completes the update.
            topology.restart(&options);
            assert_eq!(is_this_layout(&topology), options.abi_version == ABI_VERSION);
            exchange_on_all(&mut streams);
            open_streams(&topology, &mut streams);
        }
        let known = topology.datapath().conntrack().unwrap().len();
        assert!(known >= streams.len(), "{known} connections are known, {} are open", streams.len());
    }
}

#[test]
fn kernel_an_interrupted_layout_upgrade_can_be_abandoned() {
    if no_programs() || !attach_modes().contains(&AttachMode::Tcx) {
        return;
    }
    let next = next_layout();
    let next = Options { object: &next, abi_version: ABI_VERSION + 1, ..Options::default() };
    let topology = Topology::new(AttachMode::Tcx);
    let _listeners = topology.listen();
    let mut streams = Vec::new();
    open_streams(&topology, &mut streams);
    let link = topology.block_link_update(programs::FROM_UPLINK);
    topology.try_restart(&next).expect_err("a link cannot be updated");
    open_streams(&topology, &mut streams);
    drop(link);
    topology.restart(&Options::default());
    exchange_on_all(&mut streams);
    assert_eq!(topology.datapath().remove_other_layouts().unwrap(), [ABI_VERSION + 1]);
    exchange_on_all(&mut streams);
    // The next upgrade succeeds.
    topology.restart(&next);
    exchange_on_all(&mut streams);
}

#[test]
fn kernel_layouts_change_under_traffic_without_packet_loss() {
    if no_programs() {
        return;
    }
    let (other, next) = ([EMBEDDED, &[1]].concat(), next_layout());
    for attach_mode in attach_modes() {
        let topology = Topology::new(attach_mode);
        let _listeners = topology.listen();
        let done = AtomicBool::new(false);
        let mut changes = 0;
        thread::scope(|scope| {
            let senders: Vec<_> =
                FAMILIES.iter().map(|f| scope.spawn(|| send_traffic_until(&topology, f, &done))).collect();
            let begun = Instant::now();
            while begun.elapsed() < CHANGING {
                for (object, abi_version) in
                    [(&next[..], ABI_VERSION + 1), (EMBEDDED, ABI_VERSION), (&other, ABI_VERSION)]
                {
                    topology.restart(&Options { object, abi_version, attach_mode });
                    assert_eq!(is_this_layout(&topology), abi_version == ABI_VERSION);
                    topology.datapath().remove_other_layouts().unwrap();
                    changes += 1;
                }
            }
            done.store(true, Ordering::Relaxed);
            let rounds: Vec<u32> = senders.into_iter().map(|one| one.join().unwrap()).collect();
            println!("{attach_mode:?}: {changes} changes, {rounds:?} rounds");
            assert!(rounds.iter().all(|rounds| *rounds > 3), "{attach_mode:?}: {rounds:?}");
        });
    }
}
