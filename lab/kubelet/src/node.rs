//! A node as its pods see it, and what their workers share.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use beeline_lab_net::paths::LabPaths;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;

use crate::plugin::Plugin;
use crate::shared::Shared;

/// State shared by the workers of a node.
pub struct Kubelet {
    /// API client.
    pub client: Client,
    /// The lab's files.
    pub paths: LabPaths,
    /// Its node's name.
    pub name: String,
    /// Its node.
    pub node: RwLock<KubeletNode>,
    /// Local programs by image.
    pub images: BTreeMap<String, PathBuf>,
    /// The program of the built-in image: this executable.
    pub own: PathBuf,
    /// State shared by all kubelets of the lab.
    pub shared: Arc<Shared>,
}

/// The node of a kubelet.
#[derive(Clone, Debug)]
pub struct KubeletNode {
    /// Its addresses, IPv4 first.
    pub addresses: Vec<String>,
    /// Its network namespace.
    pub netns: PathBuf,
    /// The cgroup of its pods.
    pub pods_cgroup: PathBuf,
    /// The CNI plugin.
    pub plugin: Plugin,
}

impl Kubelet {
    /// The current state of the node.
    pub fn current_node(&self) -> KubeletNode {
        self.node.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets new node addresses; running pods keep the old ones in their
    /// status.
    pub fn readdress(&self, addresses: Vec<String>) {
        self.node.write().unwrap_or_else(PoisonError::into_inner).addresses = addresses;
    }
}

/// Desired state of a pod: the Pod object, or none if it was deleted.
pub type DesiredPod = Option<Arc<Pod>>;
