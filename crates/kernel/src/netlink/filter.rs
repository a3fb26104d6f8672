//! eBPF filters (`cls_bpf` in direct-action mode) on the `clsact` qdisc (Linux
//! 4.5), used where the kernel has no TCX links (before Linux 6.6).

use std::os::fd::{AsRawFd, BorrowedFd};

use super::message::{Message, attributes, attributes_after, read_string, read_u32};
use super::{Netlink, NetlinkError, request};

/// Bytes of `struct tcmsg`.
const FIXED: usize = 20;
/// `TC_H_CLSACT`, and its classes `TC_H_MIN_INGRESS` and `TC_H_MIN_EGRESS`, of linux/pkt_sched.h.
const CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
const MIN_INGRESS: u32 = 0xfff2;
const MIN_EGRESS: u32 = 0xfff3;
/// `TCA_*` of linux/rtnetlink.h.
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
/// `TCA_BPF_*` of linux/pkt_cls.h.
const BPF_FD: u16 = 6;
const BPF_NAME: u16 = 7;
const BPF_FLAGS: u16 = 8;
const BPF_ID: u16 = 11;
const FLAG_ACT_DIRECT: u32 = 1;
/// `ETH_P_ALL`.
const ALL_PROTOCOLS: u16 = 3;

/// The direction of traffic on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Packets that the device receives.
    Ingress,
    /// Packets that the device sends.
    Egress,
}

/// An attached eBPF filter (`tc filter ... bpf`).
#[doc(alias = "cls_bpf")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BpfFilter {
    /// Priority: filters with a lower number run first.
    pub priority: u16,
    /// Handle, unique among the filters of the same priority.
    pub handle: u32,
    /// `TCA_BPF_NAME`, set when the filter was added.
    pub name: String,
    /// Program ID.
    pub program_id: u32,
}

impl Netlink {
    /// Adds a `clsact` qdisc to a device. An existing one is kept.
    pub fn add_clsact(&mut self, ifindex: u32) -> Result<(), NetlinkError> {
        let flags = request(libc::NLM_F_CREATE | libc::NLM_F_EXCL);
        let mut message = Message::new(libc::RTM_NEWQDISC, flags, &fixed(ifindex, CLSACT_HANDLE, CLSACT, 0));
        message.string(TCA_KIND, "clsact");
        let object = || format!("clsact qdisc of the link with index {ifindex}");
        match self.change("add", object, &mut message) {
            Err(error) if error.is_exists() => Ok(()),
            other => other,
        }
    }

    /// Attaches a program, or atomically replaces the one with the same
    /// priority and handle.
    pub fn set_bpf_filter(
        &mut self,
        ifindex: u32,
        direction: Direction,
        (priority, handle): (u16, u32),
        program: BorrowedFd<'_>,
        name: &str,
    ) -> Result<(), NetlinkError> {
        let flags = request(libc::NLM_F_CREATE | libc::NLM_F_REPLACE);
        let place = fixed(ifindex, handle, parent(direction), info(priority));
        let mut message = Message::new(libc::RTM_NEWTFILTER, flags, &place);
        message.string(TCA_KIND, "bpf").nested(TCA_OPTIONS, |options| {
            options.u32(BPF_FD, program.as_raw_fd() as u32);
            options.string(BPF_NAME, name).u32(BPF_FLAGS, FLAG_ACT_DIRECT);
        });
        self.change("set", || object(ifindex, direction, name), &mut message)
    }

    /// Detaches the program with this priority and handle. It is an error if
    /// there is none.
    pub fn delete_bpf_filter(
        &mut self,
        ifindex: u32,
        direction: Direction,
        (priority, handle): (u16, u32),
    ) -> Result<(), NetlinkError> {
        let place = fixed(ifindex, handle, parent(direction), info(priority));
        let mut message = Message::new(libc::RTM_DELTFILTER, request(0), &place);
        message.string(TCA_KIND, "bpf");
        let name = format!("with handle {handle:#x}");
        self.change("delete", || object(ifindex, direction, &name), &mut message)
    }

    /// The eBPF filters in one direction of a device; empty if the device has
    /// no `clsact` qdisc.
    pub fn bpf_filters(
        &mut self,
        ifindex: u32,
        direction: Direction,
    ) -> Result<Vec<BpfFilter>, NetlinkError> {
        self.dump("filters", libc::RTM_GETTFILTER, &fixed(ifindex, 0, parent(direction), 0), parse)
    }
}

fn object(ifindex: u32, direction: Direction, name: &str) -> String {
    format!("filter {name} at {direction:?} of the link with index {ifindex}").to_lowercase()
}

fn parent(direction: Direction) -> u32 {
    let minor = match direction {
        Direction::Ingress => MIN_INGRESS,
        Direction::Egress => MIN_EGRESS,
    };
    (CLSACT & 0xffff_0000) | minor
}

/// Priority in the upper half, protocol (network byte order) in the lower.
fn info(priority: u16) -> u32 {
    u32::from(priority) << 16 | u32::from(ALL_PROTOCOLS.to_be())
}

/// `struct tcmsg`.
fn fixed(ifindex: u32, handle: u32, parent: u32, info: u32) -> [u8; FIXED] {
    let mut bytes = [0; FIXED];
    for (place, value) in [(4, ifindex), (8, handle), (12, parent), (16, info)] {
        bytes[place..place + 4].copy_from_slice(&value.to_ne_bytes());
    }
    bytes
}

fn parse(payload: &[u8]) -> Option<BpfFilter> {
    let handle = read_u32(payload.get(8..)?)?;
    let priority = (read_u32(payload.get(16..)?)? >> 16) as u16;
    let kind = attributes_after(payload, FIXED).find(|(kind, _)| *kind == TCA_KIND)?.1;
    let (_, options) = attributes_after(payload, FIXED).find(|(kind, _)| *kind == TCA_OPTIONS)?;
    if read_string(kind) != "bpf" || handle == 0 {
        return None;
    }
    let mut filter = BpfFilter { priority, handle, name: String::new(), program_id: 0 };
    for (kind, value) in attributes(options) {
        match kind {
            BPF_NAME => filter.name = read_string(value),
            BPF_ID => filter.program_id = read_u32(value)?,
            _ => {}
        }
    }
    Some(filter)
}
