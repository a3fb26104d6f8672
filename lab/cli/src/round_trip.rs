//! Measures round-trip times of small UDP datagrams over a network path, or
//! between two namespaces connected by a veth pair, for comparison.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use beeline_kernel::netlink::{Netlink, Veth, VethEnd};
use beeline_kernel::netns::NetNs;
use clap::Args;
use nix::sched::{CloneFlags, unshare};
use serde::Serialize;

/// Exchanges before the measurement, to fill caches and neighbour entries.
const WARM_UP: usize = 50;
/// Timeout of a response.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Datagram size in bytes.
const DATAGRAM_BYTES: usize = 32;

/// Options.
#[derive(Debug, Args)]
pub struct RoundTripOptions {
    /// Where a UDP echo answers, such as 10.96.0.2:7 or [fd00::2]:7
    #[arg(long, required_unless_present = "plain_veth")]
    to: Option<SocketAddr>,
    /// Measure between two namespaces that a veth joins, with nothing attached to it
    #[arg(long, conflicts_with = "to")]
    plain_veth: bool,
    /// With --plain-veth: over IPv6
    #[arg(short = '6', long, requires = "plain_veth")]
    ipv6: bool,
    /// Exchanges
    #[arg(long, default_value_t = 1000)]
    count: usize,
}

/// Results. Times are in microseconds.
#[derive(Debug, Serialize)]
struct Measured {
    /// Source port of all exchanges.
    source_port: u16,
    /// Number of exchanges, including the warm-up.
    exchanges: usize,
    lost: usize,
    p50_us: f64,
    p90_us: f64,
    p99_us: f64,
}

/// Measures and prints one line of JSON.
pub fn run(question: &RoundTripOptions) -> Result<()> {
    let measured = match question.to {
        Some(to) => measure(to, question.count)?,
        None => plain_veth(question.ipv6, question.count)?,
    };
    println!("{}", serde_json::to_string(&measured)?);
    Ok(())
}

/// Exchanges `count` datagrams, one at a time, from one source port.
fn measure(to: SocketAddr, count: usize) -> Result<Measured> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).context("cannot create a socket")?;
    socket.connect(to).with_context(|| format!("cannot reach {to}"))?;
    await_first_answer(&socket).with_context(|| format!("{to} does not respond"))?;
    let mut times = Vec::with_capacity(count);
    let mut lost = 0;
    for number in 0..count + WARM_UP {
        match exchange(&socket) {
            Ok(time) if number >= WARM_UP => times.push(time),
            Ok(_) => {}
            Err(_) => lost += 1,
        }
    }
    if times.is_empty() {
        bail!("no response from {to}");
    }
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
    Ok(Measured {
        source_port: socket.local_addr().context("the socket has no address")?.port(),
        exchanges: count + WARM_UP,
        lost,
        p50_us: at(0.5),
        p90_us: at(0.9),
        p99_us: at(0.99),
    })
}

/// A link that has just come up may drop the first packets.
fn await_first_answer(socket: &UdpSocket) -> Result<()> {
    const TRIES: u32 = 20;
    socket.set_read_timeout(Some(TIMEOUT / TRIES)).context("cannot set a timeout on the socket")?;
    for tried in 1.. {
        match exchange(socket) {
            Ok(_) => break,
            Err(error) if tried == TRIES => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
    // A late response must not be taken for the next one.
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    while socket.recv(&mut [0; 2048]).is_ok() {}
    socket.set_read_timeout(Some(TIMEOUT)).context("cannot set a timeout on the socket")
}

fn exchange(socket: &UdpSocket) -> Result<Duration> {
    let mut answer = [0; 2048];
    let begin = Instant::now();
    socket.send(&[b'b'; DATAGRAM_BYTES])?;
    socket.recv(&mut answer)?;
    Ok(begin.elapsed())
}

/// Measures between two temporary namespaces.
fn plain_veth(v6: bool, count: usize) -> Result<Measured> {
    let (namespace, there) = mpsc::channel();
    let (joined, ready) = mpsc::channel();
    let (bound, served) = mpsc::channel();
    let echo = thread::spawn(move || serve(v6, &namespace, &ready, &bound));
    let near = thread::spawn(move || -> Result<Measured> {
        unshare(CloneFlags::CLONE_NEWNET).context("cannot create a network namespace (requires root)")?;
        let there: NetNs = there.recv().context("the other side has no namespace")?;
        join(&there, v6)?;
        joined.send(()).context("the other side has gone")?;
        served.recv().context("the other side cannot serve")?;
        measure(SocketAddr::new(address(v6, 2), 7), count)
    });
    let measured = near.join().map_err(|_| anyhow::anyhow!("the measuring thread panicked"))?;
    // The other side waits for datagrams until the process exits.
    if measured.is_err() && echo.is_finished() {
        echo.join().map_err(|_| anyhow::anyhow!("the echo thread panicked"))??;
    }
    measured
}

fn address(v6: bool, host: u8) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, host.into()).into()
    } else {
        Ipv4Addr::new(10, 0, 0, host).into()
    }
}

/// Creates the veth pair, up and with addresses on both ends.
fn join(there: &NetNs, v6: bool) -> Result<()> {
    let bits = if v6 { "64" } else { "24" };
    let mut near = Netlink::open()?;
    let end = |name| VethEnd { name, mac: None };
    // With equal interface indexes on both ends the kernel may take seconds to
    // report the link up (`linkwatch_urgent_event`), so the indexes are made
    // different.
    near.create_veth(&Veth { local: end("spare"), peer: end("spare-peer"), mtu: 1500, peer_netns: None })?;
    near.delete_link("spare")?;
    near.create_veth(&Veth { local: end("near"), peer: end("far"), mtu: 1500, peer_netns: Some(there) })?;
    let mut far = Netlink::open_in(there)?;
    for (netlink, name, host) in [(&mut near, "near", 1), (&mut far, "far", 2)] {
        let ifindex = netlink.index(name)?;
        netlink.add_address(ifindex, format!("{}/{bits}", address(v6, host)).parse()?)?;
        netlink.set_up(ifindex, true)?;
    }
    Ok(())
}

/// Echo server of the peer.
fn serve(
    v6: bool,
    namespace: &mpsc::Sender<NetNs>,
    ready: &mpsc::Receiver<()>,
    bound: &mpsc::Sender<()>,
) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("cannot create a network namespace (requires root)")?;
    namespace.send(NetNs::current()?).context("the near side has gone")?;
    ready.recv().context("the near side gave up")?;
    let socket = UdpSocket::bind((address(v6, 2), 7)).context("the echo has no socket")?;
    bound.send(()).context("the near side has gone")?;
    let mut datagram = [0; 2048];
    loop {
        let (bytes, from) = socket.recv_from(&mut datagram)?;
        socket.send_to(&datagram[..bytes], from)?;
    }
}
