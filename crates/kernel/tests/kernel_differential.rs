//! Differential test of the packet path, which is compiled both to eBPF and to
//! native code: for the same packets and tables, `BPF_PROG_TEST_RUN` and the
//! native library must give the same verdicts, bytes, counters and connections.
//! proptest prints a minimal failing case and its seed.

#![allow(clippy::unwrap_used, reason = "a failing test ends here")]

mod support;

use std::collections::HashMap;
use std::net::IpAddr;

use beeline_abi::address::{AddressKey, AddressValue, kind};
use beeline_abi::config::{ConfigValue, flags};
use beeline_abi::conntrack::tick;
use beeline_abi::context::Context;
use beeline_abi::counter::{CounterValue, drop_index, hook, outcome, outcome_index};
use beeline_abi::endpoint::EndpointValue;
use beeline_abi::ip::proto;
use beeline_abi::maps::programs;
use beeline_abi::service::{
    BackendValue, CLASS_NODE, CLASS_NODE_IPV6, FrontendKey, FrontendValue, MAGLEV_SEGMENT_SIZE,
    MaglevSegment, SCOPE_EXTERNAL, SCOPE_INTERNAL, SLOT_BY_BACKEND, SOURCE_SET_BITS, ServiceAddressValue,
    ServiceValue, SlotKey, SlotValue, SourceRangeKey, SourceRangeValue, address_flags, backend_state,
    service_flags,
};
use beeline_abi::{Ip, Port};
use beeline_datapath::Verdict;
use beeline_datapath::native::build::{Build, Transport};
use beeline_datapath::native::{MemoryTables, Native, NativeFrame, NextHop};
use beeline_datapath::platform::Route as RouteOutcome;
use beeline_kernel::datapath::{Datapath, TestPacket};
use beeline_kernel::netlink::{Netlink, Route, RouteKind};
use beeline_sync::{Table, Tables};
use proptest::prelude::*;
use support::{POD_MAC, TestNode, no_programs};

/// Addresses of one family.
struct Family {
    pod: &'static str,
    other_pod: &'static str,
    no_pod: &'static str,
    far_pod: &'static str,
    node: &'static str,
    gateway: &'static str,
    outside: &'static str,
    forbidden: &'static str,
    service: &'static str,
    no_service: &'static str,
}

const FAMILIES: [Family; 2] = [
    Family {
        pod: "10.244.1.11",
        other_pod: "10.244.1.12",
        no_pod: "10.244.1.99",
        far_pod: "10.244.2.13",
        node: "10.1.0.1",
        gateway: "10.1.0.2",
        outside: "203.0.113.9",
        forbidden: "198.51.100.1",
        service: "10.96.0.10",
        no_service: "10.96.0.99",
    },
    Family {
        pod: "fd00:10:244:1::b",
        other_pod: "fd00:10:244:1::c",
        no_pod: "fd00:10:244:1::99",
        far_pod: "fd00:10:244:2::d",
        node: "fd00:1::1",
        gateway: "fd00:1::2",
        outside: "2001:db8::9",
        forbidden: "2001:db8:ffff::1",
        service: "fd00:10:96::10",
        no_service: "fd00:10:96::99",
    },
];

fn ip(text: &str) -> Ip {
    Ip::from(text.parse::<IpAddr>().unwrap())
}

impl Family {
    fn any(&self, number: usize) -> Ip {
        let all = [
            self.pod,
            self.other_pod,
            self.no_pod,
            self.far_pod,
            self.node,
            self.gateway,
            self.outside,
            self.forbidden,
            self.service,
            self.no_service,
        ];
        ip(all[number % all.len()])
    }
}

/// Index of the second pod's device, which does not exist: nothing is sent to it.
const OTHER_POD_IFINDEX: u32 = 4242;
const UPLINK_MTU: u32 = 1500;
/// The only port for source NAT, so that the choice is not random.
const NAT_PORT: u16 = 61_000;
/// Size of the Maglev table of the Service, if it has one.
const SHARES: u32 = 251;

/// A packet of a scenario.
#[derive(Clone, Debug)]
struct Packet {
    hook: u8,
    src: usize,
    dst: usize,
    transport: Transport,
    payload: usize,
    ttl: u8,
    dont_fragment: bool,
    /// Bytes to overwrite: offset and value.
    damage: Vec<(usize, u8)>,
    /// An ICMP error quotes the previous packet.
    quote: bool,
}

#[derive(Clone, Debug)]
struct Scenario {
    family: usize,
    /// Endpoint of the Service: 0 = none, otherwise the number of the address.
    endpoint: usize,
    endpoint_port: u16,
    /// The endpoint is terminating.
    terminates: bool,
    /// Packets of pods to the outside are masqueraded.
    masquerade: bool,
    /// Source ranges of the NodePort: 0 = all, 1 = the client outside, 2 = none.
    ranges: u8,
    /// ClientIP affinity.
    affinity: bool,
    /// Consistent hashing (Maglev) selects one of two backend ports.
    consistent: bool,
    packets: Vec<Packet>,
}

fn ports() -> impl Strategy<Value = u16> {
    prop_oneof![Just(80), Just(80), Just(8080), Just(40000), Just(NAT_PORT), any::<u16>()]
}

fn transport() -> impl Strategy<Value = Transport> {
    let tcp = (ports(), ports(), prop_oneof![Just(2), Just(18), Just(16), Just(17), Just(4), any::<u8>()]);
    prop_oneof![
        4 => tcp.prop_map(|(sport, dport, flags)| Transport::Tcp {
            sport, dport, flags, sequence: 77, acknowledged: 99
        }),
        4 => (ports(), ports()).prop_map(|(sport, dport)| Transport::Udp { sport, dport }),
        1 => (any::<bool>(), 1..3_u16).prop_map(|(reply, id)| Transport::Echo { reply, id }),
        2 => (prop_oneof![Just(3), Just(11), Just(1), Just(2), any::<u8>()], 0..5_u8)
            .prop_map(|(kind, code)| Transport::IcmpError { kind, code, word: 1400 }),
        1 => any::<u8>().prop_map(Transport::Other),
    ]
}

fn packet() -> impl Strategy<Value = Packet> {
    let source = prop_oneof![4 => Just(0_usize), 2 => Just(3), 2 => Just(6), 1 => 0..10_usize];
    let destination = prop_oneof![3 => Just(8_usize), 2 => Just(0), 2 => Just(4), 5 => 0..10_usize];
    let damage = prop_oneof![
        4 => Just(Vec::new()),
        1 => proptest::collection::vec((0..90_usize, any::<u8>()), 1..4)
    ];
    let size = prop_oneof![4 => 0..64_usize, 1 => 1400..1600_usize];
    (
        0..4_u8,
        source,
        destination,
        transport(),
        size,
        prop_oneof![4 => Just(64_u8), 1 => 0..3_u8],
        any::<bool>(),
        damage,
        any::<bool>(),
    )
        .prop_map(|(hook, src, dst, transport, payload, ttl, dont_fragment, damage, quote)| Packet {
            hook,
            src,
            dst,
            transport,
            payload,
            ttl,
            dont_fragment,
            damage,
            quote,
        })
}

fn scenario() -> impl Strategy<Value = Scenario> {
    let kind = (
        0..2_usize,
        0..5_usize,
        ports(),
        any::<bool>(),
        any::<bool>(),
        0..3_u8,
        any::<bool>(),
        any::<bool>(),
    );
    (kind, proptest::collection::vec(packet(), 1..10)).prop_map(
        |(
            (family, endpoint, endpoint_port, terminates, masquerade, ranges, affinity, consistent),
            packets,
        )| Scenario {
            family,
            endpoint,
            endpoint_port,
            terminates: terminates && affinity,
            masquerade,
            ranges,
            affinity,
            consistent,
            packets,
        },
    )
}

/// The node with both families and every type of route.
fn node() -> TestNode {
    let node = TestNode::new();
    let mut netlink = Netlink::open_in(&node.netns).unwrap();
    let up = node.uplink_ifindex;
    netlink.add_address(up, "fd00:1::1/64".parse().unwrap()).unwrap();
    for f in &FAMILIES {
        let gateway: IpAddr = f.gateway.parse().unwrap();
        netlink.add_route(&Route::default_via(gateway, up)).unwrap();
        let host = f.forbidden.parse::<IpAddr>().unwrap().into();
        netlink.add_route(&Route { kind: RouteKind::Blackhole, ..Route::new(host, 0) }).unwrap();
    }
    let forward = ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"];
    node.netns.enter(|| forward.map(|path| std::fs::write(path, "1").unwrap())).unwrap();
    node
}

/// The result of a route lookup on the node, computed independently.
fn expected_route(f: &Family, up: u32, ctx: &Context, bytes: u32) -> NextHop {
    let dst = ctx.dst_after;
    let found = |next_hop| {
        let route = if bytes > UPLINK_MTU { RouteOutcome::TooBig } else { RouteOutcome::Found };
        NextHop { route, ifindex: up, next_hop, source: ip(f.node), mtu: UPLINK_MTU }
    };
    let nowhere = |route| NextHop { route, ifindex: 0, next_hop: dst, source: Ip::UNSPECIFIED, mtu: 0 };
    match dst {
        _ if dst == ip(f.node) => nowhere(RouteOutcome::Host),
        _ if dst == ip(f.forbidden) => nowhere(RouteOutcome::Prohibited),
        _ if dst == ip(f.gateway) => found(dst),
        _ => found(ip(f.gateway)),
    }
}

/// The tables of a scenario, for both implementations.
fn tables(scenario: &Scenario, pod_ifindex: u32) -> MemoryTables {
    let f = &FAMILIES[scenario.family];
    let mut tables = MemoryTables::default();
    let v4 = scenario.family == 0;
    let mut prefix = |text: &str, bits: u32, kind, identity| {
        let mask = u128::MAX << (128 - bits);
        let ip = Ip::from_octets((u128::from_be_bytes(ip(text).octets()) & mask).to_be_bytes());
        let value = AddressValue { kind, identity, ..AddressValue::default() };
        tables.address.insert(AddressKey { prefix_bits: bits, ip }, value);
    };
    let (pods, services) = if v4 { (120, 120) } else { (64, 112) };
    prefix(f.pod, pods, kind::LOCAL_POD, 0);
    prefix(f.far_pod, pods, kind::REMOTE_POD, 300);
    prefix(f.node, 128, kind::LOCAL_NODE, 1);
    prefix(f.gateway, 128, kind::REMOTE_NODE, 3);
    prefix(f.service, services, kind::SERVICE_RANGE, 0);
    for (text, ifindex) in [(f.pod, pod_ifindex), (f.other_pod, OTHER_POD_IFINDEX)] {
        let value =
            EndpointValue { ifindex, pod_mac: POD_MAC, mtu: 1500, identity: 256, ..EndpointValue::default() };
        tables.endpoint.insert(ip(text), value);
    }
    let class = ServiceAddressValue { class: 20, flags: address_flags::EXCLUSIVE };
    tables.service_address.insert(ip(f.service), class);
    for protocol in [proto::TCP, proto::UDP] {
        let key = FrontendKey { class: 20, port: Port::new(80), proto: protocol, scope: 0 };
        tables.frontend.insert(key, FrontendValue { service: 5, ..FrontendValue::default() });
    }
    let class = if v4 { CLASS_NODE } else { CLASS_NODE_IPV6 };
    let on_nodes = ServiceAddressValue { class, flags: 0 };
    tables.service_address.insert(ip(f.node), on_nodes);
    for protocol in [proto::TCP, proto::UDP] {
        for scope in [SCOPE_INTERNAL, SCOPE_EXTERNAL] {
            let key = FrontendKey { class, port: Port::new(80), proto: protocol, scope };
            let source_ranges = u32::from(scenario.ranges > 0) * 7;
            tables.frontend.insert(key, FrontendValue { service: 5, flags: 0, source_ranges });
        }
    }
    if scenario.ranges == 1 {
        let range = SourceRangeKey { prefix_bits: SOURCE_SET_BITS + 128, set: 7, ip: ip(f.outside) };
        tables.source_range.insert(range, SourceRangeValue { allowed: 1 });
    }
    let masquerade = flags::MASQUERADE_IPV4 | flags::MASQUERADE_IPV6;
    tables.config = Some(ConfigValue {
        node: 1,
        flags: if scenario.masquerade { masquerade } else { 0 },
        node_ipv4: ip(FAMILIES[0].node),
        node_ipv6: ip(FAMILIES[1].node),
        nat_port_first: NAT_PORT,
        nat_port_last: NAT_PORT,
        ..ConfigValue::defaults()
    });
    let endpoints = [f.pod, f.other_pod, f.far_pod, f.node];
    let slots = u32::from(scenario.endpoint > 0);
    let affinity_s = if scenario.affinity { 600 } else { 0 };
    let shares = if scenario.consistent && scenario.endpoint > 0 { SHARES } else { 0 };
    let flags = if shares > 0 { service_flags::MAGLEV } else { 0 };
    let value =
        ServiceValue { generation: 1, slots, flags, affinity_s, maglev_generation: 3, maglev_size: shares };
    tables.service.insert(5, value);
    if scenario.endpoint > 0 {
        let backend = BackendValue {
            ip: ip(endpoints[scenario.endpoint - 1]),
            port: Port::new(scenario.endpoint_port),
            state: if scenario.terminates { backend_state::TERMINATING } else { backend_state::ACTIVE },
            node: if scenario.endpoint == 3 { 2 } else { 1 },
            ..BackendValue::default()
        };
        tables.backend.insert(9, backend);
        let port = Port::new(scenario.endpoint_port.wrapping_add(1));
        tables.backend.insert(11, BackendValue { port, ..backend });
        for slot in 0..SHARES.div_ceil(MAGLEV_SEGMENT_SIZE as u32) {
            let backends =
                std::array::from_fn(|place| if (slot as usize + place).is_multiple_of(3) { 11 } else { 9 });
            let key = SlotKey { service: 5, generation: 3, slot };
            tables.maglev.insert(key, MaglevSegment { backends });
        }
        let member = SlotKey { service: 5, generation: SLOT_BY_BACKEND, slot: 9 };
        tables.slot.insert(member, SlotValue::of(9, &backend));
        tables.slot.insert(SlotKey { service: 5, generation: 1, slot: 0 }, SlotValue::of(9, &backend));
    }
    tables
}

/// Replaces the contents of a table in the kernel.
fn copy<K: Copy, V: Copy>(to: &mut dyn Table<K, V>, from: impl IntoIterator<Item = (K, V)>) {
    for (key, _) in to.entries().unwrap() {
        to.delete(&key).unwrap();
    }
    for (key, value) in from {
        to.update(&key, &value).unwrap();
    }
}

fn fill(datapath: &mut Datapath, tables: &MemoryTables) {
    copy(datapath.address(), tables.address.clone());
    copy(datapath.endpoint(), tables.endpoint.clone());
    copy(datapath.service_address(), tables.service_address.clone());
    copy(datapath.frontend(), tables.frontend.clone());
    copy(datapath.service(), tables.service.clone());
    copy(datapath.slot(), tables.slot.clone());
    copy(datapath.maglev(), tables.maglev.clone());
    copy(datapath.backend(), tables.backend.clone());
    copy(datapath.connections(), HashMap::new());
    copy(datapath.fragments(), HashMap::new());
    copy(datapath.affinity(), HashMap::new());
    copy(datapath.source_ranges(), tables.source_range.clone());
    datapath.set_config(&tables.config.unwrap()).unwrap();
}

fn frame(packet: &Packet, f: &Family, before: Option<&Vec<u8>>) -> Vec<u8> {
    let mut build = Build::new(f.any(packet.src), f.any(packet.dst), packet.transport.clone());
    build.mac_src = POD_MAC;
    build.ttl = packet.ttl;
    build.dont_fragment = packet.dont_fragment;
    build.payload = (0..packet.payload).map(|i| i as u8).collect();
    if let (true, Transport::IcmpError { .. }, Some(before)) = (packet.quote, &packet.transport, before) {
        build.payload = before[14..].to_vec();
    }
    let mut frame = build.frame();
    for (at, byte) in &packet.damage {
        if let Some(place) = frame.get_mut(*at) {
            *place = *byte;
        }
    }
    frame
}

/// The return value of the hook for a verdict.
fn returned(verdict: Verdict) -> i32 {
    match verdict {
        Verdict::ToHost | Verdict::ToHostError => -1,
        Verdict::ToPod { .. } | Verdict::Forward { .. } | Verdict::Reject { .. } => 7,
        Verdict::Drop { .. } => 2,
    }
}

/// The counters that a verdict increments.
fn counted(at: u8, verdict: Verdict, untracked: u64, ports_taken: u64) -> Vec<u32> {
    let mut moved: Vec<u32> = Vec::new();
    moved.extend(verdict.outcome().map(|outcome| outcome_index(at, outcome)));
    moved.extend(verdict.reason().map(|reason| drop_index(at, reason as u8)));
    moved.extend((untracked > 0).then(|| outcome_index(at, outcome::UNTRACKED)));
    moved.extend((ports_taken > 0).then(|| outcome_index(at, outcome::PORT_TAKEN)));
    moved.sort_unstable();
    moved
}

fn moved(before: &[CounterValue], after: &[CounterValue]) -> Vec<u32> {
    let differ = |i: &u32| before[*i as usize].packets != after[*i as usize].packets;
    (0..before.len() as u32).filter(differ).collect()
}

fn now() -> u32 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the answer.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    assert_eq!(result, 0);
    tick(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// Runs a scenario in both implementations. Returns false if the clock tick
/// changed meanwhile, so that the results cannot be compared.
fn compare(node: &TestNode, datapath: &mut Datapath, scenario: &Scenario) -> Result<bool, TestCaseError> {
    let f = &FAMILIES[scenario.family];
    let mut memory = tables(scenario, node.pod_ifindex);
    fill(datapath, &memory);
    let start = now();
    let mut before: Option<Vec<u8>> = None;
    for packet in &scenario.packets {
        let frame = frame(packet, f, before.as_ref());
        let (program, ifindex) = match packet.hook {
            hook::FROM_POD => (programs::FROM_POD, node.pod_ifindex),
            hook::TO_POD => (programs::TO_POD, node.pod_ifindex),
            hook::TO_UPLINK => (programs::TO_UPLINK, node.uplink_ifindex),
            _ => (programs::FROM_UPLINK, node.uplink_ifindex),
        };
        let counters = datapath.counters().unwrap();
        let run = TestPacket { ifindex, ..TestPacket::new(&frame) };
        let kernel = node.netns.enter(|| datapath.test_run(program, &run)).unwrap().unwrap();
        let mut routes = |ctx: &Context, bytes| expected_route(f, node.uplink_ifindex, ctx, bytes);
        let mut native = Native::new(NativeFrame::new(frame.clone()), &mut memory, &mut routes, start);
        native.from_host = true; // a test run's packet came in by no device
        let verdict = native.run(packet.hook, ifindex).verdict;
        if now() != start {
            return Ok(false);
        }
        let scenario =
            format!("packet {packet:?}\nframe {frame:02x?}\nnative: {verdict:?} {:#?}", native.steps);
        prop_assert_eq!(kernel.retval, returned(verdict), "{}", scenario);
        prop_assert_eq!(&kernel.data, &native.frame.bytes, "{}", scenario);
        let counters = moved(&counters, &datapath.counters().unwrap());
        let expected = counted(packet.hook, verdict, native.untracked, native.ports_taken);
        prop_assert_eq!(counters, expected, "{}", scenario);
        before = Some(native.frame.bytes.clone());
    }
    let connections: HashMap<_, _> = datapath.conntrack().unwrap().into_iter().collect();
    prop_assert_eq!(connections, memory.conntrack);
    let fragments: HashMap<_, _> = datapath.fragments().entries().unwrap().into_iter().collect();
    prop_assert_eq!(fragments, memory.fragment);
    let affinity: HashMap<_, _> = datapath.affinity().entries().unwrap().into_iter().collect();
    prop_assert_eq!(affinity, memory.affinity);
    Ok(true)
}

#[test]
fn kernel_ebpf_and_native_agree_on_every_packet() {
    if no_programs() {
        return;
    }
    let node = node();
    let mut datapath = node.open();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 800,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let (mut compared, mut verdicts) = (0, HashMap::new());
    let datapath = std::cell::RefCell::new(&mut datapath);
    let counts = std::cell::RefCell::new((&mut compared, &mut verdicts));
    let result = runner.run(&scenario(), |scenario| {
        // Retries if the clock tick changed.
        for _ in 0..3 {
            if compare(&node, &mut datapath.borrow_mut(), &scenario)? {
                *counts.borrow_mut().0 += 1;
                *counts.borrow_mut().1.entry(scenario.family).or_insert(0) += scenario.packets.len();
                break;
            }
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    println!("{compared} scenarios agree; packets by family: {verdicts:?}");
    let used: Vec<_> = datapath
        .borrow()
        .counters()
        .unwrap()
        .into_iter()
        .enumerate()
        .filter(|(_, c)| c.packets > 0)
        .collect();
    println!("counters moved: {used:?}");
    assert!(compared > 750, "{compared}");
}
