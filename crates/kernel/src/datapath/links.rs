//! What is attached where.
//!
//! TCX links (Linux 6.6) are pinned, one file for each program and device,
//! and moved to a new program by link update. Without TCX the programs are
//! classifiers on `clsact` with one fixed priority and handle, replaced in
//! place. Either way no packet passes by unseen while a program changes.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aya_obj::generated::bpf_attach_type;
use beeline_abi::maps::programs;

use super::bpf::{self, Access};
use super::error::{DatapathError, failed};
use super::pins::{Pins, pin_over, unpin};
use super::programs::Programs;
use crate::netlink::{Direction, Netlink, NetlinkError};

/// Priority and handle of our classifiers. A number that others are unlikely
/// to have, because a kind of filter cannot share a priority with another kind.
const PRIORITY_AND_HANDLE: (u16, u32) = (0xbee, 0xbee1);
/// A device index that the kernel does not give.
const NO_DEVICE: u32 = i32::MAX as u32;

/// How long a link that is on its way out is waited for.
const DETACH_RETRY_INTERVAL: Duration = Duration::from_millis(10);
const DETACH_TRIES_MAX: u32 = 100;

/// How programs are attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AttachMode {
    /// By TCX links where the kernel has them, else on `clsact`.
    #[default]
    Auto,
    /// By TCX links.
    Tcx,
    /// On the `clsact` qdisc.
    Clsact,
}

/// A program on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttachedProgram {
    /// The device.
    pub ifindex: u32,
    /// The program.
    pub program: &'static str,
}

/// The programs of a pod's host-side veth.
pub(crate) const POD: &[&str] = &[programs::FROM_POD, programs::TO_POD];
/// The programs of an uplink.
pub(crate) const UPLINK: &[&str] = &[programs::FROM_UPLINK, programs::TO_UPLINK];

/// The side of a device that a program belongs to.
fn direction(program: &str) -> Direction {
    match program {
        programs::TO_POD | programs::TO_UPLINK => Direction::Egress,
        _ => Direction::Ingress,
    }
}

/// The attachments of one datapath, in the network namespace of the thread
/// that opened it.
#[derive(Debug)]
pub(crate) struct Links {
    pins: Pins,
    tcx: bool,
    netlink: Mutex<Netlink>,
    /// What should be attached.
    desired: BTreeSet<AttachedProgram>,
    /// Classifiers of a life that attached on `clsact`, beside links.
    stale_filters: BTreeSet<AttachedProgram>,
}

impl Links {
    /// Takes over what is attached already.
    pub(crate) fn open(
        pins: &Pins,
        attach_mode: AttachMode,
        programs: &Programs,
    ) -> Result<Links, DatapathError> {
        let tcx = match attach_mode {
            AttachMode::Auto => has_tcx(programs)?,
            AttachMode::Tcx => true,
            AttachMode::Clsact => false,
        };
        let mut netlink = Netlink::open()?;
        let filters = filters(&mut netlink)?;
        let mut desired = pinned(pins)?;
        desired.extend(&filters);
        let stale_filters = if tcx { filters } else { BTreeSet::new() };
        Ok(Links { pins: pins.clone(), tcx, netlink: Mutex::new(netlink), desired, stale_filters })
    }

    /// Attaches programs to a device, which may have them already.
    pub(crate) fn attach(
        &mut self,
        ifindex: u32,
        names: &'static [&'static str],
        programs: &Programs,
    ) -> Result<(), DatapathError> {
        for program in names {
            let attached = AttachedProgram { ifindex, program };
            self.ensure(attached, programs)?;
            self.desired.insert(attached);
        }
        Ok(())
    }

    /// Takes every program off a device, which may be gone. Tries all and
    /// returns the first error.
    pub(crate) fn detach(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        self.desired.retain(|attached| attached.ifindex != ifindex);
        let mut outcome = Ok(());
        for program in programs::ALL {
            let attached = AttachedProgram { ifindex, program };
            let links = self.remove_link(attached);
            let has_filter = !self.tcx || self.stale_filters.remove(&attached);
            let filters = if has_filter { self.remove_filter(attached) } else { Ok(()) };
            outcome = outcome.and(links).and(filters);
        }
        outcome
    }

    /// What is attached now.
    pub(crate) fn attached(&self) -> Vec<AttachedProgram> {
        if self.tcx {
            return list(&self.pins, None);
        }
        let mut netlink = self.netlink.lock().unwrap_or_else(PoisonError::into_inner);
        list(&self.pins, Some(&mut netlink))
    }

    fn netlink(&mut self) -> &mut Netlink {
        self.netlink.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings every attachment to what it should be: running these programs,
    /// on devices that exist. Returns how many were not.
    pub(crate) fn repair(&mut self, programs: &Programs) -> Result<usize, DatapathError> {
        let mut repaired = 0;
        let mut outcome = Ok(());
        for attached in self.desired.clone() {
            match self.repair_one(attached, programs) {
                Ok(changed) => repaired += usize::from(changed),
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        outcome.map(|()| repaired)
    }

    /// Moves every attachment to these programs.
    pub(crate) fn update_all(&mut self, programs: &Programs) -> Result<(), DatapathError> {
        self.repair(programs).map(|_| ())
    }

    fn repair_one(&mut self, attached: AttachedProgram, programs: &Programs) -> Result<bool, DatapathError> {
        match self.ensure(attached, programs) {
            Err(error) if is_no_device(&error) => {
                unpin(&self.pins.link(attached.program, attached.ifindex))?;
                self.desired.remove(&attached);
                Ok(true)
            }
            other => other,
        }
    }

    /// True = it was not attached.
    fn ensure(&mut self, attached: AttachedProgram, programs: &Programs) -> Result<bool, DatapathError> {
        let changed = if self.tcx {
            self.ensure_link(attached, programs)?
        } else {
            self.ensure_filter(attached, programs).map_err(|error| without_device(error, attached))?
        };
        // What a life left that attached the other way would run, too.
        if !self.tcx {
            self.remove_link(attached)?;
        } else if self.stale_filters.contains(&attached) {
            self.remove_filter(attached)?;
            self.stale_filters.remove(&attached);
        }
        Ok(changed)
    }

    fn ensure_link(&mut self, attached: AttachedProgram, programs: &Programs) -> Result<bool, DatapathError> {
        let AttachedProgram { ifindex, program } = attached;
        let path = self.pins.link(program, ifindex);
        let object = || name(attached);
        let (new, new_id) = programs.get(program)?;
        match bpf::open_pin(&path, Access::ReadWrite) {
            Ok(link) => {
                let state = bpf::link_state(link.as_fd()).map_err(failed("examine", object()))?;
                if state.ifindex == ifindex {
                    if state.program_id != new_id {
                        bpf::update_link(link.as_fd(), new).map_err(failed("replace", object()))?;
                    }
                    return Ok(false);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("open the pin of", object())(error)),
        }
        let hook = match direction(program) {
            Direction::Ingress => bpf_attach_type::BPF_TCX_INGRESS,
            Direction::Egress => bpf_attach_type::BPF_TCX_EGRESS,
        };
        let link = create_link(new, ifindex, hook).map_err(failed("attach", object()))?;
        pin_over(link.as_fd(), &path)?;
        Ok(true)
    }

    fn ensure_filter(
        &mut self,
        attached: AttachedProgram,
        programs: &Programs,
    ) -> Result<bool, DatapathError> {
        let AttachedProgram { ifindex, program } = attached;
        let (new, new_id) = programs.get(program)?;
        let side = direction(program);
        let netlink = self.netlink();
        let existing = our_filter(netlink, ifindex, side)?;
        if existing == Some((program, new_id)) {
            return Ok(false);
        }
        if existing.is_none() {
            netlink.add_clsact(ifindex)?;
        }
        netlink.set_bpf_filter(ifindex, side, PRIORITY_AND_HANDLE, new, program)?;
        Ok(existing.is_none())
    }

    fn remove_link(&self, attached: AttachedProgram) -> Result<(), DatapathError> {
        let path = self.pins.link(attached.program, attached.ifindex);
        match bpf::open_pin(&path, Access::ReadWrite) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed("open the pin", path.display().to_string())(error)),
            // At once, though others may hold the link; one without a device
            // is detached.
            Ok(link) => drop(bpf::detach_link(link.as_fd())),
        }
        unpin(&path)
    }

    fn remove_filter(&mut self, attached: AttachedProgram) -> Result<(), DatapathError> {
        let AttachedProgram { ifindex, program } = attached;
        let side = direction(program);
        let netlink = self.netlink();
        if our_filter(netlink, ifindex, side)?.is_some_and(|(name, _)| name == program) {
            netlink.delete_bpf_filter(ifindex, side, PRIORITY_AND_HANDLE)?;
        }
        Ok(())
    }
}

/// A link whose pin somebody has removed detaches a moment later; until then
/// the program cannot be attached a second time.
fn create_link(program: BorrowedFd<'_>, ifindex: u32, hook: bpf_attach_type) -> io::Result<OwnedFd> {
    let mut tries = 0;
    loop {
        match bpf::create_tcx_link(program, ifindex, hook) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && tries < DETACH_TRIES_MAX => {
                tries += 1;
                std::thread::sleep(DETACH_RETRY_INTERVAL);
            }
            other => return other,
        }
    }
}

/// What is attached: by links, and (if asked for) by classifiers in a network
/// namespace. What cannot be read is not listed.
pub(crate) fn list(pins: &Pins, classifiers_of: Option<&mut Netlink>) -> Vec<AttachedProgram> {
    let alive = |attached: &AttachedProgram| {
        let link = bpf::open_pin(&pins.link(attached.program, attached.ifindex), Access::ReadWrite);
        link.and_then(|link| bpf::link_state(link.as_fd())).is_ok_and(|state| state.ifindex != 0)
    };
    let mut found: BTreeSet<AttachedProgram> =
        pinned(pins).unwrap_or_default().into_iter().filter(alive).collect();
    found.extend(classifiers_of.map(|netlink| filters(netlink).unwrap_or_default()).unwrap_or_default());
    found.into_iter().collect()
}

/// Does this kernel know TCX links? Asked with a device that cannot exist.
fn has_tcx(programs: &Programs) -> Result<bool, DatapathError> {
    let (program, _) = programs.get(programs::FROM_POD)?;
    match bpf::create_tcx_link(program, NO_DEVICE, bpf_attach_type::BPF_TCX_INGRESS) {
        Err(error) => Ok(error.raw_os_error() == Some(libc::ENODEV)),
        Ok(_) => Ok(true),
    }
}

/// The pinned links of programs that this release has.
fn pinned(pins: &Pins) -> Result<BTreeSet<AttachedProgram>, DatapathError> {
    let known = |(name, ifindex): (String, u32)| {
        let program = programs::ALL.iter().find(|known| **known == name)?;
        Some(AttachedProgram { ifindex, program })
    };
    Ok(pins.pinned_links()?.into_iter().filter_map(known).collect())
}

/// Our classifiers on all devices.
fn filters(netlink: &mut Netlink) -> Result<BTreeSet<AttachedProgram>, NetlinkError> {
    let mut found = BTreeSet::new();
    for link in netlink.links()? {
        for side in [Direction::Ingress, Direction::Egress] {
            let our_filter = our_filter(netlink, link.index, side)?;
            found.extend(our_filter.map(|(program, _)| AttachedProgram { ifindex: link.index, program }));
        }
    }
    Ok(found)
}

/// Our classifier on one side of a device: name and number of the program.
fn our_filter(
    netlink: &mut Netlink,
    ifindex: u32,
    side: Direction,
) -> Result<Option<(&'static str, u32)>, NetlinkError> {
    let filters = netlink.bpf_filters(ifindex, side)?;
    Ok(filters.into_iter().find_map(|filter| {
        let program = programs::ALL.iter().find(|name| **name == filter.name)?;
        ((filter.priority, filter.handle) == PRIORITY_AND_HANDLE).then_some((*program, filter.program_id))
    }))
}

fn name(attached: AttachedProgram) -> String {
    format!("program {} on the link with index {}", attached.program, attached.ifindex)
}

/// Netlink names the qdisc or the filter; which program it was for is more
/// to the point.
fn without_device(error: DatapathError, attached: AttachedProgram) -> DatapathError {
    match error {
        DatapathError::Netlink(error) if error.errno() == Some(libc::ENODEV) => {
            failed("attach", name(attached))(io::Error::from_raw_os_error(libc::ENODEV))
        }
        other => other,
    }
}

fn is_no_device(error: &DatapathError) -> bool {
    match error {
        DatapathError::System { source, .. } => source.raw_os_error() == Some(libc::ENODEV),
        DatapathError::Netlink(error) => error.is_missing(),
        _ => false,
    }
}
