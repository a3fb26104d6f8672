//! Sockets of a network namespace over `NETLINK_SOCK_DIAG` (sock_diag(7)):
//! listed by their peer, and destroyed with `SOCK_DESTROY` (Linux 4.5 for TCP,
//! 4.9 for UDP; needs `CONFIG_INET_DIAG_DESTROY`).

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
/// Offset of `id` in `struct inet_diag_msg`.
const ID_OFFSET: usize = 4;
/// Bit mask of the TCP states of a live connection: all but `TCP_TIME_WAIT`
/// (6), `TCP_CLOSE` (7), `TCP_LISTEN` (10), `TCP_SYN_RECV` (3) and
/// `TCP_NEW_SYN_RECV` (12). A connected UDP socket is in `TCP_ESTABLISHED` (1).
const CONNECTED: u32 = 1 << 1 | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;

/// A `NETLINK_SOCK_DIAG` socket in one network namespace.
#[derive(Debug)]
pub struct SocketDiag(Netlink);

/// A connected socket.
#[doc(alias = "inet_diag_msg")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectedSocket {
    family: u8,
    protocol: u8,
    /// `struct inet_diag_sockid`, as the kernel returned it.
    id: [u8; ID_BYTES],
    /// The socket cookie, equal to that of `bpf_get_socket_cookie`.
    pub cookie: u64,
    /// Remote address and port. An IPv4-mapped IPv6 address is given as IPv4.
    pub peer: SocketAddr,
}

impl SocketDiag {
    /// Opens a socket in the network namespace of the calling thread.
    pub fn open() -> Result<SocketDiag, NetlinkError> {
        Netlink::open_protocol(protocols::NETLINK_SOCK_DIAG).map(SocketDiag)
    }

    /// Opens a socket in another network namespace. The calling thread stays
    /// in its own.
    pub fn open_in(netns: &NetNs) -> Result<SocketDiag, NetlinkError> {
        Netlink::open_protocol_in(netns, protocols::NETLINK_SOCK_DIAG).map(SocketDiag)
    }

    /// The connected sockets of an address family (`AF_INET`, `AF_INET6`) and
    /// protocol (`IPPROTO_TCP`, `IPPROTO_UDP`). `port`, in host byte order,
    /// limits the list to sockets with this remote port.
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

    /// Destroys a socket: its process gets `ECONNABORTED`, and the peer of a
    /// TCP connection gets a reset. Returns false if the socket no longer
    /// exists. Fails with `EOPNOTSUPP` if the kernel cannot destroy sockets.
    #[doc(alias = "SOCK_DESTROY")]
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

    /// Checks that the kernel can destroy sockets, with a UDP socket that is
    /// connected to itself and sends nothing. See [`SocketDiag::destroy`] for
    /// the errors.
    pub fn probe_destroy(&mut self) -> Result<(), NetlinkError> {
        let failed = |source| NetlinkError::Socket { operation: "create a test socket", source };
        let socket = UdpSocket::bind(("127.0.0.1", 0)).map_err(failed)?;
        // Connected to its own address, which no other socket uses.
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
