//! Upgrades under traffic: other programs, other table layouts, and back.
//! Every agent is stopped in between, as in an upgrade. The test then performs
//! the startup of the next release's agent, also with processes that are
//! killed during it.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

mod load;
#[path = "../../../crates/kernel/tests/support/next_layout.rs"]
mod next_layout;

use std::env;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use beeline_kernel::datapath::{AttachedProgram, Datapath, DatapathError, EMBEDDED, Options, ProgramInfo};
use beeline_lab::harness::TestLab;
use beeline_lab::protocol::{AgentAction, Call, ask};
use load::Traffic;
use next_layout::{CONNECTION, VALUES, grown};

/// Duration of the upgrades.
const DURATION: Duration = Duration::from_secs(30);

/// Time between two upgrades.
const RELEASE_DURATION: Duration = Duration::from_millis(100);

/// How long the last agent may take to be synced with the API server.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Environment variables of [`lab_killed_release`]: the bpffs to take over,
/// and the index in [`releases`].
const BPFFS_ENV: &str = "BEELINE_TEST_SWAP_BPFFS";
const RELEASE_ENV: &str = "BEELINE_TEST_SWAP_RELEASE";

/// Programs and their table layout version.
struct Release {
    object: Vec<u8>,
    layout: u32,
}

/// The releases that a node runs in sequence; the last one is followed by the
/// lab's own agent.
fn releases() -> Vec<Release> {
    let this = Options::default().abi_version;
    // Trailing bytes after the object make it a different release.
    let other = || Release { object: [EMBEDDED, &[1]].concat(), layout: this };
    let next = || Release { object: grown(EMBEDDED, VALUES), layout: this + 1 };
    let far_next = || Release { object: grown(EMBEDDED, &[VALUES, CONNECTION].concat()), layout: this + 2 };
    vec![other(), next(), far_next(), next(), far_next()]
}

/// What a release's agent does first, and what it does when it is synced
/// with the API server. Returns the devices with programs, and the programs.
fn take_over(
    bpffs: &Path,
    release: &Release,
) -> Result<(Vec<AttachedProgram>, Vec<ProgramInfo>), DatapathError> {
    let options = Options { object: &release.object, abi_version: release.layout, ..Options::default() };
    let mut datapath = Datapath::open_with(bpffs, &options)?;
    datapath.remove_other_layouts()?;
    Ok((datapath.attached(), datapath.programs()))
}

/// Number of upgrades of a node.
#[derive(Debug, Default)]
struct Changes {
    /// Completed upgrades.
    done: u32,
    /// Upgrades killed before completion.
    killed: u32,
}

/// A node and its upgrades.
struct Node<'a> {
    lab: &'a TestLab,
    name: &'a str,
}

impl Node<'_> {
    fn agent(&self, action: AgentAction) {
        let call = Call::Agent { node: self.name.to_owned(), action };
        ask(self.lab.name(), &call, |_| {}).unwrap_or_else(|error| panic!("{}: {error:#}", self.name));
    }

    fn bpffs(&self) -> PathBuf {
        self.lab.paths().node(self.name).bpffs()
    }

    /// Layout versions with pinned tables.
    fn layouts(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.bpffs()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with('v')).collect()
    }

    fn take_over(&self, release: &Release) -> (Vec<AttachedProgram>, Vec<ProgramInfo>) {
        let (bpffs, layout) = (self.bpffs(), release.layout);
        let opened = self.lab.node(self.name).netns().enter(|| take_over(&bpffs, release));
        let opened = opened.unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let opened = opened.unwrap_or_else(|error| panic!("{}, layout {layout}: {error}", self.name));
        let current = std::fs::read_link(bpffs.join("current")).unwrap();
        assert_eq!(current, PathBuf::from(format!("v{layout}")), "{}: the layout in use", self.name);
        assert_eq!(self.layouts(), [format!("v{layout}")], "{}: the others are gone", self.name);
        opened
    }

    /// Starts an upgrade in a separate process, which is killed after some
    /// time. Returns false if it was complete before.
    fn take_over_and_kill(&self, release: usize, after: Duration) -> bool {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "lab_killed_release"]).stdout(Stdio::null());
        command.env(BPFFS_ENV, self.bpffs()).env(RELEASE_ENV, release.to_string());
        let mut process = self.lab.node(self.name).netns().enter(|| command.spawn()).unwrap().unwrap();
        std::thread::sleep(after);
        process.kill().unwrap();
        let status = process.wait().unwrap();
        let killed = status.signal() == Some(9);
        assert!(killed || status.success(), "{}: release {release}: {status}", self.name);
        killed
    }

    /// Upgrades through all releases repeatedly.
    fn change(&self, releases: &[Release], ends: &AtomicBool) -> Changes {
        let mut changes = Changes::default();
        let mut took = Duration::from_millis(500);
        // The time of the kill varies over the duration of an upgrade.
        let mut moments = (1..).map(|number| f64::from(number) * 0.618 % 1.0);
        let mut kill = |release, took: Duration| {
            u32::from(self.take_over_and_kill(release, took.mul_f64(moments.next().unwrap())))
        };
        while !ends.load(Ordering::Relaxed) {
            self.agent(AgentAction::Stop);
            let mut before: Option<(Vec<AttachedProgram>, Vec<ProgramInfo>)> = None;
            for (number, release) in releases.iter().enumerate() {
                changes.killed += kill(number, took);
                let begun = Instant::now();
                let after = self.take_over(release);
                took = begun.elapsed();
                if let Some((attached, programs)) = before {
                    assert_eq!(after.0, attached, "{}: every device has its programs", self.name);
                    assert_ne!(after.1, programs, "{}: they are others", self.name);
                }
                before = Some(after);
                changes.done += 1;
                std::thread::sleep(RELEASE_DURATION);
            }
            // The agent must handle an upgrade that was started and abandoned.
            changes.killed += kill(1, took);
            self.agent(AgentAction::Start);
            changes.done += 1;
            std::thread::sleep(RELEASE_DURATION);
        }
        changes
    }

    /// Nothing of the other releases is left once the agent is synced.
    fn wait_for_old_layouts_removed(&self, this: u32) {
        let what = format!("{} has the tables of its own layout alone", self.name);
        self.lab.wait_until(&what, TIMEOUT, || self.layouts() == [format!("v{this}")]);
    }
}

/// Not a test: the process that [`Node::take_over_and_kill`] kills.
#[test]
fn lab_killed_release() {
    let (Some(bpffs), Ok(which)) = (env::var_os(BPFFS_ENV), env::var(RELEASE_ENV)) else { return };
    let release = releases().swap_remove(which.parse().unwrap());
    take_over(Path::new(&bpffs), &release).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn lab_program_and_layout_upgrades_lose_no_packet_or_connection() {
    let releases = releases();
    let lab = TestLab::up("swap");
    let nodes = ["node-1", "node-2", "node-3"].map(|name| Node { lab: &lab, name });
    let traffic = Traffic::start(&lab);
    let ends = AtomicBool::new(false);
    let begun = Instant::now();
    let changes: Vec<Changes> = std::thread::scope(|scope| {
        let (releases, ends) = (&releases, &ends);
        let changers = nodes.each_ref().map(|node| scope.spawn(move || node.change(releases, ends)));
        std::thread::sleep(DURATION);
        ends.store(true, Ordering::Relaxed);
        // Panics have been printed and are reported after the traffic has been
        // stopped.
        changers.into_iter().map(|changer| changer.join().unwrap_or_default()).collect()
    });
    let elapsed = begun.elapsed();
    let report = traffic.stop();
    println!("{changes:?} in {elapsed:.1?}\n{report}");
    report.check();
    let enough = |changes: &Changes| changes.done >= 6 && changes.killed >= 3;
    assert!(changes.iter().all(enough), "{changes:?} are too few for a result");
    let this = Options::default().abi_version;
    nodes.iter().for_each(|node| node.wait_for_old_layouts_removed(this));
    lab.down();
}
