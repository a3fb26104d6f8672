//! Traffic through a lab that detects every loss: pings, TCP streams, new
//! connections, datagrams, with one thread per flow. Every flow waits for a
//! response before it continues (pings are sent at a fixed rate), so a slow
//! machine causes no losses: what is missing at the end was lost in the
//! network.

#![allow(dead_code, reason = "not every test crate uses all of it")]

mod flow;
mod flows;
mod host;
mod servers;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use beeline_lab::harness::TestLab;
use beeline_lab_net::address;
use flow::{Flow, FlowStats, SERVER_PORT};
use flows::{Datagrams, NewConnections, Pings, Stream};
use host::TestHost;
use servers::Servers;

/// A client and a server pod on node-1, servers on node-2 and node-3, and a
/// Service for the servers, which the external client reaches by its nodePort.
/// The external client is a server, too, for pods that connect to external
/// hosts. The pods only provide network namespaces: the test itself opens the
/// sockets, to see both ends of every connection.
const MANIFESTS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: caller}
spec: {nodeName: node-1, containers: [{name: c, image: any, command: [sleep, infinity]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: near, labels: {app: server}}
spec: {nodeName: node-1, containers: [{name: c, image: any, command: [sleep, infinity]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: far, labels: {app: server}}
spec: {nodeName: node-2, containers: [{name: c, image: any, command: [sleep, infinity]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: farther, labels: {app: server}}
spec: {nodeName: node-3, containers: [{name: c, image: any, command: [sleep, infinity]}]}
---
apiVersion: v1
kind: Service
metadata: {name: server}
spec:
  type: NodePort
  ipFamilyPolicy: RequireDualStack
  selector: {app: server}
  ports:
    - {name: tcp, protocol: TCP, port: 80, targetPort: 9000, nodePort: 30900}
    - {name: udp, protocol: UDP, port: 80, targetPort: 9000, nodePort: 30900}
";

/// Ports of the Service.
const SERVICE_PORT: u16 = 80;
const NODE_PORT: u16 = 30900;

/// Time for connections to close before the counters are read.
const CLOSE_WAIT: Duration = Duration::from_millis(1500);

/// Datagrams that the client outside sends from one source port. The node
/// replaces the client's address by its own towards a backend on another node,
/// and has 4,536 ports for that (61000 to 65535) towards each destination. A
/// port is in use for 180 s after the last answered datagram (30 s while none
/// is answered). A flow sends at most 100 datagrams a second: with a new port
/// for each of them a traffic of some minutes uses up all ports and packets
/// are dropped (`nat_ports_full`). Ten per port are at most ten new ports a
/// second, so at most 1,800 in use at any time, even if every datagram went to
/// the same backend. A later change is to bring back one port per datagram.
const OUTSIDE_PER_SOCKET: u64 = 10;

/// Kinds of flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// ICMP echo requests, one per millisecond.
    Ping,
    /// A TCP connection with continuous traffic.
    Stream,
    /// Consecutive TCP connections.
    Connect,
    /// UDP requests and responses.
    Datagram,
}

struct Running {
    kind: Kind,
    name: String,
    thread: JoinHandle<FlowStats>,
}

/// Stops every flow when it is dropped, also by a failing test.
#[derive(Default)]
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Running traffic.
pub struct Traffic {
    begun: Instant,
    ends: StopOnDrop,
    running: Vec<Running>,
    servers: Servers,
    hosts: Vec<TestHost>,
}

impl Traffic {
    /// Creates the pods and the Service, and starts all flows.
    pub fn start(lab: &TestLab) -> Traffic {
        lab.apply(MANIFESTS);
        let pods = ["caller", "near", "far", "farther"].map(|name| TestHost::of_pod(lab, name));
        let client = TestHost::new("client", lab.client().netns(), address::CLIENT.addresses());
        let hosts: Vec<TestHost> = pods.into_iter().chain([client]).collect();
        hosts.iter().for_each(TestHost::disable_spurious_retransmits);
        let servers = Servers::start(&hosts[1..]);
        let mut traffic = Traffic {
            begun: Instant::now(),
            ends: StopOnDrop::default(),
            running: Vec::new(),
            servers,
            hosts,
        };
        let service: Vec<IpAddr> =
            lab.service("server").cluster_ips.iter().map(|ip| ip.parse().unwrap()).collect();
        (0..2).for_each(|family| traffic.start_family(family, service[family]));
        traffic
    }

    /// Starts the flows of one address family (0 = IPv4).
    fn start_family(&mut self, family: usize, service: IpAddr) {
        let ips: Vec<IpAddr> = self.hosts.iter().map(|host| host.ips[family]).collect();
        let nodes = [1, 2].map(|number| address::node(number).addresses()[family]);
        let [caller, near, far, farther, client] = [0, 1, 2, 3, 4];
        for (from, to) in [
            (caller, ips[near]),
            (caller, ips[far]),
            (farther, ips[caller]),
            (caller, nodes[0]),
            (caller, nodes[1]),
            (client, ips[near]),
        ] {
            let number = self.running.len() as u16;
            self.run(Kind::Ping, from, to, Pings { to, number });
        }
        for (from, to, port) in [
            (caller, ips[near], SERVER_PORT),
            (caller, ips[far], SERVER_PORT),
            (client, ips[near], SERVER_PORT),
            (caller, service, SERVICE_PORT),
            (caller, service, SERVICE_PORT),
            (far, service, SERVICE_PORT),
        ] {
            self.run(Kind::Stream, from, to, Stream { to: SocketAddr::new(to, port) });
        }
        let to = SocketAddr::new(service, SERVICE_PORT);
        for from in [caller, far] {
            self.run(Kind::Connect, from, service, NewConnections { to });
            self.run(Kind::Datagram, from, service, Datagrams { to, per_socket: 1 });
        }
        self.run(Kind::Datagram, caller, service, Datagrams { to, per_socket: u64::MAX });
        for (from, to, port) in [(client, nodes[0], NODE_PORT), (caller, ips[client], SERVER_PORT)] {
            let at = SocketAddr::new(to, port);
            self.run(Kind::Stream, from, to, Stream { to: at });
            self.run(Kind::Connect, from, to, NewConnections { to: at });
        }
        let at = SocketAddr::new(nodes[1], NODE_PORT);
        self.run(Kind::Datagram, client, nodes[1], Datagrams { to: at, per_socket: OUTSIDE_PER_SOCKET });
    }

    /// Adds flows to one more Service address with the same ports.
    pub fn add_service_flows(&mut self, address: IpAddr) {
        let to = SocketAddr::new(address, SERVICE_PORT);
        self.run(Kind::Stream, 0, address, Stream { to });
        self.run(Kind::Connect, 0, address, NewConnections { to });
        for per_socket in [1, u64::MAX] {
            self.run(Kind::Datagram, 0, address, Datagrams { to, per_socket });
        }
    }

    fn run(&mut self, kind: Kind, from: usize, to: IpAddr, flow: impl Flow) {
        let host = &self.hosts[from];
        let (netns, ends) = (host.netns.clone(), self.ends.0.clone());
        let thread = std::thread::spawn(move || {
            let ran = netns.enter(|| flow.run(&ends));
            ran.unwrap_or_else(|error| FlowStats { errors: vec![error.to_string()], ..FlowStats::default() })
        });
        self.running.push(Running { kind, name: format!("{kind:?} {} -> {to}", host.name), thread });
    }

    /// Stops every flow and returns the results.
    pub fn stop(self) -> Report {
        let elapsed = self.begun.elapsed();
        drop(self.ends);
        let mut flows: Vec<(Kind, String, FlowStats)> = Vec::new();
        for running in self.running {
            let stats = running.thread.join().unwrap_or_else(|_| FlowStats {
                errors: vec!["the flow's thread panicked".into()],
                ..FlowStats::default()
            });
            flows.push((running.kind, running.name, stats));
        }
        std::thread::sleep(CLOSE_WAIT);
        let served = self.servers.stop();
        let counters = self.hosts.iter().map(|host| (host.name.clone(), host.changes())).collect();
        Report { elapsed, flows, served, counters }
    }
}

/// Results of all flows.
pub struct Report {
    elapsed: Duration,
    flows: Vec<(Kind, String, FlowStats)>,
    served: FlowStats,
    /// Kernel counters that have changed, by host.
    counters: Vec<(String, Vec<(String, u64)>)>,
}

impl Report {
    /// Number of responses in flows of this kind.
    fn probes(&self, kind: Kind) -> u64 {
        self.flows.iter().filter(|(of, _, _)| *of == kind).map(|(_, _, stats)| stats.probes).sum()
    }

    /// Fails the test if anything was lost, retransmitted, refused or wrong,
    /// or if there was too little traffic for a result.
    pub fn check(&self) {
        let flows = self
            .flows
            .iter()
            .flat_map(|(_, name, stats)| stats.errors.iter().map(move |error| format!("{name}: {error}")));
        let served = self.served.errors.iter().map(|error| format!("server: {error}"));
        let mut errors: Vec<String> = flows.chain(served).collect();
        errors.extend(self.retransmits());
        errors.extend(self.too_slow());
        assert!(errors.is_empty(), "{}\n{self}", errors.join("\n"));
    }

    /// Retransmitted segments, by socket and by network namespace.
    fn retransmits(&self) -> Vec<String> {
        let by_socket = self.flows.iter().map(|(_, name, stats)| (name.as_str(), stats.retransmitted));
        let by_socket = by_socket.chain([("the servers", self.served.retransmitted)]);
        let by_host = self.counters.iter().flat_map(|(host, counters)| {
            let retransmits = counters.iter().filter(|(name, _)| name == "Tcp.RetransSegs");
            retransmits.map(move |(_, count)| (host.as_str(), *count))
        });
        let retransmits = by_socket.chain(by_host).filter(|(_, count)| *count > 0);
        retransmits.map(|(who, count)| format!("{who}: {count} segments were retransmitted")).collect()
    }

    /// Flows with less than a tenth of the rate of an idle machine.
    fn too_slow(&self) -> Vec<String> {
        let least = |kind| match kind {
            Kind::Ping | Kind::Stream => 100.0,
            Kind::Connect | Kind::Datagram => 10.0,
        };
        let seconds = self.elapsed.as_secs_f64();
        let quiet =
            self.flows.iter().filter(|(kind, _, stats)| (stats.probes as f64) < least(*kind) * seconds);
        quiet
            .map(|(_, name, stats)| {
                format!("{name}: {} in {seconds:.1} s are too few for a result", stats.probes)
            })
            .collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "traffic for {:.1} s:", self.elapsed.as_secs_f32())?;
        for (_, name, stats) in &self.flows {
            let FlowStats { probes, slowest, retransmitted, .. } = stats;
            writeln!(f, "  {name}: {probes}, slowest {slowest:.1?}, retransmitted {retransmitted}")?;
        }
        let [pings, streams, connects, datagrams] =
            [Kind::Ping, Kind::Stream, Kind::Connect, Kind::Datagram].map(|kind| self.probes(kind));
        writeln!(
            f,
            "total: {pings} echoes, {streams} rounds of streams, {connects} connections, {datagrams} datagrams"
        )?;
        for (host, counters) in &self.counters {
            let shown: Vec<String> = counters.iter().map(|(name, count)| format!("{name} {count}")).collect();
            writeln!(f, "  counters of {host}: {}", shown.join(", "))?;
        }
        Ok(())
    }
}
