//! The agent's interface to the datapath. Only this module calls
//! [`beeline_kernel::datapath`]; tests implement the trait in memory.

use anyhow::Context;
use beeline_abi::config::ConfigValue;
use beeline_abi::counter::CounterValue;
use beeline_kernel::datapath::{AttachedProgram, Datapath as KernelDatapath};
use beeline_sync::Tables;

/// Programs, tables and configuration of this node. Every call is idempotent.
pub trait Datapath: Send {
    /// The tables that are synced.
    fn tables(&mut self) -> &mut dyn Tables;
    /// Attaches the programs of a pod to the host side of its veth.
    fn attach_pod(&mut self, ifindex: u32) -> anyhow::Result<()>;
    /// Attaches the program of an uplink.
    fn attach_uplink(&mut self, ifindex: u32) -> anyhow::Result<()>;
    /// Detaches all programs from a device. Succeeds if the device no longer
    /// exists.
    fn detach(&mut self, ifindex: u32) -> anyhow::Result<()>;
    /// The attached programs.
    fn attached(&self) -> Vec<AttachedProgram>;
    /// Attaches programs again that were detached by others; returns how many.
    fn repair(&mut self) -> anyhow::Result<usize>;
    /// Publishes the configuration. Writes nothing if it is unchanged.
    fn set_config(&mut self, config: &ConfigValue) -> anyhow::Result<()>;
    /// The published configuration. `abi_version` is 0 if there is none.
    fn config(&self) -> anyhow::Result<ConfigValue>;
    /// Counters, summed over all CPUs.
    fn counters(&self) -> anyhow::Result<Vec<CounterValue>>;
    /// Kernel memory of each table, in bytes.
    fn memory_bytes(&self) -> anyhow::Result<Vec<(&'static str, u64)>>;
    /// Removes tables of other layout versions; returns the versions.
    fn remove_other_layouts(&mut self) -> anyhow::Result<Vec<u32>>;
}

impl Datapath for KernelDatapath {
    fn tables(&mut self) -> &mut dyn Tables {
        self
    }

    fn attach_pod(&mut self, ifindex: u32) -> anyhow::Result<()> {
        Ok(KernelDatapath::attach_pod(self, ifindex)?)
    }

    fn attach_uplink(&mut self, ifindex: u32) -> anyhow::Result<()> {
        Ok(KernelDatapath::attach_uplink(self, ifindex)?)
    }

    fn detach(&mut self, ifindex: u32) -> anyhow::Result<()> {
        Ok(KernelDatapath::detach(self, ifindex)?)
    }

    fn attached(&self) -> Vec<AttachedProgram> {
        KernelDatapath::attached(self)
    }

    fn repair(&mut self) -> anyhow::Result<usize> {
        Ok(KernelDatapath::repair(self)?)
    }

    fn set_config(&mut self, config: &ConfigValue) -> anyhow::Result<()> {
        KernelDatapath::set_config(self, config).context("cannot publish the node's configuration")
    }

    fn config(&self) -> anyhow::Result<ConfigValue> {
        KernelDatapath::config(self).context("cannot read the node's configuration")
    }

    fn counters(&self) -> anyhow::Result<Vec<CounterValue>> {
        Ok(KernelDatapath::counters(self)?)
    }

    fn memory_bytes(&self) -> anyhow::Result<Vec<(&'static str, u64)>> {
        Ok(KernelDatapath::memory_bytes(self)?)
    }

    fn remove_other_layouts(&mut self) -> anyhow::Result<Vec<u32>> {
        Ok(KernelDatapath::remove_other_layouts(self)?)
    }
}
