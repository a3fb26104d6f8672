//! Releases come and go under traffic: the same programs loaded anew, other
//! layouts of the tables, and back. Every agent is stopped in between, as an
//! upgrade does; the test then does what the next release's agent would do.

#![allow(clippy::unwrap_used, reason = "a failing test ends here")]

mod load;
#[path = "../../kernel/tests/support/next_layout.rs"]
mod next_layout;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use beeline_kernel::datapath::{Attached, Datapath, DatapathError, EMBEDDED, Options, ProgramInfo};
use beeline_lab::daemon::agents::AgentAction;
use beeline_lab::harness::TestLab;
use beeline_lab::protocol::{Call, ask};
use load::Traffic;
use next_layout::{CONNECTION, VALUES, grown};

/// How long releases come and go.
const CHANGING: Duration = Duration::from_secs(30);

/// How long each of them stays.
const STAY: Duration = Duration::from_millis(100);

/// How long the last agent may take to be in step with the API server.
const PATIENCE: Duration = Duration::from_secs(20);

/// Programs, and the layout that they have.
type Release<'a> = (&'a [u8], u32);

/// One node, and the releases that it goes through.
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

    /// The layouts whose tables are pinned.
    fn layouts(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.bpffs()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with('v')).collect()
    }

    /// What a release's agent does first, and what it does when it is in step
    /// with the API server. Returns the devices with programs, and the programs.
    fn take_over(&self, (object, layout): Release<'_>) -> (Vec<Attached>, Vec<ProgramInfo>) {
        let bpffs = self.bpffs();
        let options = Options { object, abi_version: layout, ..Options::default() };
        let open = || {
            let mut datapath = Datapath::open_with(&bpffs, &options)?;
            datapath.remove_other_layouts()?;
            Ok::<_, DatapathError>((datapath.attached(), datapath.programs()))
        };
        let opened = self.lab.node(self.name).netns().enter(open);
        let opened = opened.unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let opened = opened.unwrap_or_else(|error| panic!("{}, layout {layout}: {error}", self.name));
        let current = std::fs::read_link(bpffs.join("current")).unwrap();
        assert_eq!(current, PathBuf::from(format!("v{layout}")), "{}: the layout in use", self.name);
        assert_eq!(self.layouts(), [format!("v{layout}")], "{}: the others are gone", self.name);
        opened
    }

    /// Through every release and back to the first, again and again; returns
    /// how many took over.
    fn change(&self, releases: &[Release<'_>], ends: &AtomicBool) -> u32 {
        let mut count = 0;
        while !ends.load(Ordering::Relaxed) {
            self.agent(AgentAction::Stop);
            let mut before: Option<(Vec<Attached>, Vec<ProgramInfo>)> = None;
            for release in releases {
                let after = self.take_over(*release);
                if let Some((attached, programs)) = before {
                    assert_eq!(after.0, attached, "{}: every device has its programs", self.name);
                    assert_ne!(after.1, programs, "{}: they are others", self.name);
                }
                before = Some(after);
                count += 1;
                std::thread::sleep(STAY);
            }
            self.agent(AgentAction::Start);
            count += 1;
            std::thread::sleep(STAY);
        }
        count
    }

    /// Nothing of the other releases is left once the agent is in step.
    fn until_others_are_gone(&self, this: u32) {
        let what = format!("{} has the tables of its own layout alone", self.name);
        self.lab.wait_until(&what, PATIENCE, || self.layouts() == [format!("v{this}")]);
    }
}

#[test]
fn lab_programs_and_layouts_change_without_a_packet_or_a_connection_lost() {
    let this = Options::default().abi_version;
    // Other bytes behind the object make it another release.
    let other = [EMBEDDED, &[1]].concat();
    let next = grown(EMBEDDED, VALUES);
    let far_next = grown(EMBEDDED, &[VALUES, CONNECTION].concat());
    // One more change is the lab's own agent, which goes back from the last.
    let releases: &[Release<'_>] =
        &[(&other, this), (&next, this + 1), (&far_next, this + 2), (&next, this + 1), (&far_next, this + 2)];
    let lab = TestLab::up("swap");
    let nodes = ["node-1", "node-2", "node-3"].map(|name| Node { lab: &lab, name });
    let traffic = Traffic::start(&lab);
    let ends = AtomicBool::new(false);
    let begun = Instant::now();
    let counts: Vec<u32> = std::thread::scope(|scope| {
        let ends = &ends;
        let changers = nodes.each_ref().map(|node| {
            scope.spawn(move || {
                let change = std::panic::AssertUnwindSafe(|| node.change(releases, ends));
                std::panic::catch_unwind(change).unwrap_or(0)
            })
        });
        std::thread::sleep(CHANGING);
        ends.store(true, Ordering::Relaxed);
        changers.into_iter().map(|changer| changer.join().unwrap()).collect()
    });
    let elapsed = begun.elapsed();
    let report = traffic.stop();
    println!("releases took over {counts:?} times in {elapsed:.1?}\n{report}");
    report.check();
    assert!(counts.iter().all(|count| *count >= 12), "{counts:?} changes are too few to tell");
    nodes.iter().for_each(|node| node.until_others_are_gone(this));
    lab.down();
}
