//! IP addresses of devices.

use ipnet::IpNet;

use super::error::ignore_missing;
use super::message::{Message, attributes_after, family, read_ip, read_u32};
use super::{Netlink, NetlinkError, request};

/// Bytes of `struct ifaddrmsg`.
const FIXED: usize = 8;
/// `IFA_*` of linux/if_addr.h.
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
/// `IFA_F_NODAD`, `IFA_F_TENTATIVE`, `IFA_F_DADFAILED`.
const NODAD: u32 = 2;
const DADFAILED: u32 = 8;
const TENTATIVE: u32 = 0x40;
/// `RT_SCOPE_LINK`.
const SCOPE_LINK: u8 = 253;

/// An IP address of a device.
#[doc(alias = "ifaddrmsg")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// Index of the device.
    pub ifindex: u32,
    /// The address with its prefix length.
    pub net: IpNet,
    /// Scope link or host: not reachable from other links.
    pub local_scope: bool,
    /// Duplicate address detection is in progress (`IFA_F_TENTATIVE`) or
    /// failed (`IFA_F_DADFAILED`).
    pub unusable: bool,
}

impl Netlink {
    /// All addresses of all devices.
    pub fn addresses(&mut self) -> Result<Vec<Address>, NetlinkError> {
        self.dump("addresses", libc::RTM_GETADDR, &[0; FIXED], parse)
    }

    /// Adds an address without duplicate address detection (`IFA_F_NODAD`).
    /// It is no error if the address exists.
    pub fn add_address(&mut self, ifindex: u32, net: IpNet) -> Result<(), NetlinkError> {
        let flags = request(libc::NLM_F_CREATE | libc::NLM_F_REPLACE);
        let mut message = message(libc::RTM_NEWADDR, flags, ifindex, net);
        message.u32(IFA_FLAGS, NODAD);
        self.change("add", || object(ifindex, net), &mut message)
    }

    /// Deletes an address. It is no error if there is none.
    pub fn delete_address(&mut self, ifindex: u32, net: IpNet) -> Result<(), NetlinkError> {
        let mut message = message(libc::RTM_DELADDR, request(0), ifindex, net);
        ignore_missing(self.change("delete", || object(ifindex, net), &mut message))
    }
}

fn object(ifindex: u32, net: IpNet) -> String {
    format!("address {net} of the link with index {ifindex}")
}

fn message(kind: u16, flags: u16, ifindex: u32, net: IpNet) -> Message {
    let mut fixed = [0; FIXED];
    fixed[0] = family(&net.addr());
    fixed[1] = net.prefix_len();
    fixed[2] = NODAD as u8;
    fixed[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    let mut message = Message::new(kind, flags, &fixed);
    message.ip(IFA_LOCAL, net.addr()).ip(IFA_ADDRESS, net.addr());
    message
}

pub(super) fn parse(payload: &[u8]) -> Option<Address> {
    let fixed: &[u8; FIXED] = payload.first_chunk()?;
    let (mut ip, mut flags) = (None, u32::from(fixed[2]));
    for (kind, value) in attributes_after(payload, FIXED) {
        match kind {
            // On a point-to-point device IFA_ADDRESS is the address of the peer.
            IFA_LOCAL => ip = read_ip(value),
            IFA_ADDRESS => ip = ip.or_else(|| read_ip(value)),
            IFA_FLAGS => flags = read_u32(value)?,
            _ => {}
        }
    }
    Some(Address {
        ifindex: read_u32(&fixed[4..])?,
        net: IpNet::new(ip?, fixed[1]).ok()?,
        local_scope: fixed[3] >= SCOPE_LINK,
        unusable: flags & (TENTATIVE | DADFAILED) != 0,
    })
}
