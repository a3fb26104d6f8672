//! From nothing to nodes that are Ready.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use beeline_apiserver::{ApiServer, Config};
use beeline_kernel::bpffs;
use futures::future::try_join_all;
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};

use super::agents::{Agent, AgentConfig};
use super::kubelet::{self, Kubelet, KubeletNode};
use super::plugin::Plugin;
use super::{Lab, nodes};
use crate::address::{self, CLIENT, CONTROL_PLANE, ROUTER};
use crate::paths::{LabName, LabPaths};
use crate::process::ProcessId;
use crate::programs::Programs;
use crate::record::{LabRecord, PlaceRecord, Shape, write_whole};
use crate::{cgroup, topology};

/// Builds a lab; its folder and its daemon's cgroup exist already.
pub async fn bring_up(
    name: &LabName,
    shape: Shape,
    timeout: Duration,
    progress: &dyn Fn(&str),
) -> Result<Lab> {
    let begin = Instant::now();
    let paths = LabPaths::new(name);
    let programs = Programs::find()?;
    let (record, listener) = first_record(name, &paths, &shape)?;
    let count = shape.nodes;
    let built = paths.clone();
    tokio::task::spawn_blocking(move || topology::build(&built, count)).await??;
    let nodes = if count == 1 { "1 node".to_owned() } else { format!("{count} nodes") };
    progress(&format!("{nodes}, a router, a client and their switch ({})", elapsed(begin)));

    let (api, client) = start_api(&record, listener, &paths).await?;
    progress(&format!("Kubernetes API on 127.0.0.1:{} ({})", record.api_port, elapsed(begin)));
    register_nodes(&client, &paths, count).await?;
    let agents = start_agents(&record, &paths, &programs)?;
    start_kubelet(&record, &paths, &programs, &client)?;
    try_join_all(agents.values().map(|agent| wait_ready(agent, timeout, &client))).await?;
    progress(&format!("every node is Ready ({})", elapsed(begin)));
    Ok(Lab { name: name.clone(), paths, api, client, agents })
}

/// Makes the Node objects, and tells the hosts outside the way to the pods.
async fn register_nodes(client: &Client, paths: &LabPaths, count: u32) -> Result<()> {
    try_join_all((1..=count).map(|number| nodes::register(client, number))).await?;
    let ranges = nodes::pod_cidrs(client, count).await?;
    for number in 1..=count {
        for host in ["client", "router", "control-plane"] {
            let ranges = &ranges[&address::node_name(number)];
            topology::route_to_pods(&paths.netns(host), ranges, number)?;
        }
    }
    Ok(())
}

fn elapsed(begin: Instant) -> String {
    format!("{:.1} s", begin.elapsed().as_secs_f32())
}

/// Makes the cgroups and the record, before anything that would have to be
/// found again; and listens for the API on this machine.
fn first_record(name: &LabName, paths: &LabPaths, shape: &Shape) -> Result<(LabRecord, TcpListener)> {
    let cgroup = cgroup::lab_cgroup(name, paths)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen on 127.0.0.1")?;
    let other = |name: &str, address| topology::place(paths.netns(name), cgroup.join(name), address);
    let others = BTreeMap::from([
        ("router".to_owned(), other("router", Some(ROUTER))?),
        ("client".to_owned(), other("client", Some(CLIENT))?),
        ("control-plane".to_owned(), other("control-plane", Some(CONTROL_PLANE))?),
        ("switch".to_owned(), other("switch", None)?),
    ]);
    let node = |number| -> Result<(String, PlaceRecord)> {
        let name = address::node_name(number);
        let cgroup = cgroup.join(&name);
        cgroup::create(&cgroup.join("agent"))?;
        cgroup::create(&cgroup.join("pods"))?;
        cgroup::create(&cgroup.join("host"))?;
        let place = topology::place(paths.node(&name).netns(), cgroup, Some(address::node(number)))?;
        Ok((name, place))
    };
    let record = LabRecord {
        name: name.to_string(),
        shape: shape.clone(),
        daemon: ProcessId::of(std::process::id() as i32).context("this process has no number")?,
        api_port: listener.local_addr()?.port(),
        nodes: (1..=shape.nodes).map(node).collect::<Result<_>>()?,
        others,
        cgroup,
    };
    record.write(paths)?;
    Ok((record, listener))
}

/// Starts the API: on this machine's loopback, on the loopback of every
/// namespace of the lab (same port, so that one kubeconfig works everywhere)
/// and on the control plane's own addresses.
async fn start_api(
    record: &LabRecord,
    listener: TcpListener,
    paths: &LabPaths,
) -> Result<(ApiServer, Client)> {
    let config = Config {
        control_plane_addresses: CONTROL_PLANE.addresses().to_vec(),
        control_plane_port: Some(address::API_PORT),
        ..Config::default()
    };
    let api = ApiServer::start(config)?;
    api.serve(listener)?;
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let hosts = record.nodes.values().chain(["client", "router"].map(|name| &record.others[name]));
    for host in hosts {
        api.serve(topology::listen(&host.netns, loopback, record.api_port)?)?;
    }
    for ip in CONTROL_PLANE.addresses() {
        api.serve(topology::listen(&record.others["control-plane"].netns, ip, address::API_PORT)?)?;
    }
    let kubeconfig = api.kubeconfig(&format!("https://127.0.0.1:{}", record.api_port));
    write_whole(&paths.kubeconfig(), kubeconfig.as_bytes(), 0o600)?;
    let kubeconfig = Kubeconfig::from_yaml(&kubeconfig).context("the API's kubeconfig is damaged")?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok((api, Client::try_from(config).context("cannot make a client of the API")?))
}

fn start_agents(
    record: &LabRecord,
    paths: &LabPaths,
    programs: &Programs,
) -> Result<BTreeMap<String, Arc<Agent>>> {
    let start = |number| -> Result<(String, Arc<Agent>)> {
        let name = address::node_name(number);
        let files = paths.node(&name);
        bpffs::mount(&files.bpffs())?;
        std::fs::create_dir_all(files.state()).context("cannot create the agent's folder")?;
        write_whole(&files.values(), record.shape.values.as_bytes(), 0o644)?;
        let agent = Agent::start(AgentConfig {
            program: programs.agent.clone(),
            number,
            cgroup: record.nodes[&name].cgroup.join("agent"),
            node: name.clone(),
            paths: files,
            kubeconfig: paths.kubeconfig(),
        });
        Ok((name, Arc::new(agent)))
    };
    (1..=record.shape.nodes).map(start).collect()
}

fn start_kubelet(record: &LabRecord, paths: &LabPaths, programs: &Programs, client: &Client) -> Result<()> {
    let node = |(name, place): (&String, &PlaceRecord)| -> Result<(String, KubeletNode)> {
        let files = paths.node(name);
        let plugin = Plugin {
            program: programs.plugin.clone(),
            socket: files.socket(),
            netns: place.netns.clone(),
            cgroup: place.cgroup.join("host"),
        };
        crate::record::write_json(&files.cni_config(), &plugin.config())?;
        let addresses = place.addresses.iter().map(ToString::to_string).collect();
        let pods_cgroup = place.cgroup.join("pods");
        Ok((name.clone(), KubeletNode { addresses, netns: place.netns.clone(), pods_cgroup, plugin }))
    };
    let kubelet = Kubelet {
        client: client.clone(),
        paths: paths.clone(),
        nodes: record.nodes.iter().map(node).collect::<Result<_>>()?,
        images: record.shape.images.clone(),
        own: programs.own.clone(),
        sandboxes: Kubelet::sandbox_bound(),
    };
    tokio::spawn(kubelet::run(Arc::new(kubelet)));
    Ok(())
}

async fn wait_ready(agent: &Agent, timeout: Duration, client: &Client) -> Result<()> {
    agent.wait_ready(timeout).await?;
    nodes::write_status(client, agent.number(), Ok(())).await
}
