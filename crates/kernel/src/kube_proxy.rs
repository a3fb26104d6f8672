//! Detects what kube-proxy left in a network namespace: rules that still
//! translate Services, and connections that they translated. Nothing is
//! changed. The cost does not depend on the number of Services, except with
//! iptables-legacy, whose interface returns whole tables only.

use std::fmt;
use std::fs;
use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use netlink_sys::protocols;

use crate::netlink::message::{Message, attributes, attributes_after};
use crate::netlink::{Netlink, NetlinkError, request};

/// Bytes of `struct nfgenmsg`.
const FIXED: usize = 4;
/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETTABLE` and `_GETCHAIN`.
const GET_TABLE: u16 = 10 << 8 | 1;
const GET_CHAIN: u16 = 10 << 8 | 4;
/// `NFTA_TABLE_NAME`, `NFTA_CHAIN_TABLE`, `NFTA_CHAIN_NAME`.
const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET`.
const GET_CONNECTIONS: u16 = 1 << 8 | 1;
/// `CTA_TUPLE_ORIG`, `CTA_TUPLE_PROTO`, `CTA_PROTO_NUM`, `CTA_STATUS`.
const TUPLE_ORIG: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const PROTO_NUM: u16 = 1;
const STATUS: u16 = 3;
/// `IPS_DST_NAT` of linux/netfilter/nf_conntrack_common.h.
const DST_NAT: u32 = 1 << 5;
/// The table of kube-proxy's mode `nftables`, and the chain that its modes
/// `iptables` and `ipvs` create in the table `nat`.
const TABLE: &str = "kube-proxy";
const CHAIN: &str = "KUBE-SERVICES";
/// The device that has the Service addresses in the mode `ipvs`.
const IPVS_DEVICE: &str = "kube-ipvs0";
/// `IPT_SO_GET_INFO` and `IPT_SO_GET_ENTRIES`; the same for IPv6.
const GET_INFO: libc::c_int = 64;
const GET_ENTRIES: libc::c_int = 65;
/// `struct ipt_getinfo` and the header of `struct ipt_get_entries`.
const INFO_BYTES: usize = 84;
const ENTRIES_HEADER: usize = 40;
/// How often a table is read if it grows meanwhile.
const TRIES: usize = 4;

/// A set of rules that kube-proxy created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rules {
    /// The nftables table `kube-proxy`.
    Nftables(Family),
    /// iptables chains in nftables (`iptables-nft`).
    Iptables(Family),
    /// iptables chains in x_tables (`iptables-legacy`).
    IptablesLegacy(Family),
    /// IPVS virtual services, or the device `kube-ipvs0`.
    Ipvs,
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are the families")]
pub enum Family {
    Ipv4,
    Ipv6,
}

impl Rules {
    /// The value of the metric label.
    pub fn kind(self) -> &'static str {
        match self {
            Rules::Nftables(_) => "nftables",
            Rules::Iptables(_) => "iptables",
            Rules::IptablesLegacy(_) => "iptables-legacy",
            Rules::Ipvs => "ipvs",
        }
    }

    /// The shell command that removes the rules if `kube-proxy --cleanup` is
    /// not available.
    pub fn cleanup_command(self) -> &'static str {
        match self {
            Rules::Nftables(Family::Ipv4) => "nft delete table ip kube-proxy",
            Rules::Nftables(Family::Ipv6) => "nft delete table ip6 kube-proxy",
            Rules::Iptables(Family::Ipv4) => "iptables-nft-save | grep -v KUBE- | iptables-nft-restore",
            Rules::Iptables(Family::Ipv6) => "ip6tables-nft-save | grep -v KUBE- | ip6tables-nft-restore",
            Rules::IptablesLegacy(Family::Ipv4) => {
                "iptables-legacy-save | grep -v KUBE- | iptables-legacy-restore"
            }
            Rules::IptablesLegacy(Family::Ipv6) => {
                "ip6tables-legacy-save | grep -v KUBE- | ip6tables-legacy-restore"
            }
            Rules::Ipvs => "ipvsadm --clear; ip link delete kube-ipvs0",
        }
    }
}

impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = |family: &Family| match family {
            Family::Ipv4 => "IPv4",
            Family::Ipv6 => "IPv6",
        };
        match self {
            Rules::Nftables(of) => write!(f, "the nftables table {TABLE} ({})", family(of)),
            Rules::Iptables(of) => write!(f, "iptables chains such as {CHAIN} ({})", family(of)),
            Rules::IptablesLegacy(of) => {
                write!(f, "iptables-legacy chains such as {CHAIN} ({})", family(of))
            }
            Rules::Ipvs => write!(f, "IPVS services or the device {IPVS_DEVICE}"),
        }
    }
}

/// The sets of rules in the network namespace of the calling thread.
pub fn rules() -> Result<Vec<Rules>, NetlinkError> {
    let mut found = Vec::new();
    for family in [Family::Ipv4, Family::Ipv6] {
        if has(family, GET_TABLE, &[(TABLE_NAME, TABLE)])? {
            found.push(Rules::Nftables(family));
        }
        if has(family, GET_CHAIN, &[(CHAIN_TABLE, "nat"), (CHAIN_NAME, CHAIN)])? {
            found.push(Rules::Iptables(family));
        }
        if has_legacy(family) {
            found.push(Rules::IptablesLegacy(family));
        }
    }
    let is_ipvs =
        |text: String| text.lines().any(|line| line.starts_with("TCP ") || line.starts_with("UDP "));
    if fs::read_to_string("/proc/thread-self/net/ip_vs").is_ok_and(is_ipvs)
        || Netlink::open()?.link(IPVS_DEVICE).is_ok()
    {
        found.push(Rules::Ipvs);
    }
    Ok(found)
}

/// The number of TCP connections whose destination netfilter (`IPS_DST_NAT`)
/// or IPVS translates, in the network namespace of the calling thread. Reads
/// the whole conntrack table of the host.
pub fn translated_connections() -> Result<usize, NetlinkError> {
    let listed = Netlink::open_protocol(protocols::NETLINK_NETFILTER).and_then(|mut netlink| {
        netlink.dump("conntrack entries of the host", GET_CONNECTIONS, &[0; FIXED], |payload| {
            is_translated_tcp(payload).then_some(())
        })
    });
    let by_ipvs = fs::read_to_string("/proc/thread-self/net/ip_vs_conn").unwrap_or_default();
    let by_ipvs = by_ipvs.lines().filter(|line| line.starts_with("TCP ")).count();
    match listed {
        Ok(connections) => Ok(connections.len() + by_ipvs),
        // The kernel has no conntrack (nf_conntrack_netlink).
        Err(error) if is_unsupported(&error) => Ok(by_ipvs),
        Err(error) => Err(error),
    }
}

fn is_translated_tcp(payload: &[u8]) -> bool {
    let find = |bytes: &[u8], kind: u16| {
        attributes(bytes).find(|(of, _)| *of == kind).map(|(_, value)| value.to_vec())
    };
    let all = payload.get(FIXED..).unwrap_or_default();
    let status = find(all, STATUS).and_then(|value| Some(u32::from_be_bytes(*value.first_chunk()?)));
    let protocol = attributes_after(payload, FIXED)
        .find(|(kind, _)| *kind == TUPLE_ORIG)
        .and_then(|(_, tuple)| find(&find(tuple, TUPLE_PROTO)?, PROTO_NUM));
    status.is_some_and(|status| status & DST_NAT != 0)
        && protocol.is_some_and(|value| value.first() == Some(&(libc::IPPROTO_TCP as u8)))
}

fn has(family: Family, kind: u16, names: &[(u16, &str)]) -> Result<bool, NetlinkError> {
    let number = match family {
        Family::Ipv4 => libc::AF_INET,
        Family::Ipv6 => libc::AF_INET6,
    };
    let mut message = Message::new(kind, request(0), &[number as u8, 0, 0, 0]);
    for (attribute, name) in names {
        message.string(*attribute, name);
    }
    let object = || "a table or chain of kube-proxy".to_owned();
    let found = Netlink::open_protocol(protocols::NETLINK_NETFILTER)
        .and_then(|mut netlink| netlink.change("get", object, &mut message));
    match found {
        Ok(()) => Ok(true),
        Err(error) if error.is_missing() || is_unsupported(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// True if the kernel does not have this netlink interface.
fn is_unsupported(error: &NetlinkError) -> bool {
    [libc::EINVAL, libc::EOPNOTSUPP, libc::EPROTONOSUPPORT].iter().any(|errno| error.errno() == Some(*errno))
}

/// Whether the legacy interface has the chain. Reading a table creates it, so
/// only tables that exist are read.
fn has_legacy(family: Family) -> bool {
    let (names, level, any) = match family {
        Family::Ipv4 => ("/proc/thread-self/net/ip_tables_names", libc::IPPROTO_IP, "0.0.0.0:0"),
        Family::Ipv6 => ("/proc/thread-self/net/ip6_tables_names", libc::IPPROTO_IPV6, "[::]:0"),
    };
    let has_table = fs::read_to_string(names).is_ok_and(|names| names.lines().any(|name| name == "nat"));
    let table = || {
        let socket = UdpSocket::bind(any).ok()?;
        (0..TRIES).find_map(|_| legacy_table(&socket, level).ok())
    };
    let chain = format!("{CHAIN}\0");
    let names_chain = |bytes: Vec<u8>| bytes.windows(chain.len()).any(|window| window == chain.as_bytes());
    has_table && table().is_some_and(names_chain)
}

fn legacy_table(socket: &UdpSocket, level: libc::c_int) -> io::Result<Vec<u8>> {
    let mut info = vec![0; INFO_BYTES];
    info[..3].copy_from_slice(b"nat");
    get_option(socket, level, GET_INFO, &mut info)?;
    let size: [u8; 4] = info[INFO_BYTES - 4..].try_into().expect("four bytes are left");
    let mut entries = vec![0; ENTRIES_HEADER + u32::from_ne_bytes(size) as usize];
    entries[..3].copy_from_slice(b"nat");
    entries[32..36].copy_from_slice(&size);
    get_option(socket, level, GET_ENTRIES, &mut entries)?;
    Ok(entries)
}

fn get_option(socket: &UdpSocket, level: libc::c_int, name: libc::c_int, value: &mut [u8]) -> io::Result<()> {
    let mut length = value.len() as libc::socklen_t;
    // SAFETY: the pointers are valid for the length that is passed.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, name, value.as_mut_ptr().cast(), &raw mut length)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
