//! The tables as they are pinned, read only.

use anyhow::{Result, bail};
use beeline_abi::Ip;
use beeline_abi::address::{AddressKey, AddressValue};
use beeline_abi::conntrack::{ConntrackKey, ConntrackValue};
use beeline_abi::counter::CounterValue;
use beeline_abi::endpoint::EndpointValue;
use beeline_abi::node::NodeValue;
use beeline_abi::service::{BackendValue, SlotKey, SlotValue};

use crate::place::Place;
use crate::service::Tables;

/// The pinned tables of a node.
pub enum Live {}

impl Live {
    /// Not built yet: the kernel room has no reader of pins.
    pub fn open(place: &Place) -> Result<Live> {
        bail!("reading the tables pinned in {} is not built yet", place.bpffs.display())
    }

    /// Counters, summed over the CPUs.
    pub fn counters(&self) -> Result<Vec<CounterValue>> {
        match *self {}
    }

    /// Local pods.
    pub fn endpoints(&self) -> Result<Vec<(Ip, EndpointValue)>> {
        match *self {}
    }

    /// Nodes.
    pub fn nodes(&self) -> Result<Vec<(u32, NodeValue)>> {
        match *self {}
    }

    /// Prefixes.
    pub fn addresses(&self) -> Result<Vec<(AddressKey, AddressValue)>> {
        match *self {}
    }

    /// Connections, those of the previous table too.
    pub fn connections(&self) -> Result<Vec<(ConntrackKey, ConntrackValue)>> {
        match *self {}
    }

    /// One slot.
    pub fn slot(&self, _: &SlotKey) -> Result<Option<SlotValue>> {
        match *self {}
    }

    /// One backend.
    pub fn backend(&self, _: u32) -> Result<Option<BackendValue>> {
        match *self {}
    }

    /// Addresses, frontends and services.
    pub fn service_tables(&self) -> Result<Tables> {
        match *self {}
    }
}
