//! Read-only access to the pinned eBPF maps; works without a running agent.

use std::collections::HashMap;
use std::net::IpAddr;

use anyhow::{Context, Result};
use beeline_abi::Ip;
use beeline_abi::address::{AddressKey, AddressValue};
use beeline_abi::conntrack::{ConntrackKey, ConntrackValue};
use beeline_abi::counter::CounterValue;
use beeline_abi::endpoint::EndpointValue;
use beeline_abi::node::NodeValue;
use beeline_abi::service::{BackendValue, MAGLEV_SEGMENT_SIZE, ServiceValue, SlotKey, SlotValue};
use beeline_kernel::datapath::PinnedDatapath;

use crate::service::Tables;
use crate::target::Target;

/// The pinned tables of a node.
pub struct Live {
    pinned: PinnedDatapath,
}

impl Live {
    /// Opens them.
    pub fn open(target: &Target) -> Result<Live> {
        let pinned = PinnedDatapath::open(&target.bpffs).with_context(|| {
            format!(
                "cannot read the eBPF maps of {} (the agent pins them when it first starts; reading them requires root)",
                target.label
            )
        })?;
        Ok(Live { pinned })
    }

    /// The pinned tables themselves.
    pub fn pinned(&self) -> &PinnedDatapath {
        &self.pinned
    }

    /// Counters, summed over the CPUs.
    pub fn counters(&self) -> Result<Vec<CounterValue>> {
        Ok(self.pinned.counters()?)
    }

    /// Local pods.
    pub fn endpoints(&self) -> Result<Vec<(Ip, EndpointValue)>> {
        Ok(self.pinned.tables().endpoint.entries()?)
    }

    /// Nodes.
    pub fn nodes(&self) -> Result<Vec<(u32, NodeValue)>> {
        Ok(self.pinned.tables().node.entries()?)
    }

    /// Prefixes.
    pub fn addresses(&self) -> Result<Vec<(AddressKey, AddressValue)>> {
        Ok(self.pinned.tables().address.entries()?)
    }

    /// Connections, including those of the previous table.
    pub fn connections(&self) -> Result<Vec<(ConntrackKey, ConntrackValue)>> {
        Ok(self.pinned.conntrack()?)
    }

    /// One slot.
    pub fn slot(&self, key: &SlotKey) -> Result<Option<SlotValue>> {
        Ok(self.pinned.tables().slot.get(key)?)
    }

    /// Number of Maglev table entries of each backend of a Service, by backend id.
    pub fn maglev_entries(&self, service: u32, value: &ServiceValue) -> Result<HashMap<u32, u32>> {
        let mut counts = HashMap::new();
        for index in 0..value.maglev_size.div_ceil(MAGLEV_SEGMENT_SIZE as u32) {
            let key = SlotKey { service, generation: value.maglev_generation, slot: index };
            let Some(segment) = self.pinned.tables().share.get(&key)? else { continue };
            for backend in segment.backends.into_iter().filter(|id| *id != 0) {
                *counts.entry(backend).or_default() += 1;
            }
        }
        Ok(counts)
    }

    /// One backend.
    pub fn backend(&self, id: u32) -> Result<Option<BackendValue>> {
        Ok(self.pinned.tables().backend.get(&id)?)
    }

    /// Addresses, frontends and services.
    pub fn service_tables(&self) -> Result<Tables> {
        let tables = self.pinned.tables();
        let addresses = tables.service_address.entries()?;
        Ok(Tables {
            addresses: addresses.into_iter().map(|(ip, value)| (IpAddr::from(ip), value.class)).collect(),
            frontends: tables.frontend.entries()?,
            source_ranges: tables.source_range.entries()?.into_iter().map(|(key, _)| key).collect(),
            services: tables.service.entries()?,
        })
    }

    /// Kernel memory of all maps, in bytes.
    pub fn memory_bytes(&self) -> Result<u64> {
        Ok(self.pinned.memory_bytes()?.into_iter().map(|(_, bytes)| bytes).sum())
    }
}
