//! The native body: the packet in a vector, the tables in ordinary maps. It
//! runs the same stages as the kernel, for tests and for `beeline explain`,
//! and takes down every step.

pub mod build;
mod frame;
mod tables;

use std::vec::Vec;

use beeline_abi::Ip;
use beeline_abi::address::AddressValue;
use beeline_abi::config::ConfigValue;
use beeline_abi::conntrack::{ConntrackKey, ConntrackValue};
use beeline_abi::context::Context;
use beeline_abi::endpoint::EndpointValue;
use beeline_abi::fragment::{FragmentKey, FragmentValue};
use beeline_abi::service::{
    AffinityKey, AffinityValue, BackendValue, FrontendKey, FrontendValue, ServiceAddressValue, ServiceValue,
    SlotKey, SlotValue,
};

use crate::Verdict;
use crate::platform::{Packet, Platform, Route, Routing, Step, Tables};

pub use frame::NativeFrame;
pub use tables::MemoryTables;

/// What a route lookup answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// The answer.
    pub route: Route,
    /// Device to send to.
    pub ifindex: u32,
    /// The neighbour there.
    pub next_hop: Ip,
    /// The node's source address on that way; unspecified if it is not known.
    pub source: Ip,
    /// MTU of the way, bytes.
    pub mtu: u32,
}

/// A route lookup: the packet with its addresses, bytes of its largest
/// segment.
pub type RouteLookup<'a> = dyn FnMut(&Context, u32) -> NextHop + 'a;

/// A packet and its surroundings.
pub struct Native<'a, T> {
    /// The packet.
    pub frame: NativeFrame,
    /// The tables.
    pub tables: T,
    /// The host's routes.
    pub routes: &'a mut RouteLookup<'a>,
    /// The present tick.
    pub tick: u32,
    /// What chance says, each time it is asked.
    pub random: u32,
    /// The node itself sends the packet.
    pub from_host: bool,
    /// Every step so far.
    pub steps: Vec<Step>,
    /// Packets let through although the connection table was full.
    pub untracked: u64,
    /// Connections whose first choice of a translated source port was taken.
    pub ports_taken: u64,
}

/// What became of a packet.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What is to be done with it.
    pub verdict: Verdict,
    /// What was found out on the way.
    pub context: Context,
}

impl<'a, T: Tables> Native<'a, T> {
    /// A packet before its way.
    pub fn new(frame: NativeFrame, tables: T, routes: &'a mut RouteLookup<'a>, tick: u32) -> Native<'a, T> {
        Native {
            frame,
            tables,
            routes,
            tick,
            random: 0,
            from_host: false,
            steps: Vec::new(),
            untracked: 0,
            ports_taken: 0,
        }
    }

    /// Sends the packet through a hook (see `beeline_abi::counter::hook`) of
    /// a device.
    pub fn run(&mut self, hook: u8, ifindex: u32) -> Outcome {
        let mut context = Context { hook, ifindex, ..Context::default() };
        let verdict = crate::run(self, &mut context);
        Outcome { verdict, context }
    }
}

impl<T> Packet for Native<'_, T> {
    fn length(&self) -> u32 {
        self.frame.length()
    }
    fn segment_payload(&self) -> u32 {
        self.frame.segment_payload()
    }
    fn load<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        self.frame.load(offset)
    }
    fn load_u16(&self, offset: u32) -> Option<u16> {
        self.frame.load_u16(offset)
    }
    fn store<const N: usize>(&mut self, offset: u32, words: &[u32; N]) -> Option<()> {
        self.frame.store(offset, words)
    }
    fn store_u16(&mut self, offset: u32, word: u16) -> Option<()> {
        self.frame.store_u16(offset, word)
    }
    fn store_u8(&mut self, offset: u32, byte: u8) -> Option<()> {
        self.frame.store_u8(offset, byte)
    }
    fn checksum_change(
        &mut self,
        offset: u32,
        difference: u32,
        pseudo: bool,
        zero_is_none: bool,
    ) -> Option<()> {
        self.frame.checksum_change(offset, difference, pseudo, zero_is_none)
    }
    fn checksum_is_partial(&mut self, offset: u32) -> bool {
        self.frame.checksum_is_partial(offset)
    }
    fn truncate(&mut self, length: u32) -> Option<()> {
        self.frame.truncate(length)
    }
    fn insert_after_ethernet(&mut self, bytes: u32) -> Option<()> {
        self.frame.insert_after_ethernet(bytes)
    }
}

impl<T: Tables> Tables for Native<'_, T> {
    fn config(&self) -> Option<ConfigValue> {
        self.tables.config()
    }
    fn address(&self, ip: &Ip) -> Option<AddressValue> {
        self.tables.address(ip)
    }
    fn endpoint(&self, ip: &Ip) -> Option<EndpointValue> {
        self.tables.endpoint(ip)
    }
    fn service_address(&self, ip: &Ip) -> Option<ServiceAddressValue> {
        self.tables.service_address(ip)
    }
    fn frontend(&self, key: &FrontendKey) -> Option<FrontendValue> {
        self.tables.frontend(key)
    }
    fn service(&self, id: u32) -> Option<ServiceValue> {
        self.tables.service(id)
    }
    fn slot(&self, key: &SlotKey) -> Option<SlotValue> {
        self.tables.slot(key)
    }
    fn maglev(&self, segment: &SlotKey, index: u32) -> Option<u32> {
        self.tables.maglev(segment, index)
    }
    fn backend(&self, id: u32) -> Option<BackendValue> {
        self.tables.backend(id)
    }
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentValue> {
        self.tables.fragment(key)
    }
    fn fragment_insert(&mut self, key: &FragmentKey, value: &FragmentValue) {
        self.tables.fragment_insert(key, value);
    }
    fn conntrack(&mut self, key: &ConntrackKey) -> Option<&mut ConntrackValue> {
        self.tables.conntrack(key)
    }
    fn source_allowed(&self, set: u32, client: &Ip) -> bool {
        self.tables.source_allowed(set, client)
    }
    fn affinity(&self, key: &AffinityKey) -> Option<AffinityValue> {
        self.tables.affinity(key)
    }
    fn affinity_insert(&mut self, key: &AffinityKey, value: &AffinityValue) {
        self.tables.affinity_insert(key, value);
    }
    fn conntrack_insert(&mut self, key: &ConntrackKey, value: &ConntrackValue) -> bool {
        self.tables.conntrack_insert(key, value)
    }
}

impl<T> Routing for Native<'_, T> {
    fn lookup(&mut self, ctx: &mut Context, bytes: u32) -> Route {
        let next_hop = (self.routes)(ctx, bytes);
        ctx.out_ifindex = next_hop.ifindex;
        ctx.next_hop = next_hop.next_hop;
        ctx.out_mtu = next_hop.mtu;
        next_hop.route
    }
    fn source_address(&mut self, ctx: &mut Context) -> Ip {
        (self.routes)(ctx, 0).source
    }
}

impl<T: Tables> Platform for Native<'_, T> {
    fn tick(&self) -> u32 {
        self.tick
    }
    fn random(&mut self) -> u32 {
        self.random
    }
    fn barrier(&self, _ctx: &mut Context) {}
    fn is_from_host(&self) -> bool {
        self.from_host
    }
    fn count_untracked(&mut self, _ctx: &Context) {
        self.untracked += 1;
    }
    fn count_port_taken(&mut self, _ctx: &Context) {
        self.ports_taken += 1;
    }
    fn step(&mut self, step: Step) {
        self.steps.push(step);
    }
}
