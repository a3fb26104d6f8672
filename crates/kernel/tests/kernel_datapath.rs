//! Opening, attaching, restarting, repairing and upgrading the datapath in the
//! kernel.

#![allow(clippy::unwrap_used, reason = "a failing test ends here")]

mod support;

use std::net::UdpSocket;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use beeline_abi::ABI_VERSION;
use beeline_abi::config::ConfigValue;
use beeline_abi::conntrack::ConntrackKey;
use beeline_abi::counter::CounterValue;
use beeline_abi::endpoint::EndpointValue;
use beeline_abi::maps::programs;
use beeline_abi::node::NodeValue;
use beeline_abi::{Ip, maps};
use beeline_kernel::datapath::{
    AttachMode, Datapath, DatapathError, EMBEDDED, Options, PinnedDatapath, ProgramInfo, TestPacket,
};
use beeline_kernel::netlink::{Direction, Netlink};
use beeline_sync::{Table, Tables};
use nix::sys::socket::{setsockopt, sockopt};
use support::{TestBpffs, TestNetNs, TestNode, attach_modes, has_tcx, no_programs, options_for};

/// An object with the same programs but another fingerprint.
fn another_release(number: u8) -> Vec<u8> {
    [EMBEDDED, &[number]].concat()
}

/// Number of pinned links.
fn links(node: &TestNode) -> usize {
    std::fs::read_dir(node.bpffs.join("links")).unwrap().count()
}

#[test]
fn kernel_the_datapath_outlives_its_owner() {
    if no_programs() {
        return;
    }
    let node = TestNode::new();
    let mut first = node.open();
    assert_eq!(first.attached(), [], "open attaches no program");
    node.netns
        .enter(|| {
            first.attach_pod(node.pod_ifindex).unwrap();
            first.attach_uplink(node.uplink_ifindex).unwrap();
            first.attach_pod(node.pod_ifindex).expect("idempotent");
        })
        .unwrap();
    assert_eq!(first.attached(), node.all_attached());
    assert_eq!(links(&node), if has_tcx() { 4 } else { 0 }, "TCX support is detected");
    let config = ConfigValue { node: 7, ..ConfigValue::defaults() };
    first.set_config(&config).unwrap();
    first.node().update(&7, &NodeValue { path_mtu: 1500, ..NodeValue::default() }).unwrap();
    let before = first.programs();
    drop(first);

    // A reader sees everything without an owner.
    let pinned = PinnedDatapath::open(&node.bpffs).unwrap();
    assert_eq!(node.attached(), node.all_attached());
    assert_eq!(pinned.config().unwrap(), config);
    assert_eq!(pinned.tables().node.get(&7).unwrap().unwrap().path_mtu, 1500);
    assert_eq!(pinned.programs().unwrap(), before);

    // The next start takes over what is pinned.
    let second = node.open();
    assert_eq!(second.programs(), before, "the pinned programs are reused");
    drop(second);

    // A start with other programs replaces them and changes nothing else.
    let other = another_release(1);
    let mut second = node.open_with(&Options { object: &other, ..Options::default() });
    assert_eq!(second.attached(), node.all_attached());
    assert_eq!(second.config().unwrap(), config);
    assert_eq!(Table::entries(second.node()).unwrap().len(), 1);
    let ids = |infos: &[ProgramInfo]| infos.iter().map(|one| one.id).collect::<Vec<_>>();
    assert_ne!(ids(&second.programs()), ids(&before), "other programs are loaded");
    assert_eq!(node.netns.enter(|| second.repair()).unwrap().unwrap(), 0, "nothing needed repair");

    // detach succeeds after the device was deleted, and again.
    Netlink::open_in(&node.netns).unwrap().delete_link("lxc0").unwrap();
    node.netns.enter(|| second.detach(node.pod_ifindex).unwrap()).unwrap();
    node.netns.enter(|| second.detach(node.pod_ifindex).expect("idempotent")).unwrap();
    assert_eq!(second.attached(), node.all_attached()[2..]);
    let error = node.netns.enter(|| second.attach_pod(node.pod_ifindex).unwrap_err()).unwrap().to_string();
    assert!(error.contains("from_pod") && error.contains("the device was deleted"), "{error}");
    node.netns.enter(|| second.detach(node.uplink_ifindex).unwrap()).unwrap();
    assert_eq!(second.attached(), []);
}

#[test]
fn kernel_programs_detached_by_others_are_reattached() {
    if no_programs() {
        return;
    }
    for options in attach_modes().into_iter().map(options_for) {
        let node = TestNode::new();
        let mut datapath = node.open_with(&options);
        node.netns
            .enter(|| {
                datapath.attach_pod(node.pod_ifindex).unwrap();
                datapath.attach_uplink(node.uplink_ifindex).unwrap();
            })
            .unwrap();
        assert_eq!(node.attached(), node.all_attached(), "{:?}", options.attach_mode);

        // Another process detaches a program.
        match options.attach_mode {
            AttachMode::Clsact => {
                let mut netlink = Netlink::open_in(&node.netns).unwrap();
                let filter = netlink.bpf_filters(node.pod_ifindex, Direction::Egress).unwrap().remove(0);
                let place = (filter.priority, filter.handle);
                netlink.delete_bpf_filter(node.pod_ifindex, Direction::Egress, place).unwrap();
            }
            _ => {
                let pin = node.bpffs.join("links").join(format!("to_pod-{}", node.pod_ifindex));
                std::fs::remove_file(pin).unwrap();
            }
        }
        assert_eq!(node.attached().len(), 3, "{:?}", options.attach_mode);
        let repaired = node.netns.enter(|| datapath.repair()).unwrap().unwrap();
        assert_eq!((repaired, node.attached()), (1, node.all_attached()), "{:?}", options.attach_mode);

        // A device is deleted: its programs are forgotten.
        Netlink::open_in(&node.netns).unwrap().delete_link("lxc0").unwrap();
        let repaired = node.netns.enter(|| datapath.repair()).unwrap().unwrap();
        assert_eq!((repaired, node.attached().len()), (2, 2), "{:?}", options.attach_mode);
        assert_eq!(node.netns.enter(|| datapath.repair()).unwrap().unwrap(), 0);
    }
}

/// What `bpftool link detach pinned PATH` does.
fn detach_by_force(pin: &Path) {
    /// The commands of linux/bpf.h.
    const BPF_OBJ_GET: i32 = 7;
    const BPF_LINK_DETACH: i32 = 34;
    let path = std::ffi::CString::new(pin.as_os_str().as_bytes()).unwrap();
    // SAFETY: the path lives across the call, which reads 16 bytes.
    let link = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_OBJ_GET, &[path.as_ptr() as u64, 0], size_of::<[u64; 2]>())
    };
    assert!(link >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: a descriptor that the kernel has just made for us.
    let link = unsafe { OwnedFd::from_raw_fd(link as i32) };
    // SAFETY: the call reads 4 bytes.
    let done = unsafe { libc::syscall(libc::SYS_bpf, BPF_LINK_DETACH, &link.as_raw_fd(), size_of::<i32>()) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn kernel_a_forcibly_detached_link_is_reattached() {
    if no_programs() || !attach_modes().contains(&AttachMode::Tcx) {
        return;
    }
    let node = TestNode::new();
    let mut datapath = node.open();
    node.netns.enter(|| datapath.attach_pod(node.pod_ifindex).unwrap()).unwrap();
    let pin = node.bpffs.join("links").join(format!("from_pod-{}", node.pod_ifindex));
    detach_by_force(&pin);
    assert!(pin.exists(), "the pin remains, the link is detached");
    assert_eq!(node.attached().len(), 1);
    assert_eq!(node.netns.enter(|| datapath.repair()).unwrap().unwrap(), 1);
    assert_eq!(node.attached(), node.all_attached()[..2]);
}

#[test]
fn kernel_without_tcx_clsact_filters_do_the_same() {
    if no_programs() {
        return;
    }
    let by_classifier = options_for(AttachMode::Clsact);
    let node = TestNode::new();
    let mut old = node.open_with(&by_classifier);
    node.netns
        .enter(|| {
            old.attach_pod(node.pod_ifindex).unwrap();
            old.attach_uplink(node.uplink_ifindex).unwrap();
        })
        .unwrap();
    assert_eq!(links(&node), 0, "no link is pinned");
    assert_eq!(node.attached(), node.all_attached());
    let running = |side| {
        let mut netlink = Netlink::open_in(&node.netns).unwrap();
        netlink.bpf_filters(node.pod_ifindex, side).unwrap()
    };
    let [before, egress] = [running(Direction::Ingress), running(Direction::Egress)];
    assert_eq!((before.len(), egress.len()), (1, 1), "{before:?} {egress:?}");
    assert_eq!((before[0].name.as_str(), egress[0].name.as_str()), ("from_pod", "to_pod"));
    assert_eq!(before[0].program_id, old.programs()[0].id);
    drop(old);

    // Another release replaces the filters in place.
    let other = another_release(1);
    let new = node.open_with(&Options { object: &other, ..by_classifier });
    assert_ne!(new.programs()[0].id, before[0].program_id);
    let after = running(Direction::Ingress);
    assert_eq!(after.len(), 1, "replaced, not added: {after:?}");
    assert_eq!(after[0].program_id, new.programs()[0].id);
    assert_eq!((after[0].priority, after[0].handle), (before[0].priority, before[0].handle));
    drop(new);

    // On a kernel with TCX the filters are replaced by links, and vice versa.
    if has_tcx() {
        let tcx = node.open();
        assert_eq!((running(Direction::Ingress), tcx.attached()), (vec![], node.all_attached()));
        assert_eq!(links(&node), 4);
    }
    let mut back = node.open_with(&by_classifier);
    assert_eq!(links(&node), 0);
    assert_eq!(node.attached(), node.all_attached());
    for ifindex in [node.pod_ifindex, node.uplink_ifindex] {
        node.netns.enter(|| back.detach(ifindex).unwrap()).unwrap();
    }
    assert_eq!((running(Direction::Ingress), running(Direction::Egress)), (vec![], vec![]));
}

#[test]
fn kernel_no_packet_is_lost_or_unseen_while_programs_change() {
    if no_programs() {
        return;
    }
    for options in attach_modes().into_iter().map(options_for) {
        let node = TestNode::new();
        let mut datapath = node.open_with(&options);
        node.netns.enter(|| datapath.attach_uplink(node.uplink_ifindex).unwrap()).unwrap();
        drop(datapath);
        let receiver = node.netns.enter(|| UdpSocket::bind("10.1.0.1:0").unwrap()).unwrap();
        receiver.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        // The receiver may be slow on a busy machine: the buffer must not overflow.
        setsockopt(&receiver, sockopt::RcvBufForce, &(16 << 20)).unwrap();
        let sender = node.outside.enter(|| UdpSocket::bind("10.1.0.2:0").unwrap()).unwrap();
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        let before = PinnedDatapath::open(&node.bpffs).unwrap().counters().unwrap();
        let done = AtomicBool::new(false);
        let (sent, received) = std::thread::scope(|scope| {
            let sent = scope.spawn(|| {
                let mut sent = 0u64;
                while !done.load(Ordering::Relaxed) {
                    sender.send(b"packet").unwrap();
                    sent += 1;
                    std::thread::sleep(Duration::from_micros(200));
                }
                sent
            });
            let received = scope.spawn(|| {
                let mut received = 0u64;
                while receiver.recv(&mut [0; 64]).is_ok() {
                    received += 1;
                }
                received
            });
            for release in 0..3 {
                drop(node.open_with(&Options { object: &another_release(release), ..options }));
            }
            done.store(true, Ordering::Relaxed);
            (sent.join().unwrap(), received.join().unwrap())
        });
        assert!(sent > 100, "only {sent} packets were sent");
        assert_eq!(received, sent, "{:?}: packets were lost", options.attach_mode);
        // A program processed every packet; ARP packets are counted too.
        let after = PinnedDatapath::open(&node.bpffs).unwrap().counters().unwrap();
        let seen = |counters: &[CounterValue]| counters.iter().map(|one| one.packets).sum::<u64>();
        let seen = seen(&after) - seen(&before);
        assert!(seen >= sent, "{:?}: {sent} sent, {seen} seen", options.attach_mode);
    }
}

#[test]
fn kernel_a_pin_that_is_something_else_is_refused_with_its_name() {
    if no_programs() {
        return;
    }
    let bpffs = TestBpffs::new();
    let netns = TestNetNs::new("node");
    let open = || netns.enter(|| Datapath::open(&bpffs)).unwrap();
    drop(open().unwrap());
    let directory = bpffs.join(format!("v{ABI_VERSION}"));

    // Equal type and sizes are not enough: the whole definition must match.
    for (table, other) in [("NODE", "SERVICE_ADDRESS"), ("ENDPOINT", "CONFIG"), ("CONNTRACK_TABLE", "SLOT")] {
        let (path, kept) = (directory.join(table), directory.join("kept"));
        std::fs::rename(&path, &kept).unwrap();
        std::fs::rename(directory.join(other), &path).unwrap();
        let error = open().unwrap_err();
        assert!(matches!(error, DatapathError::MapMismatch { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(&path.display().to_string()) && text.contains("but must be"), "{text}");
        std::fs::rename(&path, directory.join(other)).unwrap();
        std::fs::rename(&kept, &path).unwrap();
    }

    // A missing table is created again, and the programs are loaded with it.
    let before = open().unwrap().programs();
    std::fs::remove_file(directory.join("NODE")).unwrap();
    let mut datapath = open().unwrap();
    assert_ne!(datapath.programs(), before, "programs that use the old table do not see the new one");
    datapath.node().update(&1, &NodeValue::default()).unwrap();
    drop(datapath);

    // Tables of another layout in the directory are detected by the configuration.
    let mut datapath = open().unwrap();
    datapath.set_config(&ConfigValue { abi_version: 99, ..ConfigValue::defaults() }).unwrap();
    drop(datapath);
    let text = open().unwrap_err().to_string();
    assert!(text.contains("layout 99") && text.contains(&directory.display().to_string()), "{text}");
}

#[test]
fn kernel_directories_that_cannot_hold_pins_are_named() {
    if no_programs() {
        return;
    }
    let ordinary = tempfile::tempdir().unwrap();
    let text = Datapath::open(ordinary.path()).unwrap_err().to_string();
    assert!(
        text.contains("mount -t bpf bpf") && text.contains(&ordinary.path().display().to_string()),
        "{text}"
    );
    let text = Datapath::open(Path::new("/proc/nothing")).unwrap_err().to_string();
    assert!(text.contains("/proc/nothing"), "{text}");
    let bpffs = TestBpffs::new();
    let text = PinnedDatapath::open(&bpffs).unwrap_err().to_string();
    assert!(text.contains("no datapath of layout") && text.contains("agent"), "{text}");
    std::fs::create_dir(bpffs.join("v99")).unwrap();
    let text = PinnedDatapath::open(&bpffs).unwrap_err().to_string();
    assert!(text.contains("[99]"), "{text}");
}

#[test]
fn kernel_a_layout_upgrade_and_downgrade_keep_everything() {
    if no_programs() {
        return;
    }
    let next = Options { object: EMBEDDED, abi_version: ABI_VERSION + 1, attach_mode: AttachMode::Auto };
    let node = TestNode::new();
    let mut old = node.open();
    node.netns.enter(|| old.attach_pod(node.pod_ifindex).unwrap()).unwrap();
    old.set_config(&ConfigValue { node: 3, ..ConfigValue::defaults() }).unwrap();
    old.node().update(&3, &NodeValue { path_mtu: 1500, ..NodeValue::default() }).unwrap();
    // Packets of the kernel to the pod create connections too: look for ours.
    let has =
        |datapath: &Datapath, wanted| datapath.conntrack().unwrap().iter().any(|(key, _)| *key == wanted);
    let connection = ConntrackKey { proto: 6, ..Default::default() };
    old.connections().update(&connection, &Default::default()).unwrap();

    let mut new = node.open_with(&next);
    assert_eq!(new.attached(), node.all_attached()[..2], "the links moved");
    let config = new.config().unwrap();
    assert_eq!((config.node, config.abi_version), (3, ABI_VERSION + 1));
    assert_eq!(Table::entries(new.node()).unwrap().len(), 1);
    assert!(has(&new, connection), "connections are kept");
    // Connection tables with equal definitions are shared, so old and new
    // programs see the same connections during the update.
    let late = ConntrackKey { proto: 17, ..Default::default() };
    old.connections().update(&late, &Default::default()).unwrap();
    assert!(has(&new, late), "{:?}", new.conntrack());
    assert_eq!(Table::entries(old.node()).unwrap().len(), 1, "the tables of the old layout are unchanged");

    // Entries change under the new layout, then follows a downgrade.
    new.node().update(&4, &NodeValue::default()).unwrap();
    new.node().delete(&3).unwrap();
    drop(new);
    drop(old);
    let mut back = node.open();
    let nodes: Vec<u32> = Table::entries(back.node()).unwrap().into_iter().map(|(id, _)| id).collect();
    assert_eq!(nodes, [4], "entries deleted in the new layout are gone, added ones are present");
    assert_eq!(back.config().unwrap().abi_version, ABI_VERSION);
    assert_eq!(back.attached(), node.all_attached()[..2]);
    assert_eq!(back.remove_other_layouts().unwrap(), [ABI_VERSION + 1]);
    assert!(!node.bpffs.join(format!("v{}", ABI_VERSION + 1)).exists());
    assert_eq!(back.attached(), node.all_attached()[..2]);
}

#[test]
fn kernel_a_full_table_is_reported_and_keeps_working() {
    if no_programs() {
        return;
    }
    let bpffs = TestBpffs::new();
    let netns = TestNetNs::new("node");
    let mut datapath = netns.enter(|| Datapath::open(&bpffs)).unwrap().unwrap();
    let key = |number: u32| Ip::from_v4_word(number.to_be());
    let capacity = maps::ENDPOINT.max_entries;
    for number in 0..capacity {
        datapath
            .endpoint()
            .update(&key(number), &EndpointValue { id: number, ..Default::default() })
            .unwrap();
    }
    let text = datapath.endpoint().update(&key(capacity), &Default::default()).unwrap_err().to_string();
    assert!(text.contains("ENDPOINT is full (8192 entries)"), "{text}");
    datapath
        .endpoint()
        .update(&key(5), &EndpointValue { id: 99, ..Default::default() })
        .expect("replacing works");
    datapath.endpoint().delete(&key(6)).unwrap();
    datapath.endpoint().delete(&key(6)).expect("idempotent");
    datapath.endpoint().update(&key(capacity), &Default::default()).expect("there is room again");

    // A read in batches returns every entry once.
    let entries: std::collections::BTreeMap<Ip, EndpointValue> =
        Table::entries(datapath.endpoint()).unwrap().into_iter().collect();
    assert_eq!(entries.len(), capacity as usize);
    assert_eq!(Table::entries(datapath.endpoint()).unwrap().len(), capacity as usize);
    assert_eq!((entries[&key(5)].id, entries.get(&key(6))), (99, None));
    assert_eq!(entries[&key(4711)].id, 4711);
}

#[test]
fn kernel_a_test_run_does_not_send_the_packet() {
    if no_programs() {
        return;
    }
    let node = TestNode::new();
    let datapath = node.open();
    let packet = TestPacket { ifindex: node.pod_ifindex, repeat: 10, ..TestPacket::new(&[0xff; 60]) };
    let run = |name| node.netns.enter(|| datapath.test_run(name, &packet)).unwrap();
    let ran = run(programs::FROM_POD).unwrap();
    assert_eq!((ran.retval, ran.data.len()), (2, 60), "TC_ACT_SHOT for an invalid frame: {ran:?}");
    let ran = run(programs::FROM_UPLINK).unwrap();
    assert_eq!(ran.retval, -1, "TCX_NEXT, passed to the host: {ran:?}");
    let counted: u64 = datapath.counters().unwrap().iter().map(|one| one.packets).sum();
    assert_eq!(counted, 20, "{:?}", datapath.counters());
    let text = run("no_such").unwrap_err().to_string();
    assert!(text.contains("no_such"), "{text}");
    let pinned = PinnedDatapath::open(&node.bpffs).unwrap();
    let again = node.netns.enter(|| pinned.test_run(programs::FROM_POD, &packet)).unwrap().unwrap();
    assert_eq!(again.retval, 2);
}

#[test]
fn kernel_three_capabilities_suffice() {
    if no_programs() {
        return;
    }
    use caps::{CapSet, Capability};
    let node = TestNode::new();
    let started = Instant::now();
    // The capabilities are dropped on a thread that ends with the closure.
    node.netns
        .enter(|| {
            let kept = [Capability::CAP_BPF, Capability::CAP_NET_ADMIN, Capability::CAP_PERFMON];
            let kept: caps::CapsHashSet = kept.into_iter().collect();
            caps::set(None, CapSet::Effective, &kept).unwrap();
            caps::set(None, CapSet::Permitted, &kept).unwrap();
            let by_classifier = options_for(AttachMode::Clsact);
            for options in [Options::default(), by_classifier, Options::default()] {
                let mut datapath =
                    Datapath::open_with(&node.bpffs, &options).unwrap_or_else(|error| panic!("{error}"));
                println!("open after {:?}", started.elapsed());
                datapath.attach_pod(node.pod_ifindex).unwrap();
                datapath.attach_uplink(node.uplink_ifindex).unwrap();
                assert_eq!(datapath.attached(), node.all_attached());
                datapath.set_config(&ConfigValue::defaults()).unwrap();
                datapath.node().update(&1, &NodeValue::default()).unwrap();
                assert_eq!(Table::entries(datapath.node()).unwrap().len(), 1);
                assert!(
                    datapath
                        .programs()
                        .iter()
                        .all(|one| one.verified_instructions > 0 && one.jited_bytes > 0)
                );
                assert!(datapath.memory_bytes().unwrap().iter().any(|(_, bytes)| *bytes > 0));
                datapath.counters().unwrap();
                datapath.conntrack().unwrap();
                assert_eq!(datapath.events().unwrap().next(), None);
                assert_eq!(datapath.repair().unwrap(), 0);
            }
            let mut datapath = Datapath::open(&node.bpffs).unwrap();
            for ifindex in [node.pod_ifindex, node.uplink_ifindex] {
                datapath.detach(ifindex).unwrap();
            }
            assert_eq!(datapath.attached(), []);
        })
        .unwrap();
}
