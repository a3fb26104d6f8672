//! Creates thousands of Services through the API. Each has three endpoints;
//! only those of the hot Service exist.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::rules::{Entry, PORT};

/// Ports of the hot Service's three endpoints.
pub const PORTS: [u16; 3] = [9001, 9002, 9003];
/// Number of Services with a nodePort: the range has 2,768.
const NODE_PORTS_MAX: usize = 2_000;
/// Concurrent requests.
const REQUESTS: usize = 16;

/// The lab's API.
pub struct Api {
    runtime: Runtime,
    client: Client,
}

impl Api {
    /// Connects with the lab's kubeconfig.
    pub fn open(kubeconfig: &Path) -> Result<Api> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let client = runtime.block_on(async {
            let file = Kubeconfig::read_from(kubeconfig)?;
            let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
            anyhow::Ok(Client::try_from(config)?)
        });
        Ok(Api { client: client.context("cannot connect to the lab's API server")?, runtime })
    }

    async fn send(client: &Client, method: &str, path: &str, body: &Value) -> Result<Value> {
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("Content-Type", "application/json")
            .body(serde_json::to_vec(body)?)?;
        client.request(request).await.with_context(|| format!("{method} {path}"))
    }

    /// Replaces an object; returns when the response is complete.
    pub fn put(&self, path: &str, body: &Value) -> Result<Value> {
        self.runtime.block_on(Api::send(&self.client, "PUT", path, body))
    }

    /// Creates Services with these numbers. The one with the number `hot` has three
    /// endpoints at `server`, one per port.
    pub fn add(
        &self,
        numbers: std::ops::Range<usize>,
        hot: usize,
        server: Ipv4Addr,
        ports: [u16; 3],
    ) -> Result<Vec<Entry>> {
        let made = futures::stream::iter(numbers).map(|number| {
            let endpoints =
                if number == hot { ports.map(|port| (server, port)) } else { unused_endpoints(number) };
            self.add_one(number, endpoints)
        });
        self.runtime.block_on(made.buffered(REQUESTS).try_collect())
    }

    async fn add_one(&self, number: usize, endpoints: [(Ipv4Addr, u16); 3]) -> Result<Entry> {
        let kind = if number < NODE_PORTS_MAX { "NodePort" } else { "ClusterIP" };
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("s-{number}")},
            "spec": {"type": kind, "ports": [{"port": PORT, "protocol": "TCP"}]}});
        let made = Api::send(&self.client, "POST", "/api/v1/namespaces/default/services", &service).await?;
        // Endpoints with different ports need separate EndpointSlices.
        let apart = endpoints[0].0 == endpoints[1].0;
        let groups =
            if apart { endpoints.iter().map(|end| vec![*end]).collect() } else { vec![endpoints.to_vec()] };
        for (at, ends) in groups.iter().enumerate() {
            let path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
            Api::send(&self.client, "POST", path, &slice(number, at, ends)).await?;
        }
        let spec = &made["spec"];
        let ip = spec["clusterIP"]
            .as_str()
            .and_then(|ip| ip.parse().ok())
            .context("the Service has no ClusterIP")?;
        let node_port = spec["ports"][0]["nodePort"].as_u64().and_then(|port| u16::try_from(port).ok());
        Ok(Entry { ip, node_port, endpoints })
    }
}

/// Endpoints that receive no traffic: addresses that no node has.
fn unused_endpoints(number: usize) -> [(Ipv4Addr, u16); 3] {
    let at = |end: usize| Ipv4Addr::from(0x0af5_0000 + u32::try_from(3 * number + end).unwrap_or_default());
    [0, 1, 2].map(|end| (at(end), 8080))
}

/// An EndpointSlice whose endpoints share a port.
pub fn slice(number: usize, at: usize, ends: &[(Ipv4Addr, u16)]) -> Value {
    let endpoints: Vec<Value> =
        ends.iter().map(|(ip, _)| json!({"addresses": [ip], "conditions": {"ready": true}})).collect();
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("s-{number}-{at}"), "labels": {"kubernetes.io/service-name": format!("s-{number}")}},
        "ports": [{"name": "", "port": ends[0].1, "protocol": "TCP"}], "endpoints": endpoints})
}

/// Waits until a condition is true; returns how long that took.
pub fn wait_until(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<bool>,
) -> Result<Duration> {
    let begin = Instant::now();
    while !condition()? {
        if begin.elapsed() > limit {
            bail!("timed out after {} s waiting until {what}", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(begin.elapsed())
}
