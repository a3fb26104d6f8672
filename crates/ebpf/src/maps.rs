//! The eBPF maps, as defined by `beeline_abi::maps`.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{Array, ArrayOfMaps, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf};
use aya_ebpf::macros::btf_map;
use beeline_abi::Ip;
use beeline_abi::address::AddressValue;
use beeline_abi::config::ConfigValue;
use beeline_abi::conntrack::{ConntrackKey, ConntrackValue, SweepValue};
use beeline_abi::context::Context;
use beeline_abi::counter::CounterValue;
use beeline_abi::endpoint::{EndpointValue, NamespaceValue};
use beeline_abi::event::EventState;
use beeline_abi::fragment::{FragmentKey, FragmentValue};
use beeline_abi::maps;
use beeline_abi::node::NodeValue;
use beeline_abi::service::{
    AffinityKey, AffinityValue, BackendValue, FrontendKey, FrontendValue, MaglevSegment, ServiceAddressValue,
    ServiceValue, SlotKey, SlotValue, SourceRangeValue,
};
use beeline_abi::socket::{SocketKey, SocketValue};

const ON_DEMAND: usize = BPF_F_NO_PREALLOC as usize;

/// A hash whose elements are allocated on insertion.
type Hash<K, V, const N: usize> = HashMap<K, V, N, ON_DEMAND>;
/// One connection table.
pub type ConntrackTable = Hash<ConntrackKey, ConntrackValue, { maps::CONNTRACK_TABLE.max_entries as usize }>;

#[btf_map]
pub static ADDRESS: LpmTrie<Ip, AddressValue, { maps::ADDRESS.max_entries as usize }> = LpmTrie::new();
#[btf_map]
pub static ENDPOINT: Hash<Ip, EndpointValue, { maps::ENDPOINT.max_entries as usize }> = HashMap::new();
#[btf_map]
pub static NAMESPACE: Hash<u64, NamespaceValue, { maps::NAMESPACE.max_entries as usize }> = HashMap::new();
#[btf_map]
pub static NODE: Hash<u32, NodeValue, { maps::NODE.max_entries as usize }> = HashMap::new();
#[btf_map]
pub static SERVICE_ADDRESS: Hash<Ip, ServiceAddressValue, { maps::SERVICE_ADDRESS.max_entries as usize }> =
    HashMap::new();
#[btf_map]
pub static FRONTEND: Hash<FrontendKey, FrontendValue, { maps::FRONTEND.max_entries as usize }> =
    HashMap::new();
#[btf_map]
pub static SERVICE: Hash<u32, ServiceValue, { maps::SERVICE.max_entries as usize }> = HashMap::new();
#[btf_map]
pub static SLOT: Hash<SlotKey, SlotValue, { maps::SLOT.max_entries as usize }> = HashMap::new();
#[btf_map]
pub static SHARE: Hash<SlotKey, MaglevSegment, { maps::SHARE.max_entries as usize }> = HashMap::new();
#[btf_map]
pub static BACKEND: Hash<u32, BackendValue, { maps::BACKEND.max_entries as usize }> = HashMap::new();
/// The set, then the address ([`beeline_abi::service::SourceRangeKey`]).
#[btf_map]
pub static SOURCE_RANGE: LpmTrie<[u32; 5], SourceRangeValue, { maps::SOURCE_RANGE.max_entries as usize }> =
    LpmTrie::new();
#[btf_map]
pub static AFFINITY: LruHashMap<AffinityKey, AffinityValue, { maps::AFFINITY.max_entries as usize }> =
    LruHashMap::new();
#[btf_map]
pub static SOCKET: LruHashMap<SocketKey, SocketValue, { maps::SOCKET.max_entries as usize }> =
    LruHashMap::new();
#[btf_map]
pub static CONNTRACK: ArrayOfMaps<ConntrackTable, { maps::CONNTRACK.max_entries as usize }> =
    ArrayOfMaps::new();
#[btf_map]
pub static CONNTRACK_PREVIOUS: ArrayOfMaps<
    ConntrackTable,
    { maps::CONNTRACK_PREVIOUS.max_entries as usize },
> = ArrayOfMaps::new();
#[btf_map]
pub static SWEEP: Array<SweepValue, { maps::SWEEP.max_entries as usize }> = Array::new();
#[btf_map]
pub static FRAGMENT: LruHashMap<FragmentKey, FragmentValue, { maps::FRAGMENT.max_entries as usize }> =
    LruHashMap::new();
#[btf_map]
pub static CONFIG: Array<ConfigValue, { maps::CONFIG.max_entries as usize }> = Array::new();
#[btf_map]
pub static COUNTER: PerCpuArray<CounterValue, { maps::COUNTER.max_entries as usize }> = PerCpuArray::new();
#[btf_map]
pub static EVENT_STATE: PerCpuArray<EventState, { maps::EVENT_STATE.max_entries as usize }> =
    PerCpuArray::new();
#[btf_map]
pub static EVENTS: RingBuf<(), { maps::EVENTS.max_entries as usize }> = RingBuf::new();
/// The state of the current packet. A program runs on one CPU until it returns;
/// nothing is kept between packets.
#[btf_map]
pub static SCRATCH: PerCpuArray<Context, 1> = PerCpuArray::new();

/// The value of the longest matching prefix of `ip`.
#[inline(always)]
pub fn address(ip: &Ip) -> Option<AddressValue> {
    let key = Key::new(128, *ip);
    ADDRESS.get(&key).copied()
}
