//! SCTP (RFC 9260), if the kernel has SCTP sockets. Debian's stock kernels have
//! them in a module.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use beeline_kernel::netns::NetNs;
use nix::libc;
use nix::sys::socket::{Backlog, SockaddrStorage, bind, connect, listen};

use crate::support::{attach_modes, no_programs};
use crate::topology::{FAMILIES, SCTP_PORT, Topology};
use crate::traffic::{EchoServer, TIMEOUT, serve_streams};

/// Enough requests to reach both of two random backends, except once in 2^15 runs.
const REQUESTS: usize = 16;

/// A one-to-one style socket (RFC 6458 section 4), bound to one address: a
/// socket bound to the wildcard address announces all addresses to its peer.
fn socket_at(at: SocketAddr) -> io::Result<OwnedFd> {
    let family = if at.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: takes numbers and returns one.
    let number = unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, libc::IPPROTO_SCTP) };
    if number < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else has.
    let socket = unsafe { OwnedFd::from_raw_fd(number) };
    bind(socket.as_raw_fd(), &SockaddrStorage::from(at))?;
    Ok(socket)
}

/// Starts a server that sends its own address on each association.
fn sctp_server_at(netns: &NetNs, at: SocketAddr) -> EchoServer {
    let listener = netns.enter(|| {
        let socket = socket_at(at)?;
        listen(&socket, Backlog::new(8)?)?;
        // One-to-one style sockets use the same system calls as TCP.
        io::Result::Ok(TcpListener::from(socket))
    });
    let listener = listener.unwrap().unwrap_or_else(|error| panic!("SCTP at {at}: {error}"));
    let own = move |mut stream: TcpStream| {
        // The client reports a broken association.
        let _ = stream.write_all(at.to_string().as_bytes());
    };
    let mut answering = EchoServer::default();
    answering.spawn(move |stop| serve_streams(&listener, stop, own));
    answering
}

/// Returns the address of the server that replies.
#[track_caller]
fn request(from: &NetNs, own: IpAddr, to: SocketAddr) -> String {
    let answer = from.enter(|| {
        let socket = socket_at(SocketAddr::new(own, 0))?;
        connect(socket.as_raw_fd(), &SockaddrStorage::from(to))?;
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(TIMEOUT))?;
        let mut answer = [0; 64];
        let length = stream.read(&mut answer)?;
        io::Result::Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
    });
    answer.unwrap().unwrap_or_else(|error| panic!("SCTP to {to}: {error}"))
}

/// The backends are on this node and on the other one, with the same port as
/// the Service.
#[test]
fn kernel_sctp_reaches_the_backends_of_a_service() {
    if no_programs() {
        return;
    }
    if let Err(error) = socket_at("127.0.0.1:0".parse().unwrap()) {
        eprintln!("skipped: this kernel has no SCTP sockets ({error})");
        return;
    }
    for attach_mode in attach_modes() {
        let topology = Topology::new(attach_mode);
        let before = topology.counters();
        for f in &FAMILIES {
            let at = |ip: &str| SocketAddr::new(ip.parse().unwrap(), SCTP_PORT);
            let _listeners = [(&topology.other_pod, f.other_pod), (&topology.outside, f.far_pod)]
                .map(|(netns, ip)| sctp_server_at(netns, at(ip)));
            let heard: BTreeSet<String> = (0..REQUESTS)
                .map(|_| request(&topology.pod, f.pod.parse().unwrap(), at(f.service)))
                .collect();
            assert_eq!(heard, [at(f.other_pod), at(f.far_pod)].map(|at| at.to_string()).into());
        }
        let moved = topology.moved_since(&before);
        assert!(moved.keys().all(|name| !name.contains("dropped")), "{attach_mode:?}: {moved:#?}");
    }
}
