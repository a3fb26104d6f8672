//! Agents are killed and restarted continuously without packet loss.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

mod load;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use beeline_api::{Call, Client};
use beeline_lab::harness::TestLab;
use beeline_lab_net::cgroup::processes;
use beeline_lab_net::record::LabRecord;
use load::Traffic;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Minimum duration, and maximum duration if the machine is too slow for
/// [`KillCounts::ENOUGH`].
const DURATION_MIN: Duration = Duration::from_secs(25);
const DURATION_MAX: Duration = Duration::from_secs(120);

/// Timeout for an agent to be restarted and ready.
const TIMEOUT: Duration = Duration::from_secs(20);

/// An agent with this uptime is restarted by the lab without delay.
const STABLE_UPTIME: Duration = Duration::from_millis(550);

/// Number of kills of a node's agent.
#[derive(Debug, Default)]
struct KillCounts {
    /// Killed after becoming ready.
    ready: AtomicU32,
    /// Killed during startup.
    starting: AtomicU32,
}

impl KillCounts {
    /// Minimum number of kills when ready and during startup.
    const ENOUGH: (u32, u32) = (20, 5);

    fn are_enough(&self) -> bool {
        let (ready, starting) = KillCounts::ENOUGH;
        self.ready.load(Ordering::Relaxed) >= ready && self.starting.load(Ordering::Relaxed) >= starting
    }
}

/// A node's agent.
struct Agent<'a> {
    lab: &'a TestLab,
    node: &'a str,
    cgroup: PathBuf,
}

impl Agent<'_> {
    fn process(&self) -> Option<Pid> {
        processes(&self.cgroup).first().map(|pid| Pid::from_raw(*pid as i32))
    }

    fn until_started(&self) -> Pid {
        let what = format!("the agent of {} is started again", self.node);
        self.lab.wait_until(&what, TIMEOUT, || self.process().is_some());
        self.process().unwrap_or_else(|| panic!("not yet killed, and gone"))
    }

    fn until_ready(&self) {
        let socket = self.lab.paths().node(self.node).socket();
        let client = Client::new(socket).with_timeout(Duration::from_secs(2));
        let what = format!("the agent of {} is ready", self.node);
        self.lab.wait_until(&what, TIMEOUT, || client.call(Call::Ready).is_ok());
    }

    /// Kills the agent until told to stop: when it is ready, during startup,
    /// and after a longer uptime, in turn.
    fn kill_repeatedly(&self, kills: &KillCounts, ends: &AtomicBool) {
        for round in 0u64.. {
            let process = self.until_started();
            let begun = Instant::now();
            let counted = if round % 3 == 1 {
                // The delay varies over the startup time of about 40 ms.
                std::thread::sleep(Duration::from_millis(round * 7 % 40));
                &kills.starting
            } else {
                self.until_ready();
                if round % 3 == 2 {
                    std::thread::sleep(STABLE_UPTIME.saturating_sub(begun.elapsed()));
                }
                &kills.ready
            };
            if ends.load(Ordering::Relaxed) {
                break;
            }
            counted.fetch_add(1, Ordering::Relaxed);
            kill(process, Signal::SIGKILL).unwrap_or_else(|error| panic!("{}: {error}", self.node));
            let what = format!("the agent of {} is dead", self.node);
            self.lab.wait_until(&what, TIMEOUT, || self.process() != Some(process));
        }
    }
}

#[test]
fn lab_sigkill_of_every_agent_loses_no_packet_or_connection() {
    let lab = TestLab::up_with("kill", &["--set", "bpf.masquerade=true"]);
    let record = LabRecord::read(&lab.paths()).unwrap().unwrap();
    let traffic = Traffic::start(&lab);
    let ends = AtomicBool::new(false);
    let kills: Vec<KillCounts> = record.nodes.iter().map(|_| KillCounts::default()).collect();
    std::thread::scope(|scope| {
        let (lab, ends) = (&lab, &ends);
        for ((node, target), kills) in record.nodes.iter().zip(&kills) {
            let agent = Agent { lab, node, cgroup: target.cgroup.join("agent") };
            scope.spawn(move || agent.kill_repeatedly(kills, ends));
        }
        let begun = Instant::now();
        let is_over = || begun.elapsed() >= DURATION_MIN && kills.iter().all(KillCounts::are_enough);
        while !is_over() && begun.elapsed() < DURATION_MAX {
            std::thread::sleep(Duration::from_millis(100));
        }
        ends.store(true, Ordering::Relaxed);
    });
    let report = traffic.stop();
    println!("{kills:?}\n{report}");
    report.check();
    for (node, kills) in record.nodes.keys().zip(&kills) {
        assert!(kills.are_enough(), "{node}: {kills:?} are too few for a result");
    }
    lab.down();
}
