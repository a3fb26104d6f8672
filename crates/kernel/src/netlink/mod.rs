//! Links, addresses, routes and neighbours over rtnetlink, sockets over
//! socket diagnosis, blocking.
//!
//! A [`Netlink`] speaks to the network namespace in which it was opened,
//! whichever thread uses it later. The message format is fixed ABI and small,
//! so it is written here ([`message`]) rather than taken from a crate whose
//! strict parsers refuse what newer kernels add.

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

/// The largest datagram that the kernel makes of a dump.
const DATAGRAM_BYTES_MAX: usize = 64 << 10;
/// How often an interrupted dump is tried again.
const DUMP_TRIES: usize = 8;

/// A connection to netlink in one network namespace.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// In the network namespace of the calling thread.
    pub fn open() -> Result<Netlink, NetlinkError> {
        Netlink::open_protocol(protocols::NETLINK_ROUTE)
    }

    /// In another network namespace; this thread stays where it is.
    pub fn open_in(netns: &NetNs) -> Result<Netlink, NetlinkError> {
        Netlink::open_protocol_in(netns, protocols::NETLINK_ROUTE)
    }

    pub(crate) fn open_protocol(protocol: isize) -> Result<Netlink, NetlinkError> {
        let mut socket = Socket::new(protocol).map_err(socket_failed("open a socket"))?;
        socket.bind_auto().map_err(socket_failed("bind a socket"))?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(socket_failed("connect a socket"))?;
        socket.set_ext_ack(true).map_err(socket_failed("enable extended acknowledgements"))?;
        socket.set_cap_ack(true).map_err(socket_failed("enable capped acknowledgements"))?;
        // Without it the kernel ignores the filters of dumps (since Linux 4.20).
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

    /// Sends a request and hands every message of the answer to `each`.
    /// `Ok(false)` = a dump that was interrupted by a change.
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

    /// Lists everything of a kind. Tried again when something changed while
    /// the kernel was listing.
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

    /// Asks for one object.
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

/// Flags of a request that changes something.
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
            // A DONE without a body and an ERROR with code 0 are success.
            let code = read_u32(answer.payload).unwrap_or(0) as i32;
            if code >= 0 {
                return Outcome::Done;
            }
            Outcome::Refused { errno: -code, detail: extended_error(answer) }
        }
        _ => Outcome::Message,
    }
}

/// The kernel's own words, after the code and (in an error) the header of
/// the request, which is capped.
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
