//! The server: objects, controllers and listeners.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::IpNet;
use tokio::task::{AbortHandle, JoinHandle};
use tokio_rustls::TlsAcceptor;

use crate::allocate::Allocators;
use crate::apply::ApplyReport;
use crate::controllers::{self, Controllers};
use crate::http::Service;
use crate::identity::{Authenticator, Signer};
use crate::store::{SharedStore, Store};
use crate::{Api, Kinds, LogSource, kubeconfig, tls};

/// Configuration of a server.
#[derive(Clone, Debug)]
pub struct Config {
    /// Service CIDRs, at most one per family. The family of the first is the primary family.
    pub service_cidrs: Vec<IpNet>,
    /// Pod CIDRs of the cluster, at most one per family. Each node gets a /24 (IPv4) or /64 (IPv6).
    pub pod_cidrs: Vec<IpNet>,
    /// Address pools for Services of type LoadBalancer, at most one per family. If empty, no
    /// addresses are assigned.
    pub load_balancer_cidrs: Vec<IpNet>,
    /// Addresses of the control plane, for the certificate and (with a port) the endpoints of the
    /// Service `kubernetes`.
    pub control_plane_addresses: Vec<IpAddr>,
    /// Port of the endpoints of the Service `kubernetes`; none leaves the Service without endpoints.
    pub control_plane_port: Option<u16>,
    /// Bearer token of the administrator; none generates one.
    pub token: Option<String>,
    /// Control plane components to run besides the API.
    pub components: BTreeSet<Component>,
    /// The certificate; none generates one.
    pub certificate: Option<Certificate>,
    /// Maximum number of changes kept per kind; a watch further behind gets 410 Gone.
    pub log_max: usize,
    /// Source of pod logs.
    pub pod_logs: Option<LogSource>,
}

/// A control plane component besides the API itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Component {
    /// The parts of kube-controller-manager that networking needs.
    ControllerManager,
    /// kube-scheduler.
    Scheduler,
    /// Deletion of custom resources with their definition, which kube-apiserver does itself.
    CustomResources,
    /// Addresses of Services of type LoadBalancer, as a cloud-controller-manager assigns them.
    LoadBalancers,
}

/// A server certificate and its CA certificate, PEM.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// CA certificate.
    pub ca_pem: String,
    /// Server certificate.
    pub certificate_pem: String,
    /// Private key of the server certificate.
    pub key_pem: String,
}

impl Default for Config {
    /// The default ranges of the lab.
    fn default() -> Self {
        let net = |text: &str| text.parse().expect("the default CIDRs are valid");
        Self {
            service_cidrs: vec![net("10.96.0.0/16"), net("fd00:10:96::/112")],
            pod_cidrs: vec![net("10.244.0.0/16"), net("fd00:10:244::/48")],
            load_balancer_cidrs: vec![net("172.30.0.224/28"), net("fd00:172:30::fe0/124")],
            control_plane_addresses: Vec::new(),
            control_plane_port: None,
            token: None,
            components: [
                Component::ControllerManager,
                Component::Scheduler,
                Component::CustomResources,
                Component::LoadBalancers,
            ]
            .into(),
            certificate: None,
            log_max: 32_768,
            pod_logs: None,
        }
    }
}

/// Why a server failed to start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The certificate could not be generated.
    #[error("the API server cannot generate its certificate: {0}")]
    Certificate(String),
    /// The service account signing key could not be generated.
    #[error("the API server cannot generate its service account signing key: {0}")]
    Signer(String),
    /// A bootstrap object was refused.
    #[error("the API server cannot create {what}: {cause}")]
    BootstrapObject {
        /// The object.
        what: String,
        /// The error.
        cause: crate::ApiError,
    },
    /// A listener could not be used.
    #[error("cannot serve the listener on {address}: {cause}")]
    Listener {
        /// Its address.
        address: String,
        /// The error.
        cause: std::io::Error,
    },
}

/// A running server. Dropping it stops its controllers, listeners and connections.
pub struct ApiServer {
    api: Api,
    service: Arc<Service>,
    acceptor: TlsAcceptor,
    ca_pem: String,
    token: String,
    tasks: Mutex<Vec<AbortHandle>>,
}

/// A listener that is served until the server is dropped or [`ServeHandle::stop`] is called.
pub struct ServeHandle {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl ServeHandle {
    /// Address of the listener.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes the listener and its connections.
    pub fn stop(&self) {
        self.task.abort();
    }
}

impl ApiServer {
    /// Starts the server and its controllers on the current tokio runtime. It accepts no connections
    /// until [`ApiServer::serve`].
    pub fn start(config: Config) -> Result<Self, StartError> {
        let certificate = match &config.certificate {
            Some(given) => given.clone(),
            None => tls::generate(&certified_addresses(&config))
                .map_err(|error| StartError::Certificate(error.to_string()))?,
        };
        let tls = tls::server(&certificate).map_err(|error| StartError::Certificate(error.to_string()))?;
        let store = SharedStore::new(Store::new(config.log_max));
        let api = Api::new(Kinds::built_in(), store, Allocators::new(&config.service_cidrs));
        controllers::bootstrap(&api, &config)?;
        let token = config.token.clone().unwrap_or_else(random_token);
        let signer = Signer::generate().map_err(StartError::Signer)?;
        let authenticator = Authenticator::new(api.clone(), token.clone(), signer);
        let service = Arc::new(Service::new(api.clone(), authenticator, config.pod_logs.clone()));
        let controllers = tokio::spawn(Controllers::new(&api, &config, &certificate.ca_pem).run());
        let tasks = Mutex::new(vec![controllers.abort_handle()]);
        let acceptor = TlsAcceptor::from(tls);
        Ok(Self { api, service, acceptor, ca_pem: certificate.ca_pem, token, tasks })
    }

    /// Serves a listener, which may belong to another network namespace. Can be called several times.
    pub fn serve(&self, listener: std::net::TcpListener) -> Result<ServeHandle, StartError> {
        let address = listener.local_addr();
        let shown = address.as_ref().map_or_else(|error| error.to_string(), SocketAddr::to_string);
        let refuse = |cause| StartError::Listener { address: shown.clone(), cause };
        listener.set_nonblocking(true).map_err(refuse)?;
        let address = address.map_err(refuse)?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(refuse)?;
        let task = tokio::spawn(crate::http::serve(listener, self.acceptor.clone(), self.service.clone()));
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(task.abort_handle());
        Ok(ServeHandle { address, task })
    }

    /// A kubeconfig for this server URL. It contains the token: store it with mode 0600.
    pub fn kubeconfig(&self, server_url: &str) -> String {
        kubeconfig::render(server_url, &self.ca_pem, &self.token)
    }

    /// The CA certificate.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Bearer token of the administrator.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Access to the objects.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// Applies every document of a manifest; `source` names it in messages (a file, for example).
    pub fn apply(&self, source: &str, manifest: &str) -> ApplyReport {
        self.api.apply(source, manifest)
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).drain(..).for_each(|task| task.abort());
    }
}

/// Addresses by which clients reach the server: the control plane's own, and
/// those of the Service `kubernetes`.
fn certified_addresses(config: &Config) -> Vec<IpAddr> {
    let service = controllers::first_addresses(&config.service_cidrs);
    config.control_plane_addresses.iter().copied().chain(service).collect()
}

pub(crate) fn random_token() -> String {
    format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>())
}
