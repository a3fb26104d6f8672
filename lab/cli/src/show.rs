//! Text output of `status`.

use std::collections::BTreeSet;

use beeline_lab_net::address;
use comfy_table::{ContentArrangement, Table, presets};

use crate::protocol::{NodeStatus, PodStatus, ServiceStatus, Status};

/// Tables of nodes, pods and Services, followed by changed links and problems.
pub fn status(status: &Status) -> String {
    let mut parts = vec![
        table(&["NODE", "READY", "ADDRESSES", "POD CIDRS", "AGENT"], status.nodes.iter().map(node)),
        table(&["NAMESPACE", "POD", "NODE", "STATUS", "IPS"], status.pods.iter().map(pod)),
        table(
            &["NAMESPACE", "SERVICE", "TYPE", "CLUSTER-IPS", "PORTS", "READY ENDPOINTS"],
            status.services.iter().map(service),
        ),
    ];
    parts.extend(links(status));
    parts.extend(problems(status));
    parts.extend(not_built(status));
    parts.retain(|part| !part.is_empty());
    parts.join("\n\n")
}

fn node(node: &NodeStatus) -> Vec<String> {
    let agent = match node.agent_pid {
        Some(pid) if node.agent_ready => format!("ready, PID {pid}"),
        Some(pid) => format!("not ready, PID {pid}"),
        None if !node.powered => "the node is powered off".into(),
        None => "not running".into(),
    };
    let addresses: Vec<String> = node.addresses.iter().map(ToString::to_string).collect();
    vec![node.name.clone(), yes(node.ready), addresses.join(" "), node.pod_cidrs.join(" "), agent]
}

fn pod(pod: &PodStatus) -> Vec<String> {
    let state = match pod.ready {
        true => "Ready".to_owned(),
        false => pod.phase.clone(),
    };
    vec![pod.namespace.clone(), pod.name.clone(), pod.node.clone(), state, pod.ips.join(" ")]
}

fn service(service: &ServiceStatus) -> Vec<String> {
    let endpoints: Vec<String> = service.endpoints.values().flatten().cloned().collect();
    vec![
        service.namespace.clone(),
        service.name.clone(),
        service.kind.clone(),
        service.cluster_ips.join(" "),
        service.ports.join(" "),
        endpoints.join(" "),
    ]
}

/// Links with settings other than the default.
fn links(status: &Status) -> Option<String> {
    let reported = status.nodes.iter().flat_map(|node| {
        let further = (1..).zip(&node.further_links);
        let further =
            further.map(|(uplink, link)| (format!("{} {}", node.name, address::uplink(uplink)), link));
        std::iter::once((node.name.clone(), &node.link)).chain(further)
    });
    let all: Vec<String> = reported
        .map(|(name, link)| (name, link.describe()))
        .filter(|(_, words)| !words.is_empty())
        .map(|(name, words)| format!("{name}: {words}"))
        .collect();
    (!all.is_empty()).then(|| format!("Changed links:\n  {}", all.join("\n  ")))
}

fn yes(holds: bool) -> String {
    if holds { "yes".into() } else { "no".into() }
}

fn problems(status: &Status) -> Option<String> {
    let of_nodes = status
        .nodes
        .iter()
        .flat_map(|node| node.problems.iter().map(move |problem| format!("{}: {problem}", node.name)));
    let of_pods = status.pods.iter().filter(|pod| !pod.reason.is_empty());
    let of_pods = of_pods.map(|pod| format!("pod {}/{}: {}", pod.namespace, pod.name, pod.reason));
    let of_dns = Some(&status.dns.problem).filter(|problem| !problem.is_empty());
    let of_dns = of_dns.map(|problem| format!("cluster DNS: {problem}"));
    let of_control_plane = status.control_plane.iter().map(|problem| format!("control plane: {problem}"));
    let all: Vec<String> = of_nodes.chain(of_pods).chain(of_dns).chain(of_control_plane).collect();
    (!all.is_empty()).then(|| format!("Problems:\n  {}", all.join("\n  ")))
}

/// Settings that are not implemented; each is listed once for all nodes.
fn not_built(status: &Status) -> Option<String> {
    let all: BTreeSet<&str> =
        status.nodes.iter().flat_map(|node| node.not_built.iter().map(String::as_str)).collect();
    let all: Vec<&str> = all.into_iter().collect();
    (!all.is_empty()).then(|| format!("Without effect:\n  {}", all.join("\n  ")))
}

/// Aligned columns without borders; empty if there are no rows.
fn table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().copied());
    table.add_rows(rows);
    if table.row_count() == 0 {
        return String::new();
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use beeline_lab_net::link::Link;

    #[test]
    fn unit_status_is_a_table_with_problems_below() {
        let node = NodeStatus {
            name: "node-1".into(),
            addresses: vec!["172.30.0.11".parse().unwrap()],
            pod_cidrs: vec!["10.244.1.0/24".into()],
            ready: false,
            powered: true,
            link: Link { mtu: 1400, ..Link::default() },
            further_links: vec![Link::default(), Link { up: false, ..Link::default() }],
            agent_pid: Some(7),
            agent_starts: 1,
            agent_ready: false,
            problems: vec!["no API".into()],
            not_built: vec!["x=y".into()],
        };
        let shown = status(&Status { nodes: vec![node], ..Status::default() });
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[1], "node-1   no      172.30.0.11   10.244.1.0/24   not ready, PID 7");
        assert_eq!(lines[3..6], ["Changed links:", "  node-1: MTU 1400", "  node-1 eth2: down"]);
        assert_eq!(lines[7..9], ["Problems:", "  node-1: no API"]);
        assert_eq!(lines[10..], ["Without effect:", "  x=y"]);
    }
}
