//! The server: objects, controllers and listeners.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};

use beeline_apiserver_admission::{Api, ApplyReport};
use beeline_apiserver_controllers::{self as controllers, Controllers};
use beeline_apiserver_protocol::http::{self, Service};
use beeline_apiserver_protocol::identity::{Authenticator, Signer};
use beeline_apiserver_protocol::{kubeconfig, tls};
use tokio::task::{AbortHandle, JoinHandle};
use tokio_rustls::TlsAcceptor;

use super::config::{Config, StartError};
use super::credentials::random_token;

/// A running server. Dropping it stops its controllers, listeners and connections.
pub struct ApiServer {
    api: Api,
    service: Service,
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
        let cluster = config.cluster();
        let api = Api::new(config.log_max, &config.service_cidrs);
        controllers::bootstrap(&api, &cluster)?;
        let token = config.token.clone().unwrap_or_else(random_token);
        let signer = Signer::generate().map_err(StartError::Signer)?;
        let authenticator = Authenticator::new(api.clone(), token.clone(), signer);
        let service = Service::new(api.clone(), authenticator, config.pod_logs.clone());
        let controllers = tokio::spawn(Controllers::new(&api, &cluster, &certificate.ca_pem).run());
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
        let task = tokio::spawn(http::serve(listener, self.acceptor.clone(), self.service.clone()));
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
