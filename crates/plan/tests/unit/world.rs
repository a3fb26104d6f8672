//! A node's planner, reconciler and tables, driven by changes.

use std::net::IpAddr;

use beeline_abi::endpoint::EndpointValue;
use beeline_model::{
    Change, Endpoint, EndpointPort, EndpointSlice, HostPort, Kind, Node, Object, ObjectName, Pod, Protocol,
    Reason, Service, ServicePort, ServiceType, SourceRanges,
};
use beeline_plan::canonical_tables::canonical;
use beeline_plan::{PlanConfig, Planner, ServiceConfig};
use beeline_sync::memory::MemoryTables;
use beeline_sync::{Contents, Prune, Reconciler, Report};

pub struct World {
    pub planner: Planner,
    pub reconciler: Reconciler,
    pub tables: MemoryTables,
    /// What the tables held when the log was read last.
    replayed: Contents,
    /// Writes fail: an address may remain without its frontends.
    pub hostile: bool,
    config: PlanConfig,
}

pub fn config() -> PlanConfig {
    PlanConfig {
        node_name: "node-1".into(),
        service_cidrs: vec!["10.96.0.0/16".parse().expect("a range")],
        on_link: Some(vec![
            "172.30.0.0/24".parse().expect("a subnet"),
            "fd00:172:30::/64".parse().expect("a subnet"),
        ]),
        native_ranges: vec![],
        services: ServiceConfig {
            node_ports: true,
            node_port_addresses: vec![],
            external_ips: Some(vec!["198.51.100.0/24".parse().expect("a range")]),
            host_ports: true,
            affinity: true,
            source_ranges_all_types: false,
            maglev: Default::default(),
        },
    }
}

impl World {
    /// A fresh node: nothing pinned, nothing listed.
    pub fn new() -> World {
        World::with(config())
    }

    /// A fresh node with this configuration.
    pub fn with(config: PlanConfig) -> World {
        let mut tables = MemoryTables::new();
        tables.start_log();
        World {
            planner: Planner::new(config.clone()),
            config,
            reconciler: Reconciler::new(),
            tables,
            replayed: Contents::default(),
            hostile: false,
        }
    }

    /// A fresh node that has listed an empty cluster.
    pub fn listed() -> World {
        let mut world = World::new();
        world.list(&[]);
        world
    }

    /// The agent is killed, and another one starts with the same tables.
    pub fn restart(&mut self) {
        self.planner = Planner::new(self.config.clone());
        self.reconciler = Reconciler::new();
        let report = self.reconciler.resync(&mut self.tables, Prune::Keep);
        assert_eq!((report.written, report.deleted, report.drift), (0, 0, 0), "reading changes nothing");
        self.planner.adopt(&self.reconciler.actual());
    }

    /// A full listing of everything, then pruning.
    pub fn list(&mut self, objects: &[Object]) -> Report {
        for kind in Kind::ALL {
            self.planner.apply(Change::ResetStart(*kind));
            for object in objects.iter().filter(|object| object.kind() == *kind) {
                self.planner.apply(Change::Apply(Box::new(object.clone())));
            }
            self.planner.apply(Change::ResetEnd(*kind));
        }
        let delta = self.planner.drain();
        self.reconciler.submit(delta);
        self.reconciler.prune();
        self.flush()
    }

    pub fn apply(&mut self, object: impl Into<Fact>) -> Report {
        self.planner.apply(Change::Apply(Box::new(object.into().0)));
        self.sync()
    }

    pub fn delete(&mut self, kind: Kind, name: &str) -> Report {
        self.planner.apply(Change::Delete(kind, object_name(kind, name)));
        self.sync()
    }

    pub fn sync(&mut self) -> Report {
        let delta = self.planner.drain();
        self.reconciler.submit(delta);
        self.flush()
    }

    /// Flushes, and checks the tables after each write.
    pub fn flush(&mut self) -> Report {
        let report = self.reconciler.flush(&mut self.tables);
        for operation in self.tables.take_log() {
            self.replayed.apply_operation(operation);
            let mut dangling = self.replayed.dangling();
            dangling.retain(|line| !(self.hostile && line.starts_with("service address")));
            assert_eq!(dangling, Vec::<String>::new(), "after {operation:?}");
        }
        report
    }

    /// The tables as text: only the lines that begin with `what`.
    pub fn text(&self, what: &str) -> String {
        let text = canonical(&self.tables.contents());
        text.lines().filter(|line| line.starts_with(what)).collect::<Vec<_>>().join("\n")
    }

    #[track_caller]
    pub fn check(&self, what: &str, expected: &str) {
        let expected = expected.lines().map(str::trim).filter(|line| !line.is_empty());
        let expected = expected.collect::<Vec<_>>().join("\n");
        let whole = canonical(&self.tables.contents());
        assert_eq!(self.text(what), expected, "the whole tables:\n{whole}\nproblems: {:#?}", self.problems());
        assert!(!whole.contains("orphan") && !whole.contains("missing"), "{whole}");
    }

    /// All problems except slices without a Service.
    pub fn problems(&self) -> Vec<String> {
        self.planner
            .problems()
            .iter()
            .filter(|problem| problem.reason != Reason::ServiceMissing)
            .map(|problem| problem.to_string())
            .chain(self.table_problems())
            .collect()
    }

    /// Slices whose Service does not exist.
    pub fn orphaned_slices(&self) -> Vec<String> {
        let problems = self.planner.problems().into_iter();
        let orphaned_slices = problems.filter(|problem| problem.reason == Reason::ServiceMissing);
        orphaned_slices.map(|problem| problem.name.to_string()).collect()
    }

    pub fn table_problems(&self) -> Vec<String> {
        self.reconciler.problems().into_iter().map(|problem| problem.message).collect()
    }
}

fn object_name(kind: Kind, name: &str) -> ObjectName {
    match kind {
        Kind::Node | Kind::Namespace => ObjectName::cluster(name),
        _ => named(name),
    }
}

/// `namespace/name`, or a name in `default`.
pub fn named(name: &str) -> ObjectName {
    let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
    ObjectName::new(namespace, name)
}

/// Any object, so that `apply` accepts every kind.
pub struct Fact(pub Object);

impl From<Node> for Fact {
    fn from(node: Node) -> Fact {
        Fact(Object::Node(node))
    }
}
impl From<Service> for Fact {
    fn from(service: Service) -> Fact {
        Fact(Object::Service(service))
    }
}
impl From<EndpointSlice> for Fact {
    fn from(slice: EndpointSlice) -> Fact {
        Fact(Object::EndpointSlice(slice))
    }
}
impl From<Pod> for Fact {
    fn from(pod: Pod) -> Fact {
        Fact(Object::Pod(pod))
    }
}
impl From<Object> for Fact {
    fn from(object: Object) -> Fact {
        Fact(object)
    }
}

/// `node("node-2", "172.30.0.12 fd00:172:30::12", "10.244.2.0/24")`.
pub fn node(name: &str, ips: &str, cidrs: &str) -> Node {
    Node {
        name: name.into(),
        internal_ips: ips.split_whitespace().map(ip).collect(),
        external_ips: Vec::new(),
        pod_cidrs: cidrs.split_whitespace().map(|cidr| cidr.parse().expect("a CIDR")).collect(),
        zone: None,
        leaving: false,
    }
}

/// Node `n` of the lab.
pub fn lab_node(n: u32) -> Node {
    node(
        &format!("node-{n}"),
        &format!("172.30.0.{} fd00:172:30::{}", 10 + n, 10 + n),
        &format!("10.244.{n}.0/24 fd00:10:244:{n}::/64"),
    )
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// `service("web", "10.96.0.10 fd00:10:96::10", "http:80 dns:53/UDP")`; with a
/// nodePort `http:80+30080`, and the Service is of type NodePort.
pub fn service(name: &str, ips: &str, ports: &str) -> Service {
    let has_node_port = ports.contains('+');
    Service {
        name: named(name),
        service_type: if has_node_port { ServiceType::NodePort } else { ServiceType::ClusterIp },
        cluster_ips: ips.split_whitespace().map(ip).collect(),
        ports: ports.split_whitespace().map(service_port).collect(),
        affinity_s: None,
        internal_local: false,
        publish_not_ready: false,
        load_balancer_ips: vec![],
        external_ips: vec![],
        external_local: false,
        health_check_node_port: 0,
        source_ranges: SourceRanges::default(),
        foreign: false,
        algorithm: None,
    }
}

/// Turns a Service into type LoadBalancer.
pub fn balanced(mut service: Service, ips: &str, ranges: &str) -> Service {
    service.service_type = ServiceType::LoadBalancer;
    service.load_balancer_ips = ips.split_whitespace().map(ip).collect();
    for range in ranges.split_whitespace() {
        match range.parse() {
            Ok(range) => service.source_ranges.ranges.push(range),
            Err(_) => service.source_ranges.malformed = true,
        }
    }
    service
}

/// `host_pod("web-1", "10.244.1.5", "8080>80 192.0.2.1:53>53/UDP")`: hostPorts
/// before `>`, container ports behind it.
pub fn host_pod(name: &str, ips: &str, ports: &str) -> Pod {
    let ports = ports.split_whitespace().map(|text| {
        let (host, rest) = text.split_once('>').expect("hostPort>containerPort");
        let (host_ip, host_port) = match host.rsplit_once(':') {
            Some((host_ip, host_port)) => (Some(ip(host_ip.trim_matches(['[', ']']))), host_port),
            None => (None, host),
        };
        let (_, container_port, protocol) = parse_port(rest);
        HostPort { host_ip, host_port: host_port.parse().expect("a port"), container_port, protocol }
    });
    Pod {
        name: named(name),
        uid: name.into(),
        node: Some("node-1".into()),
        ips: ips.split_whitespace().map(ip).collect(),
        host_network: false,
        labels: Default::default(),
        finished: false,
        host_ports: ports.collect(),
        packets_only: false,
    }
}

fn parse_port(text: &str) -> (String, u16, Protocol) {
    let (name, rest) = text.split_once(':').unwrap_or(("", text));
    let (number, protocol) = match rest.split_once('/') {
        Some((number, "UDP")) => (number, Protocol::Udp),
        Some((number, "SCTP")) => (number, Protocol::Sctp),
        _ => (rest, Protocol::Tcp),
    };
    (name.into(), number.parse().expect("a port"), protocol)
}

fn service_port(text: &str) -> ServicePort {
    let (text, node_port) = match text.split_once('+') {
        Some((text, rest)) => {
            let (number, protocol) = rest.split_once('/').map_or((rest, ""), |(number, p)| (number, p));
            let text = if protocol.is_empty() { text.to_owned() } else { format!("{text}/{protocol}") };
            (text, number.parse().expect("a nodePort"))
        }
        None => (text.to_owned(), 0),
    };
    let (name, port, protocol) = parse_port(&text);
    ServicePort { name, protocol, port, node_port }
}

/// `slice("web-1", "web", "http:8080", "10.244.1.5@node-1 10.244.2.5@node-2!not-ready")`.
/// Marks: `!not-ready`, `!draining` (terminating, still serving), `!dead`;
/// hints `#zone-a,zone-b` for zones and `%node-1` for nodes.
pub fn slice(name: &str, service: &str, ports: &str, endpoints: &str) -> EndpointSlice {
    let endpoints: Vec<Endpoint> = endpoints.split_whitespace().map(endpoint).collect();
    EndpointSlice {
        name: named(name),
        service: service.into(),
        ipv6: endpoints.first().is_some_and(|endpoint| endpoint.ip.is_ipv6()),
        ports: ports.split_whitespace().map(slice_port).collect(),
        endpoints,
        weight: 1,
    }
}

fn slice_port(text: &str) -> EndpointPort {
    let (name, port, protocol) = parse_port(text);
    EndpointPort { name, protocol, port: Some(port) }
}

fn endpoint(text: &str) -> Endpoint {
    let list = |text: &str| text.split(',').map(str::to_owned).collect();
    let (text, node_hints) = text.split_once('%').map_or((text, vec![]), |(text, hints)| (text, list(hints)));
    let (text, zone_hints) = text.split_once('#').map_or((text, vec![]), |(text, hints)| (text, list(hints)));
    let (text, mark) = text.split_once('!').unwrap_or((text, "ready"));
    let (address, node) = match text.split_once('@') {
        Some((address, node)) => (address, Some(node.to_owned())),
        None => (text, None),
    };
    let (ready, serving, terminating) = match mark {
        "ready" => (true, true, false),
        "not-ready" => (false, false, false),
        "draining" => (false, true, true),
        "dead" => (false, false, true),
        other => panic!("unknown mark {other}"),
    };
    Endpoint {
        ip: ip(address),
        ready,
        serving,
        terminating,
        node,
        zone: None,
        pod: None,
        zone_hints,
        node_hints,
    }
}

pub fn pod(ifindex: u32) -> EndpointValue {
    EndpointValue { ifindex, id: ifindex, ..EndpointValue::default() }
}
