//! The platform of the packet path in the kernel.

use core::arch::asm;
use core::mem::{size_of, zeroed};

use aya_ebpf::bindings::{self, bpf_fib_lookup as FibLookup};
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::helpers::{bpf_fib_lookup, bpf_get_prandom_u32, bpf_ktime_get_ns};
use beeline_abi::Ip;
use beeline_abi::address::AddressValue;
use beeline_abi::config::ConfigValue;
use beeline_abi::conntrack::{ConntrackKey, ConntrackValue, tick};
use beeline_abi::context::{Context, flags};
use beeline_abi::counter::{CounterValue, outcome, outcome_index};
use beeline_abi::endpoint::EndpointValue;
use beeline_abi::fragment::{FragmentKey, FragmentValue};
use beeline_abi::service::{
    AffinityKey, AffinityValue, BackendValue, FrontendKey, FrontendValue, MAGLEV_SEGMENT_SIZE,
    SOURCE_SET_BITS, ServiceAddressValue, ServiceValue, SlotKey, SlotValue,
};
use beeline_datapath::platform::{Packet, Platform, Route, Routing, Step, Tables};

use crate::maps;
use crate::skb::Skb;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// The current packet and the kernel's maps and helpers.
pub struct Kernel {
    skb: Skb,
}

impl Kernel {
    /// For a packet.
    #[inline(always)]
    pub fn new(skb: Skb) -> Kernel {
        Kernel { skb }
    }

    /// Only the maps, for hooks without a packet.
    #[inline(always)]
    pub fn without_packet() -> Kernel {
        Kernel { skb: Skb(core::ptr::null_mut()) }
    }
}

/// Adds one packet to a counter of this CPU.
#[inline(always)]
pub fn count(index: u32, bytes: u32) {
    if let Some(counter) = maps::COUNTER.get_ptr_mut(index) {
        // SAFETY: an element of this CPU; programs do not preempt each other.
        let counter: &mut CounterValue = unsafe { &mut *counter };
        counter.packets += 1;
        counter.bytes += bytes as u64;
    }
}

impl Packet for Kernel {
    #[inline(always)]
    fn length(&self) -> u32 {
        self.skb.length()
    }
    #[inline(always)]
    fn segment_payload(&self) -> u32 {
        self.skb.segment_payload()
    }
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        self.skb.load(offset)
    }
    #[inline(always)]
    fn load_u16(&self, offset: u32) -> Option<u16> {
        self.skb.load_u16(offset)
    }
    #[inline(always)]
    fn store<const N: usize>(&mut self, offset: u32, words: &[u32; N]) -> Option<()> {
        self.skb.store(offset, words)
    }
    #[inline(always)]
    fn store_u16(&mut self, offset: u32, word: u16) -> Option<()> {
        self.skb.store_u16(offset, word)
    }
    #[inline(always)]
    fn store_u8(&mut self, offset: u32, byte: u8) -> Option<()> {
        self.skb.store_u8(offset, byte)
    }
    #[inline(always)]
    fn checksum_change(
        &mut self,
        offset: u32,
        difference: u32,
        pseudo: bool,
        zero_is_none: bool,
    ) -> Option<()> {
        self.skb.checksum_change(offset, difference, pseudo, zero_is_none)
    }
    #[inline(always)]
    fn checksum_is_partial(&mut self, offset: u32) -> bool {
        self.skb.checksum_is_partial(offset)
    }
    #[inline(always)]
    fn truncate(&mut self, length: u32) -> Option<()> {
        self.skb.truncate(length)
    }
    #[inline(always)]
    fn insert_after_ethernet(&mut self, bytes: u32) -> Option<()> {
        self.skb.insert_after_ethernet(bytes)
    }
}

// SAFETY of the reads below: hash values are replaced as a whole, and a deleted
// element stays in memory until the program returns (RCU).
impl Tables for Kernel {
    #[inline(always)]
    fn config(&self) -> Option<ConfigValue> {
        maps::CONFIG.get(0).copied()
    }
    #[inline(always)]
    fn address(&self, ip: &Ip) -> Option<AddressValue> {
        maps::address(ip)
    }
    #[inline(always)]
    fn endpoint(&self, ip: &Ip) -> Option<EndpointValue> {
        // SAFETY: see above.
        unsafe { maps::ENDPOINT.get(ip) }.copied()
    }
    #[inline(always)]
    fn service_address(&self, ip: &Ip) -> Option<ServiceAddressValue> {
        // SAFETY: see above.
        unsafe { maps::SERVICE_ADDRESS.get(ip) }.copied()
    }
    #[inline(always)]
    fn frontend(&self, key: &FrontendKey) -> Option<FrontendValue> {
        // SAFETY: see above.
        unsafe { maps::FRONTEND.get(key) }.copied()
    }
    #[inline(always)]
    fn service(&self, id: u32) -> Option<ServiceValue> {
        // SAFETY: see above.
        unsafe { maps::SERVICE.get(id) }.copied()
    }
    #[inline(always)]
    fn slot(&self, key: &SlotKey) -> Option<SlotValue> {
        // SAFETY: see above.
        unsafe { maps::SLOT.get(key) }.copied()
    }
    #[inline(always)]
    fn maglev(&self, segment: &SlotKey, index: u32) -> Option<u32> {
        // SAFETY: see above.
        let segment = unsafe { maps::SHARE.get(segment) }?;
        Some(segment.backends[index as usize % MAGLEV_SEGMENT_SIZE])
    }
    #[inline(always)]
    fn backend(&self, id: u32) -> Option<BackendValue> {
        // SAFETY: see above.
        unsafe { maps::BACKEND.get(id) }.copied()
    }
    #[inline(always)]
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentValue> {
        // SAFETY: see above.
        unsafe { maps::FRAGMENT.get(key) }.copied()
    }
    #[inline(always)]
    fn fragment_insert(&mut self, key: &FragmentKey, value: &FragmentValue) {
        let _ = maps::FRAGMENT.insert(key, value, 0);
    }
    #[inline(always)]
    fn source_allowed(&self, set: u32, client: &Ip) -> bool {
        let Ip([a, b, c, d]) = *client;
        let key = Key::new(SOURCE_SET_BITS + 128, [set, a, b, c, d]);
        maps::SOURCE_RANGE.get(&key).is_some_and(|value| value.allowed != 0)
    }
    #[inline(always)]
    fn affinity(&self, key: &AffinityKey) -> Option<AffinityValue> {
        // SAFETY: see above.
        unsafe { maps::AFFINITY.get(key) }.copied()
    }
    #[inline(always)]
    fn affinity_insert(&mut self, key: &AffinityKey, value: &AffinityValue) {
        let _ = maps::AFFINITY.insert(key, value, 0);
    }
    #[inline(always)]
    fn conntrack(&mut self, key: &ConntrackKey) -> Option<&mut ConntrackValue> {
        let mut found = maps::CONNTRACK.get_value_ptr_mut(0, key);
        if found.is_none() {
            found = maps::CONNTRACK_PREVIOUS.get_value_ptr_mut(0, key);
        }
        // SAFETY: see above. Two CPUs may update one entry at the same time:
        // counters may then miss a packet, but no field is torn.
        Some(unsafe { &mut *found? })
    }
    #[inline(always)]
    fn conntrack_insert(&mut self, key: &ConntrackKey, value: &ConntrackValue) -> bool {
        // While programs of another layout run at other hooks, they must find the
        // entry too. Larger values are completed by `value_padding` of `Context`.
        match maps::CONNTRACK.get(0).or_else(|| maps::CONNTRACK_PREVIOUS.get(0)) {
            Some(table) => table.insert(key, value, 0).is_ok(),
            None => false,
        }
    }
}

impl Kernel {
    /// Looks up a route (`bpf_fib_lookup`, Linux 4.18). `ifindex` is the ingress
    /// device, or the egress device with `BPF_FIB_LOOKUP_OUTPUT`.
    #[inline(always)]
    fn fib(&self, fib: &mut FibLookup, ctx: &Context, ifindex: u32, bytes: u32, flags: u32) -> i64 {
        fib.ifindex = ifindex;
        fib.__bindgen_anon_1.tot_len = bytes as u16;
        fib.l4_protocol = ctx.proto;
        if ctx.flags & flags::V6 != 0 {
            fib.family = AF_INET6;
            fib.__bindgen_anon_3.ipv6_src = ctx.src_after.0;
            fib.__bindgen_anon_4.ipv6_dst = ctx.dst_after.0;
        } else {
            fib.family = AF_INET;
            fib.__bindgen_anon_3.ipv4_src = ctx.src_after.v4_word();
            fib.__bindgen_anon_4.ipv4_dst = ctx.dst_after.v4_word();
        }
        // SAFETY: a valid context and parameters of the size that is named.
        unsafe { bpf_fib_lookup(self.skb.0.cast(), fib, size_of::<FibLookup>() as i32, flags) }
    }
}

impl Routing for Kernel {
    #[inline(always)]
    fn lookup(&mut self, ctx: &mut Context, bytes: u32) -> Route {
        // SAFETY: plain data; all-zero is valid.
        let mut fib: FibLookup = unsafe { zeroed() };
        let mut result = NOT_LOOKED_UP;
        if ctx.reply_ifindex != 0 {
            result = self.fib(&mut fib, ctx, ctx.reply_ifindex, bytes, bindings::BPF_FIB_LOOKUP_OUTPUT);
        }
        if !has_next_hop(result) {
            result = self.fib(&mut fib, ctx, ctx.ifindex, bytes, 0);
        }
        ctx.out_ifindex = fib.ifindex;
        // SAFETY: the kernel has written the MTU there if the packet exceeds it.
        ctx.out_mtu = unsafe { fib.__bindgen_anon_1.mtu_result } as u32;
        // SAFETY: the union holds the neighbour of the family that is named.
        ctx.next_hop = unsafe {
            if fib.family == AF_INET6 {
                Ip(fib.__bindgen_anon_4.ipv6_dst)
            } else {
                Ip::from_v4_word(fib.__bindgen_anon_4.ipv4_dst)
            }
        };
        route(result)
    }

    /// Needs `BPF_FIB_LOOKUP_SRC` (Linux 6.7). Older kernels fail, and the caller
    /// uses the node's address.
    #[inline(always)]
    fn source_address(&mut self, ctx: &mut Context) -> Ip {
        // SAFETY: plain data; all-zero is valid.
        let mut fib: FibLookup = unsafe { zeroed() };
        let result = self.fib(&mut fib, ctx, ctx.ifindex, 0, bindings::BPF_FIB_LOOKUP_SRC);
        if !has_next_hop(result) {
            return Ip::UNSPECIFIED;
        }
        // SAFETY: the union holds the source of the packet's family.
        unsafe {
            if ctx.flags & flags::V6 != 0 {
                Ip(fib.__bindgen_anon_3.ipv6_src)
            } else {
                Ip::from_v4_word(fib.__bindgen_anon_3.ipv4_src)
            }
        }
    }
}

/// Not a return value of `bpf_fib_lookup`.
const NOT_LOOKED_UP: i64 = -1;

#[inline(always)]
fn has_next_hop(result: i64) -> bool {
    result == bindings::BPF_FIB_LKUP_RET_SUCCESS as i64
        || result == bindings::BPF_FIB_LKUP_RET_NO_NEIGH as i64
}

/// Converts a return value of `bpf_fib_lookup` (`BPF_FIB_LKUP_RET_*` of
/// linux/bpf.h).
#[inline(always)]
fn route(result: i64) -> Route {
    match result as u32 {
        bindings::BPF_FIB_LKUP_RET_SUCCESS | bindings::BPF_FIB_LKUP_RET_NO_NEIGH => Route::Found,
        bindings::BPF_FIB_LKUP_RET_FRAG_NEEDED => Route::TooBig,
        bindings::BPF_FIB_LKUP_RET_NOT_FWDED | bindings::BPF_FIB_LKUP_RET_UNSUPP_LWT => Route::Host,
        bindings::BPF_FIB_LKUP_RET_BLACKHOLE
        | bindings::BPF_FIB_LKUP_RET_UNREACHABLE
        | bindings::BPF_FIB_LKUP_RET_PROHIBIT => Route::Prohibited,
        _ => Route::None,
    }
}

impl Platform for Kernel {
    #[inline(always)]
    fn tick(&self) -> u32 {
        // SAFETY: has no preconditions.
        tick(unsafe { bpf_ktime_get_ns() })
    }
    #[inline(always)]
    fn random(&mut self) -> u32 {
        // SAFETY: has no preconditions.
        unsafe { bpf_get_prandom_u32() }
    }
    #[inline(always)]
    fn barrier(&self, ctx: &mut Context) {
        // SAFETY: has no effect; the compiler must assume that it reads and writes
        // the context.
        unsafe { asm!("{0} = {0}", inout(reg) core::ptr::from_mut(ctx) => _, options(nostack)) };
    }
    #[inline(always)]
    fn is_from_host(&self) -> bool {
        self.skb.is_from_host()
    }
    #[inline(always)]
    fn count_untracked(&mut self, ctx: &Context) {
        count(outcome_index(ctx.hook, outcome::UNTRACKED), self.length());
    }
    #[inline(always)]
    fn count_port_taken(&mut self, ctx: &Context) {
        count(outcome_index(ctx.hook, outcome::PORT_TAKEN), self.length());
    }
    #[inline(always)]
    fn step(&mut self, _step: Step) {}
}
