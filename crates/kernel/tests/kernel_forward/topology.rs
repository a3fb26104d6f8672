//! A node with two pods and a Service, and behind its uplink another node with
//! one pod. The node has the routes and neighbour entries that the agent adds.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};

use beeline_abi::address::{AddressKey, AddressValue, kind};
use beeline_abi::config::ConfigValue;
use beeline_abi::counter::{COUNTERS_PER_HOOK, CounterValue, DROPS_OFFSET, hook, outcome};
use beeline_abi::endpoint::EndpointValue;
use beeline_abi::ip::proto;
use beeline_abi::service::{
    BackendValue, FrontendKey, FrontendValue, SCOPE_INTERNAL, ServiceAddressValue, ServiceValue, SlotKey,
    SlotValue, address_flags, backend_state,
};
use beeline_abi::{DropReason, GATEWAY_IPV4, GATEWAY_IPV6, GATEWAY_MAC, Ip, Mac, Port};
use beeline_kernel::datapath::{AttachMode, Datapath, DatapathError, Options};
use beeline_kernel::netlink::{Netlink, Route};
use beeline_kernel::netns::NetNs;
use beeline_kernel::sysctl;
use beeline_sync::Tables;
use ipnet::IpNet;

use crate::support::{POD_MAC, TestNetNs, TestNode, options_for, veth};
use crate::traffic::{EchoServer, echo_server_at};

/// Port of the echo servers.
pub const PORT: u16 = 7000;
/// Port of the Service, and of its backends.
pub const SERVICE_PORT: u16 = 80;
const TARGET_PORT: u16 = 8080;
/// SCTP port of the Service and its backends. It is the same, because SCTP
/// ports are not translated.
pub const SCTP_PORT: u16 = 3868;

const OTHER_POD_MAC: Mac = Mac([0x02, 0, 0, 0, 0, 0x78]);
const CLASS: u32 = 20;
const SERVICE: u32 = 5;

/// Addresses of one family.
pub struct Family {
    pub pod: &'static str,
    pub other_pod: &'static str,
    pub far_pod: &'static str,
    pub node: &'static str,
    /// The other node.
    pub outside: &'static str,
    pub service: &'static str,
    /// Prefixes of the pods on this node, of those on the other node, of the
    /// uplink, and of the Services.
    pods: &'static str,
    far_pods: &'static str,
    link_bits: u8,
    services: &'static str,
    /// The first backend ID of this family.
    first_backend: u32,
}

pub const FAMILIES: [Family; 2] = [
    Family {
        pod: "10.244.1.11",
        other_pod: "10.244.1.12",
        far_pod: "10.244.2.13",
        node: "10.1.0.1",
        outside: "10.1.0.2",
        service: "10.96.0.10",
        pods: "10.244.1.0/24",
        far_pods: "10.244.2.0/24",
        link_bits: 24,
        services: "10.96.0.0/16",
        first_backend: 10,
    },
    Family {
        pod: "fd00:10:244:1::b",
        other_pod: "fd00:10:244:1::c",
        far_pod: "fd00:10:244:2::d",
        node: "fd00:1::1",
        outside: "fd00:1::2",
        service: "fd00:10:96::10",
        pods: "fd00:10:244:1::/64",
        far_pods: "fd00:10:244:2::/64",
        link_bits: 64,
        services: "fd00:10:96::/112",
        first_backend: 20,
    },
];

/// The whole topology, removed on drop.
pub struct Topology {
    pub pod: TestNetNs,
    pub other_pod: TestNetNs,
    pub outside: TestNetNs,
    node: TestNetNs,
    ifindices: [u32; 2],
    bpffs: crate::support::TestBpffs,
    datapath: Mutex<Datapath>,
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// Sets sysctls in a network namespace.
fn set(netns: &NetNs, settings: &[(&str, &str)]) {
    let set = || settings.iter().for_each(|(name, value)| sysctl::set(name, value).unwrap());
    netns.enter(set).unwrap();
}

impl Topology {
    pub fn new(attach_mode: AttachMode) -> Topology {
        let TestNode { bpffs, netns: node, pod, outside, pod_ifindex, uplink_ifindex } = TestNode::new();
        let other_pod = TestNetNs::new("other-pod");
        let other = veth(&node, ("lxc1", GATEWAY_MAC), &other_pod, ("eth0", OTHER_POD_MAC));
        let forwarding = [("net.ipv4.ip_forward", "1"), ("net.ipv6.conf.all.forwarding", "1")];
        let may_ping = [("net.ipv4.ping_group_range", "0 0")];
        set(&node, &forwarding);
        set(&node, &[("net.ipv4.conf.lxc0.rp_filter", "0"), ("net.ipv4.conf.lxc1.rp_filter", "0")]);
        [&pod, &outside].into_iter().for_each(|netns| set(netns, &may_ping));
        for f in &FAMILIES {
            join_nodes(f, &node, uplink_ifindex, &outside);
            connect(f.pod, &node, pod_ifindex, &pod, POD_MAC);
            connect(f.other_pod, &node, other, &other_pod, OTHER_POD_MAC);
        }
        let options = options_for(attach_mode);
        let mut datapath = node.enter(|| Datapath::open_with(&bpffs, &options)).unwrap().unwrap();
        fill(&mut datapath, [(pod_ifindex, POD_MAC), (other, OTHER_POD_MAC)]);
        node.enter(|| {
            [pod_ifindex, other].into_iter().for_each(|pod| datapath.attach_pod(pod).unwrap());
            datapath.attach_uplink(uplink_ifindex).unwrap();
        })
        .unwrap();
        let datapath = Mutex::new(datapath);
        Topology { pod, other_pod, outside, node, ifindices: [pod_ifindex, other], bpffs, datapath }
    }

    /// Starts echo servers at every address, and at the backends of the Service.
    pub fn listen(&self) -> Vec<EchoServer> {
        let mut listeners = Vec::new();
        for f in &FAMILIES {
            let places = [(&self.other_pod, f.other_pod), (&self.outside, f.far_pod)];
            for (netns, address) in places {
                listeners.extend(
                    [PORT, TARGET_PORT].map(|port| echo_server_at(netns, (ip(address), port).into())),
                );
            }
            listeners.push(echo_server_at(&self.outside, (ip(f.outside), PORT).into()));
        }
        listeners
    }

    /// Opens the datapath again with these options, as a restarted agent does.
    pub fn restart(&self, options: &Options<'_>) {
        let opened = self.node.enter(|| Datapath::open_with(&self.bpffs, options)).unwrap();
        let mut datapath = self.datapath.lock().unwrap();
        *datapath = opened.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(datapath.attached().len(), 2 * self.ifindices.len() + 2, "{:?}", datapath.attached());
    }

    /// Like [`Topology::restart`], but may fail.
    pub fn try_restart(&self, options: &Options<'_>) -> Result<(), DatapathError> {
        self.node.enter(|| Datapath::open_with(&self.bpffs, options).map(drop)).unwrap()
    }

    /// The open datapath.
    pub fn datapath(&self) -> MutexGuard<'_, Datapath> {
        self.datapath.lock().unwrap()
    }

    /// Makes updates of the links of a program fail until the result is dropped.
    pub fn block_link_update(&self, program: &str) -> BlockedLinks {
        let links = self.bpffs.join("links");
        let held = self.datapath().attached().into_iter().filter(|attached| attached.program == program);
        let names: Vec<String> = held.map(|attached| format!("{program}-{}", attached.ifindex)).collect();
        let held = BlockedLinks { links, names };
        for (path, kept) in held.paths() {
            std::fs::rename(&path, kept).unwrap();
            std::fs::create_dir(path).unwrap();
        }
        held
    }

    pub fn counters(&self) -> Vec<CounterValue> {
        self.datapath.lock().unwrap().counters().unwrap()
    }

    /// The counters that increased since `before`: name and packets.
    pub fn moved_since(&self, before: &[CounterValue]) -> BTreeMap<String, u64> {
        let moved = self.counters().into_iter().zip(before).enumerate();
        let moved = moved.map(|(index, (now, then))| (index as u32, now.packets - then.packets));
        moved.filter(|(_, packets)| *packets > 0).map(|(index, packets)| (name(index), packets)).collect()
    }
}

/// Links whose pins are moved away until this is dropped.
pub struct BlockedLinks {
    links: PathBuf,
    names: Vec<String>,
}

impl BlockedLinks {
    /// The path of each pin, and the path to which it is moved.
    fn paths(&self) -> impl Iterator<Item = (PathBuf, PathBuf)> {
        self.names.iter().map(|name| (self.links.join(name), self.links.join(format!("kept_{name}x"))))
    }
}

impl Drop for BlockedLinks {
    fn drop(&mut self) {
        for (path, kept) in self.paths() {
            std::fs::remove_dir(&path).unwrap();
            std::fs::rename(kept, path).unwrap();
        }
    }
}

fn name(index: u32) -> String {
    let (at, what) = (hook::name((index / COUNTERS_PER_HOOK) as u8), (index % COUNTERS_PER_HOOK) as u8);
    if u32::from(what) < DROPS_OFFSET {
        return format!("{at} {}", outcome::name(what));
    }
    let reason = DropReason::from_number(what - DROPS_OFFSET as u8);
    format!("{at} dropped {}", reason.map_or("for no known reason", DropReason::name))
}

/// Configures both ends of the uplink. The other node has the address of its pod itself.
fn join_nodes(f: &Family, node: &NetNs, uplink: u32, outside: &NetNs) {
    let mut here = Netlink::open_in(node).unwrap();
    let mut there = Netlink::open_in(outside).unwrap();
    let eth0 = there.index("eth0").unwrap();
    let with_bits = |address| IpNet::new(ip(address), f.link_bits).unwrap();
    here.add_address(uplink, with_bits(f.node)).unwrap();
    there.add_address(eth0, with_bits(f.outside)).unwrap();
    there.add_address(1, ip(f.far_pod).into()).unwrap();
    here.replace_route(&Route::new(net(f.far_pods), uplink).via(ip(f.outside))).unwrap();
    there.replace_route(&Route::new(net(f.pods), eth0).via(ip(f.node))).unwrap();
}

/// Configures the address and default route of a pod, and the route of the node to it.
fn connect(address: &str, node: &NetNs, host: u32, pod: &NetNs, pod_mac: Mac) {
    let address = ip(address);
    let gateway: IpAddr = if address.is_ipv4() { GATEWAY_IPV4.into() } else { GATEWAY_IPV6.into() };
    let mut inside = Netlink::open_in(pod).unwrap();
    let eth0 = inside.index("eth0").unwrap();
    inside.add_address(eth0, address.into()).unwrap();
    inside.replace_route(&Route::new(gateway.into(), eth0).on_link()).unwrap();
    inside.replace_route(&Route::default_via(gateway, eth0)).unwrap();
    inside.set_neighbour(eth0, gateway, GATEWAY_MAC).unwrap();
    let mut netlink = Netlink::open_in(node).unwrap();
    netlink.add_route(&Route::new(address.into(), host).on_link()).unwrap();
    netlink.set_neighbour(host, address, pod_mac).unwrap();
}

/// Writes the tables as the agent does.
fn fill(datapath: &mut Datapath, pods: [(u32, Mac); 2]) {
    datapath.set_config(&ConfigValue { node: 1, ..ConfigValue::defaults() }).unwrap();
    for f in &FAMILIES {
        let bits = |net: IpNet| u32::from(net.prefix_len()) + if net.addr().is_ipv4() { 96 } else { 0 };
        let mut prefix = |net: IpNet, kind| {
            let key = AddressKey { prefix_bits: bits(net), ip: Ip::from(net.addr()) };
            datapath.address().update(&key, &AddressValue { kind, ..AddressValue::default() }).unwrap();
        };
        prefix(net(f.pods), kind::LOCAL_POD);
        prefix(net(f.far_pods), kind::REMOTE_POD);
        prefix(ip(f.node).into(), kind::LOCAL_NODE);
        prefix(ip(f.outside).into(), kind::REMOTE_NODE);
        prefix(net(f.services), kind::SERVICE_RANGE);
        for (address, (ifindex, pod_mac)) in [f.pod, f.other_pod].into_iter().zip(pods) {
            let value =
                EndpointValue { ifindex, pod_mac, mtu: 1500, identity: 256, ..EndpointValue::default() };
            datapath.endpoint().update(&Ip::from(ip(address)), &value).unwrap();
        }
        fill_service(datapath, f);
    }
}

/// One Service in each family, with one backend on each node.
fn fill_service(datapath: &mut Datapath, f: &Family) {
    let class = CLASS + f.first_backend;
    fill_port(datapath, f, 0, (SERVICE_PORT, TARGET_PORT), &[proto::TCP, proto::UDP]);
    fill_port(datapath, f, 2, (SCTP_PORT, SCTP_PORT), &[proto::SCTP]);
    let value = ServiceAddressValue { class, flags: address_flags::EXCLUSIVE };
    datapath.service_address().update(&Ip::from(ip(f.service)), &value).unwrap();
}

/// Adds a port to the Service. `from` is added to the service ID and backend IDs.
fn fill_port(datapath: &mut Datapath, f: &Family, from: u32, ports: (u16, u16), protocols: &[u8]) {
    let (class, service) = (CLASS + f.first_backend, SERVICE + f.first_backend + from);
    let backends = [f.other_pod, f.far_pod];
    for (slot, address) in (0..).zip(backends) {
        let backend = f.first_backend + from + slot;
        let value = BackendValue {
            ip: Ip::from(ip(address)),
            port: Port::new(ports.1),
            state: backend_state::ACTIVE,
            ..BackendValue::default()
        };
        datapath.backend().update(&backend, &value).unwrap();
        let key = SlotKey { service, generation: 1, slot };
        datapath.slot().update(&key, &SlotValue::of(backend, &value)).unwrap();
    }
    let value = ServiceValue { generation: 1, slots: backends.len() as u32, ..ServiceValue::default() };
    datapath.service().update(&service, &value).unwrap();
    for proto in protocols {
        let key = FrontendKey { class, port: Port::new(ports.0), proto: *proto, scope: SCOPE_INTERNAL };
        datapath.frontend().update(&key, &FrontendValue { service, ..FrontendValue::default() }).unwrap();
    }
}
