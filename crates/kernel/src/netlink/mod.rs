//! Blocking netlink sockets: links, addresses, routes, neighbours and tc
//! filters over rtnetlink(7), sockets over sock_diag(7).
//!
//! A [`Netlink`] belongs to the network namespace in which it was opened,
//! whichever thread uses it later. The message format is a stable kernel ABI
//! and small, so it is implemented here ([`message`]) instead of with a crate
//! whose strict parsers reject attributes that newer kernels add.

mod address;
mod diag;
mod error;
mod filter;
mod link;
pub mod message;
mod neighbour;
mod route;
mod watch;

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use netlink_sys::{Socket, SocketAddr, protocols};

pub use address::Address;
pub use diag::{ConnectedSocket, SocketDiag};
pub use error::NetlinkError;
pub use filter::{BpfFilter, Direction};
pub use link::{Link, Peer, Veth, VethEnd};
pub use neighbour::Neighbour;
pub use route::{ResolvedRoute, Route, RouteKind, Scope, protocol, table};
pub use watch::{Change, Watch};

use crate::netns::{NetNs, NetNsError};
use message::{HEADER, Message, Received, attributes, read_string, read_u32, received};

/// The largest datagram that the kernel sends in a dump, bytes.
const DATAGRAM_BYTES_MAX: usize = 64 << 10;
/// How often a dump is attempted while changes interrupt it.
const DUMP_TRIES: usize = 8;

/// A `NETLINK_ROUTE` socket in one network namespace.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens a socket in the network namespace of the calling thread.
    pub fn open() -> Result<Netlink, NetlinkError> {
        Netlink::open_protocol(protocols::NETLINK_ROUTE)
    }

    /// Opens a socket in another network namespace. The calling thread stays
    /// in its own.
    pub fn open_in(netns: &NetNs) -> Result<Netlink, NetlinkError> {
        Netlink::open_protocol_in(netns, protocols::NETLINK_ROUTE)
    }

    pub(crate) fn open_protocol(protocol: isize) -> Result<Netlink, NetlinkError> {
        let mut socket = Socket::new(protocol).map_err(socket_failed("open a socket"))?;
        socket.bind_auto().map_err(socket_failed("bind a socket"))?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(socket_failed("connect a socket"))?;
        socket.set_ext_ack(true).map_err(socket_failed("enable extended acknowledgements"))?;
        socket.set_cap_ack(true).map_err(socket_failed("enable capped acknowledgements"))?;
        // NETLINK_GET_STRICT_CHK (Linux 4.20): without it the kernel ignores
        // the filter attributes of dump requests.
        socket.set_netlink_get_strict_chk(true).map_err(socket_failed("enable strict checking"))?;
        Ok(Netlink { socket, sequence: 0, buffer: vec![0; DATAGRAM_BYTES_MAX] })
    }

    fn open_protocol_in(netns: &NetNs, protocol: isize) -> Result<Netlink, NetlinkError> {
        netns.enter(|| Netlink::open_protocol(protocol)).map_err(|error| NetlinkError::Socket {
            operation: "open a socket in a namespace",
            source: match error {
                NetNsError::System { source, .. } => source,
                other => io::Error::other(other.to_string()),
            },
        })?
    }

    /// Sends a request and waits for its acknowledgement.
    pub(crate) fn change(
        &mut self,
        operation: &'static str,
        object: impl Fn() -> String,
        message: &mut Message,
    ) -> Result<(), NetlinkError> {
        self.exchange(operation, &object, message, |_| {}).map(|_| ())
    }

    /// Sends a request and passes every message of the reply to `each`.
    /// Returns false if a change interrupted a dump (`NLM_F_DUMP_INTR`).
    fn exchange(
        &mut self,
        operation: &'static str,
        object: &dyn Fn() -> String,
        message: &mut Message,
        mut each: impl FnMut(Received<'_>),
    ) -> Result<bool, NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        self.socket.send(message.finish(self.sequence), 0).map_err(socket_failed("send"))?;
        let mut consistent = true;
        loop {
            let length = receive(&self.socket, &mut self.buffer)?;
            for answer in received(&self.buffer[..length]) {
                if answer.sequence != self.sequence {
                    continue;
                }
                consistent &= answer.flags & libc::NLM_F_DUMP_INTR as u16 == 0;
                match outcome(answer) {
                    Outcome::Message => each(answer),
                    Outcome::Done => return Ok(consistent),
                    Outcome::Refused { errno, detail } => {
                        let source = io::Error::from_raw_os_error(errno);
                        return Err(NetlinkError::Refused { operation, object: object(), source, detail });
                    }
                }
            }
        }
    }

    /// Lists all objects of a kind. A dump that a change interrupts is
    /// repeated, at most [`DUMP_TRIES`] times; the last result is returned
    /// even if it was interrupted.
    pub(crate) fn dump<T>(
        &mut self,
        objects: &'static str,
        kind: u16,
        fixed: &[u8],
        parse: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        let mut found = Vec::new();
        for _ in 0..DUMP_TRIES {
            found.clear();
            let mut message = Message::new(kind, (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16, fixed);
            let each = |answer: Received<'_>| found.extend(parse(answer.payload));
            if self.exchange("list", &|| objects.to_owned(), &mut message, each)? {
                break;
            }
        }
        Ok(found)
    }

    /// Requests one object.
    fn get<T>(
        &mut self,
        object: impl Fn() -> String,
        message: &mut Message,
        parse: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<T, NetlinkError> {
        let mut found = None;
        self.exchange("get", &object, message, |answer| found = parse(answer.payload))?;
        found.ok_or_else(|| NetlinkError::UnexpectedReply { operation: "get", object: object() })
    }
}

impl AsRawFd for Netlink {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// The flags of a request with an acknowledgement.
pub(crate) fn request(flags: i32) -> u16 {
    (libc::NLM_F_REQUEST | libc::NLM_F_ACK | flags) as u16
}

enum Outcome {
    Message,
    Done,
    Refused { errno: i32, detail: String },
}

fn outcome(answer: Received<'_>) -> Outcome {
    match i32::from(answer.kind) {
        libc::NLMSG_ERROR | libc::NLMSG_DONE => {
            // NLMSG_DONE without a payload and NLMSG_ERROR with code 0 mean success.
            let code = read_u32(answer.payload).unwrap_or(0) as i32;
            if code >= 0 {
                return Outcome::Done;
            }
            Outcome::Refused { errno: -code, detail: extended_error(answer) }
        }
        _ => Outcome::Message,
    }
}

/// The error text of an extended acknowledgement (`NETLINK_EXT_ACK`, Linux
/// 4.12). It follows the error code and, in `NLMSG_ERROR`, the header of the
/// request; `NETLINK_CAP_ACK` omits the rest of the request.
fn extended_error(answer: Received<'_>) -> String {
    /// `NLMSGERR_ATTR_MSG` of linux/netlink.h.
    const MESSAGE: u16 = 1;
    let skip = if i32::from(answer.kind) == libc::NLMSG_ERROR { 4 + HEADER } else { 4 };
    let words = attributes(answer.payload.get(skip..).unwrap_or_default());
    words.filter(|(kind, _)| *kind == MESSAGE).map(|(_, text)| read_string(text)).next().unwrap_or_default()
}

fn receive(socket: &Socket, mut buffer: &mut [u8]) -> Result<usize, NetlinkError> {
    loop {
        match socket.recv(&mut buffer, 0) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other.map_err(socket_failed("receive")),
        }
    }
}

fn socket_failed(operation: &'static str) -> impl FnOnce(io::Error) -> NetlinkError {
    move |source| NetlinkError::Socket { operation, source }
}
