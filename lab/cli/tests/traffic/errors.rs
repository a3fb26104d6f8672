//! ICMP errors as received by the sender's socket (`IP_RECVERR`, ip(7)): the
//! kernel delivers them only if they quote a packet of the socket.

use std::io::{Error, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use libc::c_int;
use nix::cmsg_space;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt};

/// Timeout of an error on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Whether a packet may be fragmented: `IP_PMTUDISC_DONT` and `_DO`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragmenting {
    Allowed,
    Forbidden,
}

/// An ICMP or ICMPv6 error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpError {
    pub kind: u8,
    pub code: u8,
    /// MTU, for packets that are too big.
    pub info: u32,
    /// Source address.
    pub from: IpAddr,
}

/// Opens a UDP socket in the network namespace of the calling thread.
pub fn udp_socket(to: SocketAddr, fragmenting: Fragmenting) -> UdpSocket {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).unwrap();
    let discover = match fragmenting {
        Fragmenting::Allowed => libc::IP_PMTUDISC_DONT,
        Fragmenting::Forbidden => libc::IP_PMTUDISC_DO,
    };
    if to.is_ipv4() {
        setsockopt(&socket, sockopt::Ipv4RecvErr, &true).unwrap();
        set_option(&socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, discover).unwrap();
    } else {
        setsockopt(&socket, sockopt::Ipv6RecvErr, &true).unwrap();
        set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, discover).unwrap();
    }
    socket.set_read_timeout(Some(TIMEOUT)).unwrap();
    socket.connect(to).unwrap();
    socket
}

/// Sets the TTL or hop limit of a socket.
pub fn set_ttl(socket: &UdpSocket, ttl: u8) {
    let (level, name) = match socket.peer_addr().unwrap() {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_TTL),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS),
    };
    set_option(socket, level, name, ttl.into()).unwrap();
}

/// The path MTU of a connected socket.
pub fn path_mtu(socket: &impl AsRawFd, v6: bool) -> u32 {
    let (level, name) =
        if v6 { (libc::IPPROTO_IPV6, libc::IPV6_MTU) } else { (libc::IPPROTO_IP, libc::IP_MTU) };
    let mut value: c_int = 0;
    let mut length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: both options have an int as their value, and the kernel is told
    // how much room there is.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut length)
    };
    assert_eq!(result, 0, "{}", Error::last_os_error());
    value as u32
}

fn set_option(socket: &impl AsRawFd, level: c_int, name: c_int, value: c_int) -> Result<()> {
    // SAFETY: the options set here have an int as their value.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}

/// The next ICMP error; none after the timeout.
pub fn next_error(socket: &UdpSocket) -> Option<IcmpError> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let left = deadline.checked_duration_since(Instant::now())?;
        // POLLERR signals the error queue and is always polled for.
        let mut waited = [PollFd::new(socket.as_fd(), PollFlags::empty())];
        poll(&mut waited, PollTimeout::try_from(left.as_millis() as u32).unwrap()).unwrap();
        if let Some(error) = queued_error(socket) {
            return Some(error);
        }
    }
}

fn queued_error(socket: &UdpSocket) -> Option<IcmpError> {
    let mut room = cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut [], Some(&mut room), flags).ok()?;
    message.cmsgs().unwrap().find_map(|control| match control {
        ControlMessageOwned::Ipv4RecvErr(error, Some(from)) if error.ee_origin == libc::SO_EE_ORIGIN_ICMP => {
            Some(of_network(error, Ipv4Addr::from(u32::from_be(from.sin_addr.s_addr)).into()))
        }
        ControlMessageOwned::Ipv6RecvErr(error, Some(from))
            if error.ee_origin == libc::SO_EE_ORIGIN_ICMP6 =>
        {
            Some(of_network(error, Ipv6Addr::from(from.sin6_addr.s6_addr).into()))
        }
        _ => None,
    })
}

fn of_network(error: libc::sock_extended_err, from: IpAddr) -> IcmpError {
    IcmpError { kind: error.ee_type, code: error.ee_code, info: error.ee_info, from }
}
