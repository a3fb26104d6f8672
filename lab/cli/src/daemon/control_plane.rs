//! The lab's control plane: the embedded API server, or the programs of
//! Kubernetes in the directory of `KUBEBUILDER_ASSETS`. The rest of the lab
//! treats both alike.

mod config;
mod external;
mod forward;
mod process;

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::sync::Arc;

use anyhow::{Context, Result};
use beeline_apiserver::{ApiServer, ApplyReport, Config, LogSource, ServeHandle};
use beeline_lab_net::address::{self, CONTROL_PLANE};
use beeline_lab_net::paths::LabPaths;
use beeline_lab_net::record::{LabRecord, write_whole};
use beeline_lab_net::topology;
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::task::AbortHandle;

use super::logs::LabLogs;
use config::config;
use external::External;

pub use external::check_assets;

/// The implementation of the Kubernetes API.
pub enum ControlPlane {
    /// The API server embedded in this process.
    Embedded(Box<ApiServer>),
    /// kube-apiserver and etcd as separate processes.
    External(Box<External>),
}

/// A listener of the API server, open until it is stopped.
pub enum ApiListener {
    /// The embedded API server accepts connections itself.
    Served(ServeHandle),
    /// Connections are forwarded to kube-apiserver.
    Forwarded(AbortHandle),
}

impl ApiListener {
    /// Closes the listener and every connection accepted from it.
    pub fn stop(&self) {
        match self {
            ApiListener::Served(handle) => handle.stop(),
            ApiListener::Forwarded(task) => task.abort(),
        }
    }
}

impl ControlPlane {
    /// Starts the control plane. It listens on the host's loopback, on the
    /// loopback of the client and the router (with the same port, so that one
    /// kubeconfig works everywhere) and on the control plane's own addresses.
    /// The listeners on the nodes' loopbacks are added with the nodes.
    pub async fn start(
        record: &LabRecord,
        listener: TcpListener,
        paths: &LabPaths,
    ) -> Result<(ControlPlane, Client)> {
        let api = match &record.shape.assets {
            None => ControlPlane::Embedded(Box::new(ApiServer::start(embedded(paths)?)?)),
            Some(assets) => ControlPlane::External(Box::new(External::start(assets, record, paths)?)),
        };
        api.serve(listener)?;
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        for host in ["client", "router"].map(|name| &record.others[name]) {
            api.serve(topology::listen(&host.netns, loopback, record.api_port)?)?;
        }
        if let ControlPlane::Embedded(server) = &api {
            for ip in CONTROL_PLANE.addresses() {
                let own = &record.others["control-plane"].netns;
                server.serve(topology::listen(own, ip, address::API_PORT)?)?;
            }
        }
        let kubeconfig = api.kubeconfig(&format!("https://127.0.0.1:{}", record.api_port));
        write_whole(&paths.kubeconfig(), kubeconfig.as_bytes(), 0o600)?;
        let client = client(&kubeconfig).await?;
        if let ControlPlane::External(external) = &api {
            external.begin(client.clone()).await?;
        }
        Ok((api, client))
    }

    /// Serves the API on a listener, which may be in any network namespace.
    pub fn serve(&self, listener: TcpListener) -> Result<ApiListener> {
        match self {
            ControlPlane::Embedded(server) => Ok(ApiListener::Served(server.serve(listener)?)),
            ControlPlane::External(external) => Ok(ApiListener::Forwarded(external.forward(listener)?)),
        }
    }

    /// Applies every document of a manifest.
    pub fn apply(&self, source: &str, text: &str) -> ApplyReport {
        match self {
            ControlPlane::Embedded(server) => server.apply(source, text),
            ControlPlane::External(external) => external.apply(source, text),
        }
    }

    /// Name of the control plane in progress messages.
    pub fn describe(&self) -> String {
        match self {
            ControlPlane::Embedded(_) => "Kubernetes API".into(),
            ControlPlane::External(external) => format!("Kubernetes API of {}", external.assets().display()),
        }
    }

    /// Programs of the control plane that are not running, with the reason.
    pub fn problems(&self) -> Vec<String> {
        match self {
            ControlPlane::Embedded(_) => Vec::new(),
            ControlPlane::External(external) => external.problems(),
        }
    }

    fn kubeconfig(&self, url: &str) -> String {
        match self {
            ControlPlane::Embedded(server) => server.kubeconfig(url),
            ControlPlane::External(external) => external.kubeconfig(url),
        }
    }
}

/// The embedded API server also serves container logs.
fn embedded(paths: &LabPaths) -> Result<Config> {
    Ok(Config { pod_logs: Some(LogSource(Arc::new(LabLogs::new(paths.clone())))), ..config()? })
}

async fn client(kubeconfig: &str) -> Result<Client> {
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig).context("the API server's kubeconfig is invalid")?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Client::try_from(config).context("cannot create a client for the API server")
}
