//! Neighbour entries (ARP and NDP): the hardware address of an IP address on a link.

use std::net::IpAddr;

use beeline_abi::Mac;

use super::error::ignore_missing;
use super::message::{Message, attributes_after, family, read_ip, read_mac, read_u16, read_u32};
use super::{Netlink, NetlinkError, request};

/// Bytes of `struct ndmsg`.
const FIXED: usize = 12;
/// `NDA_DST` and `NDA_LLADDR` of linux/neighbour.h.
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
/// `NUD_PERMANENT` of linux/neighbour.h.
const PERMANENT: u16 = 0x80;

/// A neighbour entry.
#[doc(alias = "ndmsg")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Neighbour {
    /// Index of the device.
    pub ifindex: u32,
    /// IP address.
    pub ip: IpAddr,
    /// Hardware address, if known.
    pub mac: Option<Mac>,
    /// The entry never expires and is not resolved again (`NUD_PERMANENT`).
    pub permanent: bool,
}

impl Netlink {
    /// All neighbour entries of all devices.
    pub fn neighbours(&mut self) -> Result<Vec<Neighbour>, NetlinkError> {
        self.dump("neighbours", libc::RTM_GETNEIGH, &[0; FIXED], parse)
    }

    /// Adds or replaces a permanent neighbour entry.
    pub fn set_neighbour(&mut self, ifindex: u32, ip: IpAddr, mac: Mac) -> Result<(), NetlinkError> {
        let flags = request(libc::NLM_F_CREATE | libc::NLM_F_REPLACE);
        let mut message = message(libc::RTM_NEWNEIGH, flags, ifindex, ip);
        message.bytes(NDA_LLADDR, &mac.0);
        self.change("set", || object(ifindex, ip), &mut message)
    }

    /// Deletes a neighbour entry. It is no error if there is none.
    pub fn delete_neighbour(&mut self, ifindex: u32, ip: IpAddr) -> Result<(), NetlinkError> {
        let mut message = message(libc::RTM_DELNEIGH, request(0), ifindex, ip);
        ignore_missing(self.change("delete", || object(ifindex, ip), &mut message))
    }
}

fn object(ifindex: u32, ip: IpAddr) -> String {
    format!("neighbour {ip} on the link with index {ifindex}")
}

fn message(kind: u16, flags: u16, ifindex: u32, ip: IpAddr) -> Message {
    let mut fixed = [0; FIXED];
    fixed[0] = family(&ip);
    fixed[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    fixed[8..10].copy_from_slice(&PERMANENT.to_ne_bytes());
    let mut message = Message::new(kind, flags, &fixed);
    message.ip(NDA_DST, ip);
    message
}

pub(super) fn parse(payload: &[u8]) -> Option<Neighbour> {
    let fixed: &[u8; FIXED] = payload.first_chunk()?;
    let (mut ip, mut mac) = (None, None);
    for (kind, value) in attributes_after(payload, FIXED) {
        match kind {
            NDA_DST => ip = read_ip(value),
            NDA_LLADDR => mac = read_mac(value),
            _ => {}
        }
    }
    let permanent = read_u16(&fixed[8..])? & PERMANENT != 0;
    Some(Neighbour { ifindex: read_u32(&fixed[4..])?, ip: ip?, mac, permanent })
}
