//! Shared fixtures: namespaces and mounts that are removed on drop. All names
//! contain the process ID, so tests can run in parallel.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a failing test ends here")]

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use beeline_abi::maps::programs;
use beeline_abi::{GATEWAY_MAC, Mac};
use beeline_kernel::bpffs;
use beeline_kernel::datapath::{AttachMode, AttachedProgram, Datapath, EMBEDDED, Options, PinnedDatapath};
use beeline_kernel::netlink::{Netlink, Veth, VethEnd};
use beeline_kernel::netns::NetNs;
use beeline_kernel::sysctl;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A unique path in the temporary directory.
pub fn unique_path(word: &str) -> PathBuf {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("beeline-test-{}-{number}-{word}", std::process::id()))
}

/// A network namespace of the test, removed on drop.
pub struct TestNetNs {
    netns: NetNs,
    path: PathBuf,
}

impl TestNetNs {
    /// Creates a namespace.
    pub fn new(word: &str) -> TestNetNs {
        let path = unique_path(word);
        TestNetNs { netns: NetNs::create_bound(&path).unwrap(), path }
    }

    /// The path on which it is mounted.
    pub fn path(&self) -> &PathBuf {
        &self.path
    }
}

impl Deref for TestNetNs {
    type Target = NetNs;

    fn deref(&self) -> &NetNs {
        &self.netns
    }
}

impl Drop for TestNetNs {
    fn drop(&mut self) {
        if let Err(error) = NetNs::remove_bound(&self.path) {
            eprintln!("not removed: {error}");
        }
    }
}

/// A bpffs of the test, unmounted on drop.
pub struct TestBpffs {
    path: PathBuf,
}

impl TestBpffs {
    /// Mounts one.
    pub fn new() -> TestBpffs {
        let path = unique_path("bpffs");
        bpffs::mount(&path).unwrap();
        TestBpffs { path }
    }
}

impl Deref for TestBpffs {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.path
    }
}

impl Drop for TestBpffs {
    fn drop(&mut self) {
        let unmounted = bpffs::unmount(&self.path).map_err(|error| error.to_string());
        if let Err(error) =
            unmounted.and_then(|()| std::fs::remove_dir(&self.path).map_err(|error| error.to_string()))
        {
            eprintln!("not removed: {}: {error}", self.path.display());
        }
    }
}

/// Returns true, and prints that the test is skipped, if no eBPF object is embedded.
pub fn no_programs() -> bool {
    let empty = EMBEDDED.is_empty();
    if empty {
        eprintln!("skipped: no eBPF object is embedded (run `cargo xtask ebpf`, then build again)");
    }
    empty
}

/// Whether the running kernel has this version or a newer one.
pub fn kernel_is(version: (u32, u32)) -> bool {
    let release = nix::sys::utsname::uname().unwrap().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(version.0), Some(version.1))
}

/// Whether the running kernel has TCX links, by its version. The tests compare
/// the detection of the datapath with this.
pub fn has_tcx() -> bool {
    kernel_is((6, 6))
}

/// The attach modes that the running kernel supports.
pub fn attach_modes() -> Vec<AttachMode> {
    let mut all = vec![AttachMode::Tcx, AttachMode::Clsact];
    all.retain(|one| *one != AttachMode::Tcx || has_tcx());
    if !has_tcx() {
        eprintln!("skipped: this kernel has no TCX links (Linux 6.6 or later)");
    }
    all
}

/// The options for the embedded programs with this attach mode.
pub fn options_for(attach_mode: AttachMode) -> Options<'static> {
    Options { attach_mode, ..Options::default() }
}

/// A node with one uplink (to `outside`) and one pod.
pub struct TestNode {
    pub bpffs: TestBpffs,
    pub netns: TestNetNs,
    pub pod: TestNetNs,
    pub outside: TestNetNs,
    /// Host side of the pod's veth.
    pub pod_ifindex: u32,
    /// The uplink.
    pub uplink_ifindex: u32,
}

/// MAC of the pod's interface.
pub const POD_MAC: Mac = Mac([0x02, 0, 0, 0, 0, 0x77]);

impl TestNode {
    /// Creates namespaces and devices, which are up. The two ends of the uplink
    /// have the addresses 10.1.0.1 (node) and 10.1.0.2 (outside).
    pub fn new() -> TestNode {
        let (netns, pod, outside) =
            (TestNetNs::new("node"), TestNetNs::new("pod"), TestNetNs::new("outside"));
        let pod_ifindex = veth(&netns, ("lxc0", GATEWAY_MAC), &pod, ("eth0", POD_MAC));
        let near = Mac([0x02, 0, 0, 0, 0, 0xa1]);
        let far = Mac([0x02, 0, 0, 0, 0, 0xa2]);
        let uplink_ifindex = veth(&netns, ("up0", near), &outside, ("eth0", far));
        for (netns, device, address) in [(&netns, "up0", "10.1.0.1/24"), (&outside, "eth0", "10.1.0.2/24")] {
            let mut netlink = Netlink::open_in(netns).unwrap();
            let ifindex = netlink.index(device).unwrap();
            netlink.add_address(ifindex, address.parse().unwrap()).unwrap();
        }
        TestNode { bpffs: TestBpffs::new(), netns, pod, outside, pod_ifindex, uplink_ifindex }
    }

    /// Opens the datapath inside the node.
    pub fn open(&self) -> Datapath {
        self.open_with(&Options::default())
    }

    /// Opens the datapath inside the node, with options.
    pub fn open_with(&self, options: &Options<'_>) -> Datapath {
        let opened = self.netns.enter(|| Datapath::open_with(&self.bpffs, options)).unwrap();
        opened.unwrap_or_else(|error| panic!("{error}"))
    }

    /// The attached programs, as a reader of the pins sees them.
    pub fn attached(&self) -> Vec<AttachedProgram> {
        self.netns.enter(|| PinnedDatapath::open(&self.bpffs).unwrap().attached()).unwrap()
    }

    /// All programs of a node with one pod and one uplink.
    pub fn all_attached(&self) -> Vec<AttachedProgram> {
        let pod = |program| AttachedProgram { ifindex: self.pod_ifindex, program };
        vec![
            pod(programs::FROM_POD),
            pod(programs::TO_POD),
            AttachedProgram { ifindex: self.uplink_ifindex, program: programs::FROM_UPLINK },
            AttachedProgram { ifindex: self.uplink_ifindex, program: programs::TO_UPLINK },
        ]
    }
}

/// Creates a veth pair between two namespaces, with both ends up. Returns the
/// index of the end in `here`.
pub fn veth(here: &NetNs, (name, mac): (&str, Mac), there: &NetNs, (far_name, far_mac): (&str, Mac)) -> u32 {
    let mut near = Netlink::open_in(here).unwrap();
    let mut far = Netlink::open_in(there).unwrap();
    near.create_veth(&Veth {
        local: VethEnd { name, mac: Some(mac) },
        peer: VethEnd { name: far_name, mac: Some(far_mac) },
        mtu: 1500,
        peer_netns: Some(there),
    })
    .unwrap();
    for (netlink, netns, device) in [(&mut near, here, name), (&mut far, there, far_name)] {
        // Duplicate address detection would delay the test.
        let dad = format!("net.ipv6.conf.{device}.accept_dad");
        netns.enter(|| sysctl::set(&dad, "0")).unwrap().unwrap();
        for device in ["lo", device] {
            let ifindex = netlink.index(device).unwrap();
            netlink.set_up(ifindex, true).unwrap();
        }
    }
    near.index(name).unwrap()
}
