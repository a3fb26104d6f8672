//! The nodes as machines: their power, their cables, those that join and
//! leave. One operation at a time.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use beeline_kernel::bpffs;
use futures::future::try_join_all;
use kube::api::Api;
use tokio::task::AbortHandle;

use super::agents::{Agent, AgentConfig};
use super::control_plane::Front;
use super::kubelet::{self, Kubelet, KubeletNode};
use super::lifecycle;
use super::plugin::Plugin;
use super::{Lab, nodes};
use crate::address::{self, Pair};
use crate::link::{self, Link};
use crate::paths::{LabPaths, NodePaths, PodPaths};
use crate::protocol::MachineAction;
use crate::record::{LabRecord, PlaceRecord, write_json, write_whole};
use crate::{cgroup, mounts, topology};

/// How long the agent of a node that starts may take.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// What of a node's folder is on its disk; the rest is gone without power.
const DISK: [&str; 5] = ["state", "disk", "values.yaml", "cni.json", "agent.log"];

/// What runs on the nodes, and what is done about those that are off.
#[derive(Default)]
pub struct Machines {
    on: BTreeMap<String, Power>,
    /// What the control plane does about nodes that it does not hear of.
    missed: BTreeMap<String, AbortHandle>,
}

/// A node that has power: what the daemon runs for it.
struct Power {
    agent: Arc<Agent>,
    kubelet: Arc<Kubelet>,
    api: Front,
    tasks: Vec<AbortHandle>,
}

impl Drop for Power {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
        self.agent.cut_power();
        // Its socket would keep the node's namespace.
        self.api.stop();
    }
}

/// The agent of a node that must exist and have power.
pub fn agent(lab: &Lab, node: &str) -> Result<Arc<Agent>> {
    number(lab, node)?;
    let agent = lab.agents().remove(node);
    agent.with_context(|| format!("{node} is switched off, and its agent with it; start it with node-start"))
}

/// Makes the cgroups of a node; hands back its record.
pub fn place(paths: &LabPaths, lab_cgroup: &Path, node: &str, addresses: Pair) -> Result<PlaceRecord> {
    let cgroup = lab_cgroup.join(node);
    for part in ["agent", "pods", "host"] {
        cgroup::create(&cgroup.join(part))?;
    }
    topology::place(paths.node(node).netns(), cgroup, Some(addresses))
}

/// Starts every node of a new lab.
pub async fn start_all(lab: &Lab, timeout: Duration) -> Result<()> {
    let mut machines = lab.machines.lock().await;
    for node in lab.record().nodes.keys() {
        let power = switch_on(lab, node)?;
        machines.on.insert(node.clone(), power);
    }
    let ready = machines.on.values_mut().map(|power| become_ready(lab, power, timeout));
    try_join_all(ready).await.map(|_| ())
}

/// Stops, starts, adds or removes a node; returns once that has happened.
pub async fn act(lab: &Lab, node: &str, action: MachineAction) -> Result<String> {
    let mut machines = lab.machines.lock().await;
    let begin = Instant::now();
    match action {
        MachineAction::Stop => stop(lab, &mut machines, node).await?,
        MachineAction::Start => start(lab, &mut machines, node).await?,
        MachineAction::Add => add(lab, &mut machines, node).await?,
        MachineAction::Remove => remove(lab, &mut machines, node).await?,
    }
    let done = match action {
        MachineAction::Stop => "is switched off",
        MachineAction::Start => "is Ready again",
        MachineAction::Add => "has joined and is Ready",
        MachineAction::Remove => "is removed",
    };
    Ok(format!("{node} {done} ({:.1} s)", begin.elapsed().as_secs_f32()))
}

/// Changes a node's cable.
pub async fn change_link(lab: &Lab, node: &str, uplink: &str, change: &link::Change) -> Result<String> {
    let machines = lab.machines.lock().await;
    let number = number(lab, node)?;
    let record = lab.record();
    let at = uplink_number(&record, node, uplink)?;
    if at > 0 && change.moves() {
        bail!("only {} moves to the network behind the router and back: leave --uplink out", address::UPLINK);
    }
    let before = record.links[node][at as usize];
    let after = before.changed(change);
    let Some(power) = machines.on.get(node) else {
        bail!("{node} is switched off; start it with node-start before its link is changed");
    };
    let paths = lab.paths.clone();
    on_thread(move || link::apply(&paths, number, at, &before, &after)).await?;
    lab.change_record(|record| {
        if let Some(link) = record.links.get_mut(node).and_then(|links| links.get_mut(at as usize)) {
            *link = after;
        }
        if let Some(place) = record.nodes.get_mut(node).filter(|_| before.side != after.side) {
            place.addresses = address::node_on(number, after.side).addresses().to_vec();
        }
    })?;
    if before.side != after.side {
        let addresses = address::node_on(number, after.side);
        let ranges = pod_ranges(lab, node).await?;
        topology::route_to_pods(&lab.paths, &ranges, number, after.side)?;
        power.kubelet.readdress(texts(&addresses.addresses()));
        let all = address::of_node(number, after.side, record.uplinks());
        nodes::write_addresses(&lab.client, node, &all).await?;
    }
    let words = after.describe();
    let at = if at == 0 { String::new() } else { format!(" at {uplink}") };
    Ok(format!("the link of {node}{at}: {}", if words.is_empty() { "as it was made" } else { &words }))
}

async fn stop(lab: &Lab, machines: &mut Machines, node: &str) -> Result<()> {
    number(lab, node)?;
    if !machines.on.contains_key(node) {
        bail!("{node} is switched off already; start it with node-start");
    }
    cut_power(lab, machines, node).await?;
    let missed = tokio::spawn(lifecycle::missed(lab.client.clone(), node.to_owned()));
    machines.missed.insert(node.to_owned(), missed.abort_handle());
    Ok(())
}

async fn start(lab: &Lab, machines: &mut Machines, node: &str) -> Result<()> {
    let number = number(lab, node)?;
    if machines.on.contains_key(node) {
        bail!("{node} has power already; node-stop cuts it");
    }
    let links = lab.record().links.get(node).cloned().unwrap_or_default();
    let paths = lab.paths.clone();
    on_thread(move || {
        let side = links.first().map(|link| link.side).unwrap_or_default();
        topology::add_node(&paths, number, side, links.len() as u32)?;
        let mut each = (0u32..).zip(&links);
        each.try_for_each(|(uplink, link)| link::apply(&paths, number, uplink, &Link::on(link.side), link))
    })
    .await?;
    if let Some(missed) = machines.missed.remove(node) {
        missed.abort();
    }
    boot(lab, machines, node).await?;
    lifecycle::heard_again(&lab.client, node).await
}

async fn add(lab: &Lab, machines: &mut Machines, node: &str) -> Result<()> {
    let Some(number) = address::node_number(node) else {
        bail!("{node:?} is no name for a node: write node-N, from node-1 to node-{}", address::NODES_MAX);
    };
    if lab.record().nodes.contains_key(node) {
        bail!("lab {} has a node {node} already", lab.name);
    }
    let (side, uplinks) = (Link::default().side, lab.record().uplinks());
    let addresses = address::of_node(number, side, uplinks);
    let paths = lab.paths.clone();
    on_thread(move || topology::add_node(&paths, number, side, uplinks)).await?;
    let place = place(&lab.paths, &lab.record().cgroup, node, addresses[0])?;
    lab.change_record(|record| {
        record.nodes.insert(node.to_owned(), place);
        record.links.insert(node.to_owned(), vec![Link::default(); uplinks as usize]);
    })?;
    nodes::register(&lab.client, node, addresses).await?;
    let ranges = nodes::pod_cidrs(&lab.client, &[node.to_owned()]).await?;
    topology::route_to_pods(&lab.paths, &ranges[node], number, side)?;
    boot(lab, machines, node).await
}

async fn remove(lab: &Lab, machines: &mut Machines, node: &str) -> Result<()> {
    number(lab, node)?;
    if lab.record().nodes.len() == 1 {
        bail!("{node} is the only node; `down` removes the whole lab");
    }
    let ranges = pod_ranges(lab, node).await?;
    if machines.on.contains_key(node) {
        cut_power(lab, machines, node).await?;
    }
    if let Some(missed) = machines.missed.remove(node) {
        missed.abort();
    }
    lifecycle::forget(&lab.client, node).await?;
    topology::forget_pods(&lab.paths, &ranges)?;
    let folder = lab.paths.node(node).root().to_owned();
    std::fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    lab.change_record(|record| {
        record.nodes.remove(node);
        record.links.remove(node);
    })
}

/// The number of a node that must exist.
fn number(lab: &Lab, node: &str) -> Result<u32> {
    let record = lab.record();
    let number = address::node_number(node).filter(|_| record.nodes.contains_key(node));
    number.with_context(|| {
        let nodes: Vec<&str> = record.nodes.keys().map(String::as_str).collect();
        format!("lab {} has no node {node:?}; it has {}", lab.name, nodes.join(", "))
    })
}

/// The number of a device that must be one of the node's uplinks.
fn uplink_number(record: &LabRecord, node: &str, device: &str) -> Result<u32> {
    let all = 0..record.links.get(node).map_or(0, |links| links.len() as u32);
    let found = all.clone().find(|number| address::uplink(*number) == device);
    found.with_context(|| {
        let uplinks: Vec<String> = all.map(address::uplink).collect();
        format!(
            "{node} has no uplink {device:?}; it has {} (`up --uplinks N` makes several)",
            uplinks.join(", ")
        )
    })
}

async fn pod_ranges(lab: &Lab, node: &str) -> Result<Vec<ipnet::IpNet>> {
    let object = Api::all(lab.client.clone()).get_opt(node).await;
    let object = object.with_context(|| format!("cannot read the Node object of {node}"))?;
    Ok(object.as_ref().map(nodes::cidrs).unwrap_or_default())
}

/// Switches a node on whose namespace stands, and waits until it is Ready.
async fn boot(lab: &Lab, machines: &mut Machines, node: &str) -> Result<()> {
    let mut power = switch_on(lab, node)?;
    let ready = become_ready(lab, &mut power, START_TIMEOUT).await;
    machines.on.insert(node.to_owned(), power);
    ready
}

async fn become_ready(lab: &Lab, power: &mut Power, timeout: Duration) -> Result<()> {
    let agent = power.agent.clone();
    let ready = agent.wait_ready(timeout).await;
    let told = match &ready {
        Ok(()) => nodes::write_ready(&lab.client, agent.node(), Ok(())).await.is_ok(),
        Err(_) => false,
    };
    let follow = tokio::spawn(nodes::follow(lab.client.clone(), agent, told));
    power.tasks.push(follow.abort_handle());
    ready
}

/// Starts what runs on a node: its agent, its kubelet, its way to the API.
fn switch_on(lab: &Lab, node: &str) -> Result<Power> {
    let record = lab.record();
    let (place, files) = (&record.nodes[node], lab.paths.node(node));
    for part in ["agent", "pods", "host"] {
        cgroup::create(&place.cgroup.join(part))?;
    }
    bpffs::mount(&files.bpffs())?;
    std::fs::create_dir_all(files.state()).context("cannot create the agent's folder")?;
    write_whole(&files.values(), record.shape.values.as_bytes(), 0o644)?;
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let api = lab.api.serve(topology::listen(&place.netns, loopback, record.api_port)?)?;
    let agent = Arc::new(Agent::start(AgentConfig {
        program: lab.programs.agent.clone(),
        cgroup: place.cgroup.clone(),
        node: node.to_owned(),
        paths: files.clone(),
        kubeconfig: lab.paths.kubeconfig(),
    }));
    lab.agents.write().unwrap_or_else(PoisonError::into_inner).insert(node.to_owned(), agent.clone());
    let kubelet = Arc::new(new_kubelet(lab, node, place, &files)?);
    let task = tokio::spawn(kubelet::run(kubelet.clone())).abort_handle();
    Ok(Power { agent, kubelet, api, tasks: vec![task] })
}

fn new_kubelet(lab: &Lab, node: &str, place: &PlaceRecord, files: &NodePaths) -> Result<Kubelet> {
    let plugin = Plugin {
        program: lab.programs.plugin.clone(),
        socket: files.socket(),
        netns: place.netns.clone(),
        cgroup: place.cgroup.join("host"),
    };
    write_json(&files.cni_config(), &plugin.config())?;
    let node_now = KubeletNode {
        addresses: texts(&place.addresses),
        netns: place.netns.clone(),
        pods_cgroup: place.cgroup.join("pods"),
        plugin,
    };
    Ok(Kubelet {
        client: lab.client.clone(),
        paths: lab.paths.clone(),
        name: node.to_owned(),
        node: node_now.into(),
        images: lab.record().shape.images,
        own: lab.programs.own.clone(),
        shared: lab.pods.clone(),
    })
}

fn texts(addresses: &[IpAddr]) -> Vec<String> {
    addresses.iter().map(ToString::to_string).collect()
}

/// Everything of the node that is not on its disk is gone, at once, and
/// nobody was asked.
async fn cut_power(lab: &Lab, machines: &mut Machines, node: &str) -> Result<()> {
    let pods = lifecycle::pods_of(&lab.client, node).await?;
    let pods: Vec<PodPaths> = pods.iter().map(|(namespace, name)| lab.paths.pod(namespace, name)).collect();
    lab.agents.write().unwrap_or_else(PoisonError::into_inner).remove(node);
    machines.on.remove(node);
    let (files, cgroup) = (lab.paths.node(node), lab.record().nodes[node].cgroup.clone());
    let (number, uplinks, paths) = (number(lab, node)?, lab.record().uplinks(), lab.paths.clone());
    on_thread(move || {
        // Processes first: they would see the rest vanish.
        cgroup::remove(&cgroup)?;
        topology::unplug(&paths, number, uplinks)?;
        pods.iter().try_for_each(vanish_pod)?;
        unmount_below(files.root())?;
        keep_disk(&files)
    })
    .await
    .with_context(|| format!("cannot cut the power of {node}"))
}

/// Its namespace goes; its record and logs stay, as a runtime keeps them.
fn vanish_pod(pod: &PodPaths) -> Result<()> {
    unmount_below(pod.root())?;
    remove_if_there(&pod.netns())
}

fn unmount_below(folder: &Path) -> Result<()> {
    match mounts::unmount_below(folder).into_iter().next() {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

fn keep_disk(files: &NodePaths) -> Result<()> {
    let entries = std::fs::read_dir(files.root()).context("cannot list the node's folder")?;
    for entry in entries.flatten() {
        if !DISK.iter().any(|kept| entry.file_name() == *kept) {
            remove_if_there(&entry.path())?;
        }
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Blocking work, away from the runtime's threads.
async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.context("a thread of the lab panicked")?
}
