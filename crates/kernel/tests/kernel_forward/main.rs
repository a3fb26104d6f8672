//! Real packets through the attached programs, in both families and by every
//! way to attach: pod to pod, to a Service, to a pod of another node, to the
//! outside and back, while the loader comes and goes.

#![allow(clippy::unwrap_used, reason = "a failing test ends here")]

mod layouts;
#[path = "../support/next_layout.rs"]
mod next_layout;
mod sctp;
mod speak;
#[path = "../support/mod.rs"]
mod support;
mod world;

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use beeline_abi::counter::{hook, outcome};
use beeline_kernel::datapath::{EMBEDDED, Options};
use speak::{Stream, ask, ping};
use support::{attachments, no_programs};
use world::{FAMILIES, Family, PORT, SERVICE_PORT, World};

/// One byte, a full packet, and several fragments.
const DATAGRAMS: [usize; 3] = [1, 1400, 5000];
/// Many segments each way.
const STREAM: usize = 1 << 20;

fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

/// Everything that two ends can say to each other.
fn converse(world: &World, to: SocketAddr) {
    DATAGRAMS.iter().for_each(|bytes| ask(&world.pod, to, *bytes));
    Stream::open(&world.pod, to).exchange(STREAM);
}

fn pod_reaches_everything(world: &World, f: &Family) {
    for ip in [f.other_pod, f.far_pod, f.outside] {
        ping(&world.pod, ip.parse().unwrap());
        converse(world, at(ip, PORT));
    }
    // One backend is here, the other on the other node.
    for _ in 0..8 {
        ask(&world.pod, at(f.service, SERVICE_PORT), 100);
    }
    converse(world, at(f.service, SERVICE_PORT));
}

fn outside_reaches_the_pod(world: &World, f: &Family) {
    let pod: IpAddr = f.other_pod.parse().unwrap();
    ping(&world.outside, pod);
    DATAGRAMS.iter().for_each(|bytes| ask(&world.outside, SocketAddr::new(pod, PORT), *bytes));
    Stream::open(&world.outside, SocketAddr::new(pod, PORT)).exchange(STREAM);
}

#[test]
fn kernel_packets_travel_in_both_families() {
    if no_programs() {
        return;
    }
    for attachment in attachments() {
        let world = World::new(attachment);
        let _listeners = world.listen();
        let before = world.counters();
        for f in &FAMILIES {
            pod_reaches_everything(&world, f);
            outside_reaches_the_pod(&world, f);
        }
        let moved = world.moved_since(&before);
        println!("{attachment:?}: {moved:#?}");
        // Each way is the programs' own, not the host's.
        for (at, what) in [
            (hook::FROM_POD, outcome::TO_LOCAL_POD),
            (hook::FROM_POD, outcome::TO_UPLINK),
            (hook::FROM_UPLINK, outcome::TO_LOCAL_POD),
        ] {
            let name = format!("{} {}", hook::name(at), outcome::name(what));
            let packets = moved.get(&name).copied().unwrap_or(0);
            assert!(packets > 100, "{attachment:?}: {name}: {packets} of {moved:#?}");
        }
        let dropped: Vec<_> = moved.keys().filter(|name| name.contains("dropped")).collect();
        assert!(dropped.is_empty(), "{attachment:?}: {moved:#?}");
    }
}

#[test]
fn kernel_a_restart_costs_no_packet_on_any_way() {
    if no_programs() {
        return;
    }
    for attachment in attachments() {
        let world = World::new(attachment);
        let _listeners = world.listen();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let talkers: Vec<_> = FAMILIES
                .iter()
                .map(|f| {
                    let (world, done) = (&world, &done);
                    scope.spawn(move || talk_until(world, f, done))
                })
                .collect();
            for release in 0..3 {
                world.restart(&Options {
                    object: &[EMBEDDED, &[release]].concat(),
                    attachment,
                    ..Options::default()
                });
            }
            done.store(true, Ordering::Relaxed);
            let rounds: Vec<u32> = talkers.into_iter().map(|one| one.join().unwrap()).collect();
            println!("{attachment:?}: {rounds:?} rounds");
            assert!(rounds.iter().all(|rounds| *rounds > 3), "{attachment:?}: {rounds:?}");
        });
    }
}

/// Single datagrams (a lost one is a failure), one long connection and many
/// short ones, through the Service and to the outside. Returns the rounds.
fn talk_until(world: &World, f: &Family, done: &AtomicBool) -> u32 {
    let mut rounds = 0;
    let mut long = Stream::open(&world.pod, at(f.service, SERVICE_PORT));
    while !done.load(Ordering::Relaxed) {
        for to in [at(f.service, SERVICE_PORT), at(f.other_pod, PORT), at(f.outside, PORT)] {
            ask(&world.pod, to, 1000);
        }
        long.exchange(10_000);
        Stream::open(&world.pod, at(f.service, SERVICE_PORT)).exchange(100);
        Stream::open(&world.outside, at(f.other_pod, PORT)).exchange(100);
        rounds += 1;
    }
    rounds
}
