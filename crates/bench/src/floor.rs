//! What the kernel takes for a pod's device, without any plugin or agent: no
//! CNI call can be faster.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use beeline_kernel::bpffs;
use beeline_kernel::datapath::{AttachMode, Datapath, Options};
use beeline_kernel::netlink::{Netlink, Veth, VethEnd};
use beeline_kernel::netns::NetNs;

use crate::stats::Summary;

const PAIRS: usize = 30;
const DEVICE: &str = "beefloor";

/// Milliseconds of each step, per pair.
#[derive(Default)]
struct Steps {
    made: Vec<f64>,
    attached: Vec<f64>,
    deleted: Vec<f64>,
    moved: Vec<f64>,
}

impl fmt::Display for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [made, attached, deleted] =
            [&self.made, &self.attached, &self.deleted].map(|values| Summary::of(values));
        write!(f, "made {made}, attached {attached}, deleted {deleted}")
    }
}

/// A namespace bound to a file, gone when dropped.
pub struct Bound(PathBuf);

impl Bound {
    /// A new one, and the file that it is bound to.
    pub fn new(path: PathBuf) -> Result<(Bound, NetNs)> {
        let netns = NetNs::create_bound(&path)?;
        Ok((Bound(path), netns))
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let _ = NetNs::remove_bound(&self.0);
    }
}

/// A bpf file system, gone when dropped.
pub struct Mount(PathBuf);

impl Mount {
    /// A new one.
    pub fn new(path: PathBuf) -> Result<Mount> {
        bpffs::mount(&path)?;
        Ok(Mount(path))
    }

    /// Where.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = bpffs::unmount(&self.0);
    }
}

/// Prints the times, measured in namespaces below `folder`.
pub fn measure(folder: &Path) -> Result<()> {
    let (_bound, host) = Bound::new(folder.join("floor-host"))?;
    let mount = Mount::new(folder.join("floor-bpf"))?;
    host.enter(|| print(folder, mount.path()))?
}

fn print(folder: &Path, mount: &Path) -> Result<()> {
    println!("the kernel's part, milliseconds: a veth pair made in place and up ({PAIRS} pairs)");
    for (how, attach_mode) in [("links", AttachMode::Tcx), ("classifiers", AttachMode::Clsact)] {
        let options = Options { attach_mode, ..Options::default() };
        let mut datapath = Datapath::open_with(&mount.join(how), &options)?;
        match pairs(folder, Some(&mut datapath)) {
            Ok(steps) => println!("  programs by {how}: {steps}"),
            Err(error) => println!("  programs by {how}: not measured: {error:#}"),
        }
    }
    let steps = pairs(folder, None)?;
    println!("  without programs: {steps}");
    println!("  one end moved to the pod: {}", Summary::of(&steps.moved));
    Ok(())
}

fn pairs(folder: &Path, mut datapath: Option<&mut Datapath>) -> Result<Steps> {
    let mut steps = Steps::default();
    for number in 0..PAIRS {
        let (_bound, pod) = Bound::new(folder.join(format!("floor-pod-{number}")))?;
        one(&pod, datapath.as_deref_mut(), &mut steps)?;
    }
    Ok(steps)
}

/// One pair, with its programs if there is a datapath, and one more whose end
/// is moved.
fn one(pod: &NetNs, mut datapath: Option<&mut Datapath>, steps: &mut Steps) -> Result<()> {
    let (mut here, mut there) = (Netlink::open()?, Netlink::open_in(pod)?);
    let made = timed(|| pair(&mut here, "eth0", Some(pod)))?;
    let (index, peer) = (here.index(DEVICE)?, there.index("eth0")?);
    steps.attached.push(timed(|| match &mut datapath {
        Some(datapath) => Ok(datapath.attach_pod(index)?),
        None => Ok(()),
    })?);
    let up = timed(|| {
        there.set_up(peer, true)?;
        Ok(here.set_up(index, true)?)
    })?;
    steps.made.push(made + up);
    steps.deleted.push(timed(|| Ok(here.delete_link(DEVICE)?))?);
    if let Some(datapath) = datapath {
        datapath.detach(index)?;
    }
    pair(&mut here, "floor0", None)?;
    let end = here.index("floor0")?;
    steps.moved.push(timed(|| Ok(here.move_to(end, pod)?))?);
    Ok(here.delete_link(DEVICE)?)
}

fn pair(here: &mut Netlink, peer: &str, there: Option<&NetNs>) -> Result<()> {
    let end = |name| VethEnd { name, mac: None };
    Ok(here.create_veth(&Veth { local: end(DEVICE), peer: end(peer), mtu: 1500, peer_netns: there })?)
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let begin = Instant::now();
    work()?;
    Ok(millis(begin))
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
