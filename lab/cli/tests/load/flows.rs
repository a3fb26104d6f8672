//! Traffic flows.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, connect, setsockopt, socket, sockopt,
};

use super::flow::{Flow, FlowStats, TIMEOUT};

/// Interval of echo requests and of stream rounds.
const PAUSE: Duration = Duration::from_millis(1);

/// Interval of connections and of datagrams.
const LONG_PAUSE: Duration = Duration::from_millis(10);

/// Waits for an interval. Missed intervals are not made up for, so that a busy
/// machine is not loaded further.
struct Pacer(Instant, Duration);

impl Pacer {
    fn new(pause: Duration) -> Pacer {
        Pacer(Instant::now(), pause)
    }

    fn wait(&mut self) {
        std::thread::sleep(self.1.saturating_sub(self.0.elapsed()));
        self.0 = Instant::now();
    }
}

/// Pseudo-random bytes that depend on `start`.
fn content(start: u64, length: usize) -> Vec<u8> {
    let word = |index: u64| (index ^ start).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
    let words = (0..).flat_map(word);
    start.to_be_bytes().into_iter().chain(words).take(length).collect()
}

/// Number of retransmitted segments of this connection.
pub fn retransmitted(stream: BorrowedFd<'_>) -> u64 {
    // SAFETY: tcp_info is plain numbers, for which zero is a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = std::mem::size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `info`, which lives
    // until after the call; the descriptor is borrowed for it.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    assert_eq!(result, 0, "TCP_INFO: {}", io::Error::last_os_error());
    info.tcpi_total_retrans.into()
}

/// ICMP echo requests, one per [`PAUSE`] whether or not they are answered.
pub struct Pings {
    pub to: IpAddr,
    /// ICMP identifier.
    pub number: u16,
}

/// ICMP types of echo request and reply (RFC 792, RFC 4443), and the length of
/// the header that a raw socket returns before them.
fn echo_types(to: IpAddr) -> (u8, u8, usize) {
    if to.is_ipv4() { (8, 0, 20) } else { (128, 129, 0) }
}

impl Pings {
    fn open(&self) -> io::Result<UdpSocket> {
        let (family, protocol) = match self.to {
            IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
            IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
        };
        let socket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        setsockopt(&socket, sockopt::RcvBufForce, &(4 << 20))?;
        connect(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(self.to, 0)))?;
        // Raw sockets support the same calls as UDP sockets.
        let socket = UdpSocket::from(socket);
        socket.set_nonblocking(true)?;
        Ok(socket)
    }

    /// The full 64-bit number is in the payload, whose length varies.
    fn request(&self, number: u64) -> Vec<u8> {
        let mut message = vec![echo_types(self.to).0, 0, 0, 0];
        message.extend((0xbe00 | self.number).to_be_bytes());
        message.extend((number as u16).to_be_bytes());
        message.extend(content(number, 8 + (number % 1400) as usize));
        if self.to.is_ipv4() {
            // The kernel computes the checksum of ICMPv6.
            let sum = checksum(&message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        message
    }

    /// The number of the request that this packet answers; none for other
    /// packets.
    fn answer(&self, packet: &[u8]) -> Option<u64> {
        let (_, reply, header) = echo_types(self.to);
        let message = packet.get(header..)?;
        let is_ours = message.len() >= 16
            && message[0] == reply
            && message[4..6] == (0xbe00 | self.number).to_be_bytes();
        if !is_ours {
            return None;
        }
        let number = u64::from_be_bytes(*message[8..].first_chunk()?);
        (message[4..] == self.request(number)[4..]).then_some(number)
    }
}

impl Flow for Pings {
    fn run(&self, ends: &AtomicBool) -> FlowStats {
        let mut stats = FlowStats::default();
        let socket = match self.open() {
            Ok(socket) => socket,
            Err(error) => {
                stats.error(error);
                return stats;
            }
        };
        let (mut sent, mut pacer) = (0, Pacer::new(PAUSE));
        let mut missing: BTreeMap<u64, Instant> = BTreeMap::new();
        let mut buffer = vec![0; 65536];
        let mut last = None;
        // Waits for outstanding replies after the last request.
        while last.is_none_or(|last: Instant| !missing.is_empty() && last.elapsed() < TIMEOUT) {
            if ends.load(Ordering::Relaxed) {
                last = last.or(Some(Instant::now()));
            } else {
                match socket.send(&self.request(sent)) {
                    Ok(_) => drop(missing.insert(sent, Instant::now())),
                    Err(error) => stats.error(format!("cannot send echo request {sent}: {error}")),
                }
                sent += 1;
            }
            pacer.wait();
            while let Ok(length) = socket.recv(&mut buffer) {
                if let Some(sent) = self.answer(&buffer[..length]).and_then(|number| missing.remove(&number))
                {
                    stats.answered(sent);
                }
            }
        }
        if !missing.is_empty() {
            let begin = missing.keys().next().copied().unwrap_or_default();
            let ages: Vec<u64> = missing.keys().map(|number| number - begin).take(20).collect();
            stats.error(format!(
                "{} of {sent} echo requests were not answered: {begin}, and at these offsets from it: {ages:?}",
                missing.len()
            ));
        }
        stats
    }
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|two| u32::from(two[0]) << 8 | u32::from(*two.get(1).unwrap_or(&0)));
    let sum = words.sum::<u32>();
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

fn open_stream(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, TIMEOUT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

/// One round: sends data and checks that it is echoed.
fn exchange(mut stream: &TcpStream, number: u64, length: usize) -> io::Result<()> {
    let bytes = content(number, length);
    stream.write_all(&bytes)?;
    let mut back = vec![0; length];
    stream.read_exact(&mut back)?;
    if back == bytes { Ok(()) } else { Err(io::Error::other("the response differs from the request")) }
}

/// Closes a connection from this side and waits for the peer to close it.
fn finish(mut stream: &TcpStream) -> io::Result<()> {
    stream.shutdown(Shutdown::Write)?;
    match stream.read(&mut [0; 16])? {
        0 => Ok(()),
        _ => Err(io::Error::other("more bytes received than sent")),
    }
}

/// One TCP connection with continuous traffic.
pub struct Stream {
    pub to: SocketAddr,
}

impl Flow for Stream {
    fn run(&self, ends: &AtomicBool) -> FlowStats {
        let mut stats = FlowStats::default();
        let stream = match open_stream(self.to) {
            Ok(stream) => stream,
            Err(error) => {
                stats.error(format!("cannot connect: {error}"));
                return stats;
            }
        };
        let mut pacer = Pacer::new(PAUSE);
        while !ends.load(Ordering::Relaxed) {
            let (asked, number) = (Instant::now(), stats.probes);
            // From one byte to several segments of maximum size.
            let length = 1 + (number * 379 % 16000) as usize;
            if let Err(error) = exchange(&stream, number, length) {
                stats.error(format!("failed in round {number} after {:?}: {error}", asked.elapsed()));
                break;
            }
            stats.answered(asked);
            pacer.wait();
        }
        if stats.errors.is_empty()
            && let Err(error) = finish(&stream)
        {
            stats.error(format!("did not close cleanly: {error}"));
        }
        stats.retransmitted = retransmitted(stream.as_fd());
        stats
    }
}

/// Consecutive connections with one round each.
pub struct NewConnections {
    pub to: SocketAddr,
}

impl NewConnections {
    fn one(&self, number: u64) -> io::Result<u64> {
        let stream = open_stream(self.to)?;
        exchange(&stream, number, 100)?;
        finish(&stream)?;
        Ok(retransmitted(stream.as_fd()))
    }
}

impl Flow for NewConnections {
    fn run(&self, ends: &AtomicBool) -> FlowStats {
        let mut stats = FlowStats::default();
        let mut pacer = Pacer::new(LONG_PAUSE);
        while !ends.load(Ordering::Relaxed) {
            let (asked, number) = (Instant::now(), stats.probes);
            match self.one(number) {
                Ok(retransmits) => stats.retransmitted += retransmits,
                Err(error) => {
                    stats.error(format!("connection {number} after {:?}: {error}", asked.elapsed()))
                }
            }
            stats.answered(asked);
            pacer.wait();
        }
        stats
    }
}

/// Datagrams, each sent after the response to the previous one.
pub struct Datagrams {
    pub to: SocketAddr,
    /// How many are sent from one socket before the next socket is opened.
    /// Every new socket is a new connection to the datapath.
    pub per_socket: u64,
}

impl Datagrams {
    fn open(&self) -> io::Result<UdpSocket> {
        let any: IpAddr =
            if self.to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(self.to)?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        Ok(socket)
    }

    fn one(socket: &UdpSocket, number: u64) -> io::Result<()> {
        let bytes = content(number, 8 + (number * 37 % 1400) as usize);
        socket.send(&bytes)?;
        let mut buffer = vec![0; 65536];
        let length = socket.recv(&mut buffer)?;
        if buffer[..length] == bytes {
            Ok(())
        } else {
            Err(io::Error::other("the response differs from the request"))
        }
    }
}

impl Flow for Datagrams {
    fn run(&self, ends: &AtomicBool) -> FlowStats {
        let mut stats = FlowStats::default();
        let mut pacer = Pacer::new(LONG_PAUSE);
        let mut open: Option<(UdpSocket, u64)> = None;
        while !ends.load(Ordering::Relaxed) {
            let (asked, number) = (Instant::now(), stats.probes);
            let socket = open.take().filter(|(_, sent)| *sent < self.per_socket);
            let socket = socket.map_or_else(|| self.open().map(|socket| (socket, 0)), Ok);
            let outcome = socket.and_then(|(socket, sent)| {
                Datagrams::one(&socket, number)?;
                Ok((socket, sent + 1))
            });
            match outcome {
                Ok(socket) => open = Some(socket),
                Err(error) => stats.error(format!("datagram {number} after {:?}: {error}", asked.elapsed())),
            }
            stats.answered(asked);
            pacer.wait();
        }
        stats
    }
}
