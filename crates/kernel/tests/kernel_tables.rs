//! The tables in the kernel: written by the reconciler, read back, measured;
//! and the events.

#![allow(clippy::unwrap_used, reason = "a failing test ends here")]

mod support;

use std::time::Instant;

use beeline_abi::address::{AddressKey, AddressValue, kind};
use beeline_abi::config::ConfigValue;
use beeline_abi::counter::{drop_index, hook};
use beeline_abi::maps::programs;
use beeline_abi::service::{
    BackendValue, FrontendKey, FrontendValue, ServiceAddressValue, ServiceValue, SlotKey, SlotValue,
};
use beeline_abi::{DropReason, Ip, Port};
use beeline_kernel::datapath::{Datapath, PinnedDatapath, TestPacket};
use beeline_sync::{Delta, Prune, Reconciler, Table, Tables};
use nix::poll::{PollFd, PollFlags, poll};
use std::os::fd::AsFd;
use support::{TestBpffs, TestNetNs, TestNode, kernel_is, no_programs};

/// The table entries of `count` Services with three endpoints each.
fn services(count: u32) -> Delta {
    let mut delta = Delta::default();
    for service in 1..=count {
        let class = 16 + service;
        let address = Ip::from_v4_word((0x0a60_0000 + service).to_be());
        let frontend = FrontendKey { class, port: Port::new(80), proto: 6, scope: 0 };
        delta.service_address.insert(address, Some(ServiceAddressValue { class, flags: 1 }));
        delta.frontend.insert(frontend, Some(FrontendValue { service, ..Default::default() }));
        delta.service.insert(service, Some(ServiceValue { generation: 1, slots: 3, ..Default::default() }));
        for slot in 0..3 {
            let backend = service * 3 + slot;
            let ip = Ip::from_v4_word((0x0af4_0000 + backend).to_be());
            let value = BackendValue { ip, port: Port::new(8080), proto: 6, state: 1, ..Default::default() };
            let key = SlotKey { service, generation: 1, slot };
            delta.slot.insert(key, Some(SlotValue::of(backend, &value)));
            delta.backend.insert(backend, Some(value));
        }
    }
    delta
}

fn megabytes(sizes: &[(&'static str, u64)]) -> u64 {
    sizes.iter().map(|(_, bytes)| bytes).sum::<u64>() >> 20
}

#[test]
fn kernel_ten_thousand_services_are_written_read_back_and_fit() {
    if no_programs() {
        return;
    }
    let bpffs = TestBpffs::new();
    let netns = TestNetNs::new("node");
    let mut datapath = netns.enter(|| Datapath::open(&bpffs)).unwrap().unwrap();
    let empty = datapath.memory_bytes().unwrap();
    // Older kernels report the size of full tables.
    let sizes_are_real = kernel_is((6, 4));
    if !sizes_are_real {
        eprintln!("skipped: this kernel does not report the memory of tables (Linux 6.4 or later)");
    }
    assert!(
        !sizes_are_real || megabytes(&empty) < 64,
        "an empty node uses {} MB: {empty:?}",
        megabytes(&empty)
    );

    let mut reconciler = Reconciler::new();
    let delta = services(10_000);
    let changes = delta.len() as u64;
    reconciler.submit(delta);
    let started = Instant::now();
    let report = reconciler.flush(&mut datapath);
    println!("{changes} entries written in {:?}", started.elapsed());
    assert_eq!((report.written, report.outstanding), (changes, 0), "{:?}", reconciler.problems());
    let full = datapath.memory_bytes().unwrap();
    println!("{} MB empty, {} MB with 10,000 services: {full:?}", megabytes(&empty), megabytes(&full));
    assert!(!sizes_are_real || megabytes(&full) < 128, "{full:?}");
    drop(datapath);

    // A reader sees the same entries, and the next start writes nothing.
    let started = Instant::now();
    let contents = PinnedDatapath::open(&bpffs).unwrap().contents().unwrap();
    println!("{} entries read in {:?}", contents.len(), started.elapsed());
    assert_eq!(contents.dangling(), Vec::<String>::new());
    let mut expected = beeline_sync::Contents::default();
    expected.apply_delta(&services(10_000));
    assert!(contents == expected, "{} entries instead of {}", contents.len(), expected.len());
    let mut datapath = netns.enter(|| Datapath::open(&bpffs)).unwrap().unwrap();
    let mut reconciler = Reconciler::new();
    reconciler.submit(services(10_000));
    let report = reconciler.resync(&mut datapath, Prune::Delete);
    assert_eq!((report.written, report.deleted, report.outstanding), (0, 0, 0));

    // Changes by others are found and repaired.
    datapath.service().delete(&77).unwrap();
    datapath.backend().update(&5, &BackendValue::default()).unwrap();
    datapath.node().update(&9, &Default::default()).unwrap();
    let report = reconciler.resync(&mut datapath, Prune::Delete);
    assert_eq!((report.drift, report.written, report.deleted), (3, 2, 1), "{report:?}");
}

#[test]
fn kernel_the_longest_prefix_wins() {
    if no_programs() {
        return;
    }
    let bpffs = TestBpffs::new();
    let netns = TestNetNs::new("node");
    let mut datapath = netns.enter(|| Datapath::open(&bpffs)).unwrap().unwrap();
    let key = |prefix: &str| {
        let net: ipnet::IpNet = prefix.parse().unwrap();
        let more = if net.addr().is_ipv4() { 96 } else { 0 };
        AddressKey { prefix_bits: u32::from(net.prefix_len()) + more, ip: Ip::from(net.network()) }
    };
    let prefixes = [
        ("10.244.0.0/16", kind::REMOTE_POD),
        ("10.244.1.0/24", kind::LOCAL_POD),
        ("10.1.0.1/32", kind::LOCAL_NODE),
        ("fd00:10:244::/48", kind::REMOTE_POD),
        ("fd00:10:244:1::/64", kind::LOCAL_POD),
    ];
    for (prefix, kind) in prefixes {
        datapath.address().update(&key(prefix), &AddressValue { kind, ..Default::default() }).unwrap();
    }
    for (address, kind) in [
        ("10.244.2.3/32", Some(kind::REMOTE_POD)),
        ("10.244.1.3/32", Some(kind::LOCAL_POD)),
        ("10.1.0.1/32", Some(kind::LOCAL_NODE)),
        ("10.1.0.2/32", None),
        ("fd00:10:244:1::5/128", Some(kind::LOCAL_POD)),
        ("fd00:10:244:2::5/128", Some(kind::REMOTE_POD)),
        ("fd00:10:245::5/128", None),
    ] {
        let found = datapath.tables().address.get(&key(address)).unwrap().map(|value| value.kind);
        assert_eq!(found, kind, "{address}");
    }
    let mut entries = Table::entries(datapath.address()).unwrap();
    entries.sort_by_key(|(key, _)| *key);
    let mut expected: Vec<AddressKey> = prefixes.iter().map(|(prefix, _)| key(prefix)).collect();
    expected.sort_unstable();
    assert_eq!(entries.into_iter().map(|(key, _)| key).collect::<Vec<_>>(), expected);
    datapath.address().delete(&key("10.244.1.0/24")).unwrap();
    datapath.address().delete(&key("10.244.1.0/24")).expect("idempotent");
}

#[test]
fn kernel_a_drop_is_counted_and_reported() {
    if no_programs() {
        return;
    }
    let node = TestNode::new();
    let mut datapath = node.open();
    datapath.set_config(&ConfigValue { events_per_s: 3, ..ConfigValue::defaults() }).unwrap();
    let mut events = datapath.events().unwrap();
    assert_eq!(events.next(), None);

    // More frames that are neither IP nor ARP than the event rate allows.
    let mut frame = [0u8; 60];
    frame[12..14].copy_from_slice(&[0x88, 0xcc]);
    let packet = TestPacket { ifindex: node.pod_ifindex, ..TestPacket::new(&frame) };
    node.netns
        .enter(|| {
            for _ in 0..50 {
                datapath.test_run(programs::FROM_POD, &packet).unwrap();
            }
        })
        .unwrap();
    let index = drop_index(hook::FROM_POD, DropReason::UnsupportedProtocol as u8) as usize;
    let counter = datapath.counters().unwrap()[index];
    assert_eq!((counter.packets, counter.bytes), (50, 50 * 60));

    let readable = poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLIN)], 1000u16).unwrap();
    assert_eq!(readable, 1, "the descriptor becomes readable");
    let received: Vec<_> = std::iter::from_fn(|| events.next()).collect();
    // The rate limit is per CPU, and one interval may end during the test.
    assert!((3..50).contains(&received.len()), "{} events", received.len());
    let first = &received[0];
    assert_eq!(
        (first.hook, first.reason),
        (hook::FROM_POD, DropReason::UnsupportedProtocol as u8),
        "{first:?}"
    );
    assert_eq!((first.ifindex, first.length), (node.pod_ifindex, 60), "{first:?}");
    let unwritten = 50 - received.len() as u64;
    assert!(received.iter().map(|event| event.lost).max().unwrap() <= unwritten, "{received:?}");
    assert_eq!(events.skipped(), 0);
}
