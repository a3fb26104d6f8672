//! Forwards connections from any network namespace to the API server.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use beeline_kernel::netns::NetNs;
use beeline_lab_net::netdev;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

/// Timeout for connecting to the API server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Forwards connections until it is aborted, which also closes them.
pub fn start(listener: std::net::TcpListener, netns: &Path, target: SocketAddr) -> Result<AbortHandle> {
    listener.set_nonblocking(true)?;
    let listener =
        TcpListener::from_std(listener).context("cannot register the listener with the async runtime")?;
    Ok(tokio::spawn(run(listener, netns.to_owned(), target)).abort_handle())
}

async fn run(listener: TcpListener, netns: PathBuf, target: SocketAddr) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let netns = netns.clone();
                connections.spawn(async move {
                    if let Err(error) = pass(stream, netns, target).await {
                        tracing::debug!("a connection to the API server at {target} ended: {error:#}");
                    }
                });
            }
            Err(error) => {
                tracing::warn!("cannot accept a connection to the API server: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn pass(mut near: TcpStream, netns: PathBuf, target: SocketAddr) -> Result<()> {
    let far = tokio::task::spawn_blocking(move || connect(&netns, target)).await??;
    let mut far = TcpStream::from_std(far)?;
    // Disable Nagle's algorithm for small responses.
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    tokio::io::copy_bidirectional(&mut near, &mut far).await?;
    Ok(())
}

fn connect(netns: &Path, target: SocketAddr) -> Result<std::net::TcpStream> {
    let namespace = NetNs::open(netns)?;
    let connect = || -> io::Result<std::net::TcpStream> {
        let stream = std::net::TcpStream::connect_timeout(&target, CONNECT_TIMEOUT)?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    };
    netdev::in_netns(&namespace, || connect().map_err(Into::into))
}
