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

/// The state that the pages show.
pub trait StatusSource: Send + Sync + 'static {
    /// The current metrics. May block.
    fn snapshot(&self) -> Snapshot;
    /// Why the node is not ready. `None` if it is ready. Must not block.
    fn not_ready_reason(&self) -> Option<String>;
}

/// Serves forever.
pub async fn serve(address: SocketAddr, source: Arc<dyn StatusSource>) -> anyhow::Result<()> {
    let router = Router::new()
        .route("/metrics", get(metrics_page))
        .route("/healthz", get(health_page))
        .route("/readyz", get(ready_page))
        .with_state(source);
    let listener = TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address} for /metrics; check that the port is free, see --http")
    })?;
    axum::serve(listener, router).await.context("the metrics server stopped")
}

async fn metrics_page(State(source): State<Arc<dyn StatusSource>>) -> Response {
    let encoded = tokio::task::spawn_blocking(move || metrics::encode(source.snapshot())).await;
    match encoded {
        Ok(Ok(text)) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "cannot collect the metrics; see the agent's log\n")
            .into_response(),
    }
}

/// Healthy if the state can be read; a deadlock shows as a timeout.
async fn health_page(State(source): State<Arc<dyn StatusSource>>) -> Response {
    let snapshot = tokio::task::spawn_blocking(move || source.snapshot());
    match tokio::time::timeout(std::time::Duration::from_secs(5), snapshot).await {
        Ok(Ok(_)) => "ok\n".into_response(),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "the agent is blocked\n").into_response(),
    }
}

async fn ready_page(State(source): State<Arc<dyn StatusSource>>) -> Response {
    match source.not_ready_reason() {
        None => "ok\n".into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}
