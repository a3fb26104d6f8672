//! Operations on nodes: power on and off, link changes, adding and removing
//! nodes. One operation runs at a time.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use beeline_kernel::bpffs;
use beeline_lab_kubelet::kubelet;
use beeline_lab_kubelet::node::{Kubelet, KubeletNode};
use beeline_lab_kubelet::plugin::Plugin;
use beeline_lab_net::address::{self, Pair};
use beeline_lab_net::link::{self, Link};
use beeline_lab_net::paths::{LabPaths, NodePaths, PodPaths};
use beeline_lab_net::record::{HostRecord, LabRecord, write_json, write_whole};
use beeline_lab_net::{cgroup, mounts, topology};
use futures::future::try_join_all;
use kube::api::Api;

use super::agents::{Agent, AgentConfig};
use super::lab::Lab;
use super::node_set::{NodeSet, RunningNode};
use super::{node_lifecycle, nodes};
use crate::protocol::NodeAction;

/// Timeout for the agent of a starting node.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Entries of a node's directory that survive a power-off.
const DISK: [&str; 5] = ["state", "disk", "values.yaml", "cni.json", "agent.log"];

/// The agent of an existing node that is powered on.
pub fn agent(lab: &Lab, node: &str) -> Result<Arc<Agent>> {
    number(lab, node)?;
    let agent = lab.agents().remove(node);
    agent.with_context(|| format!("{node} and its agent are powered off; start the node with node-start"))
}

/// Creates the cgroups of a node and returns its record.
pub fn node_record(paths: &LabPaths, lab_cgroup: &Path, node: &str, addresses: Pair) -> Result<HostRecord> {
    let cgroup = lab_cgroup.join(node);
    for part in ["agent", "pods", "host"] {
        cgroup::create(&cgroup.join(part))?;
    }
    HostRecord::create(paths.node(node).netns(), cgroup, Some(addresses))
}

/// Starts every node of a new lab.
pub async fn start_all(lab: &Lab, timeout: Duration) -> Result<()> {
    let mut node_set = lab.node_set.lock().await;
    for node in lab.record().nodes.keys() {
        let running = power_on(lab, node)?;
        node_set.running.insert(node.clone(), running);
    }
    let ready = node_set.running.values_mut().map(|running| become_ready(lab, running, timeout));
    try_join_all(ready).await.map(|_| ())
}

/// Performs an operation on a node and waits until it is complete.
pub async fn act(lab: &Lab, node: &str, action: NodeAction) -> Result<String> {
    let mut node_set = lab.node_set.lock().await;
    let begin = Instant::now();
    match action {
        NodeAction::Stop => stop(lab, &mut node_set, node).await?,
        NodeAction::Start => start(lab, &mut node_set, node).await?,
        NodeAction::Add => add(lab, &mut node_set, node).await?,
        NodeAction::Remove => remove(lab, &mut node_set, node).await?,
    }
    let done = match action {
        NodeAction::Stop => "is powered off",
        NodeAction::Start => "is powered on and Ready",
        NodeAction::Add => "was added and is Ready",
        NodeAction::Remove => "was removed",
    };
    Ok(format!("{node} {done} ({:.1} s)", begin.elapsed().as_secs_f32()))
}

/// Changes a link of a node.
pub async fn change_link(lab: &Lab, node: &str, uplink: &str, change: &link::Change) -> Result<String> {
    let node_set = lab.node_set.lock().await;
    let number = number(lab, node)?;
    let record = lab.record();
    let at = uplink_number(&record, node, uplink)?;
    if at > 0 && change.moves() {
        bail!(
            "only {} can be moved to the network behind the router and back: omit --uplink",
            address::UPLINK
        );
    }
    let before = record.links[node][at as usize];
    let after = before.changed(change);
    let Some(running) = node_set.running.get(node) else {
        bail!("{node} is powered off; start it with node-start before changing its link");
    };
    let paths = lab.paths.clone();
    on_thread(move || link::apply(&paths, number, at, &before, &after)).await?;
    lab.change_record(|record| {
        if let Some(link) = record.links.get_mut(node).and_then(|links| links.get_mut(at as usize)) {
            *link = after;
        }
        if let Some(host) = record.nodes.get_mut(node).filter(|_| before.subnet != after.subnet) {
            host.addresses = address::node_on(number, after.subnet).addresses().to_vec();
        }
    })?;
    if before.subnet != after.subnet {
        let addresses = address::node_on(number, after.subnet);
        let ranges = pod_ranges(lab, node).await?;
        topology::add_pod_routes(&lab.paths, &ranges, number, after.subnet)?;
        running.kubelet.readdress(texts(&addresses.addresses()));
        let all = address::of_node(number, after.subnet, record.uplinks());
        nodes::write_addresses(&lab.client, node, &all).await?;
    }
    let words = after.describe();
    let at = if at == 0 { String::new() } else { format!(" at {uplink}") };
    Ok(format!("the link of {node}{at}: {}", if words.is_empty() { "default settings" } else { &words }))
}

async fn stop(lab: &Lab, node_set: &mut NodeSet, node: &str) -> Result<()> {
    number(lab, node)?;
    if !node_set.running.contains_key(node) {
        bail!("{node} is already powered off; start it with node-start");
    }
    power_off(lab, node_set, node).await?;
    let unreachable = tokio::spawn(node_lifecycle::mark_unreachable(lab.client.clone(), node.to_owned()));
    node_set.unreachable.insert(node.to_owned(), unreachable.abort_handle());
    Ok(())
}

async fn start(lab: &Lab, node_set: &mut NodeSet, node: &str) -> Result<()> {
    let number = number(lab, node)?;
    if node_set.running.contains_key(node) {
        bail!("{node} is already powered on; power it off with node-stop");
    }
    let links = lab.record().links.get(node).cloned().unwrap_or_default();
    let paths = lab.paths.clone();
    on_thread(move || {
        let subnet = links.first().map(|link| link.subnet).unwrap_or_default();
        topology::add_node(&paths, number, subnet, links.len() as u32)?;
        let mut each = (0u32..).zip(&links);
        each.try_for_each(|(uplink, link)| link::apply(&paths, number, uplink, &Link::on(link.subnet), link))
    })
    .await?;
    if let Some(unreachable) = node_set.unreachable.remove(node) {
        unreachable.abort();
    }
    boot(lab, node_set, node).await?;
    node_lifecycle::mark_reachable(&lab.client, node).await
}

async fn add(lab: &Lab, node_set: &mut NodeSet, node: &str) -> Result<()> {
    let Some(number) = address::node_number(node) else {
        bail!("invalid node name {node:?}: expected node-N, from node-1 to node-{}", address::NODES_MAX);
    };
    if lab.record().nodes.contains_key(node) {
        bail!("lab {} already has a node {node}", lab.name);
    }
    let (subnet, uplinks) = (Link::default().subnet, lab.record().uplinks());
    let addresses = address::of_node(number, subnet, uplinks);
    let paths = lab.paths.clone();
    on_thread(move || topology::add_node(&paths, number, subnet, uplinks)).await?;
    let host = node_record(&lab.paths, &lab.record().cgroup, node, addresses[0])?;
    lab.change_record(|record| {
        record.nodes.insert(node.to_owned(), host);
        record.links.insert(node.to_owned(), vec![Link::default(); uplinks as usize]);
    })?;
    nodes::register(&lab.client, node, addresses).await?;
    let ranges = nodes::pod_cidrs(&lab.client, &[node.to_owned()]).await?;
    topology::add_pod_routes(&lab.paths, &ranges[node], number, subnet)?;
    boot(lab, node_set, node).await
}

async fn remove(lab: &Lab, node_set: &mut NodeSet, node: &str) -> Result<()> {
    number(lab, node)?;
    if lab.record().nodes.len() == 1 {
        bail!("{node} is the only node; `down` removes the whole lab");
    }
    let ranges = pod_ranges(lab, node).await?;
    if node_set.running.contains_key(node) {
        power_off(lab, node_set, node).await?;
    }
    if let Some(unreachable) = node_set.unreachable.remove(node) {
        unreachable.abort();
    }
    node_lifecycle::delete_node(&lab.client, node).await?;
    topology::remove_pod_routes(&lab.paths, &ranges)?;
    let directory = lab.paths.node(node).root().to_owned();
    std::fs::remove_dir_all(&directory).with_context(|| format!("cannot remove {}", directory.display()))?;
    lab.change_record(|record| {
        record.nodes.remove(node);
        record.links.remove(node);
    })
}

/// The number of an existing node.
fn number(lab: &Lab, node: &str) -> Result<u32> {
    let record = lab.record();
    let number = address::node_number(node).filter(|_| record.nodes.contains_key(node));
    number.with_context(|| {
        let nodes: Vec<&str> = record.nodes.keys().map(String::as_str).collect();
        format!("lab {} has no node {node:?}; it has {}", lab.name, nodes.join(", "))
    })
}

/// The number of an existing uplink of a node.
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

/// Powers on a node whose network namespace exists, and waits until it is
/// Ready.
async fn boot(lab: &Lab, node_set: &mut NodeSet, node: &str) -> Result<()> {
    let mut running = power_on(lab, node)?;
    let ready = become_ready(lab, &mut running, START_TIMEOUT).await;
    node_set.running.insert(node.to_owned(), running);
    ready
}

async fn become_ready(lab: &Lab, running: &mut RunningNode, timeout: Duration) -> Result<()> {
    let agent = running.agent.clone();
    let ready = agent.wait_ready(timeout).await;
    let reported = match &ready {
        Ok(()) => nodes::write_ready(&lab.client, agent.node(), Ok(())).await.is_ok(),
        Err(_) => false,
    };
    let follow = tokio::spawn(nodes::follow(lab.client.clone(), agent, reported));
    running.tasks.push(follow.abort_handle());
    ready
}

/// Starts what runs on a node: agent, kubelet, and the API listener on its
/// loopback.
fn power_on(lab: &Lab, node: &str) -> Result<RunningNode> {
    let record = lab.record();
    let (host, files) = (&record.nodes[node], lab.paths.node(node));
    for part in ["agent", "pods", "host"] {
        cgroup::create(&host.cgroup.join(part))?;
    }
    bpffs::mount(&files.bpffs())?;
    std::fs::create_dir_all(files.state()).context("cannot create the agent's directory")?;
    write_whole(&files.values(), record.shape.values.as_bytes(), 0o644)?;
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let api = lab.api.serve(topology::listen(&host.netns, loopback, record.api_port)?)?;
    let agent = Arc::new(Agent::start(AgentConfig {
        program: lab.programs.agent.clone(),
        cgroup: host.cgroup.clone(),
        node: node.to_owned(),
        paths: files.clone(),
        kubeconfig: lab.paths.kubeconfig(),
    }));
    lab.agents.write().unwrap_or_else(PoisonError::into_inner).insert(node.to_owned(), agent.clone());
    let kubelet = Arc::new(new_kubelet(lab, node, host, &files)?);
    let task = tokio::spawn(kubelet::run(kubelet.clone())).abort_handle();
    Ok(RunningNode { agent, kubelet, api, tasks: vec![task] })
}

fn new_kubelet(lab: &Lab, node: &str, host: &HostRecord, files: &NodePaths) -> Result<Kubelet> {
    let plugin = Plugin {
        program: lab.programs.plugin.clone(),
        socket: files.socket(),
        netns: host.netns.clone(),
        cgroup: host.cgroup.join("host"),
    };
    write_json(&files.cni_config(), &plugin.config())?;
    let node_now = KubeletNode {
        addresses: texts(&host.addresses),
        netns: host.netns.clone(),
        pods_cgroup: host.cgroup.join("pods"),
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

/// Removes everything of the node that is not on its disk, without a shutdown.
async fn power_off(lab: &Lab, node_set: &mut NodeSet, node: &str) -> Result<()> {
    let pods = node_lifecycle::pods_of(&lab.client, node).await?;
    let pods: Vec<PodPaths> = pods.iter().map(|(namespace, name)| lab.paths.pod(namespace, name)).collect();
    lab.agents.write().unwrap_or_else(PoisonError::into_inner).remove(node);
    node_set.running.remove(node);
    let (files, cgroup) = (lab.paths.node(node), lab.record().nodes[node].cgroup.clone());
    let (number, uplinks, paths) = (number(lab, node)?, lab.record().uplinks(), lab.paths.clone());
    on_thread(move || {
        // Kill the processes first: they would notice that the rest
        // disappears.
        cgroup::remove(&cgroup)?;
        topology::unplug(&paths, number, uplinks)?;
        pods.iter().try_for_each(remove_pod_sandbox)?;
        unmount_below(files.root())?;
        remove_all_but_disk(&files)
    })
    .await
    .with_context(|| format!("cannot power off {node}"))
}

/// Removes the network namespace; the record and logs stay, as with a
/// container runtime.
fn remove_pod_sandbox(pod: &PodPaths) -> Result<()> {
    unmount_below(pod.root())?;
    remove_if_there(&pod.netns())
}

fn unmount_below(directory: &Path) -> Result<()> {
    match mounts::unmount_below(directory).into_iter().next() {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

fn remove_all_but_disk(files: &NodePaths) -> Result<()> {
    let entries = std::fs::read_dir(files.root()).context("cannot list the node's directory")?;
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

/// Runs blocking work outside the async runtime's threads.
async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.context("a worker thread panicked")?
}
