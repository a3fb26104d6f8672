//! A single probe and the check of its result. Contents are compared; nothing
//! is retried.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

use super::cluster::{Answers, Client, Endpoint, Family, Target};
use super::ping::ping;

/// Timeout of a response on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Time limit for immediate refusals.
const REFUSAL_MAX: Duration = Duration::from_millis(100);
/// Payload size of UDP segmentation offload.
const UDP_SEGMENT_BYTES: usize = 1300;

/// Kind of a probe; sizes are payload bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// A TCP stream that is echoed and then closed by both ends.
    Tcp(usize),
    /// A UDP datagram that is echoed.
    Udp(usize),
    /// UDP datagrams sent as one segmentation offload packet (`UDP_SEGMENT`).
    UdpSegments(usize),
    /// ICMP or ICMPv6 echo.
    Ping(usize),
    /// An HTTP request whose response names the pod and the client address.
    Who,
    /// A TCP connection that must be refused.
    TcpRefused,
    /// A UDP datagram that must be refused.
    UdpRefused(usize),
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Question::Tcp(size) => write!(f, "TCP, {size} bytes"),
            Question::Udp(size) => write!(f, "UDP, {size} bytes"),
            Question::UdpSegments(size) => write!(f, "UDP, {size} bytes in segments of {UDP_SEGMENT_BYTES}"),
            Question::Ping(size) => write!(f, "ICMP echo, {size} bytes"),
            Question::Who => write!(f, "HTTP, who are you and who am I?"),
            Question::TcpRefused => write!(f, "TCP, to be refused"),
            Question::UdpRefused(size) => write!(f, "UDP, {size} bytes, to be refused"),
        }
    }
}

/// A probe from one target to another.
#[derive(Clone)]
pub struct Probe<'a> {
    pub from: &'a Endpoint,
    pub to: Target,
    pub family: Family,
    pub question: Question,
}

impl fmt::Display for Probe<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ip = self.family.of(self.to.addresses);
        write!(f, "{} -> {} ({ip}): {}", self.from.name, self.to.name, self.question)
    }
}

impl Probe<'_> {
    /// Runs in the network namespace of the calling thread. `number` makes
    /// payloads unique.
    pub fn ask(&self, number: usize) -> Result<(), String> {
        let bytes = |size| payload(size, number);
        match self.question {
            Question::Tcp(size) => self.tcp(&bytes(size)),
            Question::Udp(size) => self.udp(&bytes(size)),
            Question::UdpSegments(size) => self.udp_segments(&bytes(size)),
            Question::Ping(size) => self.ping(number as u16, &bytes(size)),
            Question::Who => self.who(),
            Question::TcpRefused => self.tcp_refused(),
            Question::UdpRefused(size) => self.udp_refused(&bytes(size)),
        }
    }

    fn address(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.family.of(self.to.addresses), port)
    }

    fn connect(&self) -> Result<TcpStream, String> {
        let stream = TcpStream::connect_timeout(&self.address(self.to.tcp_port), TIMEOUT);
        let stream = stream.map_err(|error| format!("cannot connect: {error}"))?;
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.set_write_timeout(Some(TIMEOUT)).unwrap();
        stream.set_nodelay(true).unwrap();
        Ok(stream)
    }

    fn tcp(&self, payload: &[u8]) -> Result<(), String> {
        let stream = self.connect()?;
        let mut echoed = Vec::new();
        // Two threads, since both buffers may fill up.
        let (sent, received) = std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                (&stream).write_all(payload)?;
                stream.shutdown(Shutdown::Write)
            });
            let received = (&stream).read_to_end(&mut echoed);
            (sender.join().unwrap(), received)
        });
        sent.map_err(|error| format!("cannot send: {error}"))?;
        received.map_err(|error| format!("{} bytes came back, then: {error}", echoed.len()))?;
        compare(payload, &echoed)
    }

    fn socket(&self) -> UdpSocket {
        let any: IpAddr = match self.family {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).unwrap();
        socket.set_read_timeout(Some(TIMEOUT)).unwrap();
        socket.connect(self.address(self.to.udp_port)).unwrap();
        socket
    }

    fn udp(&self, payload: &[u8]) -> Result<(), String> {
        let socket = self.socket();
        socket.send(payload).map_err(|error| format!("cannot send: {error}"))?;
        let mut echoed = vec![0; payload.len() + 1];
        let length = socket.recv(&mut echoed).map_err(|error| format!("no answer: {error}"))?;
        compare(payload, &echoed[..length])
    }

    fn udp_segments(&self, payload: &[u8]) -> Result<(), String> {
        let socket = self.socket();
        setsockopt(&socket, sockopt::UdpGsoSegment, &(UDP_SEGMENT_BYTES as i32)).unwrap();
        socket.send(payload).map_err(|error| format!("cannot send: {error}"))?;
        let mut buffer = [0; UDP_SEGMENT_BYTES + 1];
        // In any order: UDP echoes may be reordered between CPUs.
        let mut expected: Vec<&[u8]> = payload.chunks(UDP_SEGMENT_BYTES).collect();
        for number in 1..=expected.len() {
            let length = socket.recv(&mut buffer);
            let length = length.map_err(|error| format!("no answer number {number}: {error}"))?;
            let sent = expected.iter().position(|sent| *sent == &buffer[..length]);
            let sent =
                sent.ok_or_else(|| format!("answer {number}, {length} bytes, was not sent by this test"))?;
            expected.swap_remove(sent);
        }
        Ok(())
    }

    fn ping(&self, id: u16, payload: &[u8]) -> Result<(), String> {
        let to = self.family.of(self.to.addresses);
        let echoed = ping(to, id, payload, TIMEOUT).map_err(|error| error.to_string())?;
        compare(payload, &echoed)
    }

    fn who(&self) -> Result<(), String> {
        let Answers::Echo { pods, client } = &self.to.answers else {
            panic!("nobody is expected at {}", self.to.name);
        };
        let mut stream = self.connect()?;
        let request = "GET / HTTP/1.1\r\nHost: echo\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).map_err(|error| format!("cannot send: {error}"))?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map_err(|error| format!("after {answer:?}: {error}"))?;
        self.judge(&answer, pods, *client).ok_or_else(|| {
            format!(
                "expected one of {pods:?} that sees {client:?} from port {:?}: {answer}",
                stream.local_addr()
            )
        })
    }

    fn judge(&self, answer: &str, pods: &[&str], client: Client) -> Option<()> {
        let body: serde_json::Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1)?).ok()?;
        let seen: IpAddr = body["client"].as_str()?.parse().ok()?;
        let right = pods.contains(&body["pod"].as_str()?) && client.allows(self.family, self.from, seen);
        right.then_some(())
    }

    fn tcp_refused(&self) -> Result<(), String> {
        let begun = Instant::now();
        let connected = TcpStream::connect_timeout(&self.address(self.to.tcp_port), TIMEOUT);
        refused(connected.map(|_| "a connection"), begun)
    }

    fn udp_refused(&self, payload: &[u8]) -> Result<(), String> {
        let socket = self.socket();
        let begun = Instant::now();
        let answered = socket.send(payload).and_then(|_| socket.recv(&mut [0; 1]));
        refused(answered.map(|_| "an answer"), begun)
    }
}

fn refused(result: std::io::Result<&str>, begun: Instant) -> Result<(), String> {
    let elapsed = begun.elapsed();
    match result {
        Ok(what) => Err(format!("{what} instead of a refusal")),
        Err(error) if error.kind() != ErrorKind::ConnectionRefused => {
            Err(format!("not refused after {elapsed:?}: {error}"))
        }
        Err(_) if elapsed > REFUSAL_MAX => Err(format!("refused only after {elapsed:?}")),
        Err(_) => Ok(()),
    }
}

/// Bytes that differ between probes and do not look like HTTP.
fn payload(size: usize, number: usize) -> Vec<u8> {
    let mut state = (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let bytes = std::iter::repeat_with(|| {
        // Xorshift (Marsaglia 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    });
    std::iter::once(0x80 | number as u8).chain(bytes).take(size).collect()
}

fn compare(sent: &[u8], echoed: &[u8]) -> Result<(), String> {
    if sent == echoed {
        return Ok(());
    }
    let first = sent.iter().zip(echoed).position(|(sent, echoed)| sent != echoed);
    let first = first.unwrap_or(sent.len().min(echoed.len()));
    Err(format!("{} bytes sent, {} came back, different from byte {first} on", sent.len(), echoed.len()))
}
