//! Creates a lab and waits until its nodes are Ready.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use beeline_lab_kubelet::shared::Shared;
use beeline_lab_net::address::{self, CLIENT, CONTROL_PLANE, ROUTER, Subnet};
use beeline_lab_net::link::Link;
use beeline_lab_net::paths::{LabName, LabPaths};
use beeline_lab_net::process::ProcessId;
use beeline_lab_net::programs::Programs;
use beeline_lab_net::record::{HostRecord, LabRecord, LabSpec};
use beeline_lab_net::{cgroup, topology};
use futures::future::try_join_all;
use kube::Client;

use super::control_plane::ControlPlane;
use super::dns::ClusterDns;
use super::lab::Lab;
use super::{node_operations, nodes};

/// Creates a lab; its directory and its daemon's cgroup already exist.
pub async fn bring_up(
    name: &LabName,
    shape: LabSpec,
    timeout: Duration,
    progress: &dyn Fn(&str),
) -> Result<Arc<Lab>> {
    let begin = Instant::now();
    let paths = LabPaths::new(name);
    let programs = Programs::find()?;
    let (record, listener) = first_record(name, &paths, &shape)?;
    let plan: Vec<_> = (1..=shape.nodes)
        .map(|number| (number, record.links[&address::node_name(number)][0].subnet))
        .collect();
    let uplinks = record.uplinks();
    let (built, planned) = (paths.clone(), plan.clone());
    tokio::task::spawn_blocking(move || topology::build(&built, &planned, uplinks)).await??;
    let nodes = if shape.nodes == 1 { "1 node".to_owned() } else { format!("{} nodes", shape.nodes) };
    progress(&format!("created {nodes}, router, client and switch ({})", elapsed(begin)));

    let (api, client) = ControlPlane::start(&record, listener, &paths).await?;
    progress(&format!("{} on 127.0.0.1:{} ({})", api.describe(), record.api_port, elapsed(begin)));
    let dns = ClusterDns::start(client.clone(), record.others["control-plane"].netns.clone());
    let (registered, ()) = tokio::join!(register_nodes(&client, &paths, &plan, uplinks), dns.publish());
    registered?;
    let pods = Shared::new(client.clone());
    let lab = Arc::new(Lab {
        name: name.clone(),
        paths,
        api,
        client,
        programs,
        dns,
        record: record.into(),
        agents: Default::default(),
        node_set: Default::default(),
        pods,
    });
    node_operations::start_all(&lab, timeout).await?;
    progress(&format!("every node is Ready ({})", elapsed(begin)));
    Ok(lab)
}

/// Creates the Node objects, and the routes to the pods on the hosts outside
/// the cluster.
async fn register_nodes(
    client: &Client,
    paths: &LabPaths,
    plan: &[(u32, Subnet)],
    uplinks: u32,
) -> Result<()> {
    let names: Vec<String> = plan.iter().map(|(number, _)| address::node_name(*number)).collect();
    let registered = plan.iter().zip(&names).map(|((number, subnet), name)| {
        nodes::register(client, name, address::of_node(*number, *subnet, uplinks))
    });
    try_join_all(registered).await?;
    let ranges = nodes::pod_cidrs(client, &names).await?;
    let mut routed = plan.iter().zip(&names);
    routed.try_for_each(|((number, subnet), name)| {
        topology::add_pod_routes(paths, &ranges[name], *number, *subnet)
    })
}

fn elapsed(begin: Instant) -> String {
    format!("{:.1} s", begin.elapsed().as_secs_f32())
}

/// Creates the cgroups and the record before anything that needs the record to
/// be cleaned up, and opens the API server's listener on the host's loopback.
fn first_record(name: &LabName, paths: &LabPaths, shape: &LabSpec) -> Result<(LabRecord, TcpListener)> {
    let cgroup = cgroup::lab_cgroup(name, paths)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen on 127.0.0.1")?;
    let other = |name: &str, address| HostRecord::create(paths.netns(name), cgroup.join(name), address);
    let others = BTreeMap::from([
        ("router".to_owned(), other("router", Some(ROUTER))?),
        ("client".to_owned(), other("client", Some(CLIENT))?),
        ("control-plane".to_owned(), other("control-plane", Some(CONTROL_PLANE))?),
        ("switch".to_owned(), other("switch", None)?),
    ]);
    let links: BTreeMap<String, Vec<Link>> =
        (1..=shape.nodes).map(|number| first_links(shape, number)).collect();
    let node = |number| -> Result<(String, HostRecord)> {
        let name = address::node_name(number);
        let addresses = address::node_on(number, links[&name][0].subnet);
        let host = node_operations::node_record(paths, &cgroup, &name, addresses)?;
        Ok((name, host))
    };
    let record = LabRecord {
        name: name.to_string(),
        shape: shape.clone(),
        daemon: ProcessId::of(std::process::id() as i32).context("cannot read this process's start time")?,
        api_port: listener.local_addr()?.port(),
        nodes: (1..=shape.nodes).map(node).collect::<Result<_>>()?,
        links,
        others,
        cgroup,
    };
    record.write(paths)?;
    Ok((record, listener))
}

fn first_links(shape: &LabSpec, number: u32) -> (String, Vec<Link>) {
    let name = address::node_name(number);
    let subnet = if shape.behind_router.contains(&name) { Subnet::BehindRouter } else { Subnet::Direct };
    let further = (1..shape.uplinks.max(1)).map(|_| Link::default());
    (name, std::iter::once(Link::on(subnet)).chain(further).collect())
}
