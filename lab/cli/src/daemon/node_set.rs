//! The nodes that are running, and what ends with each of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use beeline_lab_kubelet::node::Kubelet;
use tokio::task::AbortHandle;

use super::agents::Agent;
use super::control_plane::ApiListener;

/// The nodes that are running, and the pending lifecycle tasks of the others.
#[derive(Default)]
pub struct NodeSet {
    /// The nodes that are powered on.
    pub running: BTreeMap<String, RunningNode>,
    /// Lifecycle controller tasks of nodes that are down.
    pub unreachable: BTreeMap<String, AbortHandle>,
}

/// A node that is powered on.
pub struct RunningNode {
    /// Its agent.
    pub agent: Arc<Agent>,
    /// Its kubelet.
    pub kubelet: Arc<Kubelet>,
    /// The API server's listener on its loopback.
    pub api: ApiListener,
    /// What ends with the node.
    pub tasks: Vec<AbortHandle>,
}

impl Drop for RunningNode {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
        self.agent.power_off();
        // Its socket would keep the node's network namespace alive.
        self.api.stop();
    }
}
