//! /metrics, /healthz and /readyz on loopback.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use crate::metrics::{self, Snapshot};

/// What the pages show.
pub trait Observed: Send + Sync + 'static {
    /// The metrics now. May block.
    fn snapshot(&self) -> Snapshot;
    /// Why the node is not ready; none = it is. Must not block.
    fn unready(&self) -> Option<String>;
}

/// Serves for ever.
pub async fn serve(address: SocketAddr, observed: Arc<dyn Observed>) -> anyhow::Result<()> {
    let router = Router::new()
        .route("/metrics", get(metrics_page))
        .route("/healthz", get(health_page))
        .route("/readyz", get(ready_page))
        .with_state(observed);
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("{address} cannot be bound for /metrics; is it taken? see --http"))?;
    axum::serve(listener, router).await.context("the metrics server ended")
}

async fn metrics_page(State(observed): State<Arc<dyn Observed>>) -> Response {
    let encoded = tokio::task::spawn_blocking(move || metrics::encode(observed.snapshot())).await;
    match encoded {
        Ok(Ok(text)) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be read; see the agent's log\n")
            .into_response(),
    }
}

/// Healthy = the state can be looked at; a deadlock shows as no answer.
async fn health_page(State(observed): State<Arc<dyn Observed>>) -> Response {
    let looked = tokio::task::spawn_blocking(move || observed.snapshot());
    match tokio::time::timeout(std::time::Duration::from_secs(5), looked).await {
        Ok(Ok(_)) => "ok\n".into_response(),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "the agent's state is stuck\n").into_response(),
    }
}

async fn ready_page(State(observed): State<Arc<dyn Observed>>) -> Response {
    match observed.unready() {
        None => "ok\n".into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}
