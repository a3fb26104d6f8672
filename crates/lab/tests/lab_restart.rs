//! Agents die and come back all the time; no packet notices.

#![allow(clippy::unwrap_used, reason = "a failing test ends here")]

mod load;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use beeline_api::{Call, Client};
use beeline_lab::cgroup::processes;
use beeline_lab::harness::TestLab;
use beeline_lab::record::LabRecord;
use load::Traffic;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long agents die.
const DYING: Duration = Duration::from_secs(30);

/// How long an agent may take to be started and ready.
const PATIENCE: Duration = Duration::from_secs(20);

/// An agent that lived this long is started again without delay by the lab.
const LONG_LIFE: Duration = Duration::from_millis(550);

/// What became of one node's agents.
#[derive(Debug, Default)]
struct Deaths {
    /// Killed after they had said that they are ready.
    ready: u32,
    /// Killed while they started.
    starting: u32,
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
        self.lab.wait_until(&what, PATIENCE, || self.process().is_some());
        self.process().unwrap_or_else(|| panic!("not yet killed, and gone"))
    }

    fn until_ready(&self) {
        let socket = self.lab.paths().node(self.node).socket();
        let client = Client::new(socket).with_timeout(Duration::from_secs(2));
        let what = format!("the agent of {} is ready", self.node);
        self.lab.wait_until(&what, PATIENCE, || client.call(Call::Ready).is_ok());
    }

    /// Kills it until told to end: one as soon as it is ready, the next in
    /// the middle of its start, the next after a longer life, and again.
    fn kill_on_and_on(&self, ends: &AtomicBool) -> Deaths {
        let mut deaths = Deaths::default();
        for round in 0u64.. {
            let process = self.until_started();
            let begun = Instant::now();
            let counted = if round % 3 == 1 {
                // The moment wanders through the start, which takes some 40 ms.
                std::thread::sleep(Duration::from_millis(round * 7 % 40));
                &mut deaths.starting
            } else {
                self.until_ready();
                if round % 3 == 2 {
                    std::thread::sleep(LONG_LIFE.saturating_sub(begun.elapsed()));
                }
                &mut deaths.ready
            };
            if ends.load(Ordering::Relaxed) {
                break;
            }
            *counted += 1;
            kill(process, Signal::SIGKILL).unwrap_or_else(|error| panic!("{}: {error}", self.node));
            let what = format!("the agent of {} is dead", self.node);
            self.lab.wait_until(&what, PATIENCE, || self.process() != Some(process));
        }
        deaths
    }
}

#[test]
fn lab_kill_9_of_every_agent_costs_no_packet_and_no_connection() {
    let lab = TestLab::up("kill");
    let record = LabRecord::read(&lab.paths()).unwrap().unwrap();
    let traffic = Traffic::start(&lab);
    let ends = AtomicBool::new(false);
    let deaths: Vec<Deaths> = std::thread::scope(|scope| {
        let (lab, ends) = (&lab, &ends);
        let killers: Vec<_> = record
            .nodes
            .iter()
            .map(|(node, place)| {
                let agent = Agent { lab, node, cgroup: place.cgroup.join("agent") };
                scope.spawn(move || agent.kill_on_and_on(ends))
            })
            .collect();
        std::thread::sleep(DYING);
        ends.store(true, Ordering::Relaxed);
        killers.into_iter().map(|killer| killer.join().unwrap()).collect()
    });
    let report = traffic.stop();
    println!("{deaths:?}\n{report}");
    report.check();
    for (node, deaths) in record.nodes.keys().zip(&deaths) {
        assert!(deaths.ready >= 20 && deaths.starting >= 5, "{node}: {deaths:?} are too few to tell");
    }
    lab.down();
}
