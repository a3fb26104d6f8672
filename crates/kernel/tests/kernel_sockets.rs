//! The socket hooks with real sockets of a process in a cgroup and a network
//! namespace of the test: connecting to Services, replies, and refused calls.

#![allow(clippy::unwrap_used, reason = "a failing test ends here")]

mod support;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use beeline_abi::config::{ConfigValue, flags};
use beeline_abi::endpoint::{NamespaceValue, namespace_flags};
use beeline_abi::ip::proto;
use beeline_abi::service::{
    BackendValue, CLASS_NODE, CLASS_NODE_IPV6, FrontendKey, FrontendValue, SCOPE_INTERNAL,
    ServiceAddressValue, ServiceValue, SlotKey, SlotValue, address_flags, backend_state,
};
use beeline_abi::{Ip, Port};
use beeline_kernel::cgroup;
use beeline_kernel::datapath::{Datapath, RemovedBackends, StaleSockets};
use beeline_kernel::netlink::SocketDiag;
use beeline_sync::Tables;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use support::{TestNode, no_programs};

const SERVICES: [&str; 2] = ["10.96.0.10", "fd00:10:96::10"];
const BACKENDS: [&str; 2] = ["127.0.0.1", "::1"];

fn ip(text: &str) -> Ip {
    Ip::from(text.parse::<IpAddr>().unwrap())
}

fn address(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

/// A cgroup of the test, removed on drop.
struct TestCgroup(PathBuf);

impl TestCgroup {
    fn new(name: &str) -> TestCgroup {
        let path = cgroup::find_mount().unwrap().join(format!("beeline-test-{}-{name}", std::process::id()));
        cgroup::create(&path).unwrap();
        TestCgroup(path)
    }
}

impl Drop for TestCgroup {
    fn drop(&mut self) {
        if let Err(error) = cgroup::remove(&self.0) {
            eprintln!("not removed: {error}");
        }
    }
}

/// One Service in each family: port 80 with the backend port 8080 on the
/// loopback address, TCP and UDP; port 81 without endpoints; NodePort 30080.
fn fill(datapath: &mut Datapath) {
    for (i, (service, backend)) in SERVICES.iter().zip(BACKENDS).enumerate() {
        let (class, id) = (20 + i as u32, 1 + i as u32);
        let nodes = [CLASS_NODE, CLASS_NODE_IPV6][i];
        let exclusive = ServiceAddressValue { class, flags: address_flags::EXCLUSIVE };
        datapath.service_address().update(&ip(service), &exclusive).unwrap();
        for protocol in [proto::TCP, proto::UDP] {
            let key = |class, port| FrontendKey {
                class,
                port: Port::new(port),
                proto: protocol,
                scope: SCOPE_INTERNAL,
            };
            let to = |service| FrontendValue { service, ..FrontendValue::default() };
            datapath.frontend().update(&key(class, 80), &to(id)).unwrap();
            datapath.frontend().update(&key(class, 81), &to(99)).unwrap();
            datapath.frontend().update(&key(nodes, 30080), &to(id)).unwrap();
        }
        set_backend(datapath, id, &backend_at(backend, 8080));
        let slot = SlotKey { service: id, generation: 1, slot: 0 };
        datapath.slot().update(&slot, &SlotValue::of(id, &backend_at(backend, 8080))).unwrap();
        let value = ServiceValue { generation: 1, slots: 1, ..ServiceValue::default() };
        datapath.service().update(&id, &value).unwrap();
    }
    datapath.service().update(&99, &ServiceValue { generation: 1, ..ServiceValue::default() }).unwrap();
}

fn backend_at(backend: &str, port: u16) -> BackendValue {
    let (state, proto) = (backend_state::ACTIVE, proto::UDP);
    BackendValue { ip: ip(backend), port: Port::new(port), proto, state, ..BackendValue::default() }
}

fn set_backend(datapath: &mut Datapath, id: u32, value: &BackendValue) {
    datapath.backend().update(&id, value).unwrap();
}

/// A node, and a cgroup with the socket hooks attached.
struct Fixture {
    node: TestNode,
    cgroup: TestCgroup,
    datapath: Datapath,
}

impl Fixture {
    fn new(name: &str, flags: u32) -> Fixture {
        let node = TestNode::new();
        let cgroup = TestCgroup::new(name);
        let mut datapath = node.open();
        let netns_cookie = node.netns.cookie().unwrap();
        datapath.set_config(&ConfigValue { netns_cookie, flags, ..ConfigValue::defaults() }).unwrap();
        fill(&mut datapath);
        assert_eq!(datapath.attach_sockets(&cgroup.0).unwrap(), 8);
        Fixture { node, cgroup, datapath }
    }

    /// Runs `work` in a new process in the network namespace of the node and
    /// in the cgroup, and fails with the error that it returns.
    fn process(&self, work: impl FnOnce() -> Result<(), String>) {
        let (mut reader, writer) = std::io::pipe().unwrap();
        // SAFETY: the child uses its own memory, and ends by _exit.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                drop(reader);
                let result = cgroup::add(&self.cgroup.0, 0)
                    .map_err(|error| error.to_string())
                    .and_then(|()| self.node.netns.enter_this_thread().map_err(|error| error.to_string()))
                    .and_then(|()| work());
                if let Err(text) = &result {
                    let _ = (&writer).write_all(text.as_bytes());
                }
                // SAFETY: ends the child without running the parent's cleanup.
                unsafe { nix::libc::_exit(i32::from(result.is_err())) }
            }
            ForkResult::Parent { child } => {
                drop(writer);
                let mut text = String::new();
                reader.read_to_string(&mut text).unwrap();
                let status = waitpid(child, None).unwrap();
                assert_eq!(status, WaitStatus::Exited(child, 0), "{text}");
            }
        }
    }
}

fn check<T: PartialEq + std::fmt::Debug>(what: &str, is: T, should: T) -> Result<(), String> {
    if is == should { Ok(()) } else { Err(format!("{what}: {is:?}, not {should:?}")) }
}

fn describe<T>(what: &str, result: std::io::Result<T>) -> Result<T, String> {
    result.map_err(|error| format!("{what}: {error}"))
}

/// connect(2) over TCP; getpeername(2) returns the Service address.
fn connects(service: &str, port: u16, backend: &str) -> Result<(), String> {
    let listener = describe("listen", TcpListener::bind(address(backend, 8080)))?;
    let stream = describe("connect", TcpStream::connect(address(service, port)))?;
    let (_, client) = describe("accept", listener.accept())?;
    let own = describe("own name", stream.local_addr())?;
    let own = SocketAddr::new(own.ip().to_canonical(), own.port());
    check("the peer that the server sees", client, own)?;
    check("the peer that the client sees", describe("peer", stream.peer_addr())?, address(service, port))
}

/// sendmsg(2) and recvmsg(2) on an unconnected socket.
fn exchanges(client: &UdpSocket, server: &UdpSocket, to: SocketAddr) -> Result<(), String> {
    describe("send", client.send_to(b"ask", to))?;
    let mut bytes = [0; 16];
    let (_, from) = describe("receive", server.recv_from(&mut bytes))?;
    describe("answer", server.send_to(b"answer", from))?;
    let (_, from) = describe("receive the answer", client.recv_from(&mut bytes))?;
    check("source address of the reply", from, to)
}

fn udp(at: SocketAddr) -> Result<UdpSocket, String> {
    let socket = describe("bind", UdpSocket::bind(at))?;
    describe("time-out", socket.set_read_timeout(Some(Duration::from_secs(3))))?;
    Ok(socket)
}

fn any(ip: &str) -> SocketAddr {
    address(if ip.contains(':') { "::" } else { "0.0.0.0" }, 0)
}

#[test]
fn kernel_the_nodes_sockets_reach_services() {
    if no_programs() {
        return;
    }
    let mut fixture = Fixture::new("reach", flags::NODE_PORT_LOOPBACK);
    for (service, backend) in SERVICES.into_iter().zip(BACKENDS) {
        fixture.process(|| connects(service, 80, backend));
        fixture.process(|| connects(backend, 30080, backend));
        fixture
            .process(|| exchanges(&udp(any(service))?, &udp(address(backend, 8080))?, address(service, 80)));
    }
    // An IPv6 socket with an IPv4-mapped address (RFC 4291 section 2.5.5.2).
    fixture.process(|| connects("::ffff:10.96.0.10", 80, BACKENDS[0]));
    // A UDP socket keeps its backend until the backend terminates.
    let (id, service) = (1, address(SERVICES[0], 80));
    let first = backend_at(BACKENDS[0], 8080);
    fixture.process(|| {
        let (client, server) = (udp(any(SERVICES[0]))?, udp(address(BACKENDS[0], 8080))?);
        exchanges(&client, &server, service)?;
        exchanges(&client, &server, service)
    });
    set_backend(&mut fixture.datapath, id, &BackendValue { state: backend_state::TERMINATING, ..first });
    let next = backend_at(BACKENDS[0], 9090);
    set_backend(&mut fixture.datapath, 7, &next);
    let slot = SlotKey { service: id, generation: 2, slot: 0 };
    fixture.datapath.slot().update(&slot, &SlotValue::of(7, &next)).unwrap();
    let value = ServiceValue { generation: 2, slots: 1, ..ServiceValue::default() };
    fixture.datapath.service().update(&id, &value).unwrap();
    fixture.process(|| exchanges(&udp(any(SERVICES[0]))?, &udp(address(BACKENDS[0], 9090))?, service));
}

#[test]
fn kernel_a_service_without_endpoints_refuses_connections() {
    if no_programs() {
        return;
    }
    let fixture = Fixture::new("refuse", 0);
    for service in SERVICES {
        for port in [81, 82] {
            fixture.process(|| {
                let error = TcpStream::connect(address(service, port)).err();
                let error = error.and_then(|error| error.raw_os_error());
                check("connect", error, Some(nix::libc::ECONNREFUSED))?;
                let error = udp(any(service))?.send_to(b"ask", address(service, port)).err();
                check("sendto", error.and_then(|error| error.raw_os_error()), Some(nix::libc::ECONNREFUSED))
            });
        }
    }
}

#[test]
fn kernel_sockets_of_pods_are_translated_where_it_is_enabled() {
    if no_programs() {
        return;
    }
    let mut fixture = Fixture::new("pods", 0);
    let config = fixture.datapath.config().unwrap();
    // The hooks treat any namespace other than that of the node as one of a pod.
    let elsewhere = ConfigValue { netns_cookie: config.netns_cookie + 1_000_000, ..config };
    fixture.datapath.set_config(&elsewhere).unwrap();
    let is_untranslated = || {
        let listener = describe("listen", TcpListener::bind(address(BACKENDS[0], 8080)))?;
        describe("no wait", listener.set_nonblocking(true))?;
        let timeout = Duration::from_millis(300);
        Ok::<_, String>(TcpStream::connect_timeout(&address(SERVICES[0], 80), timeout).is_err())
    };
    fixture.process(|| check("a pod's socket", is_untranslated()?, true));
    fixture.datapath.set_config(&ConfigValue { flags: flags::SOCKET_PODS, ..elsewhere }).unwrap();
    fixture.process(|| check("an unknown pod", is_untranslated()?, true));
    let pod = NamespaceValue { flags: namespace_flags::SOCKETS, reserved: 0 };
    fixture.datapath.namespace().update(&config.netns_cookie, &pod).unwrap();
    fixture.process(|| connects(SERVICES[0], 80, BACKENDS[0]));
    fixture.datapath.namespace().update(&config.netns_cookie, &NamespaceValue::default()).unwrap();
    fixture.process(|| check("a pod that disabled it", is_untranslated()?, true));
}

#[test]
fn kernel_the_hooks_outlive_the_agent_and_move_to_another_cgroup() {
    if no_programs() {
        return;
    }
    let mut fixture = Fixture::new("first", 0);
    drop(std::mem::replace(&mut fixture.datapath, fixture.node.open()));
    assert_eq!(fixture.datapath.attached_sockets().len(), 8);
    assert_eq!(fixture.datapath.attach_sockets(&fixture.cgroup.0).unwrap(), 0, "all hooks were attached");
    fixture.process(|| connects(SERVICES[0], 80, BACKENDS[0]));
    let other = TestCgroup::new("other");
    assert_eq!(fixture.datapath.attach_sockets(&other.0).unwrap(), 8);
    let first = std::mem::replace(&mut fixture.cgroup, other);
    fixture.process(|| connects(SERVICES[0], 80, BACKENDS[0]));
    fixture.datapath.detach_sockets().unwrap();
    assert!(fixture.datapath.attached_sockets().is_empty());
    drop(first);
}

/// A UDP socket whose backend was removed returns one error and is then
/// unconnected.
fn gets_econnaborted(client: &UdpSocket) -> Result<(), String> {
    let error = client.recv(&mut [0; 16]).err().and_then(|error| error.raw_os_error());
    check("the socket of a removed backend", error, Some(nix::libc::ECONNABORTED))?;
    check("its peer", client.peer_addr().is_err(), true)
}

#[test]
fn kernel_only_sockets_of_a_removed_backend_are_destroyed() {
    if no_programs() {
        return;
    }
    let fixture = Fixture::new("removed", 0);
    let table = fixture.datapath.socket_table().unwrap();
    for (i, (service, backend)) in SERVICES.into_iter().zip(BACKENDS).enumerate() {
        let removed = HashMap::from([(1 + i as u32, backend_at(backend, 8080))]);
        let destroy = |removed: &HashMap<u32, BackendValue>| -> Result<u64, String> {
            let removed = RemovedBackends { backends: removed.clone(), ..RemovedBackends::default() };
            let mut stale = StaleSockets::find(&table, &removed).map_err(|error| error.to_string())?;
            let mut diag = SocketDiag::open().map_err(|error| error.to_string())?;
            stale.destroy(&mut diag).map_err(|error| error.to_string())
        };
        fixture.process(|| {
            let server = udp(address(backend, 8080))?;
            let connected = |to| -> Result<UdpSocket, String> {
                let client = udp(any(backend))?;
                describe("connect", client.connect(to))?;
                describe("ask", client.send(b"ask"))?;
                describe("be asked", server.recv_from(&mut [0; 16]))?;
                Ok(client)
            };
            let client = connected(address(service, 80))?;
            // Connected to the backend address, not through the Service: it must stay.
            let direct = connected(address(backend, 8080))?;
            let listener = describe("listen", TcpListener::bind(address(backend, 8080)))?;
            let mut stream = describe("connect", TcpStream::connect(address(service, 80)))?;
            let (mut accepted, _) = describe("accept", listener.accept())?;

            check(
                "another backend is removed",
                destroy(&HashMap::from([(77, removed[&(1 + i as u32)])]))?,
                0,
            )?;
            check("destroyed", destroy(&removed)?, 1)?;
            gets_econnaborted(&client)?;
            check("found again", destroy(&removed)?, 0)?;
            describe("the direct one", direct.send(b"ask"))?;
            describe("the stream", stream.write_all(b"x"))?;

            let over_tcp = |backend: &BackendValue| BackendValue { proto: proto::TCP, ..*backend };
            let removed = removed.iter().map(|(id, backend)| (*id, over_tcp(backend))).collect();
            check("streams destroyed", destroy(&removed)?, 1)?;
            let error = stream.read(&mut [0; 1]).err().and_then(|error| error.raw_os_error());
            check("the stream", error, Some(nix::libc::ECONNABORTED))?;
            let ended = accepted.read_exact(&mut [0; 2]).err().and_then(|error| error.raw_os_error());
            check("the other end is reset", ended, Some(nix::libc::ECONNRESET))?;
            // The client can connect the same socket again.
            describe("connect again", client.connect(address(service, 80)))?;
            describe("ask again", client.send(b"ask"))?;
            describe("be asked again", server.recv_from(&mut [0; 16])).map(|_| ())
        });
    }
    // An IPv6 socket with an IPv4-mapped address.
    let backends = HashMap::from([(1, backend_at(BACKENDS[0], 8080))]);
    let removed = RemovedBackends { backends, ..RemovedBackends::default() };
    fixture.process(|| {
        let _server = udp(address(BACKENDS[0], 8080))?;
        let client = udp(address("::", 0))?;
        describe("connect", client.connect(address("::ffff:10.96.0.10", 80)))?;
        let mut stale = StaleSockets::find(&table, &removed).map_err(|error| error.to_string())?;
        let mut diag = SocketDiag::open().map_err(|error| error.to_string())?;
        let destroyed = stale.destroy(&mut diag).map_err(|error| error.to_string())?;
        check("destroyed", destroyed, 1)?;
        gets_econnaborted(&client)?;
        diag.probe_destroy().map_err(|error| error.to_string())
    });
}
