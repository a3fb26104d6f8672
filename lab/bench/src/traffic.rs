//! Server and clients of the rate measurements: one blocking thread each.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::libc::linger;
use nix::sys::socket::{setsockopt, sockopt};

/// Replies to every byte with the low byte of its port. Serves one connection
/// at a time: there is one client, and creating threads would be measured too.
pub fn serve(port: u16) -> Result<()> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).context("cannot listen on the port")?;
    println!("ready");
    loop {
        let (mut stream, _) = listener.accept().context("cannot accept a connection")?;
        let _ = stream.set_nodelay(true);
        let mut byte = [0];
        while matches!(stream.read(&mut byte), Ok(1)) && stream.write_all(&[port as u8]).is_ok() {}
    }
}

/// Connections per second, and the latency of connect() in microseconds: one
/// round trip.
pub struct Connections {
    /// Per second.
    pub rate: f64,
    /// Median latency.
    pub p50_us: f64,
    /// 99th percentile latency.
    pub p99_us: f64,
}

/// Connects and closes, one connection at a time. Each is closed with a reset,
/// so that no port stays in TIME-WAIT (RFC 9293 section 3.6.1).
pub fn connect_and_close(to: SocketAddr, duration: Duration) -> Result<Connections> {
    let mut times = Vec::new();
    let rate = repeat(duration, || {
        let begin = Instant::now();
        let stream = TcpStream::connect(to).with_context(|| format!("cannot connect to {to}"))?;
        times.push(begin.elapsed().as_secs_f64() * 1e6);
        reset(&stream)
    })?;
    times.sort_by(f64::total_cmp);
    let at = |fraction: f64| times[((times.len() - 1) as f64 * fraction) as usize];
    Ok(Connections { rate, p50_us: at(0.5), p99_us: at(0.99) })
}

fn reset(stream: &TcpStream) -> Result<()> {
    setsockopt(&stream.as_fd(), sockopt::Linger, &linger { l_onoff: 1, l_linger: 0 })
        .context("cannot set SO_LINGER")
}

/// Sends requests, each on a new connection, and prints the monotonic time in
/// nanoseconds whenever another endpoint replies. Pauses between requests to
/// leave a CPU to the agent on a machine with two CPUs.
pub fn watch(to: SocketAddr) -> Result<()> {
    const PAUSE: Duration = Duration::from_micros(30);
    // The default timer slack would extend the pause by 50 us.
    nix::sys::prctl::set_timerslack(1).context("cannot set the timer slack")?;
    let mut last = None;
    loop {
        std::thread::sleep(PAUSE);
        let response = request_once(to).ok();
        if response.is_some() && response != last {
            println!("{}", monotonic_ns()?);
            std::io::stdout().flush()?;
            last = response;
        }
    }
}

fn request_once(to: SocketAddr) -> Result<u8> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_millis(200))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_millis(200)))?;
    let mut byte = [7];
    stream.write_all(&byte)?;
    stream.read_exact(&mut byte)?;
    reset(&stream)?;
    Ok(byte[0])
}

/// `CLOCK_MONOTONIC` in nanoseconds, the same in every process.
pub fn monotonic_ns() -> Result<i64> {
    let mut now = nix::libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid timespec for the call to fill in.
    let result = unsafe { nix::libc::clock_gettime(nix::libc::CLOCK_MONOTONIC, &mut now) };
    nix::errno::Errno::result(result).context("cannot read CLOCK_MONOTONIC")?;
    Ok(now.tv_sec * 1_000_000_000 + now.tv_nsec)
}

/// One-byte requests per second, one at a time.
pub fn request_and_response(to: SocketAddr, duration: Duration) -> Result<f64> {
    let mut stream = TcpStream::connect(to).with_context(|| format!("cannot connect to {to}"))?;
    stream.set_nodelay(true)?;
    let mut byte = [7];
    repeat(duration, || {
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte).context("no response")
    })
}

/// Runs `once` repeatedly; returns calls per second.
fn repeat(duration: Duration, mut once: impl FnMut() -> Result<()>) -> Result<f64> {
    once()?;
    let begin = Instant::now();
    let mut count = 0_u32;
    while begin.elapsed() < duration {
        once()?;
        count += 1;
    }
    Ok(f64::from(count) / begin.elapsed().as_secs_f64())
}
