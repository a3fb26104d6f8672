//! Real packets through the attached programs, in both families and with every
//! attach mode: pod to pod, to a Service, to a pod on another node, to the
//! outside and back, also while the programs are replaced.

#![allow(clippy::unwrap_used, reason = "a failing test ends here")]

mod layouts;
#[path = "../support/next_layout.rs"]
mod next_layout;
mod sctp;
#[path = "../support/mod.rs"]
mod support;
mod topology;
mod traffic;

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use beeline_abi::counter::{hook, outcome};
use beeline_kernel::datapath::{EMBEDDED, Options};
use support::{attach_modes, no_programs};
use topology::{FAMILIES, Family, PORT, SERVICE_PORT, Topology};
use traffic::{EchoStream, exchange_datagram, ping};

/// Sizes of UDP datagrams: one byte, a full packet, and several fragments.
const DATAGRAMS: [usize; 3] = [1, 1400, 5000];
/// Size of a TCP stream: many segments in each direction.
const STREAM: usize = 1 << 20;

fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

/// Exchanges datagrams and a stream with an echo server.
fn exchange_all(topology: &Topology, to: SocketAddr) {
    DATAGRAMS.iter().for_each(|bytes| exchange_datagram(&topology.pod, to, *bytes));
    EchoStream::open(&topology.pod, to).exchange(STREAM);
}

fn pod_reaches_everything(topology: &Topology, f: &Family) {
    for ip in [f.other_pod, f.far_pod, f.outside] {
        ping(&topology.pod, ip.parse().unwrap());
        exchange_all(topology, at(ip, PORT));
    }
    // One backend is on this node, one on the other node.
    for _ in 0..8 {
        exchange_datagram(&topology.pod, at(f.service, SERVICE_PORT), 100);
    }
    exchange_all(topology, at(f.service, SERVICE_PORT));
}

fn outside_reaches_the_pod(topology: &Topology, f: &Family) {
    let pod: IpAddr = f.other_pod.parse().unwrap();
    ping(&topology.outside, pod);
    DATAGRAMS
        .iter()
        .for_each(|bytes| exchange_datagram(&topology.outside, SocketAddr::new(pod, PORT), *bytes));
    EchoStream::open(&topology.outside, SocketAddr::new(pod, PORT)).exchange(STREAM);
}

#[test]
fn kernel_packets_travel_in_both_families() {
    if no_programs() {
        return;
    }
    for attach_mode in attach_modes() {
        let topology = Topology::new(attach_mode);
        let _listeners = topology.listen();
        let before = topology.counters();
        for f in &FAMILIES {
            pod_reaches_everything(&topology, f);
            outside_reaches_the_pod(&topology, f);
        }
        let moved = topology.moved_since(&before);
        println!("{attach_mode:?}: {moved:#?}");
        // The programs forwarded the packets, not the host.
        for (at, what) in [
            (hook::FROM_POD, outcome::TO_LOCAL_POD),
            (hook::FROM_POD, outcome::TO_UPLINK),
            (hook::FROM_UPLINK, outcome::TO_LOCAL_POD),
        ] {
            let name = format!("{} {}", hook::name(at), outcome::name(what));
            let packets = moved.get(&name).copied().unwrap_or(0);
            assert!(packets > 100, "{attach_mode:?}: {name}: {packets} of {moved:#?}");
        }
        let dropped: Vec<_> = moved.keys().filter(|name| name.contains("dropped")).collect();
        assert!(dropped.is_empty(), "{attach_mode:?}: {moved:#?}");
    }
}

#[test]
fn kernel_a_restart_loses_no_packet_on_any_path() {
    if no_programs() {
        return;
    }
    for attach_mode in attach_modes() {
        let topology = Topology::new(attach_mode);
        let _listeners = topology.listen();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let senders: Vec<_> = FAMILIES
                .iter()
                .map(|f| {
                    let (topology, done) = (&topology, &done);
                    scope.spawn(move || send_traffic_until(topology, f, done))
                })
                .collect();
            for release in 0..3 {
                topology.restart(&Options {
                    object: &[EMBEDDED, &[release]].concat(),
                    attach_mode,
                    ..Options::default()
                });
            }
            done.store(true, Ordering::Relaxed);
            let rounds: Vec<u32> = senders.into_iter().map(|one| one.join().unwrap()).collect();
            println!("{attach_mode:?}: {rounds:?} rounds");
            assert!(rounds.iter().all(|rounds| *rounds > 3), "{attach_mode:?}: {rounds:?}");
        });
    }
}

/// Sends single datagrams (a lost one is a failure), and uses one long
/// connection and many short ones, through the Service and to the outside.
/// Returns the number of rounds.
fn send_traffic_until(topology: &Topology, f: &Family, done: &AtomicBool) -> u32 {
    let mut rounds = 0;
    let mut long = EchoStream::open(&topology.pod, at(f.service, SERVICE_PORT));
    while !done.load(Ordering::Relaxed) {
        for to in [at(f.service, SERVICE_PORT), at(f.other_pod, PORT), at(f.outside, PORT)] {
            exchange_datagram(&topology.pod, to, 1000);
        }
        long.exchange(10_000);
        EchoStream::open(&topology.pod, at(f.service, SERVICE_PORT)).exchange(100);
        EchoStream::open(&topology.outside, at(f.other_pod, PORT)).exchange(100);
        rounds += 1;
    }
    rounds
}
