//! The engine's status, names, metrics and readiness, and waiting for sync.

use beeline_abi::ABI_VERSION;
use beeline_api::{ApiError, ErrorKind, FrontendName, Names, ObjectVersion, Status, TableStatus};
use beeline_model::{Kind, ObjectName};

use super::Engine;
use crate::endpoints::{Endpoint, PodReference};
use crate::metrics::Snapshot;
use crate::stale_sockets::SocketDestroyer;

impl Engine {
    /// The status for the CLI.
    pub fn status(&self, api_connected: bool) -> Status {
        let table = |count: beeline_sync::TableCount| TableStatus {
            name: count.name.to_lowercase(),
            entries: count.desired,
            capacity: count.capacity.into(),
        };
        Status {
            node: self.configuration.node_name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            abi_version: ABI_VERSION,
            synced: self.is_listed(),
            api_connected,
            uplinks: self.uplinks.iter().map(|uplink| uplink.name.clone()).collect(),
            pod_cidrs: self.endpoints.pools(),
            endpoints: self.endpoints.iter().map(|endpoint| endpoint.status()).collect(),
            problems: self.problems().into_iter().collect(),
            not_built: self
                .configuration
                .not_implemented
                .iter()
                .cloned()
                .chain(self.planner.ignored_fields())
                .collect(),
            tables: self.reconciler.counts().into_iter().map(table).collect(),
        }
    }

    /// Names of pods and Services by address and id.
    pub fn names(&self) -> Names {
        let names = self.planner.names();
        let beeline_plan::Names { pods, services, service_addresses, nodes, local_services, frontends } =
            names;
        let frontends = frontends.into_iter().map(|frontend| FrontendName {
            ip: frontend.ip,
            port: frontend.port,
            proto: frontend.proto,
            kind: frontend.kind.name().to_owned(),
        });
        let device = |endpoint: &Endpoint| {
            let PodReference { namespace, name, .. } = &endpoint.pod;
            let link = endpoint.link.filter(|_| !name.is_empty())?;
            Some((link.host_ifindex, format!("{namespace}/{name}")))
        };
        let devices = self.endpoints.iter().filter_map(device).collect();
        let frontends = frontends.collect();
        Names { pods, services, service_addresses, nodes, devices, local_services, frontends }
    }

    /// The engine's part of the metrics; the caller adds its own.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            counters: self.datapath.counters().unwrap_or_default(),
            tables: self
                .reconciler
                .counts()
                .into_iter()
                .map(|count| (count.name.to_lowercase(), count.entries, count.capacity.into()))
                .collect(),
            memory: self
                .datapath
                .memory_bytes()
                .unwrap_or_default()
                .into_iter()
                .map(|(name, bytes)| (name.to_lowercase(), bytes))
                .collect(),
            drift: self.counts.drift,
            repairs: self
                .counts
                .repairs
                .iter()
                .map(|(object, count)| ((*object).to_owned(), *count))
                .collect(),
            sync_errors: self.counts.sync_errors,
            kube_proxy: self.take_over.leftovers(),
            sockets_destroyed: self.sockets.as_ref().map_or(0, SocketDestroyer::destroyed),
            nat_ports: self.published_config.map_or(0, |config| {
                u64::from(config.nat_port_last.saturating_sub(config.nat_port_first)) + 1
            }),
            synced: self.is_listed(),
            problems: self.problems().len() as u64,
            endpoints: self.endpoints.iter().filter(|endpoint| endpoint.link.is_some()).count() as u64,
            ..Snapshot::default()
        }
    }

    /// The initial list is programmed; it may come from the journal.
    fn is_listed(&self) -> bool {
        self.planner.is_listed()
    }

    /// Why pods cannot be served. `None` if they can.
    pub fn not_ready_reason(&self) -> Option<String> {
        if !self.planner.is_listed() {
            return Some("the initial list of Nodes, Services and EndpointSlices is not complete".to_owned());
        }
        let node = &self.configuration.node_name;
        if self.endpoints.pools().is_empty() {
            return Some(format!(
                "node {node} has no usable PodCIDR; check spec.podCIDRs of the Node and --node-name"
            ));
        }
        if self.uplinks.is_empty() {
            return Some("no uplink found; set the value `devices`".to_owned());
        }
        None
    }

    /// Whether the initial list and these objects at these versions are
    /// programmed.
    pub fn is_synced_with(&self, objects: &[AwaitedObject]) -> bool {
        self.pruned && self.unsynced(objects).is_none()
    }

    /// Why it is not synced, as a message.
    pub fn why_not_synced(&self, objects: &[AwaitedObject]) -> String {
        match self.unsynced(objects) {
            _ if !self.pruned => "the initial list from the API server is not complete".to_owned(),
            Some(awaited) if awaited.version.is_none() => {
                format!("{:?} {} is not deleted yet", awaited.kind, awaited.name)
            }
            Some(awaited) => format!(
                "{:?} {} is not synced to resourceVersion {}",
                awaited.kind,
                awaited.name,
                awaited.version.unwrap_or_default()
            ),
            None => "synced".to_owned(),
        }
    }

    fn unsynced<'a>(&self, objects: &'a [AwaitedObject]) -> Option<&'a AwaitedObject> {
        objects.iter().find(|awaited| match awaited.version {
            Some(version) => !self.synced_versions.at_least(awaited.kind, &awaited.name, version),
            None => !self.synced_versions.is_deleted(awaited.kind, &awaited.name),
        })
    }
}

/// An object that a caller waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwaitedObject {
    kind: Kind,
    name: ObjectName,
    /// `None`: it must be deleted.
    version: Option<u64>,
}

impl AwaitedObject {
    /// Decodes the object from a call.
    pub fn parse(object: &ObjectVersion) -> Result<AwaitedObject, ApiError> {
        let invalid = |message| ApiError { kind: ErrorKind::Invalid, message };
        let kind = Kind::ALL.iter().find(|kind| format!("{kind:?}") == object.kind).copied();
        let kind = kind.ok_or_else(|| invalid(format!("the agent does not watch kind {:?}", object.kind)))?;
        let version = match object.resource_version.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| invalid(format!("{text:?} is not a resourceVersion")))?),
        };
        Ok(AwaitedObject { kind, name: ObjectName::new(&object.namespace, &object.name), version })
    }
}
