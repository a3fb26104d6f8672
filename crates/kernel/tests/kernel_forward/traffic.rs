//! Test traffic: ICMP echo, UDP datagrams and TCP streams, with replies checked
//! byte by byte; and the echo servers.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use beeline_kernel::netns::NetNs;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

/// A reply that takes longer counts as lost. Emulated machines are slow.
pub const TIMEOUT: Duration = Duration::from_secs(20);
const ECHO_BYTES: usize = 56;

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at % 251) as u8).collect()
}

/// Sends one ICMP echo request and checks the reply.
#[track_caller]
pub fn ping(from: &NetNs, to: IpAddr) {
    let (family, protocol, request) = match to {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp, 8),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6, 128),
    };
    let answer = from.enter(|| {
        let socket = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol)?;
        let message = [vec![request, 0, 0, 0, 0, 0, 0, 1], pattern(ECHO_BYTES)].concat();
        exchange(&UdpSocket::from(socket), SocketAddr::new(to, 0), &message)
    });
    let answer = answer.unwrap().unwrap_or_else(|error| panic!("ping {to}: {error}"));
    assert!([0, 129].contains(&answer[0]) && answer[8..] == pattern(ECHO_BYTES), "ping {to}: {answer:02x?}");
}

/// Sends one UDP datagram to an echo server and checks the reply.
#[track_caller]
pub fn exchange_datagram(from: &NetNs, to: SocketAddr, bytes: usize) {
    let message = pattern(bytes);
    let answer = from.enter(|| {
        let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
        exchange(&UdpSocket::bind((any, 0))?, to, &message)
    });
    let answer = answer.unwrap().unwrap_or_else(|error| panic!("UDP to {to}, {bytes} bytes: {error}"));
    assert!(answer == message, "UDP to {to}: {bytes} bytes sent, {} received", answer.len());
}

fn exchange(socket: &UdpSocket, to: SocketAddr, message: &[u8]) -> std::io::Result<Vec<u8>> {
    socket.set_read_timeout(Some(TIMEOUT))?;
    // A connected socket receives only from this address.
    socket.connect(to)?;
    socket.send(message)?;
    let mut answer = vec![0; 1 << 16];
    let length = socket.recv(&mut answer)?;
    answer.truncate(length);
    Ok(answer)
}

/// A TCP connection to a server of [`echo_server_at`].
pub struct EchoStream {
    to: SocketAddr,
    stream: TcpStream,
}

impl EchoStream {
    #[track_caller]
    pub fn open(from: &NetNs, to: SocketAddr) -> EchoStream {
        let stream = from.enter(|| TcpStream::connect_timeout(&to, TIMEOUT)).unwrap();
        let stream = stream.unwrap_or_else(|error| panic!("TCP to {to}: {error}"));
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        EchoStream { to, stream }
    }

    /// Sends `bytes` bytes and checks the reply.
    #[track_caller]
    pub fn exchange(&mut self, bytes: usize) {
        let message = pattern(bytes);
        let mut answer = vec![0; bytes];
        let mut writer = self.stream.try_clone().unwrap();
        let read = thread::scope(|scope| {
            let written = scope.spawn(|| writer.write_all(&message));
            let read = self.stream.read_exact(&mut answer);
            written.join().unwrap().and(read)
        });
        read.unwrap_or_else(|error| panic!("TCP to {}, {bytes} bytes: {error}", self.to));
        assert!(answer == message, "TCP to {}: the reply differs from the request", self.to);
    }
}

/// A server that runs until it is dropped.
#[derive(Default)]
pub struct EchoServer {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// Starts a server that echoes UDP datagrams and TCP streams.
pub fn echo_server_at(netns: &NetNs, at: SocketAddr) -> EchoServer {
    let (udp, tcp) = netns
        .enter(|| (UdpSocket::bind(at).unwrap(), TcpListener::bind(at).unwrap()))
        .unwrap_or_else(|error| panic!("listen at {at}: {error}"));
    let mut listener = EchoServer::default();
    listener.spawn(move |stop| echo_datagrams(&udp, stop));
    listener.spawn(move |stop| serve_streams(&tcp, stop, |stream| echo_stream(&stream)));
    listener
}

impl EchoServer {
    /// Runs `work` on a new thread. It must return when the flag is set.
    pub fn spawn(&mut self, work: impl FnOnce(&AtomicBool) + Send + 'static) {
        let stop = self.stop.clone();
        self.threads.push(thread::spawn(move || work(&stop)));
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic of the thread was printed already.
            drop(thread.join());
        }
    }
}

const POLL_INTERVAL: Duration = Duration::from_millis(20);

fn echo_datagrams(socket: &UdpSocket, stop: &AtomicBool) {
    socket.set_read_timeout(Some(POLL_INTERVAL)).unwrap();
    let mut buffer = vec![0; 1 << 16];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            socket.send_to(&buffer[..length], from).unwrap();
        }
    }
}

/// Serves each connection on its own thread, which ends when the peer closes it.
pub fn serve_streams(
    listener: &TcpListener,
    stop: &AtomicBool,
    answer: impl Fn(TcpStream) + Send + Copy + 'static,
) {
    listener.set_nonblocking(true).unwrap();
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => drop(thread::spawn(move || answer(stream))),
            Err(_) => thread::sleep(POLL_INTERVAL),
        }
    }
}

fn echo_stream(stream: &TcpStream) {
    stream.set_nonblocking(false).unwrap();
    let (mut from, mut to) = (stream, stream);
    // The client reports a broken connection.
    let _ = std::io::copy(&mut from, &mut to);
    let _ = stream.shutdown(Shutdown::Both);
}
