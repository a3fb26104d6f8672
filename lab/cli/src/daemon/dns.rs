//! Cluster DNS of the lab: a server in the control plane's namespace, and a
//! Service in front of it, so that DNS queries of pods take the normal Service
//! path. If the server fails, the lab starts without DNS and reports the
//! problem in its status.

use std::net::{IpAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use beeline_kernel::netns::NetNs;
use beeline_lab_dns::{self as dns, NAMESPACE, PORT, SERVICE, SharedFacts, Sockets};
use beeline_lab_net::address::CONTROL_PLANE;
use beeline_lab_net::netdev;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::PostParams;
use kube::{Api, Client};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::protocol::DnsStatus;

/// Delay before a retry.
const PAUSE: Duration = Duration::from_secs(1);

/// The running DNS server.
pub struct ClusterDns {
    client: Client,
    netns: PathBuf,
    facts: Arc<SharedFacts>,
    problems: Mutex<Problems>,
}

/// Problems, by component.
#[derive(Default)]
struct Problems {
    server: Option<String>,
    service: Option<String>,
}

impl ClusterDns {
    /// Starts the server in this network namespace; it runs until the daemon
    /// exits.
    pub fn start(client: Client, netns: PathBuf) -> Arc<ClusterDns> {
        let own = ClusterDns { client, netns, facts: Default::default(), problems: Default::default() };
        let own = Arc::new(own);
        let (server, watcher) = (own.clone(), own.clone());
        tokio::spawn(async move { server.keep_serving().await });
        tokio::spawn(async move { dns::watch(watcher.client.clone(), &watcher.facts).await });
        own
    }

    /// Creates the Service and its EndpointSlices before any other object can
    /// take its addresses. Failures are retried in the background.
    pub async fn publish(self: &Arc<Self>) {
        if self.try_publish().await {
            return;
        }
        let own = self.clone();
        tokio::spawn(async move {
            while !own.try_publish().await {
                tokio::time::sleep(PAUSE).await;
            }
        });
    }

    /// State for `status`.
    pub fn status(&self) -> DnsStatus {
        let problems = self.problems();
        let all = [&problems.server, &problems.service].into_iter().flatten();
        DnsStatus { addresses: dns::addresses(), problem: all.cloned().collect::<Vec<_>>().join("; ") }
    }

    fn problems(&self) -> std::sync::MutexGuard<'_, Problems> {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn keep_serving(&self) {
        loop {
            let served = match bind(&self.netns) {
                Ok(sockets) => {
                    self.problems().server = None;
                    dns::serve(sockets, self.facts.clone()).await
                }
                Err(error) => Err(error),
            };
            let error = served.err().unwrap_or_else(|| anyhow::anyhow!("the DNS server exited"));
            tracing::error!("{error:#}");
            self.problems().server = Some(format!("{error:#}"));
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn try_publish(&self) -> bool {
        let created = create_objects(&self.client).await.context("cannot create its Service");
        let problem = created.err().map(|error| format!("{error:#}"));
        problem.iter().for_each(|problem| tracing::error!("cluster DNS: {problem}"));
        let done = problem.is_none();
        self.problems().service = problem;
        done
    }
}

/// UDP and TCP sockets on both addresses of the control plane.
fn bind(netns: &Path) -> Result<Sockets> {
    let namespace = NetNs::open(netns)?;
    let listen = |ip: IpAddr| -> Result<(UdpSocket, TcpListener)> {
        let bound = UdpSocket::bind((ip, PORT)).and_then(|udp| Ok((udp, TcpListener::bind((ip, PORT))?)));
        bound.with_context(|| format!("cannot listen on {ip} port {PORT} in {}", netns.display()))
    };
    let pairs = netdev::in_netns(&namespace, || CONTROL_PLANE.addresses().map(listen).into_iter().collect());
    let pairs: Vec<(UdpSocket, TcpListener)> = pairs?;
    let (udp, tcp) = pairs.into_iter().unzip();
    Ok(Sockets { udp, tcp })
}

async fn create_objects(client: &Client) -> Result<()> {
    create::<Service>(client, service()).await?;
    for address in CONTROL_PLANE.addresses() {
        create::<EndpointSlice>(client, slice(address)).await?;
    }
    Ok(())
}

/// Creates an object unless it exists.
async fn create<K>(client: &Client, object: Value) -> Result<()>
where
    K: kube::Resource<Scope = kube::core::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + Serialize
        + DeserializeOwned,
    K::DynamicType: Default,
{
    let object: K = serde_json::from_value(object)?;
    let name = object.meta().name.clone().unwrap_or_default();
    match Api::<K>::namespaced(client.clone(), NAMESPACE).create(&PostParams::default(), &object).await {
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(()),
        created => created.map(|_| ()).with_context(|| format!("cannot create {NAMESPACE}/{name}")),
    }
}

fn service() -> Value {
    let addresses = dns::addresses();
    json!({
        "metadata": {
            "name": SERVICE, "namespace": NAMESPACE,
            "labels": {"k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS"},
        },
        "spec": {
            "clusterIP": addresses.first(), "clusterIPs": addresses, "ipFamilyPolicy": "PreferDualStack",
            "ports": [
                {"name": "dns", "port": PORT, "protocol": "UDP", "targetPort": PORT},
                {"name": "dns-tcp", "port": PORT, "protocol": "TCP", "targetPort": PORT},
            ],
        },
    })
}

/// The server is not a pod: the EndpointSlices have no selector and are
/// created here.
fn slice(address: IpAddr) -> Value {
    let family = if address.is_ipv6() { "IPv6" } else { "IPv4" };
    json!({
        "metadata": {
            "name": format!("{SERVICE}-{}", family.to_lowercase()), "namespace": NAMESPACE,
            "labels": {
                "kubernetes.io/service-name": SERVICE,
                "endpointslice.kubernetes.io/managed-by": "beeline-lab",
            },
        },
        "addressType": family,
        "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
        "ports": [
            {"name": "dns", "port": PORT, "protocol": "UDP"},
            {"name": "dns-tcp", "port": PORT, "protocol": "TCP"},
        ],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn unit_a_failed_dns_server_is_a_problem_but_not_fatal() {
        let nobody = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
        let client = Client::try_from(nobody).unwrap();
        let dns = ClusterDns::start(client, "/no/such/namespace".into());
        dns.publish().await;
        let both = |problem: &str| {
            problem.contains("/no/such/namespace") && problem.contains("cannot create its Service")
        };
        for _ in 0..500 {
            if both(&dns.status().problem) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{:?}", dns.status());
    }
}
