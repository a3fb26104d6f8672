//! Connections to the API servers: tried in turn, and replaced when they are
//! unresponsive.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use http::Uri;
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::ConfigExt;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tower::ServiceBuilder;
use tracing::{debug, info};

use crate::{SourceConfig, SourceError, SourceState};

/// Timeout of the first request to a server.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// Delay before the next server is tried in parallel.
const NEXT_SERVER_DELAY: Duration = Duration::from_millis(300);
/// Timeout for establishing a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Idle time after which TCP keepalive probes a connection, and the interval of
/// the probes: middleboxes keep the state of an idle watch, and a dead
/// connection is detected.
const KEEPALIVE_TIME: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Unanswered probes after which the kernel closes the connection.
const KEEPALIVE_PROBES: u32 = 3;
/// Delay before a failed liveness check is repeated; the second failure is
/// final.
const LIVENESS_RETRY: Duration = Duration::from_secs(1);

/// One configuration per API server.
pub async fn servers(config: &SourceConfig) -> Result<Vec<Config>, SourceError> {
    let mut base = base(config).await?;
    base.connect_timeout = Some(CONNECT_TIMEOUT);
    if config.servers.is_empty() {
        return Ok(vec![base]);
    }
    config.servers.iter().map(|url| with_server(&base, url)).collect()
}

async fn base(config: &SourceConfig) -> Result<Config, SourceError> {
    let Some(path) = &config.kubeconfig else {
        return Config::incluster().map_err(|e| SourceError::NoServiceAccount(e.to_string()));
    };
    let invalid = |error: &dyn std::fmt::Display| SourceError::Kubeconfig {
        path: path.clone(),
        error: error.to_string(),
    };
    let file = Kubeconfig::read_from(path).map_err(|e| invalid(&e))?;
    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(|e| invalid(&e))
}

fn with_server(base: &Config, url: &str) -> Result<Config, SourceError> {
    let invalid = |error: &str| SourceError::ServerUrl { url: url.to_owned(), error: error.to_owned() };
    let uri: Uri = url.parse().map_err(|e: http::uri::InvalidUri| invalid(&e.to_string()))?;
    if uri.host().is_none() || uri.scheme().is_none() {
        return Err(invalid("scheme or host is missing"));
    }
    let mut config = base.clone();
    config.cluster_url = uri;
    Ok(config)
}

/// Connects to the first server that responds, starting with `first`. The next
/// servers are tried in parallel after a delay. `None` if no server responds.
pub async fn connect(servers: &[Config], first: usize, state: &SourceState) -> Option<(Client, usize)> {
    let attempt = async |offset: usize| {
        tokio::time::sleep(NEXT_SERVER_DELAY * offset as u32).await;
        let index = (first + offset) % servers.len();
        (index, probe(&servers[index]).await)
    };
    let mut attempts: FuturesUnordered<_> = (0..servers.len()).map(attempt).collect();
    while let Some((index, result)) = attempts.next().await {
        match result {
            Ok(client) => {
                info!(server = %servers[index].cluster_url, "connected to the API server");
                state.succeeded(None);
                return Some((client, index));
            }
            Err(error) => {
                state.failed(None);
                debug!(server = %servers[index].cluster_url, error, "the API server does not respond");
            }
        }
    }
    None
}

async fn probe(config: &Config) -> Result<Client, String> {
    let client = client(config).map_err(|e| e.to_string())?;
    check_alive(&client).await.map(|()| client)
}

/// Whether the server responds.
async fn check_alive(client: &Client) -> Result<(), String> {
    match tokio::time::timeout(PROBE_TIMEOUT, client.apiserver_version()).await {
        // A server that denies this request is reachable; the watches report
        // what is denied.
        Ok(Ok(_) | Err(kube::Error::Api(_))) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no response within {} s", PROBE_TIMEOUT.as_secs())),
    }
}

/// Returns the error once two consecutive liveness checks have failed. The
/// server is checked about every `pause`. An idle watch does not show a
/// failure: connections to a hung machine stay open.
pub async fn wait_until_unresponsive(client: &Client, pause: Duration) -> String {
    loop {
        tokio::time::sleep(crate::jitter(pause)).await;
        if check_alive(client).await.is_ok() {
            continue;
        }
        tokio::time::sleep(LIVENESS_RETRY).await;
        if let Err(error) = check_alive(client).await {
            return error;
        }
    }
}

/// Creates a client like kube does, but with TCP keepalive and a user timeout.
fn client(config: &Config) -> kube::Result<Client> {
    if config.proxy_url.is_some() {
        return Client::try_from(config.clone());
    }
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_keepalive(Some(KEEPALIVE_TIME));
    tcp.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    tcp.set_keepalive_retries(Some(KEEPALIVE_PROBES));
    tcp.set_tcp_user_timeout(Some(KEEPALIVE_TIME + KEEPALIVE_INTERVAL * KEEPALIVE_PROBES));
    let mut tls = TimeoutConnector::new(config.rustls_https_connector_with_connector(tcp)?);
    tls.set_connect_timeout(config.connect_timeout);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(tower::BoxError::from)
        .service(HttpClient::builder(TokioExecutor::new()).build(tls));
    Ok(Client::new(service, config.default_namespace.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_servers_are_checked_before_they_are_tried() {
        let base = Config::new(Uri::from_static("https://10.0.0.1:6443"));
        assert_eq!(
            with_server(&base, "https://[fd00::1]:6443").unwrap().cluster_url.host(),
            Some("[fd00::1]")
        );
        for invalid in ["10.0.0.1:x", "just text", "/path"] {
            assert!(
                with_server(&base, invalid).unwrap_err().to_string().contains("expected https://HOST:PORT"),
                "{invalid}"
            );
        }
    }

    #[tokio::test]
    async fn unit_a_missing_kubeconfig_is_named() {
        let mut config = SourceConfig::new("node-1");
        config.kubeconfig = Some("/nonexistent/kubeconfig".into());
        let error = servers(&config).await.unwrap_err().to_string();
        assert!(error.starts_with("kubeconfig /nonexistent/kubeconfig: "), "{error}");
    }
}
