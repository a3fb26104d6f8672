//! The list of all connectivity probes, and their execution.

use std::fmt::Write;
use std::time::{Duration, Instant};

use beeline_kernel::netns::NetNs;

use super::capture::{Capture, Frame};
use super::cluster::{Answers, Cluster, Endpoint, FAMILIES, Family, Target};
use super::probe::{Probe, Question};

/// Number of frames shown of a failure's capture.
const FRAMES_SHOWN_MAX: usize = 120;
/// A sender stops after this many failures: each may take seconds.
const FAILURES_MAX: usize = 8;

/// A probe's source (pod, node or client) and destination (the same or a
/// Service).
pub struct ProbePath<'a> {
    pub from: &'a Endpoint,
    pub to: Target,
}

/// All paths; both ends are pods unless stated otherwise.
pub fn ways(cluster: &Cluster) -> Vec<ProbePath<'_>> {
    let mut ways = pod_ways(cluster);
    ways.extend(host_ways(cluster));
    ways.extend(translated_ways(cluster));
    ways
}

/// Nodes to Services without socket hooks, because the threads of this test
/// are in no node's cgroup; NodePorts.
fn translated_ways(cluster: &Cluster) -> Vec<ProbePath<'_>> {
    let way = |from: &str, to| ProbePath { from: cluster.endpoint(from), to };
    vec![
        way("node-1", cluster.service("alpha", "node-1")), // a pod on the node
        way("node-1", cluster.service("gamma", "node-1")), // one elsewhere
        way("node-1", cluster.service_of_nobody()),
        way("node-1", cluster.service_without_port("beta")),
        way("node-1", cluster.node_port("gamma", "node-2")),
        way("client", cluster.node_port("gamma", "node-2")), // its own node
        way("client", cluster.node_port("gamma", "node-1")), // through another
        way("client", cluster.node_port("alpha", "node-1")),
    ]
}

/// Paths that are entirely handled by Beeline: between pods, Services and
/// external hosts.
pub fn pod_ways(cluster: &Cluster) -> Vec<ProbePath<'_>> {
    let way = |from: &str, to| ProbePath { from: cluster.endpoint(from), to };
    vec![
        way("alpha", cluster.target("beta")),            // on one node
        way("alpha", cluster.target("gamma")),           // to another node
        way("gamma", cluster.target("alpha")),           // and the other way round
        way("alpha", cluster.service("beta", "alpha")),  // a backend on this node
        way("alpha", cluster.service("gamma", "alpha")), // one on another
        way("alpha", cluster.service("alpha", "alpha")), // the pod itself
        way("gamma", cluster.service("beta", "gamma")),
        way("alpha", cluster.service_of_all()), // any of these
        way("alpha", cluster.service_of_nobody()),
        way("gamma", cluster.service_without_port("beta")),
        way("client", cluster.target("alpha")),
        way("client", cluster.target("gamma")),
        way("alpha", cluster.target("client")),
        way("gamma", cluster.target("client")),
    ]
}

/// Between pods and nodes.
pub fn host_ways(cluster: &Cluster) -> Vec<ProbePath<'_>> {
    let way = |from: &str, to: &str| ProbePath { from: cluster.endpoint(from), to: cluster.target(to) };
    vec![
        way("alpha", "node-1"), // its own
        way("alpha", "node-2"), // another
        way("node-1", "alpha"), // its own
        way("node-1", "gamma"), // on another
    ]
}

/// All probes.
pub fn probes<'a>(ways: Vec<ProbePath<'a>>) -> Vec<Probe<'a>> {
    let mut probes = Vec::new();
    for ProbePath { from, to } in ways {
        for family in FAMILIES {
            let questions = questions(&to, family).into_iter();
            probes.extend(questions.map(|question| Probe { from, to: to.clone(), family, question }));
        }
    }
    probes
}

/// From one byte to far above the MTU of 1500, including both sides of the
/// fragmentation threshold.
fn questions(to: &Target, family: Family) -> Vec<Question> {
    let edge = 1500 - family.header_bytes() - 8;
    let small = [1, 100, 1400, edge];
    let large = [edge + 1, 4000];
    let datagrams = || small.into_iter().chain(large).chain([60_000]);
    if let Answers::Refusal = to.answers {
        let mut questions = vec![Question::TcpRefused];
        match family {
            Family::V4 => questions.extend(datagrams().map(Question::UdpRefused)),
            // A fragmented IPv6 datagram is dropped and counted: packets with
            // extension headers are not answered.
            Family::V6 => questions.extend(small.map(Question::UdpRefused)),
        }
        return questions;
    }
    let mut questions = vec![Question::Who];
    questions.extend(datagrams().map(Question::Tcp));
    questions.extend(datagrams().map(Question::Udp));
    questions.extend([4000, 60_000].map(Question::UdpSegments));
    // Services have ports; ICMP has none.
    if !to.is_service() {
        questions.extend(small.into_iter().chain(large).map(Question::Ping));
    }
    questions
}

/// Results of all probes.
pub struct Report<'a> {
    pub asked: usize,
    pub elapsed: Duration,
    failures: Vec<Failure<'a>>,
}

struct Failure<'a> {
    probe: Probe<'a>,
    error: String,
}

/// Runs all probes: sequentially for each sender, senders in parallel.
pub fn run<'a>(probes: &[Probe<'a>]) -> Report<'a> {
    let begun = Instant::now();
    let mut places: Vec<&str> = probes.iter().map(|probe| probe.from.name).collect();
    places.sort_unstable();
    places.dedup();
    let done: Vec<(usize, Vec<Failure<'a>>)> = std::thread::scope(|scope| {
        let workers: Vec<_> = places
            .iter()
            .map(|target| {
                let numbered = probes.iter().enumerate().filter(|(_, probe)| probe.from.name == *target);
                scope.spawn(move || run_at_place(numbered.collect()))
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    let asked = done.iter().map(|(asked, _)| asked).sum();
    let failures = done.into_iter().flat_map(|(_, failures)| failures).collect();
    Report { asked, elapsed: begun.elapsed(), failures }
}

fn run_at_place<'a>(probes: Vec<(usize, &Probe<'a>)>) -> (usize, Vec<Failure<'a>>) {
    let netns = &probes[0].1.from.netns;
    let ask_all = || {
        let (mut asked, mut failures) = (0, Vec::new());
        for (number, probe) in &probes {
            asked += 1;
            if let Err(error) = probe.ask(*number) {
                failures.push(Failure { probe: (*probe).clone(), error });
            }
            if failures.len() == FAILURES_MAX {
                break;
            }
        }
        (asked, failures)
    };
    netns.enter(ask_all).unwrap()
}

impl Report<'_> {
    /// Fails the test unless every probe had the expected result; the first
    /// failure is repeated with a capture.
    pub fn must_be_whole(&self, cluster: &Cluster, probes: usize) {
        if self.failures.is_empty() {
            assert_eq!(self.asked, probes, "the matrix has another size");
            return;
        }
        let mut text = format!("{} of {} probes failed:\n", self.failures.len(), self.asked);
        for Failure { probe, error } in &self.failures {
            let _ = writeln!(text, "  {probe}: {error}");
        }
        panic!("{text}{}", again(cluster, &self.failures[0].probe));
    }
}

/// Repeats a probe with captures at the sender, on all nodes and on the
/// switch.
fn again(cluster: &Cluster, probe: &Probe<'_>) -> String {
    let hosts = ["node-1", "node-2", "client"].map(|name| (name, &cluster.endpoint(name).netns));
    let ends = ["alpha", "beta", "gamma"].map(|name| (name, &cluster.endpoint(name).netns));
    let places: Vec<(&str, &NetNs)> = hosts.into_iter().chain(ends).collect();
    let capture = Capture::start(Instant::now(), places);
    let result = probe.from.netns.enter(|| probe.ask(0)).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let frames = capture.stop();
    let shown: Vec<String> = frames.iter().take(FRAMES_SHOWN_MAX).map(Frame::text).collect();
    format!("the first of them again: {probe}: {result:?}; {} frames:\n{}", frames.len(), shown.join("\n"))
}
