//! Servers and clients of the rates: one thread each, blocking.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::libc::linger;
use nix::sys::socket::{setsockopt, sockopt};

/// Answers every byte. One connection at a time: there is one client, and a
/// thread for each would be what is measured.
pub fn serve(port: u16) -> Result<()> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).context("the port cannot be served")?;
    println!("ready");
    loop {
        let (mut stream, _) = listener.accept().context("the listener is broken")?;
        let _ = stream.set_nodelay(true);
        let mut byte = [0];
        while matches!(stream.read(&mut byte), Ok(1)) && stream.write_all(&byte).is_ok() {}
    }
}

/// Connections per second. Each is closed by a reset, so that no port waits
/// (RFC 9293 section 3.6.1) and the next one can use it.
pub fn connect_and_close(to: SocketAddr, span: Duration) -> Result<f64> {
    repeat(span, || {
        let stream = TcpStream::connect(to).with_context(|| format!("{to} cannot be reached"))?;
        setsockopt(&stream.as_fd(), sockopt::Linger, &linger { l_onoff: 1, l_linger: 0 })
            .context("the socket cannot be told to reset")
    })
}

/// One-byte requests per second, one at a time.
pub fn request_and_answer(to: SocketAddr, span: Duration) -> Result<f64> {
    let mut stream = TcpStream::connect(to).with_context(|| format!("{to} cannot be reached"))?;
    stream.set_nodelay(true)?;
    let mut byte = [7];
    repeat(span, || {
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte).context("the answer did not come")
    })
}

/// How often per second.
fn repeat(span: Duration, mut once: impl FnMut() -> Result<()>) -> Result<f64> {
    once()?;
    let begin = Instant::now();
    let mut count = 0_u32;
    while begin.elapsed() < span {
        once()?;
        count += 1;
    }
    Ok(f64::from(count) / begin.elapsed().as_secs_f64())
}
