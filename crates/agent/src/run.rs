//! Starts the agent from its command line.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use beeline_kernel::datapath::{self, Datapath};
use beeline_kernel::netlink::Watch;
use beeline_kernel::netns;
use beeline_source::Source;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use crate::configuration::Configuration;
use crate::engine::{Engine, Parts};
use crate::host::KernelHost;
use crate::options::Options;
use crate::shared::Shared;
use crate::stale_sockets::SocketDestroyer;
use crate::state::StateDir;
use crate::{health_check_node_port, http, memory, privileges, server, threads};

/// Runs until a signal arrives. Programs, maps and routes stay in the kernel.
pub fn run(options: &Options, configuration: &Configuration) -> anyhow::Result<()> {
    let values = &configuration.values;
    let sockets =
        values.socket_lb_enabled.then(|| SocketDestroyer::start(!values.socket_lb_host_only)).transpose()?;
    privileges::drop_capabilities()?;
    memory::configure_allocator();
    configuration.log_notices();
    info!("beeline-agent {} for node {}", env!("CARGO_PKG_VERSION"), configuration.node_name);
    let state = StateDir::open(&options.state_dir)?;
    let _lock = state.lock()?;
    // Opened before the first read, so that no change is missed.
    let watch = Watch::open().context("cannot watch netlink notifications")?;
    let how = datapath::Options { attach_mode: configuration.attach_mode(), ..datapath::Options::default() };
    let mut datapath = Datapath::open_with(&options.bpffs, &how).context("cannot open the datapath")?;
    if let Err(error) = socket_hooks(options, configuration, &mut datapath) {
        warn!("{error:#}; pods are served, but this node itself cannot reach Services");
    }
    if let Some(sockets) = &sockets {
        sockets.set_table(datapath.socket_table().context("cannot read the socket table")?);
    }
    let events = datapath.events().context("cannot read drop events")?;
    let engine = start_engine(options, configuration.clone(), state, datapath, sockets)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_keep_alive(Duration::from_secs(1))
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(serve(options, configuration, engine, watch, events))?;
    // Blocked threads are not joined.
    runtime.shutdown_background();
    Ok(())
}

/// Configures socket load balancing. The hooks stay attached when the agent
/// exits.
fn socket_hooks(
    options: &Options,
    configuration: &Configuration,
    datapath: &mut Datapath,
) -> anyhow::Result<()> {
    if !configuration.values.socket_lb_enabled {
        return datapath.detach_sockets().context("cannot detach the socket hooks");
    }
    let cgroup = match &options.cgroup {
        Some(cgroup) => cgroup.clone(),
        None => beeline_kernel::cgroup::find_mount().context("cannot attach the socket hooks")?,
    };
    let attached = datapath.attach_sockets(&cgroup);
    let attached = attached.with_context(|| {
        format!("cannot attach the socket hooks to the cgroup {}; see --cgroup", cgroup.display())
    })?;
    if attached > 0 {
        info!("socket load balancing is enabled for the cgroup {}", cgroup.display());
    }
    Ok(())
}

fn start_engine(
    options: &Options,
    configuration: Configuration,
    state: StateDir,
    datapath: Datapath,
    sockets: Option<SocketDestroyer>,
) -> anyhow::Result<Engine> {
    Engine::start(Parts {
        configuration,
        state,
        deletion_queue: beeline_api::deleted_directory(&options.socket),
        datapath: Box::new(datapath),
        host: Box::new(KernelHost::open()?),
        sockets,
        netns_cookie: netns::current_cookie().context("cannot read the cookie of this network namespace")?,
    })
}

async fn serve(
    options: &Options,
    configuration: &Configuration,
    engine: Engine,
    watch: Watch,
    events: beeline_kernel::datapath::Events,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot install the SIGTERM handler")?;
    let (updates, source) = Source::start(configuration.source(options)).await?;
    let shared = Arc::new(Shared::new(engine, source.state(), source.event_recorder()));
    threads::apply_updates(shared.clone(), updates)?;
    threads::watch_host(shared.clone(), watch)?;
    threads::relay_events(shared.clone(), events)?;
    threads::run_timers(shared.clone())?;
    threads::compare_tables(shared.clone())?;
    threads::log_connection(source.state())?;
    if configuration.values.node_port_health_check {
        let ranges = configuration.values.node_port_addresses.clone();
        tokio::spawn(health_check_node_port::serve_checks(
            shared.health(),
            health_check_node_port::unspecified_addresses(),
            ranges,
        ));
    }
    let node_health = serve_node_health(configuration, &shared);
    let listener = server::bind(&options.socket)?;
    let http_address = configuration.http(options);
    info!("serving {} and http://{http_address}", options.socket.display());
    tokio::select! {
        () = server::serve(listener, shared.clone()) => Ok(()),
        served = http::serve(http_address, shared.clone()) => served,
        served = node_health => served,
        _ = terminate.recv() => log_shutdown("SIGTERM"),
        interrupted = tokio::signal::ctrl_c() => interrupted.map_err(Into::into).and_then(|()| log_shutdown("SIGINT")),
    }
}

/// Serves the health check of kube-proxy, if configured.
async fn serve_node_health(configuration: &Configuration, shared: &Shared) -> anyhow::Result<()> {
    match &configuration.values.healthz_bind_address {
        Some(address) => health_check_node_port::serve_node(address, shared.health()).await,
        None => std::future::pending().await,
    }
}

fn log_shutdown(signal: &str) -> anyhow::Result<()> {
    info!("received {signal}: shutting down; the node's pods keep their network");
    Ok(())
}
