//! Sockets of a network namespace over `NETLINK_SOCK_DIAG`: found by what they
//! are connected to, and destroyed (Linux's `CONFIG_INET_DIAG_DESTROY`).

use std::net::{SocketAddr, UdpSocket};

use netlink_sys::protocols;

use super::message::{Message, read_ip, read_u32};
use super::{Netlink, NetlinkError, request};
use crate::netns::NetNs;

/// `SOCK_DIAG_BY_FAMILY` of linux/sock_diag.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `SOCK_DESTROY` of linux/sock_diag.h.
const SOCK_DESTROY: u16 = 21;
/// Bytes of `struct inet_diag_sockid`.
const ID_BYTES: usize = 48;
/// Where it begins in `struct inet_diag_msg`.
const ID_OFFSET: usize = 4;
/// States of a connection that is not over: all but `TCP_TIME_WAIT` (6),
/// `TCP_CLOSE` (7), `TCP_LISTEN` (10) and the half-open ones (3, 12). A
/// connected datagram socket is in `TCP_ESTABLISHED` (1).
const CONNECTED: u32 = 1 << 1 | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;

/// A connection to the kernel's socket tables in one network namespace.
#[derive(Debug)]
pub struct SocketDiag(Netlink);

/// A connected socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectedSocket {
    family: u8,
    protocol: u8,
    /// `struct inet_diag_sockid`, as the kernel gave it.
    id: [u8; ID_BYTES],
    /// Its cookie, as `bpf_get_socket_cookie` gives it.
    pub cookie: u64,
    /// What it is connected to; an IPv4 address also where an IPv6 socket
    /// names it in its mapped form.
    pub peer: SocketAddr,
}

impl SocketDiag {
    /// In the network namespace of the calling thread.
    pub fn open() -> Result<SocketDiag, NetlinkError> {
        Netlink::open_protocol(protocols::NETLINK_SOCK_DIAG).map(SocketDiag)
    }

    /// In another network namespace; this thread stays where it is.
    pub fn open_in(netns: &NetNs) -> Result<SocketDiag, NetlinkError> {
        Netlink::open_protocol_in(netns, protocols::NETLINK_SOCK_DIAG).map(SocketDiag)
    }

    /// Connected sockets of an address family (`AF_INET`, `AF_INET6`) and a
    /// protocol (`IPPROTO_TCP`, `IPPROTO_UDP`); with `port`, those alone whose
    /// peer has it.
    pub fn connected(
        &mut self,
        family: u8,
        protocol: u8,
        port: Option<u16>,
    ) -> Result<Vec<ConnectedSocket>, NetlinkError> {
        let mut id = [0; ID_BYTES];
        id[2..4].copy_from_slice(&port.unwrap_or(0).to_be_bytes());
        self.0.dump("sockets", SOCK_DIAG_BY_FAMILY, &request_header(family, protocol, &id), |payload| {
            parse(payload, protocol)
        })
    }

    /// Destroys a socket: whoever uses it gets `ECONNABORTED`, and the other
    /// end of a TCP connection a reset. False if it is gone already.
    pub fn destroy(&mut self, socket: &ConnectedSocket) -> Result<bool, NetlinkError> {
        let fixed = request_header(socket.family, socket.protocol, &socket.id);
        let object = || format!("socket {} connected to {}", socket.cookie, socket.peer);
        let mut message = Message::new(SOCK_DESTROY, request(0), &fixed);
        match self.0.change("destroy", object, &mut message) {
            Ok(()) => Ok(true),
            Err(error) if matches!(error.errno(), Some(libc::ENOENT | libc::ESTALE)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Destroys a socket made for it: does this kernel do it? It sends
    /// nothing.
    pub fn probe_destroy(&mut self) -> Result<(), NetlinkError> {
        let failed = |source| NetlinkError::Socket { operation: "create a test socket", source };
        let socket = UdpSocket::bind(("127.0.0.1", 0)).map_err(failed)?;
        // Its own address: nobody else's.
        let own = socket.local_addr().map_err(failed)?;
        socket.connect(own).map_err(failed)?;
        let sockets = self.connected(libc::AF_INET as u8, libc::IPPROTO_UDP as u8, Some(own.port()))?;
        let found = sockets.iter().find(|socket| socket.peer == own);
        let found = found.ok_or_else(|| NetlinkError::Missing { object: format!("socket {own}") })?;
        self.destroy(found).map(|_| ())
    }
}

/// `struct inet_diag_req_v2` of linux/inet_diag.h.
fn request_header(family: u8, protocol: u8, id: &[u8; ID_BYTES]) -> Vec<u8> {
    let mut fixed = vec![family, protocol, 0, 0];
    fixed.extend_from_slice(&CONNECTED.to_ne_bytes());
    fixed.extend_from_slice(id);
    fixed
}

fn parse(payload: &[u8], protocol: u8) -> Option<ConnectedSocket> {
    let family = *payload.first()?;
    let id: [u8; ID_BYTES] = *payload.get(ID_OFFSET..)?.first_chunk()?;
    let port = u16::from_be_bytes(*id[2..].first_chunk()?);
    let ip = match i32::from(family) {
        libc::AF_INET => read_ip(&id[20..24])?,
        _ => read_ip(&id[20..36])?,
    };
    let cookie = u64::from(read_u32(&id[40..])?) | u64::from(read_u32(&id[44..])?) << 32;
    let peer = SocketAddr::new(ip.to_canonical(), port);
    Some(ConnectedSocket { family, protocol, id, cookie, peer })
}
