//! ICMP and ICMPv6 echo (RFC 792, RFC 4443 section 4) with raw sockets.

use std::io::{Error, ErrorKind, Result};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, connect, recv, send,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::packet::{internet_checksum, sum};

const HEADER_BYTES: usize = 8;
/// Larger than any packet.
const BUFFER_BYTES: usize = 70_000;

/// Sends one request from the network namespace of the calling thread and
/// waits for its reply; returns the payload of the reply.
pub fn ping(to: IpAddr, id: u16, payload: &[u8], timeout: Duration) -> Result<Vec<u8>> {
    let socket = raw_socket(to)?;
    connect(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(to, 0)))?;
    send(socket.as_raw_fd(), &request(to, id, payload), MsgFlags::empty())?;
    let deadline = Instant::now() + timeout;
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let left = deadline.checked_duration_since(Instant::now());
        let left = left.ok_or_else(|| Error::new(ErrorKind::TimedOut, "no reply"))?;
        // Zero would disable the timeout.
        let left = TimeVal::microseconds((left.as_micros() as i64).max(1));
        setsockopt(&socket, sockopt::ReceiveTimeout, &left)?;
        let length = match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(length) => length,
            Err(nix::Error::EAGAIN) => continue,
            Err(errno) => return Err(errno.into()),
        };
        if let Some(reply) = reply(to, id, &buffer[..length]) {
            return Ok(reply.to_vec());
        }
    }
}

fn raw_socket(to: IpAddr) -> Result<OwnedFd> {
    let (family, protocol) = match to {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
    };
    Ok(socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?)
}

/// The kernel computes the checksum of ICMPv6, whose pseudo-header includes
/// the source address; that of ICMP is computed here.
fn request(to: IpAddr, id: u16, payload: &[u8]) -> Vec<u8> {
    let kind = if to.is_ipv4() { 8 } else { 128 };
    let mut message = vec![kind, 0, 0, 0];
    message.extend(id.to_be_bytes());
    message.extend([0, 1]);
    message.extend(payload);
    if to.is_ipv4() {
        let checksum = internet_checksum(sum(&message));
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
    }
    message
}

/// The payload of the matching reply. For IPv4 raw sockets include the IP
/// header.
fn reply(from: IpAddr, id: u16, bytes: &[u8]) -> Option<&[u8]> {
    let (kind, message) = match from {
        IpAddr::V4(_) => (0, bytes.get((*bytes.first()? & 0x0f) as usize * 4..)?),
        IpAddr::V6(_) => (129, bytes),
    };
    let header = message.get(..HEADER_BYTES)?;
    let is_ours = header[0] == kind && header[1] == 0 && header[4..6] == id.to_be_bytes();
    is_ours.then(|| &message[HEADER_BYTES..])
}
