//! What the agent asks of the datapath: the one place where it touches
//! [`beeline_kernel::datapath`]. The trait lets the rest be tried without a
//! kernel.

use anyhow::Context;
use beeline_abi::config::ConfigValue;
use beeline_abi::counter::CounterValue;
use beeline_kernel::datapath::{AttachedProgram, Datapath as KernelDatapath};
use beeline_sync::Tables;

/// Programs, tables and configuration of this node. Every call is idempotent.
pub trait Datapath: Send {
    /// The tables that are synchronised.
    fn tables(&mut self) -> &mut dyn Tables;
    /// Attaches the programs of a pod to the host side of its veth.
    fn attach_pod(&mut self, ifindex: u32) -> anyhow::Result<()>;
    /// Attaches the program of an uplink.
    fn attach_uplink(&mut self, ifindex: u32) -> anyhow::Result<()>;
    /// Takes every program off a device, also when it has gone.
    fn detach(&mut self, ifindex: u32) -> anyhow::Result<()>;
    /// What is attached.
    fn attached(&self) -> Vec<AttachedProgram>;
    /// Attaches again what somebody detached; returns how many.
    fn repair(&mut self) -> anyhow::Result<usize>;
    /// Publishes the configuration; one that is there already is not written.
    fn set_config(&mut self, config: &ConfigValue) -> anyhow::Result<()>;
    /// The published configuration; `abi_version` 0 = none.
    fn config(&self) -> anyhow::Result<ConfigValue>;
    /// Counters, summed over the CPUs.
    fn counters(&self) -> anyhow::Result<Vec<CounterValue>>;
    /// Kernel memory of each table, bytes.
    fn memory_bytes(&self) -> anyhow::Result<Vec<(&'static str, u64)>>;
    /// Removes the tables that another release left; returns the numbers of
    /// their layouts.
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
