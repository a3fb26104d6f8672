//! Thousands of Services: the cost of a new connection through Beeline and
//! through rule sets as kube-proxy writes them, on otherwise equal nodes of one
//! lab; the latency of changes; memory and start time of the agent.

mod change;
mod cluster;
mod rules;
mod start;

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::lab::{BenchLab, NODES, run};
use crate::rates::Node;
use crate::stats::{Ratio, Summary};
use cluster::{Api, PORTS, wait_until};
use rules::{Entry, PORT};

/// The node of each proxy, and its client pod.
const PROXIES: [(Proxy, u8, &str); 3] =
    [(Proxy::Beeline, 1, "client"), (Proxy::Nftables, 3, "client-3"), (Proxy::Iptables, 4, "client-4")];
/// The nodes of the proxies, of the server and of the agent starts.
const NODE_COUNT: usize = 5;
/// Time limit for loading a rule set.
const LOAD_MAX: Duration = Duration::from_secs(150);
/// Number of Services at which changes, memory and agent starts are measured.
const TYPICAL: usize = 10_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Proxy {
    Beeline,
    Nftables,
    Iptables,
}

/// Rate, p50 and p99 of each measurement.
type Figures = BTreeMap<(&'static str, Proxy), [Vec<f64>; 3]>;

/// A lab in which only the first node has a running agent, and the address of
/// its server. Other agents would use CPU time.
fn lab(values: &[String]) -> Result<(BenchLab, Ipv4Addr)> {
    let mut lab = BenchLab::with_nodes(NODE_COUNT, values)?;
    PORTS.iter().try_for_each(|port| lab.start_server("server", *port))?;
    let IpAddr::V4(server) = lab.pod("server", false)?.ip() else { bail!("the server has no IPv4 address") };
    for node in 2..=NODE_COUNT {
        run(lab.verb("agent").args([&format!("node-{node}"), "stop"]))?;
    }
    Ok((lab, server))
}

/// Prints the latency of changes and the start time of an agent.
pub fn measure_change(values: &[String]) -> Result<()> {
    let (lab, server) = lab(values)?;
    let api = Api::open(&lab.kubeconfig())?;
    let mut entries = Vec::new();
    println!("{TYPICAL} Services");
    grow(&lab, &api, &mut entries, TYPICAL, server)?;
    change::measure(&lab, &api, &entries[1], server)?;
    lab.print_memory_of(NODES[0])?;
    start::measure(&lab)?;
    lab.down()
}

/// Prints all results for each number of Services.
pub fn measure(values: &[String], sizes: &[usize], rounds: usize, millis: u64) -> Result<()> {
    let (lab, server) = lab(values)?;
    // The nodes with rule sets use kernel forwarding.
    for node in ["node-3", "node-4"] {
        Node::open(&lab, node)?.set_programs(false)?;
    }
    let api = Api::open(&lab.kubeconfig())?;
    let mut entries: Vec<Entry> = Vec::new();
    println!(
        "Services, connections from pods by ClusterIP and from outside by NodePort ({rounds} rounds of {millis} ms)"
    );
    for size in sizes {
        let took = grow(&lab, &api, &mut entries, *size, server)?;
        println!(
            "  {size} Services; created through the API and programmed after {:.1} s",
            took.as_secs_f64()
        );
        let proxies = load(&lab, &entries)?;
        let figures = rounds_of(&lab, &proxies, &entries[0], rounds, millis)?;
        print(&figures);
        if *size == TYPICAL {
            change::measure(&lab, &api, &entries[1], server)?;
            lab.print_memory_of(NODES[0])?;
            start::measure(&lab)?;
        }
    }
    lab.down()
}

/// Adds Services and waits until the first node has programmed them.
fn grow(
    lab: &BenchLab,
    api: &Api,
    entries: &mut Vec<Entry>,
    size: usize,
    server: Ipv4Addr,
) -> Result<Duration> {
    let begin = Instant::now();
    let before = programmed_services(lab)?;
    let added = size.saturating_sub(entries.len());
    entries.extend(api.add(entries.len()..size.max(entries.len()), 0, server, PORTS)?);
    wait_until("the Services are programmed", Duration::from_secs(300), || {
        Ok(programmed_services(lab)? >= before + added)
    })?;
    Ok(begin.elapsed())
}

fn programmed_services(lab: &BenchLab) -> Result<usize> {
    let entries = lab.pinned(NODES[0])?.tables().service.entries()?;
    Ok(entries.iter().filter(|(_, service)| service.slots > 0).count())
}

/// Loads both rule sets; returns the proxies that can be measured.
fn load(lab: &BenchLab, entries: &[Entry]) -> Result<Vec<(Proxy, u8, &'static str)>> {
    let mut proxies = vec![PROXIES[0]];
    for (proxy, node, pod) in &PROXIES[1..] {
        let (text, program): (String, &[&str]) = match proxy {
            Proxy::Nftables => (rules::nftables(entries, node_ip(*node)), &["nft", "-f"]),
            _ => (rules::iptables(entries), &["iptables-legacy-restore"]),
        };
        let file = lab.node_path(&format!("node-{node}"), "rules");
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        if *proxy == Proxy::Nftables {
            run(in_node(lab, *node).args(["nft", "flush", "ruleset"]))?;
        }
        let begin = Instant::now();
        let limit = LOAD_MAX.as_secs().to_string();
        let loaded = in_node(lab, *node).args(["timeout", &limit]).args(program).arg(&file).output()?;
        let took = begin.elapsed();
        match loaded.status.code() {
            Some(0) => {
                println!("    {proxy:?}: loaded in {:.1} s", took.as_secs_f64());
                proxies.push((*proxy, *node, *pod));
            }
            Some(124) => println!("    {proxy:?}: not loaded within {} s, not measured", LOAD_MAX.as_secs()),
            _ => bail!("{proxy:?}: {}", String::from_utf8_lossy(&loaded.stderr).trim()),
        }
    }
    Ok(proxies)
}

fn in_node(lab: &BenchLab, node: u8) -> Command {
    let mut command = lab.verb("node");
    command.args([&format!("node-{node}"), "--"]);
    command
}

fn node_ip(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(172, 30, 0, 10 + node)
}

/// Measures the proxies in rotating order.
fn rounds_of(
    lab: &BenchLab,
    proxies: &[(Proxy, u8, &'static str)],
    hot: &Entry,
    rounds: usize,
    millis: u64,
) -> Result<Figures> {
    let mut figures = Figures::new();
    let own = std::env::current_exe()?;
    for round in 0..rounds {
        let mut order = proxies.to_vec();
        order.rotate_left(round % proxies.len());
        for (proxy, node, pod) in order {
            let span = millis.to_string();
            let inside = format!("{}:{PORT}", hot.ip);
            let inside = run(&mut lab.in_pod(pod, &["connect", &inside, &span])?)?;
            let port = hot.node_port.context("the hot Service has no nodePort")?;
            let outside = format!("{}:{port}", node_ip(node));
            let outside = run(lab.verb("client").arg("--").arg(&own).args(["connect", &outside, &span]))?;
            for (what, text) in [("ClusterIP", inside), ("NodePort", outside)] {
                let numbers: Vec<f64> =
                    text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
                let [rate, p50, p99] = numbers[..] else { bail!("the client printed no figures: {text}") };
                let lists = figures.entry((what, proxy)).or_default();
                lists.iter_mut().zip([rate, p50, p99]).for_each(|(list, number)| list.push(number));
            }
        }
    }
    Ok(figures)
}

fn print(figures: &Figures) {
    for ((what, proxy), [rate, p50, p99]) in figures {
        let beeline = &figures[&(*what, Proxy::Beeline)];
        let ratio = match proxy {
            Proxy::Beeline => String::new(),
            _ => format!(
                "   Beeline's rate x {}, p50 x {}",
                Ratio::of(&beeline[0], rate),
                Ratio::of(&beeline[1], p50)
            ),
        };
        println!(
            "    {what:<9} {:<8}  p50 {} us   p99 {} us   {} per second{ratio}",
            format!("{proxy:?}"),
            Summary::of(p50),
            Summary::of(p99),
            Summary::of(rate)
        );
    }
}
