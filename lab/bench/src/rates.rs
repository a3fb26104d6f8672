//! Connections and requests per second, through Beeline and through the same
//! devices with plain kernel forwarding: the programs are detached and attached
//! between the measurements, everything else is unchanged.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use beeline_abi::maps::programs;
use beeline_kernel::datapath::{AttachedProgram, Datapath};
use beeline_kernel::netns::NetNs;

use crate::lab::{BenchLab, NODES, run};
use crate::stats::{Ratio, Summary};

/// A node whose programs can be detached.
pub struct Node {
    netns: NetNs,
    datapath: Datapath,
    attached: Vec<AttachedProgram>,
}

/// A series of measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Series {
    /// `connect` or `request`.
    kind: &'static str,
    v6: bool,
    /// `pod`: by the pod's address, `service`: by the Service's.
    to: &'static str,
    beeline: bool,
}

/// Prints the rates and their ratios.
pub fn measure(lab: &BenchLab, rounds: usize, millis: u64) -> Result<()> {
    // The agents would attach the programs again.
    for node in NODES {
        run(lab.verb("agent").args([node, "stop"]))?;
    }
    let mut nodes = NODES.iter().map(|node| Node::open(lab, node)).collect::<Result<Vec<_>>>()?;
    let mut series_list = all_series();
    let mut rates: BTreeMap<Series, Vec<f64>> = BTreeMap::new();
    for round in 0..rounds {
        for (index, series) in series_list.iter().enumerate() {
            if index == 0 || series.beeline != series_list[index - 1].beeline {
                nodes.iter_mut().try_for_each(|node| node.set_programs(series.beeline))?;
            }
            rates.entry(*series).or_default().push(series.measure(lab, millis)?);
        }
        // Alternate the order of states and kinds.
        series_list.rotate_left(1 + round % 2);
        series_list.sort_by_key(|series| series.beeline == (round % 2 == 0));
    }
    nodes.iter_mut().try_for_each(|node| node.set_programs(true))?;
    print(&rates, rounds, millis);
    Ok(())
}

fn all_series() -> Vec<Series> {
    let mut series_list = Vec::new();
    for kind in ["connect", "request"] {
        for v6 in [false, true] {
            for (to, beeline) in [("pod", false), ("pod", true), ("service", true)] {
                series_list.push(Series { kind, v6, to, beeline });
            }
        }
    }
    series_list.sort_by_key(|series| series.beeline);
    series_list
}

impl Series {
    fn measure(&self, lab: &BenchLab, millis: u64) -> Result<f64> {
        let to: SocketAddr = match self.to {
            "pod" => lab.pod("server", self.v6)?,
            _ => lab.service(self.v6)?,
        };
        let role = [self.kind, &to.to_string(), &millis.to_string()];
        let rate = run(&mut lab.in_pod("client", &role)?)?;
        let first = rate.split_whitespace().next().unwrap_or_default();
        first.parse().with_context(|| format!("the client printed no rate: {rate}"))
    }
}

impl Node {
    /// The node's agent must be stopped; it would attach the programs again.
    pub fn open(lab: &BenchLab, node: &str) -> Result<Node> {
        let netns = NetNs::open(lab.node_path(node, "netns"))?;
        let bpffs = lab.node_path(node, "bpf");
        let datapath = netns.enter(|| Datapath::open(&bpffs))??;
        let attached = datapath.attached();
        Ok(Node { netns, datapath, attached })
    }

    /// With programs, or with plain kernel forwarding.
    pub fn set_programs(&mut self, beeline: bool) -> Result<()> {
        let Node { netns, datapath, attached } = self;
        netns.enter(|| -> Result<()> {
            for one in attached.iter() {
                match (beeline, one.program) {
                    (false, _) => datapath.detach(one.ifindex)?,
                    (true, programs::FROM_UPLINK) => datapath.attach_uplink(one.ifindex)?,
                    (true, _) => datapath.attach_pod(one.ifindex)?,
                }
            }
            Ok(())
        })?
    }
}

fn print(rates: &BTreeMap<Series, Vec<f64>>, rounds: usize, millis: u64) {
    println!("rates per second, pods on two nodes ({rounds} rounds of {millis} ms, alternating)");
    for (kind, what) in [("connect", "connect and close"), ("request", "request and response, 1 byte")] {
        for v6 in [false, true] {
            let of = |to, beeline| rates.get(&Series { kind, v6, to, beeline });
            let (Some(kernel), Some(pod), Some(service)) =
                (of("pod", false), of("pod", true), of("service", true))
            else {
                continue;
            };
            println!("  {what}, IPv{}", if v6 { 6 } else { 4 });
            println!("    kernel forwarding, pod to pod   {}", Summary::of(kernel));
            println!(
                "    Beeline, pod to pod             {}   x {}",
                Summary::of(pod),
                Ratio::of(pod, kernel)
            );
            println!(
                "    Beeline, pod to ClusterIP       {}   x {}",
                Summary::of(service),
                Ratio::of(service, kernel)
            );
            println!("    ClusterIP relative to pod       x {}", Ratio::of(service, pod));
        }
    }
}
