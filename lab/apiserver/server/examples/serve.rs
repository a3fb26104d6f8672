//! Serves an empty cluster on loopback until it is interrupted, for trying kubectl by hand.
//!
//!     cargo run --release -p beeline-apiserver --example serve -- /tmp/kubeconfig

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use anyhow::Context;
use beeline_apiserver::{ApiServer, Config};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let path = std::env::args().nth(1).context("usage: serve KUBECONFIG_TO_WRITE")?;
    let server = ApiServer::start(Config::default())?;
    let handle = server.serve(std::net::TcpListener::bind("127.0.0.1:0")?)?;
    let text = server.kubeconfig(&format!("https://{}", handle.address()));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
    file.write_all(text.as_bytes()).with_context(|| format!("writing {path}"))?;
    println!("serving on {}; KUBECONFIG={path}", handle.address());
    tokio::signal::ctrl_c().await?;
    Ok(())
}
