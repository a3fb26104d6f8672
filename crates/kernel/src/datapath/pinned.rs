//! Read-only access to the pinned datapath, for the command-line tools. Works
//! without a running agent.

use std::os::fd::AsFd;
use std::path::Path;

use beeline_abi::ABI_VERSION;
use beeline_abi::config::ConfigValue;
use beeline_abi::conntrack::{ConntrackKey, ConntrackValue, SweepValue};
use beeline_abi::counter::CounterValue;
use beeline_abi::fragment::{FragmentKey, FragmentValue};
use beeline_abi::maps;
use beeline_abi::service::{AffinityKey, AffinityValue};
use beeline_sync::Contents;

use super::bpf::{self, Access};
use super::conntrack::Conntrack;
use super::counters;
use super::error::{DatapathError, failed};
use super::links::{self, AttachedProgram};
use super::maps::{MapDefinition, RawMap};
use super::memory;
use super::pins::Pins;
use super::programs::{ProgramInfo, TestPacket, TestRun, describe, load_failed, test_run};
use super::sockets;
use super::tables::{KernelTable, KernelTables};
use crate::netlink::Netlink;

/// The datapath pinned below a bpffs directory, with read-only handles of its maps.
#[derive(Debug)]
pub struct PinnedDatapath {
    pins: Pins,
    tables: KernelTables,
    config: KernelTable<u32, ConfigValue>,
    fragments: KernelTable<FragmentKey, FragmentValue>,
    affinity: KernelTable<AffinityKey, AffinityValue>,
    sweep: KernelTable<u32, SweepValue>,
    counter: RawMap,
    conntrack: Conntrack,
}

impl PinnedDatapath {
    /// Opens the tables with the layout of this binary. Fails with
    /// [`DatapathError::NotPinned`] if there are none.
    pub fn open(bpffs: &Path) -> Result<PinnedDatapath, DatapathError> {
        let pins = Pins::new(bpffs, ABI_VERSION);
        if !pins.table(maps::CONFIG.name).exists() {
            let mut others = pins.versions()?;
            others.retain(|version| *version != ABI_VERSION);
            let path = bpffs.to_owned();
            return Err(DatapathError::NotPinned { path, expected: ABI_VERSION, others });
        }
        let open = |spec: &'static maps::MapSpec| {
            RawMap::open_checked(
                &pins.table(spec.name),
                spec.name,
                Access::Read,
                MapDefinition::from_spec(spec),
            )
        };
        Ok(PinnedDatapath {
            tables: KernelTables::open(open)?,
            config: KernelTable::new(open(&maps::CONFIG)?),
            fragments: KernelTable::new(open(&maps::FRAGMENT)?),
            affinity: KernelTable::new(open(&maps::AFFINITY)?),
            sweep: KernelTable::new(open(&maps::SWEEP)?),
            counter: open(&maps::COUNTER)?,
            conntrack: Conntrack::open(&pins, Access::Read)?,
            pins,
        })
    }

    /// The tables that the agent writes. Updates fail with `EPERM`, because the
    /// handles are read-only.
    pub fn tables(&self) -> &KernelTables {
        &self.tables
    }

    /// The contents of those tables.
    pub fn contents(&self) -> Result<Contents, DatapathError> {
        Ok(self.tables.contents()?)
    }

    /// The configuration of the node.
    pub fn config(&self) -> Result<ConfigValue, DatapathError> {
        Ok(self.config.get(&0)?.unwrap_or_default())
    }

    /// Counters, summed over all CPUs. The index is that of `beeline_abi::counter`.
    pub fn counters(&self) -> Result<Vec<CounterValue>, DatapathError> {
        Ok(counters::read(&self.counter)?)
    }

    /// All connections, including those that are still in the previous table
    /// during a migration.
    pub fn conntrack(&self) -> Result<Vec<(ConntrackKey, ConntrackValue)>, DatapathError> {
        Ok(self.conntrack.entries()?)
    }

    /// Looks up a connection as the programs do.
    pub fn connection(&self, key: &ConntrackKey) -> Result<Option<ConntrackValue>, DatapathError> {
        Ok(self.conntrack.get(key)?)
    }

    /// Statistics of the removal of expired connections.
    pub fn sweep(&self) -> Result<SweepValue, DatapathError> {
        Ok(self.sweep.get(&0)?.unwrap_or_default())
    }

    /// First fragments whose later fragments are expected.
    pub fn fragments(&self) -> &KernelTable<FragmentKey, FragmentValue> {
        &self.fragments
    }

    /// Session affinity: clients and their backends.
    pub fn affinity(&self) -> &KernelTable<AffinityKey, AffinityValue> {
        &self.affinity
    }

    /// The programs attached by links; if there are none, those attached as
    /// filters on `clsact` in the network namespace of the calling thread.
    pub fn attached(&self) -> Vec<AttachedProgram> {
        let links = links::list(&self.pins, None);
        if !links.is_empty() {
            return links;
        }
        Netlink::open().map_or(links, |mut netlink| links::list(&self.pins, Some(&mut netlink)))
    }

    /// Names of the attached socket hooks.
    pub fn attached_sockets(&self) -> Vec<&'static str> {
        sockets::attached(&self.pins)
    }

    /// Kernel memory of each table, bytes. Before Linux 6.4 the kernel reports
    /// the size of a full table.
    pub fn memory_bytes(&self) -> Result<Vec<(&'static str, u64)>, DatapathError> {
        memory::of_pins(&self.pins)
    }

    /// The pinned programs.
    pub fn programs(&self) -> Result<Vec<ProgramInfo>, DatapathError> {
        let read = |name: &&'static str| {
            let path = self.pins.program(name);
            let info = aya::programs::ProgramInfo::from_pin(&path)
                .map_err(|error| load_failed(&format!("the program pinned at {}", path.display()), &error))?;
            Ok(describe(name, &info))
        };
        maps::programs::ALL.iter().map(read).collect()
    }

    /// Runs a pinned program on a packet, which is not sent (`BPF_PROG_TEST_RUN`).
    pub fn test_run(&self, program: &str, packet: &TestPacket<'_>) -> Result<TestRun, DatapathError> {
        let path = self.pins.program(program);
        let object = format!("the program pinned at {}", path.display());
        let program = bpf::open_pin(&path, Access::ReadWrite).map_err(failed("open", object))?;
        test_run(program.as_fd(), packet)
    }
}
