//! Health checks for load balancers, compatible with kube-proxy: per Service at
//! its `healthCheckNodePort` (does this node have endpoints?), and for the node
//! at `kubeProxyReplacementHealthzBindAddr` (/healthz, /livez).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router, routing};
use beeline_model::ObjectName;
use beeline_plan::HealthCheck;
use ipnet::IpNet;
use jiff::Timestamp;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tracing::{info, warn};

/// Interval for retrying to bind a port that is in use, for example by
/// kube-proxy.
const BIND_RETRY: Duration = Duration::from_secs(5);
/// Number of local endpoints, for weighted load balancers.
const WEIGHT_HEADER: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// The state that the health checks report.
#[derive(Debug, Default)]
pub struct Health {
    state: Mutex<HealthState>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct HealthState {
    checks: BTreeMap<ObjectName, HealthCheck>,
    /// Services whose port may have changed.
    dirty: BTreeSet<ObjectName>,
    healthy: bool,
    leaving: bool,
    last_healthy: Timestamp,
}

impl Health {
    /// Applies changes. `None` removes the health check of the Service.
    pub fn set_checks(&self, changes: BTreeMap<ObjectName, Option<HealthCheck>>) {
        let mut state = self.lock();
        for (name, check) in changes {
            match check {
                Some(check) => drop(state.checks.insert(name.clone(), check)),
                None => drop(state.checks.remove(&name)),
            }
            state.dirty.insert(name);
        }
        if !state.dirty.is_empty() {
            self.changed.notify_one();
        }
    }

    /// Sets whether Services are programmed, and whether the node is being
    /// removed.
    pub fn set_node(&self, healthy: bool, leaving: bool) {
        let mut state = self.lock();
        (state.healthy, state.leaving) = (healthy, leaving);
        if healthy {
            state.last_healthy = Timestamp::now();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HealthState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Services whose port may have changed, with their current port.
    fn take_dirty(&self) -> Vec<(ObjectName, Option<u16>)> {
        let mut state = self.lock();
        let dirty = std::mem::take(&mut state.dirty);
        let port = |name: &ObjectName| state.checks.get(name).map(|check| check.port);
        dirty.into_iter().map(|name| (name.clone(), port(&name))).collect()
    }
}

/// The wildcard addresses of both families.
pub fn unspecified_addresses() -> Vec<IpAddr> {
    vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()]
}

/// Serves every `healthCheckNodePort` at these addresses, forever. Connections
/// to addresses outside `ranges` (`nodePort.addresses`) are closed; without
/// ranges, all are served. Listening on wildcard addresses makes it independent
/// of address changes of the node.
pub async fn serve_checks(health: Arc<Health>, addresses: Vec<IpAddr>, ranges: Vec<IpNet>) {
    let ranges: Arc<[IpNet]> = ranges.into();
    let mut servers: BTreeMap<ObjectName, (u16, Server)> = BTreeMap::new();
    loop {
        for (name, port) in health.take_dirty() {
            if servers.get(&name).map(|(port, _)| *port) == port {
                continue;
            }
            if let Some((old, server)) = servers.remove(&name) {
                info!("Service {name}: stopped serving healthCheckNodePort {old}");
                server.stop().await;
            }
            if let Some(port) = port {
                let started = Server::start(health.clone(), name.clone(), port, &addresses, &ranges);
                servers.insert(name, (port, started));
            }
        }
        health.changed.notified().await;
    }
}

/// The listeners of one port.
struct Server(Vec<JoinHandle<()>>);

impl Server {
    fn start(
        health: Arc<Health>,
        name: ObjectName,
        port: u16,
        addresses: &[IpAddr],
        ranges: &Arc<[IpNet]>,
    ) -> Server {
        let router = Router::new().fallback(check_page).with_state((health, name.clone()));
        let listen = |ip: &IpAddr| {
            let (router, address, name) = (router.clone(), SocketAddr::new(*ip, port), name.clone());
            let ranges = ranges.clone();
            tokio::spawn(async move {
                let listener = FilteredListener { listener: bind_with_retry(address, &name).await, ranges };
                if let Err(error) = axum::serve(listener, router).await {
                    warn!("Service {name}: the health check server on {address} stopped: {error}");
                }
            })
        };
        Server(addresses.iter().map(listen).collect())
    }

    /// Stops the listeners. The port is free when this returns.
    async fn stop(self) {
        for listener in self.0 {
            listener.abort();
            // The error of an aborted task.
            let _ = listener.await;
        }
    }
}

/// Accepts only connections to addresses in the ranges; without ranges, all.
struct FilteredListener {
    listener: TcpListener,
    ranges: Arc<[IpNet]>,
}

impl axum::serve::Listener for FilteredListener {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            let (stream, peer) = axum::serve::Listener::accept(&mut self.listener).await;
            let local = stream.local_addr().map(|address| address.ip().to_canonical());
            let in_range = |ip| self.ranges.iter().any(|range| range.contains(&ip));
            if self.ranges.is_empty() || local.is_ok_and(in_range) {
                return (stream, peer);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// Retries until the port is free; logs only the first failure.
async fn bind_with_retry(address: SocketAddr, name: &ObjectName) -> TcpListener {
    let mut warned = false;
    loop {
        match listen(address) {
            Ok(listener) => return listener,
            Err(error) if !warned => {
                warned = true;
                warn!(
                    "Service {name}: cannot listen on healthCheckNodePort {address}: {error}; check whether kube-proxy or \
                 another program uses the port; retrying"
                );
            }
            Err(_) => {}
        }
        tokio::time::sleep(BIND_RETRY).await;
    }
}

/// Sets `IPV6_V6ONLY`, whatever `net.ipv6.bindv6only` is.
fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    use nix::sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket,
        sockopt,
    };
    use std::os::fd::AsRawFd;
    let family = if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(family, SockType::Stream, flags, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    if address.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    listen(&fd, Backlog::new(128)?)?;
    TcpListener::from_std(fd.into())
}

/// Every path returns the same response.
async fn check_page(State((health, name)): State<(Arc<Health>, ObjectName)>) -> Response {
    let state = health.lock();
    let local_endpoints = state.checks.get(&name).map_or(0, |check| check.local_endpoints);
    let healthy = state.healthy;
    let status = match local_endpoints > 0 && healthy {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let body = json!({
        "service": {"namespace": name.namespace, "name": name.name},
        "localEndpoints": local_endpoints,
        "serviceProxyHealthy": healthy,
    });
    let headers = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (WEIGHT_HEADER, local_endpoints.to_string()),
    ];
    (status, headers, Json(body)).into_response()
}

/// Serves /healthz and /livez, forever.
pub async fn serve_node(address: &str, health: Arc<Health>) -> anyhow::Result<()> {
    let address: SocketAddr = address.parse().with_context(|| {
        format!(
            "kubeProxyReplacementHealthzBindAddr={address} is not an address and port such as 0.0.0.0:10256 or \
                 [::]:10256"
        )
    })?;
    let listener = TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address} (kubeProxyReplacementHealthzBindAddr); check whether kube-proxy is still \
                 running")
    })?;
    let router = Router::new()
        .route("/healthz", routing::get(healthz_page))
        .route("/livez", routing::get(livez_page))
        .with_state(health);
    axum::serve(listener, router).await.context("the health server stopped")
}

/// Whether load balancers should use the node.
async fn healthz_page(State(health): State<Arc<Health>>) -> Response {
    let state = health.lock();
    node_page(state.healthy && !state.leaving, &state, true)
}

/// Whether the agent works. A node that is being removed is still live.
async fn livez_page(State(health): State<Arc<Health>>) -> Response {
    let state = health.lock();
    node_page(state.healthy, &state, false)
}

fn node_page(healthy: bool, state: &HealthState, shows_eligible: bool) -> Response {
    let now = Timestamp::now();
    let updated = if healthy { now } else { state.last_healthy };
    let mut body = json!({"lastUpdated": updated.to_string(), "currentTime": now.to_string()});
    if shows_eligible {
        body["nodeEligible"] = json!(!state.leaving);
    }
    let status = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, [(header::X_CONTENT_TYPE_OPTIONS, "nosniff")], Json(body)).into_response()
}

#[cfg(test)]
mod tests;
