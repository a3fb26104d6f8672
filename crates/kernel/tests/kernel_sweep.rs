//! A timer in the kernel removes expired connections.

#![allow(clippy::unwrap_used, reason = "a failing test ends here")]

mod support;

use std::time::{Duration, Instant};

use beeline_abi::conntrack::{ConntrackKey, ConntrackValue, SWEEP_INTERVAL_NS, SWEEP_REMOVALS_MAX};
use beeline_abi::{Ip, Port};
use beeline_kernel::datapath::PinnedDatapath;
use beeline_sync::Table;
use support::{TestNode, no_programs};

fn key(number: u32) -> ConntrackKey {
    let ip_a = Ip::from_v4(number.to_be_bytes());
    ConntrackKey { ip_a, port_a: Port::new(number as u16), proto: 17, ..ConntrackKey::default() }
}

#[test]
fn kernel_expired_connections_are_swept_without_an_owner() {
    if no_programs() {
        return;
    }
    const DEAD: u64 = 20_000;
    const LIVE: u64 = 1_000;
    let node = TestNode::new();
    let mut datapath = node.open();
    for number in 0..(DEAD + LIVE) as u32 {
        let expires = if u64::from(number) < DEAD { 1 } else { u32::MAX };
        let value = ConntrackValue { expires, ..ConntrackValue::default() };
        datapath.connections().update(&key(number), &value).unwrap();
    }
    drop(datapath);
    let pinned = PinnedDatapath::open(&node.bpffs).unwrap();
    let deadline = Instant::now() + 3 * Duration::from_nanos(SWEEP_INTERVAL_NS);
    while pinned.sweep().unwrap().live == 0 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(100));
    }
    let sweep = pinned.sweep().unwrap();
    println!("{sweep:?}");
    assert_eq!((sweep.removed, sweep.live), (DEAD, LIVE), "{sweep:?}");
    assert!(sweep.sweeps > DEAD / SWEEP_REMOVALS_MAX, "no sweep removes more than the limit: {sweep:?}");
    let left = pinned.conntrack().unwrap();
    assert_eq!(left.len() as u64, LIVE, "{sweep:?}");
    assert!(left.iter().all(|(_, value)| value.expires == u32::MAX), "a live connection was removed");
}
