//! Asking a container: what probes and lifecycle hooks do. The network is
//! used from the node, as a kubelet does; commands run inside.

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

use super::container::{Place, Program};

/// The most of an answer that is looked at.
const ANSWER_BYTES_MAX: usize = 10 << 10;

/// How to ask.
#[derive(Clone, Debug)]
pub enum Question {
    /// A command that must succeed.
    Command(Vec<String>),
    /// A request that must be answered by 200 to 399.
    Http {
        /// Over TLS; nobody looks at the certificate.
        tls: bool,
        /// Who is asked; none is the pod.
        host: Option<String>,
        /// Port.
        port: u16,
        /// Path.
        path: String,
        /// Headers.
        headers: Vec<(String, String)>,
    },
    /// A port that must take connections.
    Tcp {
        /// Who is asked; none is the pod.
        host: Option<String>,
        /// Port.
        port: u16,
    },
    /// Nothing but time.
    Sleep(Duration),
}

impl Question {
    /// Of a probe.
    pub fn of_probe(probe: &Probe, container: &Container) -> Result<Question> {
        if probe.grpc.is_some() {
            bail!("the lab has no grpc probes: use exec, httpGet or tcpSocket");
        }
        let (exec, http, tcp) = (&probe.exec, &probe.http_get, &probe.tcp_socket);
        Question::of(exec.as_ref(), http.as_ref(), tcp.as_ref(), container).context("a probe")
    }

    /// Of a lifecycle hook.
    pub fn of_hook(hook: &LifecycleHandler, container: &Container) -> Result<Question> {
        if let Some(sleep) = &hook.sleep {
            return Ok(Question::Sleep(Duration::from_secs(sleep.seconds.try_into().unwrap_or(0))));
        }
        let (exec, http, tcp) = (&hook.exec, &hook.http_get, &hook.tcp_socket);
        Question::of(exec.as_ref(), http.as_ref(), tcp.as_ref(), container).context("a lifecycle hook")
    }

    fn of(
        exec: Option<&ExecAction>,
        http: Option<&HTTPGetAction>,
        tcp: Option<&TCPSocketAction>,
        container: &Container,
    ) -> Result<Question> {
        let host = |host: &Option<String>| host.clone().filter(|host| !host.is_empty());
        if let Some(exec) = exec {
            return Ok(Question::Command(exec.command.clone().unwrap_or_default()));
        }
        if let Some(http) = http {
            let headers = http.http_headers.iter().flatten();
            return Ok(Question::Http {
                tls: http.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("HTTPS")),
                host: host(&http.host),
                port: port(&http.port, container)?,
                path: http.path.clone().filter(|path| !path.is_empty()).unwrap_or_else(|| "/".into()),
                headers: headers.map(|header| (header.name.clone(), header.value.clone())).collect(),
            });
        }
        if let Some(tcp) = tcp {
            return Ok(Question::Tcp { host: host(&tcp.host), port: port(&tcp.port, container)? });
        }
        bail!("it names none of exec, httpGet and tcpSocket")
    }
}

/// A port by number or by name.
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
    u16::try_from(number).ok().filter(|port| *port > 0).with_context(|| format!("{number} is no port"))
}

/// Who is asked, and from where.
#[derive(Clone)]
pub struct Asked {
    /// Where commands run.
    pub place: Place,
    /// The pod's address.
    pub ip: Option<IpAddr>,
    /// The network namespace of the node.
    pub node: PathBuf,
}

impl Asked {
    /// Asks, and waits for the answer at most so long.
    pub async fn ask(&self, question: &Question, timeout: Duration) -> Result<()> {
        let answer = async {
            match question {
                Question::Command(words) => self.run(words).await,
                Question::Sleep(time) => {
                    tokio::time::sleep(*time).await;
                    Ok(())
                }
                Question::Tcp { host, port } => self.connect(host.as_deref(), *port).await.map(|_| ()),
                Question::Http { tls, host, port, path, headers } => {
                    let stream = self.connect(host.as_deref(), *port).await?;
                    if *tls {
                        get(
                            super::tls::wrap(stream).await?,
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
            Err(_) => Err(anyhow!("no answer within {} s", timeout.as_secs_f32())),
        }
    }

    async fn run(&self, words: &[String]) -> Result<()> {
        let mut child = self.place.command(&Program::of(words)?, None)?.spawn()?;
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
        bail!("command {words:?} ended with {status}: {}", output.trim())
    }

    fn address(&self, host: Option<&str>, port: u16) -> Result<SocketAddr> {
        let ip = match host {
            Some("localhost") => Some(IpAddr::from([127, 0, 0, 1])),
            Some(host) => Some(host.parse().with_context(|| format!("the host {host:?} is no address"))?),
            None => self.ip,
        };
        Ok(SocketAddr::new(ip.context("the pod has no address")?, port))
    }

    fn authority(&self, host: Option<&str>, port: u16) -> Result<String> {
        Ok(self.address(host, port)?.to_string())
    }

    /// Connects from the node: a socket belongs to the namespace that it was
    /// made in.
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
        // Too long an answer is as good as a whole one.
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
        let question = |probe: serde_json::Value| {
            Question::of_probe(&serde_json::from_value(probe).unwrap(), &container)
        };
        for (named, expected) in [(json!("web"), 8080), (json!(9), 9), (json!("80"), 80)] {
            let asked = question(json!({"tcpSocket": {"port": named}})).unwrap();
            assert!(matches!(asked, Question::Tcp { port, .. } if port == expected), "{asked:?}");
        }
        for wrong in [
            json!({"tcpSocket": {"port": "no"}}),
            json!({"httpGet": {"port": 70000}}),
            json!({}),
            json!({"grpc": {"port": 1}}),
        ] {
            assert!(question(wrong.clone()).is_err(), "{wrong}");
        }
        let asked = question(json!({"httpGet": {"port": "web", "scheme": "HTTPS"}})).unwrap();
        assert!(matches!(asked, Question::Http { tls: true, path, .. } if path == "/"));
    }
}
