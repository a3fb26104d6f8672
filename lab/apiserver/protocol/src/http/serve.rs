//! Listeners and connections.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use beeline_apiserver_admission::Api;
use beeline_apiserver_schema::openapi::OpenApiDocuments;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use super::client_path::without_empty_segments;
use super::routes;
use super::state::Server;
use crate::LogSource;
use crate::identity::Authenticator;

/// The API over HTTP. Cheap to clone; all clones share the same objects.
#[derive(Clone)]
pub struct Service(Router);

impl Service {
    /// The service of these objects.
    pub fn new(api: Api, authenticator: Authenticator, logs: Option<LogSource>) -> Self {
        let documents = OpenApiDocuments::default();
        Self(routes::router(Arc::new(Server { api, authenticator, documents, logs })))
    }
}

/// Maximum number of connections per listener; more wait in the kernel's accept queue.
const CONNECTIONS_MAX: usize = 4096;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Accepts connections until the future is dropped, which also closes the connections.
pub async fn serve(listener: TcpListener, acceptor: TlsAcceptor, service: Service) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        if connections.len() >= CONNECTIONS_MAX {
            connections.join_next().await;
        }
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(connection(stream, acceptor.clone(), service.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "the API server cannot accept a connection; trying again");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, service: Service) {
    // Disable Nagle's algorithm, so that small responses are not delayed.
    let _ = stream.set_nodelay(true);
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await;
    let stream = match handshake {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "a client's TLS handshake failed"),
        Err(_) => return tracing::debug!("a client did not finish its TLS handshake"),
    };
    let Service(router) = service;
    let answer = service_fn(move |request: Request<Incoming>| {
        router.clone().oneshot(without_empty_segments(request.map(Body::new)))
    });
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(None);
    if let Err(error) = server.serve_connection(TokioIo::new(stream), answer).await {
        tracing::debug!(%error, "a connection ended early");
    }
}
