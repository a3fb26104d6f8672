//! Attaching programs to devices.
//!
//! TCX links (Linux 6.6) are pinned, one file for each program and device, and
//! updated to a new program in place. Without TCX the programs are eBPF filters
//! on the `clsact` qdisc with a fixed priority and handle, also replaced in
//! place. Either way, every packet is processed by the old or the new program.

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

/// Priority and handle of our filters. Other software is unlikely to use this
/// priority, which filters of different types cannot share.
const PRIORITY_AND_HANDLE: (u16, u32) = (0xbee, 0xbee1);
/// A device index that is not in use.
const NO_DEVICE: u32 = i32::MAX as u32;

/// How long to wait for a link that is being detached.
const DETACH_RETRY_INTERVAL: Duration = Duration::from_millis(10);
const DETACH_TRIES_MAX: u32 = 100;

/// How programs are attached to devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AttachMode {
    /// With TCX links if the kernel supports them, otherwise on `clsact`.
    #[default]
    Auto,
    /// With TCX links (Linux 6.6).
    Tcx,
    /// As filters on the `clsact` qdisc (Linux 4.5).
    Clsact,
}

/// A program that is attached to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttachedProgram {
    /// Index of the device.
    pub ifindex: u32,
    /// Name of the program.
    pub program: &'static str,
}

/// The programs on the host side of a pod's veth pair.
pub(crate) const POD: &[&str] = &[programs::FROM_POD, programs::TO_POD];
/// The programs of an uplink.
pub(crate) const UPLINK: &[&str] = &[programs::FROM_UPLINK, programs::TO_UPLINK];

/// The direction in which a program is attached.
fn direction(program: &str) -> Direction {
    match program {
        programs::TO_POD | programs::TO_UPLINK => Direction::Egress,
        _ => Direction::Ingress,
    }
}

/// The programs attached to devices, in the network namespace of the thread
/// that opened the datapath.
#[derive(Debug)]
pub(crate) struct Links {
    pins: Pins,
    tcx: bool,
    netlink: Mutex<Netlink>,
    /// Programs that should be attached.
    desired: BTreeSet<AttachedProgram>,
    /// Filters left by an agent that used `clsact`, to be replaced by links.
    stale_filters: BTreeSet<AttachedProgram>,
}

impl Links {
    /// Takes over the programs that are attached.
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

    /// Attaches programs to a device. It is no error if they are attached.
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

    /// Detaches every program from a device, which may no longer exist. Tries
    /// all and returns the first error.
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

    /// The attached programs.
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

    /// Attaches every desired program that is not attached, and forgets those
    /// on deleted devices. Returns the number of both.
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

    /// Replaces every attached program by the one of the same name in `programs`.
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

    /// Returns true if the program was not attached.
    fn ensure(&mut self, attached: AttachedProgram, programs: &Programs) -> Result<bool, DatapathError> {
        let changed = if self.tcx {
            self.ensure_link(attached, programs)?
        } else {
            self.ensure_filter(attached, programs).map_err(|error| without_device(error, attached))?
        };
        // A program left by the other attach mode would run in addition.
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
            // Detaches even if other processes hold the link. An error means
            // that the device was deleted, and the link is detached already.
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

/// A link is detached some time after its pin is removed. Until then attaching
/// the program again fails with `EEXIST` and is retried.
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

/// The programs attached by links and, with a netlink socket, by filters in its
/// network namespace. Those that cannot be read are left out.
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

/// Whether the kernel supports TCX links, tried with a device that does not
/// exist: a kernel with TCX returns `ENODEV`.
fn has_tcx(programs: &Programs) -> Result<bool, DatapathError> {
    let (program, _) = programs.get(programs::FROM_POD)?;
    match bpf::create_tcx_link(program, NO_DEVICE, bpf_attach_type::BPF_TCX_INGRESS) {
        Err(error) => Ok(error.raw_os_error() == Some(libc::ENODEV)),
        Ok(_) => Ok(true),
    }
}

/// The pinned links of the programs that this release knows.
fn pinned(pins: &Pins) -> Result<BTreeSet<AttachedProgram>, DatapathError> {
    let known = |(name, ifindex): (String, u32)| {
        let program = programs::ALL.iter().find(|known| **known == name)?;
        Some(AttachedProgram { ifindex, program })
    };
    Ok(pins.pinned_links()?.into_iter().filter_map(known).collect())
}

/// Our filters on all devices.
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

/// Our filter in one direction of a device: name and ID of the program.
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

/// Replaces an `ENODEV` error of netlink, which names the qdisc or filter, by
/// one that names the program.
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
