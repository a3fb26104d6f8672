//! The engine with tables in memory and a simulated host.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use beeline_abi::GATEWAY_MAC;
use beeline_abi::config::ConfigValue;
use beeline_abi::counter::CounterValue;
use beeline_abi::maps::programs;
use beeline_api::{ApiError, Attachment, ErrorKind};
use beeline_kernel::datapath::AttachedProgram;
use beeline_kernel::kube_proxy::{Family, Rules};
use beeline_kernel::netlink::{Link as Device, Route};
use beeline_model::{
    Change, EndpointSlice, Kind, Node, Object, Problem, Reason, Service, ServicePort, ServiceType,
};
use beeline_source::{Origin, ProblemChanges, VersionEvent};
use beeline_sync::Tables;
use beeline_sync::memory::MemoryTables;
use tempfile::TempDir;

use super::*;
use crate::endpoints::{Link, PodReference};
use crate::host::{Action, Observed};
use crate::options::Options;

/// State that outlives an engine, and a log of the actions.
#[derive(Default)]
struct Machine {
    tables: MemoryTables,
    attached: Vec<AttachedProgram>,
    config: ConfigValue,
    observed: Observed,
    sysctls: BTreeMap<String, String>,
    log: Vec<String>,
    refuse_attach: bool,
    kube_proxy: Vec<Rules>,
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Machine>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Machine> {
        self.0.lock().unwrap()
    }
}

/// The tables are moved into the engine while it runs.
struct MemoryDatapath {
    tables: MemoryTables,
    machine: Shared,
}

impl Drop for MemoryDatapath {
    fn drop(&mut self) {
        self.machine.lock().tables = std::mem::take(&mut self.tables);
    }
}

impl Datapath for MemoryDatapath {
    fn tables(&mut self) -> &mut dyn Tables {
        &mut self.tables
    }

    fn attach_pod(&mut self, ifindex: u32) -> anyhow::Result<()> {
        let mut machine = self.machine.lock();
        anyhow::ensure!(!machine.refuse_attach, "the kernel refuses");
        machine.log.push(format!("attach {ifindex}"));
        for program in [programs::FROM_POD, programs::TO_POD] {
            machine.attached.push(AttachedProgram { ifindex, program });
        }
        Ok(())
    }

    fn attach_uplink(&mut self, ifindex: u32) -> anyhow::Result<()> {
        let mut machine = self.machine.lock();
        machine.log.push(format!("attach {ifindex}"));
        machine.attached.push(AttachedProgram { ifindex, program: programs::FROM_UPLINK });
        Ok(())
    }

    fn detach(&mut self, ifindex: u32) -> anyhow::Result<()> {
        let mut machine = self.machine.lock();
        machine.log.push(format!("detach {ifindex}"));
        machine.attached.retain(|attached| attached.ifindex != ifindex);
        Ok(())
    }

    fn attached(&self) -> Vec<AttachedProgram> {
        self.machine.lock().attached.clone()
    }

    fn repair(&mut self) -> anyhow::Result<usize> {
        Ok(0)
    }

    fn set_config(&mut self, config: &ConfigValue) -> anyhow::Result<()> {
        let mut machine = self.machine.lock();
        machine.log.push("config".to_owned());
        machine.config = *config;
        Ok(())
    }

    fn config(&self) -> anyhow::Result<ConfigValue> {
        Ok(self.machine.lock().config)
    }

    fn counters(&self) -> anyhow::Result<Vec<CounterValue>> {
        Ok(Vec::new())
    }

    fn memory_bytes(&self) -> anyhow::Result<Vec<(&'static str, u64)>> {
        Ok(Vec::new())
    }

    fn remove_other_layouts(&mut self) -> anyhow::Result<Vec<u32>> {
        Ok(Vec::new())
    }
}

impl Host for Shared {
    fn observe(&mut self) -> anyhow::Result<Observed> {
        Ok(self.lock().observed.clone())
    }

    fn link(&mut self, name: &str) -> anyhow::Result<Option<Device>> {
        Ok(self.lock().observed.links.iter().find(|link| link.name == name).cloned())
    }

    fn act(&mut self, action: &Action) -> anyhow::Result<()> {
        let mut machine = self.lock();
        machine.log.push(action.to_string());
        crate::host::desired::perform(&mut machine.observed, std::slice::from_ref(action));
        Ok(())
    }

    fn sysctl(&self, name: &str) -> anyhow::Result<Option<String>> {
        Ok(self.lock().sysctls.get(name).cloned())
    }

    fn set_sysctl(&mut self, name: &str, value: &str) -> anyhow::Result<()> {
        self.lock().log.push(format!("{name}={value}"));
        self.lock().sysctls.insert(name.to_owned(), value.to_owned());
        Ok(())
    }

    fn kube_proxy_rules(&self) -> anyhow::Result<Vec<Rules>> {
        Ok(self.lock().kube_proxy.clone())
    }

    fn translated_connections(&self) -> anyhow::Result<usize> {
        Ok(0)
    }
}

/// A node, across restarts of its agent.
struct World {
    machine: Shared,
    directory: TempDir,
}

impl World {
    fn new() -> World {
        let machine = Shared::default();
        {
            let mut machine = machine.lock();
            machine.observed.links.push(Device {
                index: 2,
                name: "eth0".into(),
                mtu: 1450,
                ..Device::default()
            });
            machine.observed.routes.push(Route::default_via("172.30.0.1".parse().unwrap(), 2));
            machine.sysctls.insert("net.ipv4.ip_forward".into(), "0".into());
        }
        World { machine, directory: tempfile::tempdir().unwrap() }
    }

    fn start(&self) -> Engine {
        let options = <Options as clap::Parser>::parse_from(["beeline-agent", "--node-name", "node-1"]);
        let tables = std::mem::take(&mut self.machine.lock().tables);
        Engine::start(Parts {
            configuration: crate::configuration::load(&options).unwrap(),
            state: StateDir::open(self.directory.path()).unwrap(),
            deletion_queue: self.directory.path().join("deleted"),
            datapath: Box::new(MemoryDatapath { tables, machine: self.machine.clone() }),
            host: Box::new(self.machine.clone()),
            sockets: None,
            netns_cookie: 7,
        })
        .unwrap()
    }

    /// Creates the host side of a veth as the plugin does.
    fn device(&self, index: u32, attachment: &Attachment) {
        let (name, kind) = (attachment.host_interface(), "veth".to_owned());
        self.machine.lock().observed.links.push(Device { index, name, kind, ..Device::default() });
    }

    fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.machine.lock().log)
    }
}

fn attachment(id: u32) -> Attachment {
    Attachment { container_id: format!("c{id}"), interface: "eth0".into() }
}

fn link(host_ifindex: u32) -> Link {
    Link { host_ifindex, pod_mac: [2, 0, 0, 0, 0, 1], netns_cookie: 9 }
}

fn update(change: Change, version_event: VersionEvent, origin: Origin) -> Update {
    Update { change: Some(change), problems: Vec::new(), version_event, origin }
}

/// A Service that cannot be decoded.
fn broken(name: &ObjectName) -> Update {
    let problem = Problem {
        kind: Kind::Service,
        name: name.clone(),
        reason: Reason::ObjectUnreadable,
        message: "cannot be read".into(),
    };
    Update { change: None, problems: vec![problem], version_event: VersionEvent::None, origin: Origin::Live }
}

/// A full listing of a cluster with this node and optionally a Service.
fn listing(with_service: bool, origin: Origin) -> Vec<Update> {
    let node = Node {
        name: "node-1".into(),
        internal_ips: vec!["172.30.0.11".parse().unwrap()],
        pod_cidrs: vec!["10.244.1.0/29".parse().unwrap()],
        zone: None,
        external_ips: Vec::new(),
        leaving: false,
    };
    let service = Service {
        name: ObjectName::new("default", "web"),
        service_type: ServiceType::ClusterIp,
        cluster_ips: vec!["10.96.0.10".parse().unwrap()],
        ports: vec![ServicePort {
            name: String::new(),
            protocol: beeline_model::Protocol::Tcp,
            port: 80,
            node_port: 0,
        }],
        affinity_s: None,
        internal_local: false,
        publish_not_ready: false,
        load_balancer_ips: Vec::new(),
        external_ips: Vec::new(),
        external_local: false,
        health_check_node_port: 0,
        source_ranges: Default::default(),
        foreign: false,
        algorithm: None,
    };
    let live = |event| if origin == Origin::Live { event } else { VersionEvent::None };
    let mut updates = Vec::new();
    for kind in Kind::ALL.iter().copied() {
        updates.push(update(Change::ResetStart(kind), live(VersionEvent::ListStart(kind)), origin));
        let object = match kind {
            Kind::Node => Some(Object::Node(node.clone())),
            Kind::Service if with_service => Some(Object::Service(service.clone())),
            _ => None,
        };
        if let Some(object) = object {
            let event = live(VersionEvent::applied(kind, &object.name(), 10));
            updates.push(update(Change::Apply(Box::new(object)), event, origin));
        }
        updates.push(update(Change::ResetEnd(kind), live(VersionEvent::ListEnd(kind)), origin));
    }
    updates
}

fn connect(world: &World, engine: &mut Engine, id: u32) -> Result<(), ApiError> {
    engine.allocate(&attachment(id), PodReference::default())?;
    world.device(10 + id, &attachment(id));
    engine.commit(&attachment(id), link(10 + id))
}

#[test]
fn unit_programs_are_attached_before_a_pods_device_goes_up() {
    let world = World::new();
    let mut engine = world.start();
    let refused = engine.allocate(&attachment(1), PodReference::default()).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::TryAgain, "{refused}");
    engine.apply(listing(false, Origin::Live));
    let allocation = engine.allocate(&attachment(1), PodReference::default()).unwrap();
    assert_eq!((allocation.mtu, allocation.host_mac), (1450, GATEWAY_MAC.to_string()));
    world.take_log();
    world.device(11, &attachment(1));
    engine.commit(&attachment(1), link(11)).unwrap();
    let log = world.take_log();
    let at = |what: &str| log.iter().position(|line| line.contains(what)).unwrap();
    assert!(at("attach 11") < at("up"), "{log:?}");
    assert_eq!(engine.reconciler.actual().endpoint.len(), 1);
}

#[test]
fn unit_a_commit_that_fails_leaves_nothing_and_can_be_repeated() {
    let world = World::new();
    let mut engine = world.start();
    engine.apply(listing(false, Origin::Live));
    world.machine.lock().refuse_attach = true;
    let error = connect(&world, &mut engine, 1).unwrap_err();
    assert!(error.message.contains("the kernel refuses") && error.message.contains("c1"), "{error}");
    assert!(engine.reconciler.actual().endpoint.is_empty());
    assert_eq!(engine.endpoints.get(&attachment(1)).unwrap().link, None);
    world.machine.lock().refuse_attach = false;
    engine.commit(&attachment(1), link(11)).unwrap();
    engine.check(&attachment(1)).unwrap();
    let wrong = engine.commit(&attachment(1), link(12)).unwrap_err();
    assert_eq!(wrong.kind, ErrorKind::Invalid, "{wrong}");
}

#[test]
fn unit_a_restart_changes_nothing_in_the_desired_state() {
    let world = World::new();
    let mut engine = world.start();
    engine.apply(listing(true, Origin::Live));
    connect(&world, &mut engine, 1).unwrap();
    drop(engine);
    world.take_log();
    let before = world.machine.lock().observed.clone();
    world.machine.lock().tables.start_log();
    let mut engine = world.start();
    engine.apply(listing(true, Origin::Live));
    engine.check_host();
    while !engine.compare_batch() {}
    engine.check(&attachment(1)).unwrap();
    drop(engine);
    assert_eq!(world.take_log(), [""; 0]);
    assert_eq!(world.machine.lock().tables.take_log(), []);
    assert_eq!(world.machine.lock().observed, before);
}

#[test]
fn unit_only_a_live_listing_removes_stale_entries() {
    let world = World::new();
    let mut engine = world.start();
    engine.apply(listing(true, Origin::Live));
    assert_eq!(engine.reconciler.actual().service.len(), 1);
    drop(engine);
    let mut engine = world.start();
    engine.apply(listing(false, Origin::Journal));
    assert_eq!(engine.reconciler.actual().service.len(), 1, "the journal may be older than the tables");
    assert!(engine.not_ready_reason().is_none() && !engine.is_synced_with(&[]));
    engine.apply(listing(false, Origin::Live));
    assert_eq!(engine.reconciler.actual().service.len(), 0);
    assert!(engine.is_synced_with(&[]));
}

#[test]
fn unit_a_queued_del_is_processed_once() {
    let world = World::new();
    let mut engine = world.start();
    engine.apply(listing(false, Origin::Live));
    connect(&world, &mut engine, 1).unwrap();
    connect(&world, &mut engine, 2).unwrap();
    let deletion_queue = world.directory.path().join("deleted");
    std::fs::create_dir(&deletion_queue).unwrap();
    let left = serde_json::to_vec(&attachment(1)).unwrap();
    std::fs::write(deletion_queue.join(attachment(1).file_name()), left).unwrap();
    std::fs::write(deletion_queue.join("garbage.json"), "{").unwrap();
    engine.tick();
    assert_eq!(std::fs::read_dir(&deletion_queue).unwrap().count(), 0);
    let left: Vec<_> = engine.endpoints.iter().map(|endpoint| endpoint.attachment.clone()).collect();
    assert_eq!(left, [attachment(2)]);
    engine.collect(&[]).unwrap();
    assert!(engine.reconciler.actual().endpoint.is_empty());
    assert!(world.machine.lock().observed.links.iter().all(|link| link.name == "eth0"));
}

#[test]
fn unit_problems_are_reported_by_object_and_removed_with_it() {
    let world = World::new();
    let mut engine = world.start();
    let name = ObjectName::new("default", "odd");
    engine.apply([broken(&name)]);
    assert!(engine.status(true).problems.iter().any(|text| text == "Service default/odd: cannot be read"));
    engine.apply([update(Change::Delete(Kind::Service, name), VersionEvent::None, Origin::Live)]);
    assert!(engine.status(true).problems.is_empty(), "{:?}", engine.status(true).problems);
}

#[test]
fn unit_problems_are_published_once_and_again_for_a_recreated_object() {
    let world = World::new();
    let mut engine = world.start();
    engine.apply(listing(true, Origin::Live));
    let changes = |engine: &mut Engine, after_s: u64| {
        engine.report_problems(Instant::now() + Duration::from_secs(after_s));
        engine.take_problem_changes().unwrap_or_default()
    };
    let names = |problems: &[Problem]| -> Vec<String> {
        problems.iter().map(|problem| format!("{} {}", problem.reason.name(), problem.name)).collect()
    };
    assert!(changes(&mut engine, 0).is_empty());
    let odd = ObjectName::new("default", "odd");
    engine.apply([broken(&odd)]);
    let ProblemChanges { resolved, added, nodes } = changes(&mut engine, 1);
    assert_eq!((names(&added), resolved, nodes), (vec!["ObjectUnreadable default/odd".into()], vec![], 1));
    assert!(changes(&mut engine, 2).is_empty(), "it lasts");

    // Deleted and recreated between two reports: a different object.
    engine.apply([
        update(Change::Delete(Kind::Service, odd.clone()), VersionEvent::None, Origin::Live),
        broken(&odd),
    ]);
    let again = changes(&mut engine, 3);
    assert_eq!((again.resolved.len(), again.added.len()), (1, 1));
    engine.apply([update(Change::Delete(Kind::Service, odd), VersionEvent::None, Origin::Live)]);
    let end = changes(&mut engine, 4);
    assert_eq!((end.resolved.len(), end.added.len()), (1, 0));

    // Problems of the node are reported on its Node, summarised over all peers.
    for number in 2..5 {
        let node = Node {
            name: format!("node-{number}"),
            internal_ips: vec![format!("192.0.2.{number}").parse().unwrap()],
            pod_cidrs: vec![format!("10.244.{number}.0/24").parse().unwrap()],
            zone: None,
            external_ips: Vec::new(),
            leaving: false,
        };
        let change = Change::Apply(Box::new(Object::Node(node)));
        engine.apply([update(change, VersionEvent::None, Origin::Live)]);
    }
    engine.host_problems.insert("no uplink".into());
    let changed = changes(&mut engine, 5);
    assert_eq!(names(&changed.added), ["NoDirectRoute node-1", "HostNetwork node-1"]);
    assert!(changed.added.iter().all(Problem::is_local));
    assert_eq!((changed.nodes, engine.status(true).problems.len()), (4, 3 + 1), "the status names each");
}

#[test]
fn unit_a_slice_may_be_without_its_service_for_a_moment() {
    let world = World::new();
    let mut engine = world.start();
    engine.apply(listing(false, Origin::Live));
    let slice = EndpointSlice {
        name: ObjectName::new("default", "web-x"),
        service: "web".into(),
        ipv6: false,
        ports: Vec::new(),
        endpoints: Vec::new(),
        weight: 1,
    };
    let change = Change::Apply(Box::new(Object::EndpointSlice(slice.clone())));
    engine.apply([update(change.clone(), VersionEvent::None, Origin::Live)]);
    let start = Instant::now();
    let added = |engine: &mut Engine, after_s: u64| {
        engine.report_problems(start + Duration::from_secs(after_s));
        engine.take_problem_changes().unwrap_or_default().added
    };
    assert_eq!(added(&mut engine, 0), []);
    assert_eq!(added(&mut engine, 9), []);
    let reported = added(&mut engine, 10);
    assert_eq!(reported.len(), 1, "{reported:?}");
    assert!(
        reported[0].reason == Reason::ServiceMissing && reported[0].message.contains("default/web"),
        "{reported:?}"
    );
    // The Service is created and deleted: the grace period restarts.
    engine.apply(listing(true, Origin::Live));
    engine.apply([update(change, VersionEvent::None, Origin::Live)]);
    assert_eq!(added(&mut engine, 11), []);
    engine.apply([update(
        Change::Delete(Kind::Service, ObjectName::new("default", "web")),
        VersionEvent::None,
        Origin::Live,
    )]);
    assert_eq!(added(&mut engine, 12), []);
    assert_eq!(added(&mut engine, 21), []);
    assert_eq!(added(&mut engine, 22).len(), 1);
}

#[test]
fn unit_while_kube_proxy_rules_exist_its_connections_are_left_to_the_host() {
    use beeline_abi::config::flags::TAKE_OVER;
    let world = World::new();
    world.machine.lock().kube_proxy = vec![Rules::Iptables(Family::Ipv4)];
    let mut engine = world.start();
    let active = || world.machine.lock().config.flags & TAKE_OVER != 0;
    assert!(active(), "before the first packet");
    let problems = engine.status(true).problems;
    assert!(problems.iter().any(|problem| problem.contains("kube-proxy --cleanup")), "{problems:?}");
    drop(engine);
    world.machine.lock().kube_proxy.clear();
    engine = world.start();
    assert!(!active(), "nobody translates any more");
    assert!(engine.status(true).problems.iter().all(|problem| !problem.contains("kube-proxy")));
}
