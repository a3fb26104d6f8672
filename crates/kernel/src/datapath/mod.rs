//! The datapath in the kernel: programs, tables (eBPF maps) and links, all
//! pinned, so that they outlive the agent.
//!
//! [`Datapath`] is used by the agent: it creates what is missing, attaches
//! programs and writes tables. [`PinnedDatapath`] reads the same pins. `pins`
//! describes the paths, `migrate` the change to another table layout, and
//! `migrate_conntrack` that of the connection table.

mod bpf;
mod conntrack;
mod counters;
mod error;
mod events;
mod links;
mod maps;
mod memory;
mod migrate;
mod migrate_conntrack;
mod object;
mod pinned;
mod pins;
mod programs;
mod sockets;
mod stale_sockets;
mod sweep;
mod tables;
#[cfg(test)]
mod testing;

use std::os::fd::OwnedFd;
use std::path::Path;

use beeline_abi::ABI_VERSION;
use beeline_abi::Ip;
use beeline_abi::address::{AddressKey, AddressValue};
use beeline_abi::config::ConfigValue;
use beeline_abi::conntrack::{ConntrackKey, ConntrackValue, SweepValue};
use beeline_abi::counter::CounterValue;
use beeline_abi::endpoint::{EndpointValue, NamespaceValue};
use beeline_abi::fragment::{FragmentKey, FragmentValue};
use beeline_abi::maps::{self as layout, MapSpec};
use beeline_abi::node::NodeValue;
use beeline_abi::service::{
    AffinityKey, AffinityValue, BackendValue, FrontendKey, FrontendValue, MaglevSegment, ServiceAddressValue,
    ServiceValue, SlotKey, SlotValue, SourceRangeKey, SourceRangeValue,
};
use beeline_abi::socket::{SocketKey, SocketValue};
use beeline_sync::{Table, Tables};

pub(crate) use bpf::load_classifier;
pub use error::DatapathError;
pub use events::Events;
pub use links::{AttachMode, AttachedProgram};
pub use maps::MapDefinition;
pub use object::EMBEDDED;
pub use pinned::PinnedDatapath;
pub use programs::{ProgramInfo, TestPacket, TestRun, test_run};
pub use stale_sockets::{RemovedBackends, StaleSockets};
pub use tables::{KernelTable, KernelTables, Plain};

use bpf::Access;
use conntrack::Conntrack;
use links::Links;
use maps::RawMap;
use object::DeclaredMaps;
use pins::Pins;
use programs::Programs;

/// Options for opening a datapath.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// The eBPF object, aligned to 4 bytes.
    pub object: &'a [u8],
    /// The ABI version (table layout) of the object.
    pub abi_version: u32,
    /// How programs are attached to devices.
    pub attach_mode: AttachMode,
}

impl Default for Options<'_> {
    /// The object and the ABI version of this binary.
    fn default() -> Self {
        Options { object: EMBEDDED, abi_version: ABI_VERSION, attach_mode: AttachMode::Auto }
    }
}

/// The datapath of a node: maps, programs and links, pinned below one
/// directory. Dropping this value changes nothing in the kernel.
///
/// Needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, and Linux 6.1 or later.
#[derive(Debug)]
pub struct Datapath {
    pins: Pins,
    programs: Programs,
    /// The programs were loaded now; false if the pinned ones were reused.
    fresh: bool,
    links: Links,
    tables: KernelTables,
    config: KernelTable<u32, ConfigValue>,
    fragments: KernelTable<FragmentKey, FragmentValue>,
    affinity: KernelTable<AffinityKey, AffinityValue>,
    sweep: KernelTable<u32, SweepValue>,
    counter: RawMap,
    conntrack: Conntrack,
}

impl Datapath {
    /// Opens the datapath pinned below `bpffs`, a directory on a bpffs that is
    /// created if missing. Checks the pinned tables against the layout of this
    /// binary, creates missing tables, loads the embedded programs (or reuses
    /// the pinned ones if they are the same) and updates every link to them.
    /// Attaches no program to another device. Device indices are those of the
    /// network namespace of the calling thread.
    pub fn open(bpffs: &Path) -> Result<Datapath, DatapathError> {
        Datapath::open_with(bpffs, &Options::default())
    }

    /// Like [`Datapath::open`], with another object and its ABI version.
    pub fn open_object(bpffs: &Path, object: &[u8], abi_version: u32) -> Result<Datapath, DatapathError> {
        Datapath::open_with(bpffs, &Options { object, abi_version, ..Options::default() })
    }

    /// Like [`Datapath::open`], with options. If the links use another layout,
    /// its tables are shared or copied first. The directory of that layout is
    /// kept until [`Datapath::remove_other_layouts`].
    pub fn open_with(bpffs: &Path, options: &Options<'_>) -> Result<Datapath, DatapathError> {
        let declared = DeclaredMaps::parse(options.object)?;
        if options.abi_version == ABI_VERSION {
            declared.check()?;
        }
        let pins = Pins::new(bpffs, options.abi_version);
        pins.create()?;
        let current = pins.current().map(|version| pins.of_version(version));
        if let Some(current) = &current {
            // A process that was stopped may have left a migration unfinished.
            migrate_conntrack::finish(current)?;
        }
        let from = current.filter(|current| current.version() != pins.version());
        let mut datapath = Datapath::prepare(pins, options, &declared, from.as_ref())?;
        datapath.activate(options.object)?;
        Ok(datapath)
    }

    /// Creates tables and loads programs. No packet uses them yet.
    fn prepare(
        pins: Pins,
        options: &Options<'_>,
        declared: &DeclaredMaps,
        from: Option<&Pins>,
    ) -> Result<Datapath, DatapathError> {
        check_pinned(&pins, declared)?;
        let mut previous = None;
        if let Some(from) = from {
            previous = migrate_conntrack::begin(from, &pins, declared.conntrack)?;
            migrate::share(from, &pins, &declared.tables)?;
        }
        Conntrack::create(&pins, declared, previous.as_ref())?;
        let pinned = Programs::reuse(options.object, &pins)?;
        let fresh = pinned.is_none();
        let programs = pinned.map_or_else(|| Programs::load(options.object, &pins), Ok)?;
        if let Some(from) = from {
            migrate::copy(from, &pins)?;
        }
        let open = |spec: &'static MapSpec| {
            RawMap::open_checked(
                &pins.table(spec.name),
                spec.name,
                Access::ReadWrite,
                declared.tables[spec.name],
            )
        };
        Ok(Datapath {
            tables: KernelTables::open(open)?,
            config: KernelTable::new(open(&layout::CONFIG)?),
            fragments: KernelTable::new(open(&layout::FRAGMENT)?),
            affinity: KernelTable::new(open(&layout::AFFINITY)?),
            sweep: KernelTable::new(open(&layout::SWEEP)?),
            counter: open(&layout::COUNTER)?,
            conntrack: Conntrack::open(&pins, Access::ReadWrite)?,
            links: Links::open(&pins, options.attach_mode, &programs)?,
            programs,
            fresh,
            pins,
        })
    }

    /// Updates every link to the new programs, then moves the connections to
    /// the new table.
    fn activate(&mut self, object: &[u8]) -> Result<(), DatapathError> {
        self.links.update_all(&self.programs)?;
        sockets::update_links(&self.pins, &self.programs)?;
        if self.fresh {
            self.programs.pin(object, &self.pins)?;
        }
        self.pins.set_current()?;
        migrate_conntrack::finish(&self.pins)?;
        // Closes the handle of the previous table.
        self.conntrack = Conntrack::open(&self.pins, Access::ReadWrite)?;
        self.start_sweep()
    }

    /// Starts the timer in the kernel that removes expired connections
    /// periodically. The timer belongs to a pinned table and runs without the agent.
    fn start_sweep(&self) -> Result<(), DatapathError> {
        let packet = TestPacket::new(&[0; 64]);
        sweep::start(|| Ok(self.test_run(layout::programs::SWEEP, &packet)?.retval))
    }

    /// Attaches the programs of a pod to the host side of its veth pair.
    pub fn attach_pod(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        self.links.attach(ifindex, links::POD, &self.programs)
    }

    /// Attaches the programs of an uplink.
    pub fn attach_uplink(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        self.links.attach(ifindex, links::UPLINK, &self.programs)
    }

    /// Attaches the socket hooks to a cgroup and detaches them from any other.
    /// Returns the number of hooks that were newly attached.
    pub fn attach_sockets(&mut self, cgroup: &Path) -> Result<usize, DatapathError> {
        sockets::attach(&self.pins, cgroup, &self.programs)
    }

    /// A read-only handle of the socket table, in which the socket hooks
    /// record their translations.
    pub fn socket_table(&self) -> Result<KernelTable<SocketKey, SocketValue>, DatapathError> {
        let path = self.pins.table(layout::SOCKET.name);
        RawMap::open_existing(&path, layout::SOCKET.name, Access::Read).map(KernelTable::new)
    }

    /// Detaches the socket hooks. It is no error if none are attached.
    pub fn detach_sockets(&mut self) -> Result<(), DatapathError> {
        sockets::detach(&self.pins)
    }

    /// Names of the attached socket hooks.
    pub fn attached_sockets(&self) -> Vec<&'static str> {
        sockets::attached(&self.pins)
    }

    /// Detaches every program from a device. It is no error if the device does
    /// not exist or has no programs.
    pub fn detach(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        self.links.detach(ifindex)
    }

    /// The attached programs.
    pub fn attached(&self) -> Vec<AttachedProgram> {
        self.links.attached()
    }

    /// Attaches programs that were detached by others, and forgets those on
    /// deleted devices. Returns the number of both.
    pub fn repair(&mut self) -> Result<usize, DatapathError> {
        self.links.repair(&self.programs)
    }

    /// Writes the configuration of the node if it differs from the current
    /// one. The update is not atomic: a program that runs meanwhile may read
    /// fields of both.
    pub fn set_config(&mut self, config: &ConfigValue) -> Result<(), DatapathError> {
        if self.config.get(&0)?.as_ref() != Some(config) {
            self.config.write(&0, config)?;
        }
        Ok(())
    }

    /// The configuration of the node; `abi_version` 0 = none was written yet.
    pub fn config(&self) -> Result<ConfigValue, DatapathError> {
        Ok(self.config.get(&0)?.unwrap_or_default())
    }

    /// Counters, summed over all CPUs. The index is that of `beeline_abi::counter`.
    pub fn counters(&self) -> Result<Vec<CounterValue>, DatapathError> {
        Ok(counters::read(&self.counter)?)
    }

    /// A reader of the event ring buffer. There should be only one at a time.
    pub fn events(&self) -> Result<Events, DatapathError> {
        Events::open(&self.pins.table(layout::EVENTS.name))
    }

    /// All connections, including those that are still in the previous table
    /// during a migration.
    pub fn conntrack(&self) -> Result<Vec<(ConntrackKey, ConntrackValue)>, DatapathError> {
        Ok(self.conntrack.entries()?)
    }

    /// The current connection table. Live connections may be removed only by
    /// timeout or by their owner: use this for cleanup by the owner, and in tests.
    pub fn connections(&mut self) -> &mut KernelTable<ConntrackKey, ConntrackValue> {
        &mut self.conntrack.current
    }

    /// Statistics of the removal of expired connections.
    pub fn sweep(&self) -> Result<SweepValue, DatapathError> {
        Ok(self.sweep.get(&0)?.unwrap_or_default())
    }

    /// First fragments whose later fragments are expected.
    pub fn fragments(&mut self) -> &mut KernelTable<FragmentKey, FragmentValue> {
        &mut self.fragments
    }

    /// Session affinity: clients and their backends.
    pub fn affinity(&mut self) -> &mut KernelTable<AffinityKey, AffinityValue> {
        &mut self.affinity
    }

    /// Source ranges from which Services admit clients.
    pub fn source_ranges(&mut self) -> &mut KernelTable<SourceRangeKey, SourceRangeValue> {
        &mut self.tables.source_range
    }

    /// Kernel memory of each table, bytes. Before Linux 6.4 the kernel reports
    /// the size of a full table.
    pub fn memory_bytes(&self) -> Result<Vec<(&'static str, u64)>, DatapathError> {
        memory::of_pins(&self.pins)
    }

    /// The loaded programs.
    pub fn programs(&self) -> Vec<ProgramInfo> {
        self.programs.infos()
    }

    /// Runs a loaded program on a packet, which is not sent (`BPF_PROG_TEST_RUN`).
    pub fn test_run(&self, program: &str, packet: &TestPacket<'_>) -> Result<TestRun, DatapathError> {
        test_run(self.programs.get(program)?.0, packet)
    }

    /// Loads [`layout::programs::BASELINE`] with the pinned tables, for benchmarks
    /// with [`test_run`].
    pub fn load_baseline(&self) -> Result<OwnedFd, DatapathError> {
        programs::load_unpinned(Options::default().object, &self.pins, layout::programs::BASELINE)
    }

    /// The tables that the agent writes.
    pub fn tables(&self) -> &KernelTables {
        &self.tables
    }

    /// Removes the directories of other layouts. Call it when this layout is
    /// known to work. Returns the removed ABI versions.
    pub fn remove_other_layouts(&mut self) -> Result<Vec<u32>, DatapathError> {
        let mut others = self.pins.versions()?;
        others.retain(|version| *version != self.pins.version());
        others.iter().try_for_each(|version| self.pins.of_version(*version).remove_directory())?;
        Ok(others)
    }
}

/// Checks the pinned tables against the declarations of the object. aya would
/// reuse a pinned map without this check.
fn check_pinned(pins: &Pins, declared: &DeclaredMaps) -> Result<(), DatapathError> {
    for (name, expected) in &declared.tables {
        let path = pins.table(name);
        if let Some(map) = RawMap::open(&path, name, Access::Read)? {
            map.check(&path, *expected)?;
        }
    }
    let path = pins.table(layout::CONNTRACK_TABLE.name);
    if let Some(map) = RawMap::open(&path, layout::CONNTRACK_TABLE.name, Access::Read)? {
        map.check(&path, declared.conntrack)?;
    }
    check_version(pins)
}

/// Checks the first word of the configuration, which is the ABI version.
fn check_version(pins: &Pins) -> Result<(), DatapathError> {
    let path = pins.table(layout::CONFIG.name);
    let Some(map) = RawMap::open(&path, layout::CONFIG.name, Access::Read)? else { return Ok(()) };
    let mut value = vec![0; map.value_bytes()];
    map.get(&0u32.to_ne_bytes(), &mut value).map_err(error::failed("read", path.display().to_string()))?;
    let found = value.first_chunk().map_or(0, |word| u32::from_ne_bytes(*word));
    if found == 0 || found == pins.version() {
        return Ok(());
    }
    Err(DatapathError::Version { path: pins.directory(), found, expected: pins.version() })
}

impl Tables for Datapath {
    fn address(&mut self) -> &mut dyn Table<AddressKey, AddressValue> {
        self.tables.address()
    }
    fn endpoint(&mut self) -> &mut dyn Table<Ip, EndpointValue> {
        self.tables.endpoint()
    }
    fn namespace(&mut self) -> &mut dyn Table<u64, NamespaceValue> {
        self.tables.namespace()
    }
    fn node(&mut self) -> &mut dyn Table<u32, NodeValue> {
        self.tables.node()
    }
    fn service_address(&mut self) -> &mut dyn Table<Ip, ServiceAddressValue> {
        self.tables.service_address()
    }
    fn frontend(&mut self) -> &mut dyn Table<FrontendKey, FrontendValue> {
        self.tables.frontend()
    }
    fn service(&mut self) -> &mut dyn Table<u32, ServiceValue> {
        self.tables.service()
    }
    fn slot(&mut self) -> &mut dyn Table<SlotKey, SlotValue> {
        self.tables.slot()
    }
    fn maglev(&mut self) -> &mut dyn Table<SlotKey, MaglevSegment> {
        self.tables.maglev()
    }
    fn backend(&mut self) -> &mut dyn Table<u32, BackendValue> {
        self.tables.backend()
    }
    fn source_range(&mut self) -> &mut dyn Table<SourceRangeKey, SourceRangeValue> {
        self.tables.source_range()
    }
}
