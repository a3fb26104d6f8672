//! The agent's state and everything that changes it: cluster updates, CNI
//! calls, host changes and timers. Blocking; the caller holds it behind one
//! lock.
//!
//! Every change ends in [`Engine::sync_tables`] (plan, sync, tables) and, if
//! the node itself is affected, in [`Engine::sync_host`].

mod node;
mod pods;
mod problems;
mod status;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use beeline_abi::config::{ConfigValue, flags};
use beeline_kernel::datapath::RemovedBackends;
use beeline_kernel::netlink::Address;
use beeline_model::ObjectName;
use beeline_plan::{HealthCheck, OwnNode, Planner};
use beeline_source::{SyncedVersions, Update};
use beeline_sync::{Prune, Reconciler};
use tracing::{info, warn};

use crate::configuration::Configuration;
use crate::datapath::Datapath;
use crate::endpoints::{Endpoint, Endpoints};
use crate::host::Host;
use crate::host::uplinks::Uplink;
use crate::stale_sockets::{self, Namespace, SocketDestroyer};
use crate::state::StateDir;
use crate::takeover::TakeOver;

use problems::Problems;
pub use status::AwaitedObject;

/// Table entries compared per lock acquisition: well below a millisecond.
const COMPARE_BATCH_MAX: usize = 256;

/// Why the host is synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The desired state has changed.
    Change,
    /// The host may have been changed by another process: every action is
    /// counted as a repair.
    Repair,
}

/// Everything that the engine needs.
pub struct Parts {
    /// The agent's configuration.
    pub configuration: Configuration,
    /// State files.
    pub state: StateDir,
    /// Directory with CNI DELs that arrived while the agent was down.
    pub deletion_queue: PathBuf,
    /// Programs and tables.
    pub datapath: Box<dyn Datapath>,
    /// Links, routes and sysctls.
    pub host: Box<dyn Host>,
    /// Destroys sockets connected to removed backends. `None` if socket load
    /// balancing is disabled.
    pub sockets: Option<SocketDestroyer>,
    /// Cookie of the node's network namespace.
    pub netns_cookie: u64,
}

/// See the module documentation.
pub struct Engine {
    configuration: Configuration,
    state: StateDir,
    deletion_queue: PathBuf,
    datapath: Box<dyn Datapath>,
    host: Box<dyn Host>,
    sockets: Option<SocketDestroyer>,
    netns_cookie: u64,
    /// The configuration last published to the programs.
    published_config: Option<ConfigValue>,
    planner: Planner,
    reconciler: Reconciler,
    endpoints: Endpoints,
    synced_versions: SyncedVersions,
    problems: Problems,
    host_problems: BTreeSet<String>,
    uplinks: Vec<Uplink>,
    /// Addresses of the host, as last listed.
    own_addresses: Vec<Address>,
    own: Option<OwnNode>,
    take_over: TakeOver,
    node_revision: Option<u64>,
    pruned: bool,
    /// Forwarding was enabled before: if it is off, another process disabled
    /// it.
    node_sysctls_set: bool,
    /// Failed table updates of the last flush.
    undone: u64,
    counts: Counts,
}

/// Counters since the start of the agent.
#[derive(Clone, Debug, Default)]
struct Counts {
    drift: u64,
    repairs: BTreeMap<&'static str, u64>,
    sync_errors: u64,
}

impl Engine {
    /// Adopts the state of the previous agent and brings the node to the
    /// desired state as known from disk. What already matches is not touched.
    pub fn start(parts: Parts) -> anyhow::Result<Engine> {
        let Parts { configuration, state, deletion_queue, mut datapath, host, sockets, netns_cookie } = parts;
        let resumed = datapath.config()?.flags & flags::TAKE_OVER != 0;
        let mut reconciler = Reconciler::new();
        reconciler.resync(datapath.tables(), Prune::Keep);
        let actual = reconciler.actual();
        let mut planner = Planner::new(configuration.plan());
        planner.adopt(&actual);
        let mut engine = Engine {
            configuration,
            state,
            deletion_queue,
            datapath,
            host,
            sockets,
            netns_cookie,
            published_config: None,
            planner,
            reconciler,
            endpoints: Endpoints::load(None)?,
            synced_versions: SyncedVersions::default(),
            problems: Problems::default(),
            host_problems: BTreeSet::new(),
            uplinks: Vec::new(),
            own_addresses: Vec::new(),
            own: None,
            take_over: TakeOver::resumed(resumed),
            node_revision: None,
            pruned: false,
            node_sysctls_set: false,
            undone: 0,
            counts: Counts::default(),
        };
        engine.load_endpoints(&actual)?;
        engine.detect_kube_proxy();
        engine.publish_config()?;
        engine.sync_host(Cause::Change).context("cannot read the node's network configuration")?;
        engine.read_deletion_queue();
        engine.sync_tables();
        Ok(engine)
    }

    /// Applies updates from the source.
    pub fn apply(&mut self, updates: impl IntoIterator<Item = Update>) {
        let mut version_events = Vec::new();
        for update in updates {
            self.problems.record(&update);
            version_events.push(update.version_event);
            if let Some(change) = update.change {
                self.planner.apply(change);
            }
        }
        self.sync_tables();
        let has_node_id = self.own.as_ref().is_some_and(|own| own.id != 0);
        if !has_node_id || self.node_revision != Some(self.planner.node_revision()) {
            self.sync_nodes();
        }
        version_events.into_iter().for_each(|event| self.synced_versions.record(event));
        if !self.pruned && self.synced_versions.has_synced() {
            self.finish_initial_sync();
        }
    }

    /// Called every second: work without notifications.
    pub fn tick(&mut self) {
        self.sync_node_sysctls();
        self.read_deletion_queue();
        self.report_problems(Instant::now());
    }

    /// Called every ten seconds: checks for changes whose notifications were
    /// missed.
    pub fn check_host(&mut self) {
        match self.datapath.repair() {
            Ok(0) => {}
            Ok(count) => {
                info!("restored: {count} program attachments");
                self.count_repairs("attachment", count as u64);
            }
            Err(error) => warn!("cannot restore program attachments: {error:#}; retrying"),
        }
        if let Err(error) = self.sync_host(Cause::Repair) {
            warn!("cannot read the node's network configuration: {error:#}; retrying");
        }
        if self.reconciler.outstanding() > 0 {
            self.reconciler.retry();
            self.sync_tables();
        }
    }

    /// Called every minute: checks for kube-proxy rules and their connections.
    pub fn check_take_over(&mut self) {
        let before = self.take_over.is_active();
        self.detect_kube_proxy();
        if before == self.take_over.is_active() {
            return;
        }
        let message = match before {
            true => "no kube-proxy rules or connections remain on this node",
            false => "kube-proxy rules found on this node: connections that they translate stay established",
        };
        info!("{message}");
        if let Err(error) = self.publish_config() {
            warn!("{error:#}; retrying when the Node changes");
        }
    }

    fn detect_kube_proxy(&mut self) {
        let host = &self.host;
        let checked = host
            .kube_proxy_rules()
            .and_then(|rules| self.take_over.update(rules, || host.translated_connections()));
        if let Err(error) = checked {
            warn!("cannot check this node for kube-proxy rules: {error:#}; retrying in 60 s");
        }
    }

    /// Compares the next batch of table entries with the desired state and
    /// corrects differences. Returns true at the end of a full pass.
    pub fn compare_batch(&mut self) -> bool {
        let prune = if self.pruned { Prune::Delete } else { Prune::Keep };
        let tables = self.datapath.tables();
        let (report, is_finished) = self.reconciler.compare(tables, COMPARE_BATCH_MAX, prune);
        let config = is_finished
            && self.publish_config().unwrap_or_else(|error| {
                warn!("{error:#}; retrying");
                false
            });
        let drift = report.drift + u64::from(config);
        if drift > 0 {
            self.counts.drift += drift;
            warn!("{drift} table entries differed from the desired state and were corrected");
        }
        is_finished
    }

    /// Writes pending changes of the planner to the tables.
    fn sync_tables(&mut self) {
        let delta = self.planner.drain();
        let stale = stale_sockets::stale_backends(&delta.backend, &delta.slot, self.reconciler.backends());
        let report = self.reconciler.apply(delta, self.datapath.tables());
        self.destroy_stale_sockets(stale);
        self.counts.sync_errors += report.outstanding.saturating_sub(self.undone);
        self.undone = report.outstanding;
    }

    /// Destroys sockets that the socket hooks connected to these backends.
    fn destroy_stale_sockets(&self, stale: RemovedBackends) {
        let Some(sockets) = self.sockets.as_ref().filter(|_| !stale.is_empty()) else { return };
        let namespace = |endpoint: &Endpoint| {
            let path = PathBuf::from(&endpoint.pod.netns);
            Some(Namespace { path, cookie: endpoint.link?.netns_cookie })
        };
        let pods = match self.configuration.values.socket_lb_host_only {
            true => Vec::new(),
            false => self.endpoints.iter().filter_map(namespace).collect(),
        };
        sockets.destroy(stale, pods);
    }

    /// The initial list is complete: removes stale entries.
    fn finish_initial_sync(&mut self) {
        self.pruned = true;
        // Copied only once, and only if socket load balancing is enabled.
        let before = self.sockets.as_ref().map(|_| self.reconciler.backends().clone());
        self.reconciler.prune();
        let report = self.reconciler.flush(self.datapath.tables());
        if let Some(before) = before {
            let after = self.reconciler.backends();
            let left = before.keys().filter(|id| !after.contains_key(id)).map(|id| (*id, None)).collect();
            self.destroy_stale_sockets(stale_sockets::stale_backends(&left, &BTreeMap::new(), &before));
        }
        if let Err(error) = self.sync_host(Cause::Change) {
            warn!("cannot read the node's network configuration: {error:#}; retrying");
        }
        info!("synced with the API server; removed {} stale table entries", report.deleted);
        match self.datapath.remove_other_layouts() {
            Ok(layouts) if layouts.is_empty() => {}
            Ok(layouts) => {
                info!("removed the tables of other layouts: {layouts:?}")
            }
            Err(error) => warn!("cannot remove the tables of other layouts: {error:#}"),
        }
    }

    /// Changes of the health checks served at `healthCheckNodePort`s since the
    /// last call.
    pub fn take_health_changes(&mut self) -> BTreeMap<ObjectName, Option<HealthCheck>> {
        self.planner.take_health_changes()
    }

    /// The node is being removed from the cluster.
    pub fn node_is_leaving(&self) -> bool {
        self.planner.own_node_is_leaving()
    }

    /// The initial list from the API server is complete and programmed.
    pub fn is_synced(&self) -> bool {
        self.pruned
    }

    fn count_repairs(&mut self, object: &'static str, count: u64) {
        *self.counts.repairs.entry(object).or_default() += count;
    }
}
