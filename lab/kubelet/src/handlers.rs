//! Handlers of probes and lifecycle hooks. Network connections are made from
//! the node, as a kubelet does; commands run in the container.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use beeline_kernel::netns::NetNs;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{
    Container, ExecAction, HTTPGetAction, LifecycleHandler, Probe, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};

use crate::container::{ExecContext, Program};

/// Maximum number of response bytes that are read.
const ANSWER_BYTES_MAX: usize = 10 << 10;

/// What a probe or hook does.
#[derive(Clone, Debug)]
pub enum Handler {
    /// Run a command that must exit with 0.
    Command(Vec<String>),
    /// Send an HTTP GET request that must return status 200 to 399.
    Http {
        /// HTTPS; the certificate is not verified.
        tls: bool,
        /// Host; default: the pod's IP.
        host: Option<String>,
        /// Port.
        port: u16,
        /// Path.
        path: String,
        /// Headers.
        headers: Vec<(String, String)>,
    },
    /// Connect to a TCP port.
    Tcp {
        /// Host; default: the pod's IP.
        host: Option<String>,
        /// Port.
        port: u16,
    },
    /// Sleep.
    Sleep(Duration),
}

impl Handler {
    /// The handler of a probe.
    pub fn from_probe(probe: &Probe, container: &Container) -> Result<Handler> {
        if probe.grpc.is_some() {
            bail!("grpc probes are not implemented: use exec, httpGet or tcpSocket");
        }
        let (exec, http, tcp) = (&probe.exec, &probe.http_get, &probe.tcp_socket);
        Handler::from_actions(exec.as_ref(), http.as_ref(), tcp.as_ref(), container).context("invalid probe")
    }

    /// The handler of a lifecycle hook.
    pub fn from_hook(hook: &LifecycleHandler, container: &Container) -> Result<Handler> {
        if let Some(sleep) = &hook.sleep {
            return Ok(Handler::Sleep(Duration::from_secs(sleep.seconds.try_into().unwrap_or(0))));
        }
        let (exec, http, tcp) = (&hook.exec, &hook.http_get, &hook.tcp_socket);
        Handler::from_actions(exec.as_ref(), http.as_ref(), tcp.as_ref(), container)
            .context("invalid lifecycle hook")
    }

    fn from_actions(
        exec: Option<&ExecAction>,
        http: Option<&HTTPGetAction>,
        tcp: Option<&TCPSocketAction>,
        container: &Container,
    ) -> Result<Handler> {
        let host = |host: &Option<String>| host.clone().filter(|host| !host.is_empty());
        if let Some(exec) = exec {
            return Ok(Handler::Command(exec.command.clone().unwrap_or_default()));
        }
        if let Some(http) = http {
            let headers = http.http_headers.iter().flatten();
            return Ok(Handler::Http {
                tls: http.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("HTTPS")),
                host: host(&http.host),
                port: port(&http.port, container)?,
                path: http.path.clone().filter(|path| !path.is_empty()).unwrap_or_else(|| "/".into()),
                headers: headers.map(|header| (header.name.clone(), header.value.clone())).collect(),
            });
        }
        if let Some(tcp) = tcp {
            return Ok(Handler::Tcp { host: host(&tcp.host), port: port(&tcp.port, container)? });
        }
        bail!("exec, httpGet or tcpSocket is required")
    }
}

/// Resolves a port given by number or by name.
fn port(port: &IntOrString, container: &Container) -> Result<u16> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let mut named = container.ports.iter().flatten();
            let named = named.find(|port| port.name.as_deref() == Some(name));
            match named {
                Some(port) => port.container_port,
                None => name.parse().with_context(|| format!("the container has no port named {name:?}"))?,
            }
        }
    };
    u16::try_from(number)
        .ok()
        .filter(|port| *port > 0)
        .with_context(|| format!("{number} is not a valid port"))
}

/// The container that a handler runs against.
#[derive(Clone)]
pub struct HandlerTarget {
    /// Context of commands.
    pub exec: ExecContext,
    /// The pod's IP.
    pub ip: Option<IpAddr>,
    /// The network namespace of the node.
    pub node: PathBuf,
}

impl HandlerTarget {
    /// Runs a handler with a timeout.
    pub async fn run_handler(&self, handler: &Handler, timeout: Duration) -> Result<()> {
        let answer = async {
            match handler {
                Handler::Command(words) => self.exec(words).await,
                Handler::Sleep(time) => {
                    tokio::time::sleep(*time).await;
                    Ok(())
                }
                Handler::Tcp { host, port } => self.connect(host.as_deref(), *port).await.map(|_| ()),
                Handler::Http { tls, host, port, path, headers } => {
                    let stream = self.connect(host.as_deref(), *port).await?;
                    if *tls {
                        get(
                            crate::tls::wrap(stream).await?,
                            self.authority(host.as_deref(), *port)?,
                            path,
                            headers,
                        )
                        .await
                    } else {
                        get(stream, self.authority(host.as_deref(), *port)?, path, headers).await
                    }
                }
            }
        };
        match tokio::time::timeout(timeout, answer).await {
            Ok(answer) => answer,
            Err(_) => Err(anyhow!("timed out after {} s", timeout.as_secs_f32())),
        }
    }

    async fn exec(&self, words: &[String]) -> Result<()> {
        let mut child = self.exec.command(&Program::of(words)?, None)?.spawn()?;
        let mut output = Vec::new();
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        if let (Some(stdout), Some(stderr)) = (stdout, stderr) {
            stdout.chain(stderr).take(ANSWER_BYTES_MAX as u64).read_to_end(&mut output).await?;
        }
        let status = child.wait().await?;
        if status.success() {
            return Ok(());
        }
        let output = String::from_utf8_lossy(&output);
        bail!("command {words:?} failed with {status}: {}", output.trim())
    }

    fn address(&self, host: Option<&str>, port: u16) -> Result<SocketAddr> {
        let ip = match host {
            Some("localhost") => Some(IpAddr::from([127, 0, 0, 1])),
            Some(host) => Some(host.parse().with_context(|| format!("host {host:?} is not an IP address"))?),
            None => self.ip,
        };
        Ok(SocketAddr::new(ip.context("the pod has no IP address")?, port))
    }

    fn authority(&self, host: Option<&str>, port: u16) -> Result<String> {
        Ok(self.address(host, port)?.to_string())
    }

    /// Connects from the node: a socket belongs to the network namespace in
    /// which it was created.
    async fn connect(&self, host: Option<&str>, port: u16) -> Result<TcpStream> {
        let address = self.address(host, port)?;
        let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let node = self.node.clone();
        let made = tokio::task::spawn_blocking(move || -> Result<_> {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            Ok(NetNs::open(node)?.enter(|| socket(family, SockType::Stream, flags, None))??)
        });
        let socket = TcpSocket::from_std_stream(std::net::TcpStream::from(made.await??));
        socket.connect(address).await.with_context(|| format!("dial tcp {address}"))
    }
}

async fn get(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    authority: String,
    path: &str,
    headers: &[(String, String)],
) -> Result<()> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let named = |name: &str| headers.iter().any(|(header, _)| header.eq_ignore_ascii_case(name));
    let mut request = Request::get(&path);
    for (name, value) in
        [("host", authority.as_str()), ("user-agent", "kube-probe/beeline-lab"), ("accept", "*/*")]
    {
        if !named(name) {
            request = request.header(name, value);
        }
    }
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await;
    let answered = async {
        let response = response?;
        let status = response.status().as_u16();
        // A body that is too long is cut off and does not make the probe fail.
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        if (200..400).contains(&status) {
            return Ok(());
        }
        let body = String::from_utf8_lossy(&body[..body.len().min(200)]).trim().to_owned();
        bail!("HTTP probe failed with statuscode: {status}{}{body}", if body.is_empty() { "" } else { ": " })
    };
    let answer = answered.await;
    connection.abort();
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn unit_probes_find_their_ports_by_number_and_by_name() {
        let container: Container =
            serde_json::from_value(json!({"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}))
                .unwrap();
        let handler = |probe: serde_json::Value| {
            Handler::from_probe(&serde_json::from_value(probe).unwrap(), &container)
        };
        for (named, expected) in [(json!("web"), 8080), (json!(9), 9), (json!("80"), 80)] {
            let target = handler(json!({"tcpSocket": {"port": named}})).unwrap();
            assert!(matches!(target, Handler::Tcp { port, .. } if port == expected), "{target:?}");
        }
        for wrong in [
            json!({"tcpSocket": {"port": "no"}}),
            json!({"httpGet": {"port": 70000}}),
            json!({}),
            json!({"grpc": {"port": 1}}),
        ] {
            assert!(handler(wrong.clone()).is_err(), "{wrong}");
        }
        let target = handler(json!({"httpGet": {"port": "web", "scheme": "HTTPS"}})).unwrap();
        assert!(matches!(target, Handler::Http { tls: true, path, .. } if path == "/"));
    }
}
