//! The datapath's life in the kernel: opened, attached, killed, opened again.

#![allow(clippy::unwrap_used, reason = "a failing test ends here")]

mod support;

use beeline_kernel::datapath::{Datapath, EMBEDDED, Pinned};
use support::{TestBpffs, TestNetNs};

#[test]
fn kernel_opens() {
    if EMBEDDED.is_empty() {
        eprintln!("skipped: no eBPF object is embedded (run `cargo xtask ebpf` first)");
        return;
    }
    let bpffs = TestBpffs::new();
    let netns = TestNetNs::new("node");
    netns
        .enter(|| {
            let datapath = Datapath::open(&bpffs).unwrap_or_else(|error| panic!("{error}"));
            println!("{:?}", datapath.programs());
            println!("{:?}", datapath.memory_bytes());
            let pinned = Pinned::open(&bpffs).unwrap();
            println!("{:?}", pinned.memory_bytes());
            println!("{:?}", pinned.programs());
            println!("{:?}", pinned.counters().unwrap().len());
            println!("{:?}", pinned.contents().unwrap());
        })
        .unwrap();
}
