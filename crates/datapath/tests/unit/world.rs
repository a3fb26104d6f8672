//! A small node for the stories: two pods, a pod elsewhere, a Service.

use beeline_abi::address::{AddressKey, AddressValue, kind};
use beeline_abi::counter::hook;
use beeline_abi::endpoint::EndpointValue;
use beeline_abi::ip::proto;
use beeline_abi::service::{
    BackendValue, FrontendKey, FrontendValue, ServiceAddressValue, ServiceValue, SlotKey, SlotValue,
    address_flags, backend_state,
};
use beeline_abi::{GATEWAY_MAC, Ip, Mac, Port};
use beeline_datapath::Verdict;
use beeline_datapath::native::build::Build;
use beeline_datapath::native::{MemoryTables, Native, NativeFrame, NextHop};
use beeline_datapath::platform::{Route, Step};

pub const POD_IFINDEX: u32 = 11;
pub const UPLINK: u32 = 2;
pub const POD_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const NEIGHBOUR_MAC: Mac = Mac([2, 0, 0, 0, 0, 2]);

/// The device of the neighbour pod.
pub const NEIGHBOUR_IFINDEX: u32 = POD_IFINDEX + 1;

/// The addresses of the story in one family.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    pub pod: Ip,
    pub neighbour: Ip,
    pub far: Ip,
    pub node: Ip,
    pub next_hop: Ip,
    pub router: Ip,
    pub external: Ip,
    /// A Service's address.
    pub service: Ip,
    /// In the service range, of no Service (until [`World::second_service`]).
    pub free_service: Ip,
    pub martians: &'static [Ip],
}

const fn v6(net: u16, host: u16) -> Ip {
    let [n, h] = [net.to_be_bytes(), host.to_be_bytes()];
    Ip::from_octets([0xfd, 0, 0, 0x10, n[0], n[1], 0, 0, 0, 0, 0, 0, 0, 0, h[0], h[1]])
}

/// Both.
pub const FAMILIES: [Family; 2] = [
    Family {
        pod: Ip::from_v4([10, 244, 1, 11]),
        neighbour: Ip::from_v4([10, 244, 1, 12]),
        far: Ip::from_v4([10, 244, 2, 13]),
        node: Ip::from_v4([192, 168, 0, 1]),
        next_hop: Ip::from_v4([192, 168, 0, 2]),
        router: Ip::from_v4([192, 168, 0, 254]),
        external: Ip::from_v4([203, 0, 113, 9]),
        service: Ip::from_v4([10, 96, 0, 10]),
        free_service: Ip::from_v4([10, 96, 0, 99]),
        martians: &[
            Ip::from_v4([127, 0, 0, 1]),
            Ip::from_v4([0, 0, 0, 0]),
            Ip::from_v4([224, 0, 0, 1]),
            Ip::from_v4([255, 255, 255, 255]),
        ],
    },
    Family {
        pod: v6(0x2441, 11),
        neighbour: v6(0x2441, 12),
        far: v6(0x2442, 13),
        node: v6(0, 1),
        next_hop: v6(0, 2),
        router: v6(0, 254),
        external: v6(0xffff, 9),
        service: v6(0x96, 10),
        free_service: v6(0x96, 99),
        martians: &[
            Ip([0, 0, 0, 0]),
            Ip([0, 0, 0, 1_u32.to_be()]),
            Ip([0xff02_0000_u32.to_be(), 0, 0, 1_u32.to_be()]),
        ],
    },
];

/// The node.
#[derive(Debug)]
pub struct World {
    pub family: Family,
    pub tables: MemoryTables,
    pub route: Route,
    pub tick: u32,
    /// The value of every random number.
    pub random: u32,
}

/// A packet after a hook.
#[derive(Debug)]
pub struct Sent {
    pub verdict: Verdict,
    pub frame: Vec<u8>,
    pub steps: Vec<Step>,
    pub untracked: u64,
    pub ports_taken: u64,
}

impl World {
    pub fn new(family: Family) -> World {
        let mut world =
            World { family, tables: MemoryTables::default(), route: Route::Found, tick: 1000, random: 0 };
        let pod_bits = if family.pod.is_v4() { 120 } else { 64 };
        let service_bits = if family.pod.is_v4() { 108 } else { 112 };
        world.prefix(family.pod, pod_bits, kind::LOCAL_POD, 1);
        world.prefix(family.far, pod_bits, kind::REMOTE_POD, 2);
        world.prefix(family.node, 128, kind::LOCAL_NODE, 1);
        world.prefix(family.next_hop, 128, kind::REMOTE_NODE, 2);
        world.prefix(family.service, service_bits, kind::SERVICE_RANGE, 0);
        world.endpoint(family.pod, POD_IFINDEX, POD_MAC);
        world.endpoint(family.neighbour, NEIGHBOUR_IFINDEX, NEIGHBOUR_MAC);
        world.service(family.service, 1);
        world.backends(&[(family.far, 8080)]);
        world
    }

    fn prefix(&mut self, ip: Ip, bits: u32, kind: u8, node: u32) {
        let mask = u128::MAX << (128 - bits);
        let ip = Ip::from_octets((u128::from_be_bytes(ip.octets()) & mask).to_be_bytes());
        let value = AddressValue { kind, node, ..AddressValue::default() };
        self.tables.address.insert(AddressKey { prefix_bits: bits, ip }, value);
    }

    fn endpoint(&mut self, ip: Ip, ifindex: u32, pod_mac: Mac) {
        let value = EndpointValue { ifindex, pod_mac, mtu: 1500, ..EndpointValue::default() };
        self.tables.endpoint.insert(ip, value);
    }

    fn service(&mut self, ip: Ip, number: u32) {
        let class = 16 + number;
        let value = ServiceAddressValue { class, flags: address_flags::EXCLUSIVE };
        self.tables.service_address.insert(ip, value);
        for protocol in [proto::TCP, proto::UDP] {
            let key = FrontendKey { class, port: Port::new(80), proto: protocol, scope: 0 };
            let value = FrontendValue { service: 1, ..FrontendValue::default() };
            self.tables.frontend.insert(key, value);
        }
    }

    /// Another address with the same endpoints.
    pub fn second_service(&mut self) {
        self.service(self.family.free_service, 2);
    }

    /// Gives the Service new endpoints, as the agent publishes them.
    pub fn backends(&mut self, backends: &[(Ip, u16)]) {
        let generation = self.tables.service.get(&1).map_or(1, |service| service.generation + 1);
        for (slot, (ip, port)) in backends.iter().enumerate() {
            let id = generation * 100 + slot as u32;
            let backend = BackendValue {
                ip: *ip,
                port: Port::new(*port),
                state: backend_state::ACTIVE,
                weight: 1,
                ..BackendValue::default()
            };
            self.tables.backend.insert(id, backend);
            let key = SlotKey { service: 1, generation, slot: slot as u32 };
            self.tables.slot.insert(key, SlotValue::of(id, &backend));
        }
        let value = ServiceValue { generation, slots: backends.len() as u32, ..ServiceValue::default() };
        self.tables.service.insert(1, value);
    }

    /// The pods of this node: address, device, MAC.
    pub fn pods(&self) -> [(Ip, u32, Mac); 2] {
        [(self.family.pod, POD_IFINDEX, POD_MAC), (self.family.neighbour, NEIGHBOUR_IFINDEX, NEIGHBOUR_MAC)]
    }

    /// The node itself sends a packet out of the uplink.
    pub fn host_sends(&mut self, build: Build) -> Sent {
        self.host_sends_by(UPLINK, build)
    }

    /// The same out of some uplink.
    pub fn host_sends_by(&mut self, ifindex: u32, build: Build) -> Sent {
        self.send_as(true, hook::TO_UPLINK, ifindex, build.frame())
    }

    /// Sends a frame through a hook.
    pub fn send(&mut self, at: u8, ifindex: u32, frame: Vec<u8>) -> Sent {
        self.send_as(false, at, ifindex, frame)
    }

    fn send_as(&mut self, from_host: bool, at: u8, ifindex: u32, frame: Vec<u8>) -> Sent {
        let next_hop = NextHop {
            route: self.route,
            ifindex: UPLINK,
            next_hop: self.family.next_hop,
            source: self.family.node,
            mtu: 1400,
        };
        let mut routes = move |_: &beeline_abi::context::Context, _: u32| next_hop;
        let mut native = Native::new(NativeFrame::new(frame), &mut self.tables, &mut routes, self.tick);
        (native.random, native.from_host) = (self.random, from_host);
        let verdict = native.run(at, ifindex).verdict;
        let Native { untracked, ports_taken, steps, .. } = native;
        Sent { verdict, frame: native.frame.bytes, steps, untracked, ports_taken }
    }

    pub fn pod_frame(&mut self, frame: Vec<u8>) -> Sent {
        self.send(hook::FROM_POD, POD_IFINDEX, frame)
    }

    pub fn pod_sends(&mut self, build: Build) -> Sent {
        self.pod_frame(build.frame())
    }

    pub fn uplink_receives(&mut self, build: Build) -> Sent {
        self.send(hook::FROM_UPLINK, UPLINK, build.frame())
    }

    /// TTL or hop limit of a frame of this family.
    pub fn ttl(&self, frame: &[u8]) -> u8 {
        if self.family.pod.is_v4() { frame[22] } else { frame[21] }
    }
}

/// The part of an IPv4 packet's payload between two offsets, as a fragment.
pub fn ipv4_fragment(whole: &[u8], from: usize, to: usize, id: u16) -> Vec<u8> {
    let mut frame = whole[..34].to_vec();
    frame.extend_from_slice(&whole[34 + from..34 + to]);
    let more = if 34 + to < whole.len() { 0x2000 } else { 0 };
    frame[16..18].copy_from_slice(&((20 + to - from) as u16).to_be_bytes());
    frame[18..20].copy_from_slice(&id.to_be_bytes());
    frame[20..22].copy_from_slice(&(more | (from as u16 / 8)).to_be_bytes());
    finish(frame)
}

/// Fragments put together: the header of an unfragmented packet again.
pub fn ipv4_whole(together: &[u8]) -> Vec<u8> {
    let mut frame = together.to_vec();
    let total = (frame.len() - 14) as u16;
    frame[16..18].copy_from_slice(&total.to_be_bytes());
    frame[18..22].fill(0);
    finish(frame)
}

fn finish(mut frame: Vec<u8>) -> Vec<u8> {
    frame[24..26].fill(0);
    let sum = beeline_datapath::native::build::checksum(&[&frame[14..34]]);
    frame[24..26].copy_from_slice(&sum);
    frame
}

/// Who has `target`? Tell `sender` (RFC 826).
pub fn arp_request(sender: Ip, target: Ip) -> Vec<u8> {
    let mut frame = [GATEWAY_MAC.0, POD_MAC.0].concat();
    frame.extend_from_slice(&[0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame.extend_from_slice(&POD_MAC.0);
    frame.extend_from_slice(&sender.octets()[12..]);
    frame.extend_from_slice(&[0; 6]);
    frame.extend_from_slice(&target.octets()[12..]);
    frame
}
