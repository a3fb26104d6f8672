//! The kernel's time for a pod's veth pair without plugin and agent: the lower
//! bound of a CNI call.

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
const DEVICE: &str = "beebench";

/// Milliseconds of each step, one value per pair.
#[derive(Default)]
struct Steps {
    created: Vec<f64>,
    attached: Vec<f64>,
    deleted: Vec<f64>,
    moved: Vec<f64>,
}

impl fmt::Display for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [created, attached, deleted] =
            [&self.created, &self.attached, &self.deleted].map(|values| Summary::of(values));
        write!(f, "create {created}, attach {attached}, delete {deleted}")
    }
}

/// A network namespace bound to a file, removed when dropped.
pub struct TempNetNs(PathBuf);

impl TempNetNs {
    /// Creates a namespace and binds it to the file.
    pub fn new(path: PathBuf) -> Result<(TempNetNs, NetNs)> {
        let netns = NetNs::create_bound(&path)?;
        Ok((TempNetNs(path), netns))
    }
}

impl Drop for TempNetNs {
    fn drop(&mut self) {
        let _ = NetNs::remove_bound(&self.0);
    }
}

/// A bpffs mount, unmounted when dropped.
pub struct TempBpffs(PathBuf);

impl TempBpffs {
    /// A new one.
    pub fn new(path: PathBuf) -> Result<TempBpffs> {
        bpffs::mount(&path)?;
        Ok(TempBpffs(path))
    }

    /// Where.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempBpffs {
    fn drop(&mut self) {
        let _ = bpffs::unmount(&self.0);
    }
}

/// Prints the times, measured in namespaces below `folder`.
pub fn measure(folder: &Path) -> Result<()> {
    let (_bound, host) = TempNetNs::new(folder.join("veth-host"))?;
    let mount = TempBpffs::new(folder.join("veth-bpf"))?;
    host.enter(|| print(folder, mount.path()))?
}

fn print(folder: &Path, mount: &Path) -> Result<()> {
    println!(
        "kernel only, milliseconds: create a veth pair with its peer in the pod's namespace and set it up ({PAIRS} pairs)"
    );
    for (how, attach_mode) in [("tcx", AttachMode::Tcx), ("clsact", AttachMode::Clsact)] {
        let options = Options { attach_mode, ..Options::default() };
        let mut datapath = Datapath::open_with(&mount.join(how), &options)?;
        match measure_pairs(folder, Some(&mut datapath)) {
            Ok(steps) => println!("  with programs ({how}): {steps}"),
            Err(error) => println!("  with programs ({how}): not measured: {error:#}"),
        }
    }
    let steps = measure_pairs(folder, None)?;
    println!("  without programs: {steps}");
    println!("  move one end to the pod's namespace: {}", Summary::of(&steps.moved));
    Ok(())
}

fn measure_pairs(folder: &Path, mut datapath: Option<&mut Datapath>) -> Result<Steps> {
    let mut steps = Steps::default();
    for number in 0..PAIRS {
        let (_bound, pod) = TempNetNs::new(folder.join(format!("veth-pod-{number}")))?;
        measure_pair(&pod, datapath.as_deref_mut(), &mut steps)?;
    }
    Ok(steps)
}

/// Measures one pair, with programs if there is a datapath, and a second pair
/// whose end is moved to another namespace.
fn measure_pair(pod: &NetNs, mut datapath: Option<&mut Datapath>, steps: &mut Steps) -> Result<()> {
    let (mut here, mut there) = (Netlink::open()?, Netlink::open_in(pod)?);
    let created = time_ms(|| create_pair(&mut here, "eth0", Some(pod)))?;
    let (index, peer) = (here.index(DEVICE)?, there.index("eth0")?);
    steps.attached.push(time_ms(|| match &mut datapath {
        Some(datapath) => Ok(datapath.attach_pod(index)?),
        None => Ok(()),
    })?);
    let up = time_ms(|| {
        there.set_up(peer, true)?;
        Ok(here.set_up(index, true)?)
    })?;
    steps.created.push(created + up);
    steps.deleted.push(time_ms(|| Ok(here.delete_link(DEVICE)?))?);
    if let Some(datapath) = datapath {
        datapath.detach(index)?;
    }
    create_pair(&mut here, "beebench1", None)?;
    let end = here.index("beebench1")?;
    steps.moved.push(time_ms(|| Ok(here.move_to(end, pod)?))?);
    Ok(here.delete_link(DEVICE)?)
}

fn create_pair(here: &mut Netlink, peer: &str, there: Option<&NetNs>) -> Result<()> {
    let end = |name| VethEnd { name, mac: None };
    Ok(here.create_veth(&Veth { local: end(DEVICE), peer: end(peer), mtu: 1500, peer_netns: there })?)
}

fn time_ms(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let begin = Instant::now();
    work()?;
    Ok(elapsed_ms(begin))
}

fn elapsed_ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
