//! One layout follows another one, forwards and back, while connections are
//! open and new ones come; also half, and after an interruption.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use beeline_abi::ABI_VERSION;
use beeline_abi::maps::programs;
use beeline_kernel::datapath::{Attachment, EMBEDDED, Options};

use crate::next_layout::{CONNECTION, VALUES, grown};
use crate::speak::{Stream, ask};
use crate::support::{attachments, no_programs};
use crate::world::{FAMILIES, PORT, SERVICE_PORT, World};
use crate::{at, talk_until};

/// Connections of each kind and family: enough to meet both backends.
const STREAMS: usize = 6;
/// How long layouts come and go under traffic.
const CHANGING: Duration = Duration::from_secs(2);

fn next_layout() -> Vec<u8> {
    grown(EMBEDDED, &[VALUES, CONNECTION].concat())
}

/// Connections through the Service and from outside, in both families.
fn open_streams(world: &World, streams: &mut Vec<Stream>) {
    for f in &FAMILIES {
        for _ in 0..STREAMS {
            streams.push(Stream::open(&world.pod, at(f.service, SERVICE_PORT)));
            streams.push(Stream::open(&world.outside, at(f.other_pod, PORT)));
            ask(&world.pod, at(f.service, SERVICE_PORT), 100);
        }
    }
    converse(streams);
}

fn converse(streams: &mut [Stream]) {
    streams.iter_mut().for_each(|stream| stream.exchange(2000));
}

/// Whether the loader's connection table is of this binary's layout.
fn is_this_layout(world: &World) -> bool {
    world.datapath().conntrack().is_ok()
}

#[test]
fn kernel_connections_are_known_to_hooks_of_both_layouts() {
    if no_programs() || !attachments().contains(&Attachment::Tcx) {
        return;
    }
    let next = next_layout();
    let this = Options::default();
    let next = Options { object: &next, abi_version: ABI_VERSION + 1, ..this };
    for held in [programs::FROM_POD, programs::FROM_UPLINK, programs::TO_POD] {
        let world = World::new(Attachment::Tcx);
        let _listeners = world.listen();
        let mut streams = Vec::new();
        open_streams(&world, &mut streams);
        for options in [next, this] {
            println!("layout {} without {held}", options.abi_version);
            let link = world.hold(held);
            let error = world.try_restart(&options).expect_err("a link cannot be moved");
            assert!(error.to_string().contains(held), "{error}");
            converse(&mut streams);
            open_streams(&world, &mut streams);
            drop(link);
            // The next life completes it.
            world.restart(&options);
            assert_eq!(is_this_layout(&world), options.abi_version == ABI_VERSION);
            converse(&mut streams);
            open_streams(&world, &mut streams);
        }
        let known = world.datapath().conntrack().unwrap().len();
        assert!(known >= streams.len(), "{known} connections are known, {} are open", streams.len());
    }
}

#[test]
fn kernel_a_layout_that_did_not_get_far_is_given_up_without_harm() {
    if no_programs() || !attachments().contains(&Attachment::Tcx) {
        return;
    }
    let next = next_layout();
    let next = Options { object: &next, abi_version: ABI_VERSION + 1, ..Options::default() };
    let world = World::new(Attachment::Tcx);
    let _listeners = world.listen();
    let mut streams = Vec::new();
    open_streams(&world, &mut streams);
    let link = world.hold(programs::FROM_UPLINK);
    world.try_restart(&next).expect_err("a link cannot be moved");
    open_streams(&world, &mut streams);
    drop(link);
    world.restart(&Options::default());
    converse(&mut streams);
    assert_eq!(world.datapath().remove_other_layouts().unwrap(), [ABI_VERSION + 1]);
    converse(&mut streams);
    // And the next time it gets there.
    world.restart(&next);
    converse(&mut streams);
}

#[test]
fn kernel_layouts_change_under_traffic_without_a_loss() {
    if no_programs() {
        return;
    }
    let (other, next) = ([EMBEDDED, &[1]].concat(), next_layout());
    for attachment in attachments() {
        let world = World::new(attachment);
        let _listeners = world.listen();
        let done = AtomicBool::new(false);
        let mut changes = 0;
        thread::scope(|scope| {
            let talkers: Vec<_> =
                FAMILIES.iter().map(|f| scope.spawn(|| talk_until(&world, f, &done))).collect();
            let begun = Instant::now();
            while begun.elapsed() < CHANGING {
                for (object, abi_version) in
                    [(&next[..], ABI_VERSION + 1), (EMBEDDED, ABI_VERSION), (&other, ABI_VERSION)]
                {
                    world.restart(&Options { object, abi_version, attachment });
                    assert_eq!(is_this_layout(&world), abi_version == ABI_VERSION);
                    world.datapath().remove_other_layouts().unwrap();
                    changes += 1;
                }
            }
            done.store(true, Ordering::Relaxed);
            let rounds: Vec<u32> = talkers.into_iter().map(|one| one.join().unwrap()).collect();
            println!("{attachment:?}: {changes} changes, {rounds:?} rounds");
            assert!(rounds.iter().all(|rounds| *rounds > 3), "{attachment:?}: {rounds:?}");
        });
    }
}
