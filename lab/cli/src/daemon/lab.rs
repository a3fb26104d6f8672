//! The running lab: what the operations of the daemon share.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::Result;
use beeline_lab_kubelet::shared::Shared;
use beeline_lab_net::paths::{LabName, LabPaths};
use beeline_lab_net::programs::Programs;
use beeline_lab_net::record::LabRecord;
use kube::Client;

use super::agents::Agent;
use super::control_plane::ControlPlane;
use super::dns::ClusterDns;
use super::node_set::NodeSet;

/// The running lab.
pub struct Lab {
    /// Its name.
    pub name: LabName,
    /// Its files.
    pub paths: LabPaths,
    /// The control plane.
    pub api: ControlPlane,
    /// A client of its API server.
    pub client: Client,
    /// The programs that it runs.
    pub programs: Programs,
    /// The DNS server.
    pub dns: Arc<ClusterDns>,
    /// Record of what exists.
    pub record: RwLock<LabRecord>,
    /// Agents of the nodes that are powered on.
    pub agents: RwLock<BTreeMap<String, Arc<Agent>>>,
    /// Serializes changes of nodes and links.
    pub node_set: tokio::sync::Mutex<NodeSet>,
    /// State shared by the kubelets.
    pub pods: Arc<Shared>,
}

impl Lab {
    /// Agents of the nodes that are powered on.
    pub fn agents(&self) -> BTreeMap<String, Arc<Agent>> {
        self.agents.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A copy of the record.
    pub fn record(&self) -> LabRecord {
        self.record.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the record, in memory and on disk.
    pub fn change_record(&self, change: impl FnOnce(&mut LabRecord)) -> Result<()> {
        let mut record = self.record.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut record);
        record.write(&self.paths)
    }
}
