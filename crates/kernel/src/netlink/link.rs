//! Network devices ("links" in rtnetlink and `ip`).

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

/// A network device.
#[doc(alias = "ifinfomsg")]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Hardware address; none on devices without a 6-byte address.
    pub mac: Option<Mac>,
    /// MTU, bytes.
    pub mtu: u32,
    /// Administratively up (`IFF_UP`).
    pub up: bool,
    /// Has carrier (`IFF_LOWER_UP`).
    pub carrier: bool,
    /// Operational (`IFF_RUNNING`). A device that has carrier still drops
    /// outgoing packets until this flag is set.
    pub running: bool,
    /// Loopback device.
    pub loopback: bool,
    /// `veth`, `bridge`, ...; empty for hardware and loopback.
    pub kind: String,
    /// Index of the bridge or other master device.
    pub master: Option<u32>,
    /// The peer of a veth device, or the lower device (`IFLA_LINK`).
    pub peer: Option<Peer>,
}

/// The device that `IFLA_LINK` refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Index in the namespace of that device.
    pub index: u32,
    /// ID of that namespace (`link-netnsid` in `ip link`); none = the same namespace.
    pub netns_id: Option<u32>,
}

/// A veth pair to create.
#[derive(Clone, Copy, Debug)]
pub struct Veth<'a> {
    /// The end in the namespace of the netlink socket.
    pub local: VethEnd<'a>,
    /// The other end.
    pub peer: VethEnd<'a>,
    /// MTU of both ends, bytes.
    pub mtu: u32,
    /// Namespace in which the other end is created; none = the namespace of
    /// the netlink socket.
    pub peer_netns: Option<&'a NetNs>,
}

/// One end of a veth pair.
#[derive(Clone, Copy, Debug)]
pub struct VethEnd<'a> {
    /// Name, at most 15 bytes.
    pub name: &'a str,
    /// Hardware address; none = the kernel chooses.
    pub mac: Option<Mac>,
}

impl Netlink {
    /// All devices.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        self.dump("links", libc::RTM_GETLINK, &fixed(0, 0, 0), parse)
    }

    /// The device with this name. If there is none, the error satisfies
    /// [`NetlinkError::is_missing`].
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

    /// Creates a veth pair. Both ends are down.
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

    /// Creates a bridge, which is down. `mtu` is in bytes.
    pub fn create_bridge(&mut self, name: &str, mtu: u32) -> Result<(), NetlinkError> {
        let mut message = new_link();
        message.string(libc::IFLA_IFNAME, name).u32(libc::IFLA_MTU, mtu);
        message.nested(libc::IFLA_LINKINFO, |info| {
            info.string(INFO_KIND, "bridge");
        });
        self.change("create", || format!("bridge {name}"), &mut message)
    }

    /// Deletes a device by name. It is no error if there is none.
    pub fn delete_link(&mut self, name: &str) -> Result<(), NetlinkError> {
        let mut message = Message::new(libc::RTM_DELLINK, request(0), &fixed(0, 0, 0));
        message.string(libc::IFLA_IFNAME, name);
        ignore_missing(self.change("delete", || format!("link {name}"), &mut message))
    }

    /// Deletes a device by index. It is no error if there is none.
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

    /// Adds a device to a bridge, or removes it (`None`).
    pub fn set_master(&mut self, index: u32, master: Option<u32>) -> Result<(), NetlinkError> {
        self.set(index, "set the master of", |message| message.u32(libc::IFLA_MASTER, master.unwrap_or(0)))
    }

    /// Renames a device. Before Linux 6.2 the device must be down.
    pub fn rename(&mut self, index: u32, name: &str) -> Result<(), NetlinkError> {
        self.set(index, "rename", |message| message.string(libc::IFLA_IFNAME, name))
    }

    /// Moves a device into another namespace. The device is down afterwards.
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
