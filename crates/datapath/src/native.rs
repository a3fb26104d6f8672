//! The user-space platform: the packet in a vector, the tables in ordinary maps.
//! It runs the same stages as the kernel, for tests and for `beeline explain`,
//! and records every step.

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

/// The result of a route lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// Whether there is a route.
    pub route: Route,
    /// Interface index of the egress device.
    pub ifindex: u32,
    /// Address of the next hop.
    pub next_hop: Ip,
    /// The node's source address for the route; unspecified if unknown.
    pub source: Ip,
    /// MTU of the route, bytes.
    pub mtu: u32,
}

/// A route lookup, given the packet's context and the length of its largest
/// segment in bytes (IP header included).
pub type RouteLookup<'a> = dyn FnMut(&Context, u32) -> NextHop + 'a;

/// A packet and its platform.
pub struct Native<'a, T> {
    /// The packet.
    pub frame: NativeFrame,
    /// The tables.
    pub tables: T,
    /// The host's routes.
    pub routes: &'a mut RouteLookup<'a>,
    /// The current tick ([`beeline_abi::conntrack::tick`]).
    pub tick: u32,
    /// The value of every random number.
    pub random: u32,
    /// The packet was sent by the node itself.
    pub from_host: bool,
    /// Every step so far.
    pub steps: Vec<Step>,
    /// Number of packets that passed untracked because the connection table was
    /// full.
    pub untracked: u64,
    /// Number of connections whose first SNAT port was taken.
    pub ports_taken: u64,
}

/// The result of a hook.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What must be done with the packet.
    pub verdict: Verdict,
    /// The context after the hook.
    pub context: Context,
}

impl<'a, T: Tables> Native<'a, T> {
    /// A packet that no hook has processed.
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

    /// Runs a hook (`beeline_abi::counter::hook`) of the device `ifindex`.
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
