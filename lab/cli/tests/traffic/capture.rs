//! Captures the packets of a network namespace with a packet socket.

use std::io::Result;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use beeline_kernel::netns::NetNs;
use nix::net::if_::if_indextoname;
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::packet::describe;

/// Receive buffer size.
const QUEUE_BYTES: usize = 256 << 20;
const FRAME_BYTES_MAX: usize = 70_000;
/// Interval at which the stop flag is checked.
const TICK_MS: i64 = 20;

/// A captured frame.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Name of the network namespace.
    pub target: String,
    pub device: String,
    /// Time since the start of the capture.
    pub at: Duration,
    /// Sent by the device; otherwise received.
    pub outgoing: bool,
    pub bytes: Vec<u8>,
}

impl Frame {
    pub fn text(&self) -> String {
        let arrow = if self.outgoing { "out" } else { "in " };
        let at = self.at.as_secs_f64();
        format!("{at:9.6} {:<8} {:<15} {arrow} {}", self.target, self.device, describe(&self.bytes))
    }
}

/// Runs until [`Capture::stop`].
pub struct Capture {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Captured>>,
}

struct Captured {
    frames: Vec<Frame>,
    missed: u32,
}

impl Capture {
    /// Starts captures in these network namespaces.
    pub fn start<'a>(begun: Instant, places: impl IntoIterator<Item = (&'a str, &'a NetNs)>) -> Capture {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = places.into_iter().map(|(name, netns)| {
            let socket = netns.enter(packet_socket).unwrap().unwrap();
            let netns = NetNs::open(netns.name()).unwrap();
            let (name, stop) = (name.to_owned(), stop.clone());
            // Device names are resolved inside the namespace.
            std::thread::spawn(move || netns.enter(|| read(&socket, &name, begun, &stop)).unwrap())
        });
        Capture { threads: threads.collect(), stop }
    }

    /// All captured frames by time; fails the test if the socket dropped any.
    pub fn stop(self) -> Vec<Frame> {
        self.stop.store(true, Ordering::Relaxed);
        let mut frames = Vec::new();
        for thread in self.threads {
            let captured = thread.join().unwrap();
            assert_eq!(captured.missed, 0, "the capture was too slow and dropped frames");
            frames.extend(captured.frames);
        }
        frames.sort_by_key(|frame| frame.at);
        frames
    }
}

fn packet_socket() -> Result<OwnedFd> {
    let family = AddressFamily::Packet;
    let socket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
    setsockopt(&socket, sockopt::RcvBufForce, &QUEUE_BYTES)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(TICK_MS))?;
    Ok(socket)
}

fn read(socket: &OwnedFd, target: &str, begun: Instant, stop: &AtomicBool) -> Captured {
    let mut frames = Vec::new();
    let mut buffer = vec![0; FRAME_BYTES_MAX];
    loop {
        // Checked before reading: frames before the stop are read in any case.
        let last = stop.load(Ordering::Relaxed);
        match recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut buffer) {
            Ok((length, Some(from))) => frames.push(Frame {
                target: target.to_owned(),
                device: device_name(from.ifindex()),
                at: begun.elapsed(),
                outgoing: from.pkttype() == libc::PACKET_OUTGOING,
                bytes: buffer[..length].to_vec(),
            }),
            Ok((_, None)) => unreachable!("packet sockets report the device"),
            Err(nix::Error::EAGAIN) if last => break,
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => {}
            // A device of the namespace is down; the others continue.
            Err(nix::Error::ENETDOWN) => {}
            Err(errno) => panic!("{target}: cannot capture: {errno}"),
        }
    }
    Captured { frames, missed: missed(socket) }
}

fn device_name(index: usize) -> String {
    let name = if_indextoname(index as u32).map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|_| format!("device {index}"))
}

/// Number of frames dropped for lack of buffer space.
fn missed(socket: &OwnedFd) -> u32 {
    let mut statistics = [0_u32; 2]; // struct tpacket_stats: packets, drops
    let mut length = size_of_val(&statistics) as libc::socklen_t;
    // SAFETY: the option's value is a `struct tpacket_stats` of two 32-bit
    // words, and the kernel is told how much room there is.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            statistics.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    statistics[1]
}
