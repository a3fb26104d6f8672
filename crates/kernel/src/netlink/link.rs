//! Devices.

use std::os::fd::{AsFd, AsRawFd};

use beeline_abi::Mac;

use super::error::ignore_missing;
use super::message::{Message, attributes, attributes_after, read_mac, read_string, read_u16, read_u32};
use super::{Netlink, NetlinkError, request};
use crate::netns::NetNs;

/// Bytes of `struct ifinfomsg`.
const FIXED: usize = 16;
/// `VETH_INFO_PEER` of linux/veth.h.
const VETH_INFO_PEER: u16 = 1;
/// `IFLA_INFO_KIND` and `IFLA_INFO_DATA` of linux/if_link.h.
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
/// `IFLA_LINK_NETNSID` of linux/if_link.h.
const LINK_NETNSID: u16 = 37;

/// A device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Hardware address; none on devices that have no Ethernet.
    pub mac: Option<Mac>,
    /// Bytes.
    pub mtu: u32,
    /// Administratively up (`IFF_UP`).
    pub up: bool,
    /// Has carrier (`IFF_LOWER_UP`).
    pub carrier: bool,
    /// Sends and receives (`IFF_RUNNING`): a device that has just got its
    /// carrier drops what it is to send until the kernel has told this.
    pub running: bool,
    /// Loopback device.
    pub loopback: bool,
    /// `veth`, `bridge`, ...; empty for hardware and loopback.
    pub kind: String,
    /// Index of the bridge (or other master) above it.
    pub master: Option<u32>,
    /// The other end of a veth, or the device below.
    pub peer: Option<Peer>,
}

/// Where the other end of a veth is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Index in its own namespace.
    pub index: u32,
    /// The kernel's number of that namespace (`link-netnsid`); none = this one.
    pub netns_id: Option<u32>,
}

/// A pair of devices to make.
#[derive(Clone, Copy, Debug)]
pub struct Veth<'a> {
    /// The end in the namespace of this connection.
    pub local: VethEnd<'a>,
    /// The other end.
    pub peer: VethEnd<'a>,
    /// MTU of both ends, bytes.
    pub mtu: u32,
    /// Namespace of the other end, which is created right there; none = this one.
    pub peer_netns: Option<&'a NetNs>,
}

/// One end of a pair.
#[derive(Clone, Copy, Debug)]
pub struct VethEnd<'a> {
    /// Name, at most 15 bytes.
    pub name: &'a str,
    /// Hardware address; none = the kernel chooses.
    pub mac: Option<Mac>,
}

impl Netlink {
    /// Every device.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        self.dump("links", libc::RTM_GETLINK, &fixed(0, 0, 0), parse)
    }

    /// The device with this name. [`NetlinkError::is_missing`] tells absence.
    pub fn link(&mut self, name: &str) -> Result<Link, NetlinkError> {
        let mut message = Message::new(libc::RTM_GETLINK, request(0), &fixed(0, 0, 0));
        message.string(libc::IFLA_IFNAME, name);
        self.get(|| format!("link {name}"), &mut message, parse)
    }

    /// The device with this index.
    pub fn link_by_index(&mut self, index: u32) -> Result<Link, NetlinkError> {
        let mut message = Message::new(libc::RTM_GETLINK, request(0), &fixed(index, 0, 0));
        self.get(|| format!("link with index {index}"), &mut message, parse)
    }

    /// The index of the device with this name.
    pub fn index(&mut self, name: &str) -> Result<u32, NetlinkError> {
        self.link(name).map(|link| link.index)
    }

    /// Makes a pair of veth devices, both down.
    pub fn create_veth(&mut self, veth: &Veth<'_>) -> Result<(), NetlinkError> {
        let mut message = new_link();
        end(&mut message, &veth.local, veth.mtu);
        message.nested(libc::IFLA_LINKINFO, |info| {
            info.string(INFO_KIND, "veth").nested(INFO_DATA, |data| {
                data.nested(VETH_INFO_PEER, |peer| {
                    peer.raw(&fixed(0, 0, 0));
                    end(peer, &veth.peer, veth.mtu);
                    if let Some(netns) = veth.peer_netns {
                        peer.u32(libc::IFLA_NET_NS_FD, netns.as_fd().as_raw_fd() as u32);
                    }
                });
            });
        });
        let object = || format!("veth pair {} - {}", veth.local.name, veth.peer.name);
        self.change("create", object, &mut message)
    }

    /// Makes a bridge, down.
    pub fn create_bridge(&mut self, name: &str, mtu: u32) -> Result<(), NetlinkError> {
        let mut message = new_link();
        message.string(libc::IFLA_IFNAME, name).u32(libc::IFLA_MTU, mtu);
        message.nested(libc::IFLA_LINKINFO, |info| {
            info.string(INFO_KIND, "bridge");
        });
        self.change("create", || format!("bridge {name}"), &mut message)
    }

    /// Deletes a device by name. None there is no error.
    pub fn delete_link(&mut self, name: &str) -> Result<(), NetlinkError> {
        let mut message = Message::new(libc::RTM_DELLINK, request(0), &fixed(0, 0, 0));
        message.string(libc::IFLA_IFNAME, name);
        ignore_missing(self.change("delete", || format!("link {name}"), &mut message))
    }

    /// Deletes a device by index. None there is no error.
    pub fn delete_link_by_index(&mut self, index: u32) -> Result<(), NetlinkError> {
        let mut message = Message::new(libc::RTM_DELLINK, request(0), &fixed(index, 0, 0));
        ignore_missing(self.change("delete", || format!("link with index {index}"), &mut message))
    }

    /// Sets a device up or down.
    pub fn set_up(&mut self, index: u32, up: bool) -> Result<(), NetlinkError> {
        let bit = libc::IFF_UP as u32;
        let operation = if up { "set up" } else { "set down" };
        let mut message =
            Message::new(libc::RTM_NEWLINK, request(0), &fixed(index, if up { bit } else { 0 }, bit));
        self.change(operation, || format!("link with index {index}"), &mut message)
    }

    /// Sets the MTU, bytes.
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> Result<(), NetlinkError> {
        self.set(index, "set the MTU of", |message| message.u32(libc::IFLA_MTU, mtu))
    }

    /// Sets the hardware address.
    pub fn set_mac(&mut self, index: u32, mac: Mac) -> Result<(), NetlinkError> {
        self.set(index, "set the MAC of", |message| message.bytes(libc::IFLA_ADDRESS, &mac.0))
    }

    /// Puts a device under a bridge, or takes it out.
    pub fn set_master(&mut self, index: u32, master: Option<u32>) -> Result<(), NetlinkError> {
        self.set(index, "set the master of", |message| message.u32(libc::IFLA_MASTER, master.unwrap_or(0)))
    }

    /// Renames a device (which some kernels want to be down).
    pub fn rename(&mut self, index: u32, name: &str) -> Result<(), NetlinkError> {
        self.set(index, "rename", |message| message.string(libc::IFLA_IFNAME, name))
    }

    /// Moves a device into another namespace, where it is down.
    pub fn move_to(&mut self, index: u32, netns: &NetNs) -> Result<(), NetlinkError> {
        let fd = netns.as_fd().as_raw_fd() as u32;
        self.set(index, "move", |message| message.u32(libc::IFLA_NET_NS_FD, fd))
    }

    fn set<'m>(
        &mut self,
        index: u32,
        operation: &'static str,
        fill: impl FnOnce(&mut Message) -> &mut Message + 'm,
    ) -> Result<(), NetlinkError> {
        let mut message = Message::new(libc::RTM_NEWLINK, request(0), &fixed(index, 0, 0));
        fill(&mut message);
        self.change(operation, || format!("link with index {index}"), &mut message)
    }
}

fn new_link() -> Message {
    Message::new(libc::RTM_NEWLINK, request(libc::NLM_F_CREATE | libc::NLM_F_EXCL), &fixed(0, 0, 0))
}

fn end(message: &mut Message, end: &VethEnd<'_>, mtu: u32) {
    message.string(libc::IFLA_IFNAME, end.name).u32(libc::IFLA_MTU, mtu);
    if let Some(mac) = end.mac {
        message.bytes(libc::IFLA_ADDRESS, &mac.0);
    }
}

/// `struct ifinfomsg`.
fn fixed(index: u32, flags: u32, change: u32) -> [u8; FIXED] {
    let mut bytes = [0; FIXED];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..16].copy_from_slice(&change.to_ne_bytes());
    bytes
}

pub(super) fn parse(payload: &[u8]) -> Option<Link> {
    let device = read_u16(payload.get(2..)?)?;
    let flags = read_u32(payload.get(8..)?)?;
    let mut link = Link {
        index: read_u32(payload.get(4..)?)?,
        up: flags & libc::IFF_UP as u32 != 0,
        carrier: flags & libc::IFF_LOWER_UP as u32 != 0,
        running: flags & libc::IFF_RUNNING as u32 != 0,
        loopback: device == libc::ARPHRD_LOOPBACK,
        ..Link::default()
    };
    let (mut below, mut netns_id) = (None, None);
    for (kind, value) in attributes_after(payload, FIXED) {
        match kind {
            libc::IFLA_IFNAME => link.name = read_string(value),
            libc::IFLA_ADDRESS => link.mac = read_mac(value),
            libc::IFLA_MTU => link.mtu = read_u32(value)?,
            libc::IFLA_MASTER => link.master = read_u32(value),
            libc::IFLA_LINK => below = read_u32(value),
            LINK_NETNSID => netns_id = read_u32(value).filter(|id| *id as i32 >= 0),
            libc::IFLA_LINKINFO => {
                link.kind = attributes(value)
                    .find(|(kind, _)| *kind == INFO_KIND)
                    .map(|(_, name)| read_string(name))
                    .unwrap_or_default();
            }
            _ => {}
        }
    }
    link.peer = below.filter(|index| *index != 0).map(|index| Peer { index, netns_id });
    Some(link)
}
