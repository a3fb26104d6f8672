//! From the command line to a running agent.

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
use crate::sockets::Sockets;
use crate::state::StateDir;
use crate::{health, http, memory, privileges, server, threads};

/// Runs until a signal ends it. What is in the kernel stays there.
pub fn run(options: &Options, configuration: &Configuration) -> anyhow::Result<()> {
    let values = &configuration.values;
    let sockets =
        values.socket_lb_enabled.then(|| Sockets::start(!values.socket_lb_host_only)).transpose()?;
    privileges::reduce()?;
    memory::be_sparing();
    configuration.tell();
    info!("beeline-agent {} for node {}", env!("CARGO_PKG_VERSION"), configuration.node_name);
    let state = StateDir::open(&options.state_dir)?;
    let _lock = state.lock()?;
    // Before anything is looked at, so that no change falls between.
    let watch = Watch::open().context("changes of the host cannot be followed")?;
    let how = datapath::Options { attach_mode: configuration.attach_mode(), ..datapath::Options::default() };
    let mut datapath = Datapath::open_with(&options.bpffs, &how).context("the datapath cannot be opened")?;
    if let Err(error) = socket_hooks(options, configuration, &mut datapath) {
        warn!("{error:#}; pods are served, but this node itself cannot reach Services");
    }
    if let Some(sockets) = &sockets {
        sockets.set_table(datapath.socket_table().context("the socket table cannot be read")?);
    }
    let events = datapath.events().context("drop events cannot be read")?;
    let engine = start_engine(options, configuration.clone(), state, datapath, sockets)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_keep_alive(Duration::from_secs(1))
        .enable_all()
        .build()
        .context("the runtime cannot be started")?;
    runtime.block_on(serve(options, configuration, engine, watch, events))?;
    // Threads that wait are not waited for.
    runtime.shutdown_background();
    Ok(())
}

/// Socket load balancing, as the values want it. The hooks stay when the
/// agent ends.
fn socket_hooks(
    options: &Options,
    configuration: &Configuration,
    datapath: &mut Datapath,
) -> anyhow::Result<()> {
    if !configuration.values.socket_lb_enabled {
        return datapath.detach_sockets().context("the socket hooks cannot be taken off");
    }
    let cgroup = match &options.cgroup {
        Some(cgroup) => cgroup.clone(),
        None => beeline_kernel::cgroup::find_mount().context("sockets cannot be translated")?,
    };
    let attached = datapath.attach_sockets(&cgroup);
    let attached = attached.with_context(|| {
        format!("the socket hooks cannot be attached to the cgroup {}; see --cgroup", cgroup.display())
    })?;
    if attached > 0 {
        info!("sockets below the cgroup {} are translated", cgroup.display());
    }
    Ok(())
}

fn start_engine(
    options: &Options,
    configuration: Configuration,
    state: StateDir,
    datapath: Datapath,
    sockets: Option<Sockets>,
) -> anyhow::Result<Engine> {
    Engine::start(Parts {
        configuration,
        state,
        spool: beeline_api::deleted_directory(&options.socket),
        datapath: Box::new(datapath),
        host: Box::new(KernelHost::open()?),
        sockets,
        netns_cookie: netns::current_cookie()
            .context("the cookie of this network namespace cannot be read")?,
    })
}

async fn serve(
    options: &Options,
    configuration: &Configuration,
    engine: Engine,
    watch: Watch,
    events: beeline_kernel::datapath::Events,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be awaited")?;
    let (updates, source) = Source::start(configuration.source(options)).await?;
    let shared = Arc::new(Shared::new(engine, source.state(), source.event_recorder()));
    threads::follow_source(shared.clone(), updates)?;
    threads::follow_host(shared.clone(), watch)?;
    threads::follow_events(shared.clone(), events)?;
    threads::keep_time(shared.clone())?;
    threads::compare_tables(shared.clone())?;
    threads::watch_connection(source.state())?;
    if configuration.values.node_port_health_check {
        let ranges = configuration.values.node_port_addresses.clone();
        tokio::spawn(health::serve_checks(shared.health(), health::everywhere(), ranges));
    }
    let node_health = serve_node_health(configuration, &shared);
    let listener = server::bind(&options.socket)?;
    let http_address = configuration.http(options);
    info!("serving {} and http://{http_address}", options.socket.display());
    tokio::select! {
        () = server::serve(listener, shared.clone()) => Ok(()),
        served = http::serve(http_address, shared.clone()) => served,
        served = node_health => served,
        _ = terminate.recv() => told_to_end("SIGTERM"),
        interrupted = tokio::signal::ctrl_c() => interrupted.map_err(Into::into).and_then(|()| told_to_end("SIGINT")),
    }
}

/// Answers as kube-proxy's health check, if that is wanted.
async fn serve_node_health(configuration: &Configuration, shared: &Shared) -> anyhow::Result<()> {
    match &configuration.values.healthz_bind_address {
        Some(address) => health::serve_node(address, shared.health()).await,
        None => std::future::pending().await,
    }
}

fn told_to_end(signal: &str) -> anyhow::Result<()> {
    info!("{signal}: ending; the node's pods keep their network");
    Ok(())
}
