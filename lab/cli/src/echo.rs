//! The program of the image `beeline/echo`. On each of its TCP ports it
//! answers HTTP requests with its identity and the client's address, and
//! echoes other data. On UDP ports it echoes datagrams. Both address families
//! are served.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use beeline_lab_net::spawn;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, listen, setsockopt,
    socket, sockopt,
};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// Time to wait for the rest of an incomplete HTTP method before echoing it.
const HALF_METHOD_TIMEOUT: Duration = Duration::from_secs(1);

/// Body of an HTTP response.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    pod: &'a str,
    namespace: &'a str,
    node: &'a str,
    client: IpAddr,
    client_port: u16,
}

/// Identity, from the environment.
struct Identity {
    pod: String,
    namespace: String,
    node: String,
}

impl Identity {
    fn from_environment() -> Identity {
        let get = |name: &str| std::env::var(name).unwrap_or_default();
        Identity { pod: get("POD_NAME"), namespace: get("POD_NAMESPACE"), node: get("NODE_NAME") }
    }

    fn answer(&self, client: SocketAddr) -> Vec<u8> {
        let answer = Answer {
            pod: &self.pod,
            namespace: &self.namespace,
            node: &self.node,
            client: client.ip().to_canonical(),
            client_port: client.port(),
        };
        let mut text = serde_json::to_vec(&answer).expect("strings and numbers always encode");
        text.push(b'\n');
        text
    }
}

/// A port to listen on, written `80/TCP`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EchoPort {
    port: u16,
    udp: bool,
}

impl std::str::FromStr for EchoPort {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<EchoPort> {
        let (port, protocol) = text.split_once('/').unwrap_or((text, "TCP"));
        let port = port.parse().with_context(|| format!("{text:?} has no port number"))?;
        match protocol {
            "TCP" => Ok(EchoPort { port, udp: false }),
            "UDP" => Ok(EchoPort { port, udp: true }),
            other => bail!("beeline/echo supports TCP and UDP, not {other} (port {port})"),
        }
    }
}

/// Serves the ports until the process is killed.
pub fn run(ports: &[EchoPort]) -> Result<()> {
    let _ = beeline_lab_net::process::raise_file_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let identity = Arc::new(Identity::from_environment());
        for port in ports {
            for ip in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)] {
                serve(*port, SocketAddr::new(ip, port.port), &identity)
                    .with_context(|| format!("cannot listen on port {} of {ip}", port.port))?;
            }
        }
        notify_ready();
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        terminate.recv().await;
        Ok(())
    })
}

fn notify_ready() {
    let Some(fd) = std::env::var(spawn::READY_FD).ok().and_then(|text| text.parse::<RawFd>().ok()) else {
        return;
    };
    // SAFETY: whoever set the variable opened this descriptor for us, and
    // nothing else in this process uses it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let _ = nix::unistd::write(&fd, b"1");
}

/// Receive buffer size for bursts of datagrams.
const DATAGRAMS_BYTES: usize = 4 << 20;

fn serve(port: EchoPort, address: SocketAddr, identity: &Arc<Identity>) -> Result<()> {
    if port.udp {
        let socket = bound(address, SockType::Datagram)?;
        // Large enough for bursts of several clients if the kernel allows it:
        // losses here would look like packet loss.
        let _ = setsockopt(&socket, sockopt::RcvBufForce, &DATAGRAMS_BYTES);
        let socket = UdpSocket::from_std(socket.into())?;
        tokio::spawn(udp(socket));
    } else {
        let socket = bound(address, SockType::Stream)?;
        listen(&socket, Backlog::new(4096).unwrap_or(Backlog::MAXCONN))?;
        let listener = TcpListener::from_std(socket.into())?;
        tokio::spawn(tcp(listener, identity.clone()));
    }
    Ok(())
}

/// A bound socket of one family (`IPV6_V6ONLY`), so that both can use the
/// port.
fn bound(address: SocketAddr, kind: SockType) -> Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, kind, flags, None::<SockProtocol>)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    if address.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
    }
    bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &SockaddrStorage::from(address))?;
    Ok(socket)
}

async fn udp(socket: UdpSocket) {
    let mut buffer = vec![0; 65536];
    loop {
        // An error of an earlier response (port unreachable).
        if let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let _ = socket.send_to(&buffer[..length], from).await;
        }
    }
}

async fn tcp(listener: TcpListener, identity: Arc<Identity>) {
    loop {
        match listener.accept().await {
            Ok((stream, client)) => {
                let identity = identity.clone();
                tokio::spawn(async move {
                    // Errors of single connections are ignored.
                    let _ = connection(stream, client, identity).await;
                });
            }
            // Out of file descriptors: wait until some are closed.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn connection(stream: TcpStream, client: SocketAddr, identity: Arc<Identity>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    if speaks_http(&stream).await? {
        let answer = Bytes::from(identity.answer(client));
        let respond = service_fn(move |_: Request<hyper::body::Incoming>| {
            let response = Response::builder()
                .header("content-type", "application/json")
                .body(Full::new(answer.clone()))
                .expect("a constant header is valid");
            async move { Ok::<_, Infallible>(response) }
        });
        let served =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), respond);
        return served.await.map_err(io::Error::other);
    }
    echo(stream).await
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 65536];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return stream.shutdown().await,
            length => stream.write_all(&buffer[..length]).await?,
        }
    }
}

/// Peeks at the first bytes until they are known to be HTTP or not.
async fn speaks_http(stream: &TcpStream) -> io::Result<bool> {
    let mut buffer = [0; 8];
    let deadline = tokio::time::Instant::now() + HALF_METHOD_TIMEOUT;
    loop {
        let length = stream.peek(&mut buffer).await?;
        match http_or_not(&buffer[..length]) {
            Some(http) => return Ok(http),
            None if length == 0 || tokio::time::Instant::now() > deadline => return Ok(false),
            // An incomplete method: peek() returns at once while bytes are
            // pending.
            None => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
}

/// Whether these bytes start an HTTP request; none if there are too few.
fn http_or_not(bytes: &[u8]) -> Option<bool> {
    const METHODS: [&[u8]; 8] =
        [b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"PATCH ", b"OPTIONS ", b"CONNECT "];
    if METHODS.iter().any(|method| bytes.starts_with(method)) {
        return Some(true);
    }
    if METHODS.iter().any(|method| method.starts_with(bytes)) {
        return None;
    }
    Some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_http_is_distinguished_from_other_bytes() {
        assert_eq!(http_or_not(b"GET / HT"), Some(true));
        assert_eq!(http_or_not(b"GE"), None);
        assert_eq!(http_or_not(b""), None);
        assert_eq!(http_or_not(b"GETX"), Some(false));
        assert_eq!(http_or_not(b"hello"), Some(false));
    }

    #[test]
    fn unit_ports_are_read_as_kubernetes_writes_them() {
        assert_eq!("80/TCP".parse::<EchoPort>().unwrap(), EchoPort { port: 80, udp: false });
        assert_eq!("53/UDP".parse::<EchoPort>().unwrap(), EchoPort { port: 53, udp: true });
        assert!("9/SCTP".parse::<EchoPort>().unwrap_err().to_string().contains("SCTP"));
        assert!("x/TCP".parse::<EchoPort>().is_err());
    }
}
