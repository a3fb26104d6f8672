//! The datapath: programs, tables and links in the kernel, all pinned, so
//! that they outlive the agent.
//!
//! [`Datapath`] is the owner's view: it makes what is missing, attaches,
//! writes. [`PinnedDatapath`] is a reader's view of the same pins. Where things are
//! pinned stands in `pins`, how a layout becomes the next one in `migrate`
//! and, for connections, in `migrate_conntrack`.

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

/// How a datapath is opened.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// The eBPF object, aligned to 4 bytes.
    pub object: &'a [u8],
    /// The layout that the object has.
    pub abi_version: u32,
    /// How programs are attached.
    pub attach_mode: AttachMode,
}

impl Default for Options<'_> {
    /// The programs and the layout of this binary.
    fn default() -> Self {
        Options { object: EMBEDDED, abi_version: ABI_VERSION, attach_mode: AttachMode::Auto }
    }
}

/// The node's datapath: maps, programs and links, all pinned below one
/// directory. Dropping it changes nothing in the kernel.
#[derive(Debug)]
pub struct Datapath {
    pins: Pins,
    programs: Programs,
    /// The programs were loaded, not found pinned.
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
    /// Opens what is pinned below `bpffs` (made if missing), checks it
    /// against the layout of this binary, makes what is missing, loads the
    /// embedded programs (or takes the pinned ones, if they are the same) and
    /// moves every link to them. Attaches nothing new.
    /// Device indices are those of the calling thread's network namespace.
    pub fn open(bpffs: &Path) -> Result<Datapath, DatapathError> {
        Datapath::open_with(bpffs, &Options::default())
    }

    /// The same with another object and its layout.
    pub fn open_object(bpffs: &Path, object: &[u8], abi_version: u32) -> Result<Datapath, DatapathError> {
        Datapath::open_with(bpffs, &Options { object, abi_version, ..Options::default() })
    }

    /// The same with every choice. When the links run with another layout,
    /// its tables are shared or copied first; its directory stays
    /// ([`Datapath::remove_other_layouts`]).
    pub fn open_with(bpffs: &Path, options: &Options<'_>) -> Result<Datapath, DatapathError> {
        let declared = DeclaredMaps::parse(options.object)?;
        if options.abi_version == ABI_VERSION {
            declared.check()?;
        }
        let pins = Pins::new(bpffs, options.abi_version);
        pins.create()?;
        let current = pins.current().map(|version| pins.of_version(version));
        if let Some(current) = &current {
            // What a life that ended in the middle has begun.
            migrate_conntrack::finish(current)?;
        }
        let from = current.filter(|current| current.version() != pins.version());
        let mut datapath = Datapath::prepare(pins, options, &declared, from.as_ref())?;
        datapath.activate(options.object)?;
        Ok(datapath)
    }

    /// Everything that packets do not see yet: tables and programs.
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

    /// Moves every link to the new programs, then the connections to the new
    /// table.
    fn activate(&mut self, object: &[u8]) -> Result<(), DatapathError> {
        self.links.update_all(&self.programs)?;
        sockets::update_links(&self.pins, &self.programs)?;
        if self.fresh {
            self.programs.pin(object, &self.pins)?;
        }
        self.pins.set_current()?;
        migrate_conntrack::finish(&self.pins)?;
        // Without a handle of the previous table.
        self.conntrack = Conntrack::open(&self.pins, Access::ReadWrite)?;
        self.start_sweep()
    }

    /// Lets the kernel take expired connections out of the tables from now
    /// on, by the code of this object. The pinned table keeps its timer alive.
    fn start_sweep(&self) -> Result<(), DatapathError> {
        let packet = TestPacket::new(&[0; 64]);
        sweep::start(|| Ok(self.test_run(layout::programs::SWEEP, &packet)?.retval))
    }

    /// Attaches the programs of a pod to the host side of its veth.
    pub fn attach_pod(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        self.links.attach(ifindex, links::POD, &self.programs)
    }

    /// Attaches the programs of an uplink.
    pub fn attach_uplink(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        self.links.attach(ifindex, links::UPLINK, &self.programs)
    }

    /// Attaches the socket hooks to a cgroup, in place of another if it was
    /// attached to one. Returns how many were not attached.
    pub fn attach_sockets(&mut self, cgroup: &Path) -> Result<usize, DatapathError> {
        sockets::attach(&self.pins, cgroup, &self.programs)
    }

    /// What the socket hooks translated, to be read by another thread.
    pub fn socket_table(&self) -> Result<KernelTable<SocketKey, SocketValue>, DatapathError> {
        let path = self.pins.table(layout::SOCKET.name);
        RawMap::open_existing(&path, layout::SOCKET.name, Access::Read).map(KernelTable::new)
    }

    /// Takes the socket hooks off their cgroup. None there is no error.
    pub fn detach_sockets(&mut self) -> Result<(), DatapathError> {
        sockets::detach(&self.pins)
    }

    /// The socket hooks that are attached, by name.
    pub fn attached_sockets(&self) -> Vec<&'static str> {
        sockets::attached(&self.pins)
    }

    /// Takes every program off a device. One that is gone or has none is no error.
    pub fn detach(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        self.links.detach(ifindex)
    }

    /// What is attached now.
    pub fn attached(&self) -> Vec<AttachedProgram> {
        self.links.attached()
    }

    /// Attaches again what somebody detached, and forgets what was attached
    /// to devices that are gone. Returns the number of both.
    pub fn repair(&mut self) -> Result<usize, DatapathError> {
        self.links.repair(&self.programs)
    }

    /// Publishes the node's configuration; one that is there already is not
    /// written. A packet may see words of both while it is replaced.
    pub fn set_config(&mut self, config: &ConfigValue) -> Result<(), DatapathError> {
        if self.config.get(&0)?.as_ref() != Some(config) {
            self.config.write(&0, config)?;
        }
        Ok(())
    }

    /// The node's configuration; `abi_version` 0 = none is published.
    pub fn config(&self) -> Result<ConfigValue, DatapathError> {
        Ok(self.config.get(&0)?.unwrap_or_default())
    }

    /// Counters summed over the CPUs, at their index as in `beeline_abi::counter`.
    pub fn counters(&self) -> Result<Vec<CounterValue>, DatapathError> {
        Ok(counters::read(&self.counter)?)
    }

    /// A reader of the event stream. There should be one at a time.
    pub fn events(&self) -> Result<Events, DatapathError> {
        Events::open(&self.pins.table(layout::EVENTS.name))
    }

    /// Every connection, of the table in use and of the one before it.
    pub fn conntrack(&self) -> Result<Vec<(ConntrackKey, ConntrackValue)>, DatapathError> {
        Ok(self.conntrack.entries()?)
    }

    /// The connection table in use. Only timeouts and ownership remove live
    /// connections: this is for clean-up by owner and for tests.
    pub fn connections(&mut self) -> &mut KernelTable<ConntrackKey, ConntrackValue> {
        &mut self.conntrack.current
    }

    /// What the sweeps of expired connections found.
    pub fn sweep(&self) -> Result<SweepValue, DatapathError> {
        Ok(self.sweep.get(&0)?.unwrap_or_default())
    }

    /// First fragments that wait for their followers.
    pub fn fragments(&mut self) -> &mut KernelTable<FragmentKey, FragmentValue> {
        &mut self.fragments
    }

    /// Clients and the backends that they keep.
    pub fn affinity(&mut self) -> &mut KernelTable<AffinityKey, AffinityValue> {
        &mut self.affinity
    }

    /// Clients that Services let in.
    pub fn source_ranges(&mut self) -> &mut KernelTable<SourceRangeKey, SourceRangeValue> {
        &mut self.tables.source_range
    }

    /// Kernel memory of each table, bytes; before Linux 6.4 what it would
    /// take if it were full.
    pub fn memory_bytes(&self) -> Result<Vec<(&'static str, u64)>, DatapathError> {
        memory::of_pins(&self.pins)
    }

    /// The loaded programs.
    pub fn programs(&self) -> Vec<ProgramInfo> {
        self.programs.infos()
    }

    /// Runs a loaded program over a packet, which is not sent.
    pub fn test_run(&self, program: &str, packet: &TestPacket<'_>) -> Result<TestRun, DatapathError> {
        test_run(self.programs.get(program)?.0, packet)
    }

    /// Loads [`layout::programs::BASELINE`] over the same tables, for a benchmark
    /// ([`test_run`]).
    pub fn load_baseline(&self) -> Result<OwnedFd, DatapathError> {
        programs::load_unpinned(Options::default().object, &self.pins, layout::programs::BASELINE)
    }

    /// The tables.
    pub fn tables(&self) -> &KernelTables {
        &self.tables
    }

    /// Removes the directories of other layouts: call it when this one has
    /// proved itself. Returns their numbers.
    pub fn remove_other_layouts(&mut self) -> Result<Vec<u32>, DatapathError> {
        let mut others = self.pins.versions()?;
        others.retain(|version| *version != self.pins.version());
        others.iter().try_for_each(|version| self.pins.of_version(*version).remove_directory())?;
        Ok(others)
    }
}

/// Holds what is pinned against what the programs expect, before aya takes
/// any of it.
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

/// The first word of the configuration says the layout.
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
