//! The server as a whole: objects, controllers and listeners.

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

/// What a server is made of.
#[derive(Clone, Debug)]
pub struct Config {
    /// Ranges of cluster IPs, at most one per family; the first one's family is the primary one.
    pub service_cidrs: Vec<IpNet>,
    /// Ranges of which each node gets a part (/24 of IPv4, /64 of IPv6), at most one per family.
    pub pod_cidrs: Vec<IpNet>,
    /// Pools of which Services of type LoadBalancer get addresses, at most one per family; empty
    /// leaves that to somebody else.
    pub load_balancer_cidrs: Vec<IpNet>,
    /// Addresses of the control plane: in the certificate, and (with a port) behind the service
    /// `kubernetes`.
    pub control_plane_addresses: Vec<IpAddr>,
    /// The port behind the service `kubernetes`; none leaves the service without endpoints.
    pub control_plane_port: Option<u16>,
    /// The bearer token that every client shows; none makes a random one.
    pub token: Option<String>,
    /// What is done for the cluster beside serving objects.
    pub components: BTreeSet<Component>,
    /// The certificate; none makes one.
    pub certificate: Option<Certificate>,
    /// Changes remembered per kind; a watch further behind gets 410.
    pub log_max: usize,
    /// Who has the logs of pods.
    pub pod_logs: Option<LogSource>,
}

/// Something that is done for a cluster beside answering requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Component {
    /// What kube-controller-manager does, as far as networking can tell.
    ControllerManager,
    /// What kube-scheduler does.
    Scheduler,
    /// Objects of custom kinds that go: kube-apiserver does that itself.
    CustomResources,
    /// Addresses for Services of type LoadBalancer: what a cloud's controller manager gives.
    LoadBalancers,
}

/// A server's certificate and who signed it, as PEM.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate authority.
    pub ca_pem: String,
    /// The certificate.
    pub certificate_pem: String,
    /// Its key.
    pub key_pem: String,
}

impl Default for Config {
    /// The lab's ranges.
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

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No certificate.
    #[error("the API server cannot generate its certificate: {0}")]
    Certificate(String),
    /// No key for tokens of service accounts.
    #[error("the API server cannot generate its service account signing key: {0}")]
    Signer(String),
    /// The first objects were refused.
    #[error("the API server cannot create {what}: {cause}")]
    BootstrapObject {
        /// Which one.
        what: String,
        /// Why.
        cause: crate::ApiError,
    },
    /// A listener cannot be used.
    #[error("cannot serve the listener on {address}: {cause}")]
    Listener {
        /// Where it listens.
        address: String,
        /// Why.
        cause: std::io::Error,
    },
}

/// A running server. Dropping it ends its controllers, listeners and connections.
pub struct ApiServer {
    api: Api,
    service: Arc<Service>,
    acceptor: TlsAcceptor,
    ca_pem: String,
    token: String,
    tasks: Mutex<Vec<AbortHandle>>,
}

/// A listener that is being served. It lives as long as the server, or until [`ServeHandle::stop`].
pub struct ServeHandle {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl ServeHandle {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes the listener and every connection that came through it.
    pub fn stop(&self) {
        self.task.abort();
    }
}

impl ApiServer {
    /// Starts the server and its controllers on the current tokio runtime. It serves nobody until
    /// [`ApiServer::serve`] gives it a listener.
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

    /// Serves a listener, which may come from another network namespace. May be called any number of
    /// times.
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

    /// The text of a kubeconfig for this server under this URL. It holds the token: write it 0600.
    pub fn kubeconfig(&self, server_url: &str) -> String {
        kubeconfig::render(server_url, &self.ca_pem, &self.token)
    }

    /// The certificate authority, for clients without a kubeconfig.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The bearer token.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The objects.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// Applies every document of a manifest; `source` is how messages call it, such as a file's name.
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
