//! Paths of a lab: one directory per lab below [`ROOT`].

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// Parent directory of all labs.
pub const ROOT: &str = "/run/beeline-lab";

/// The default name of a lab.
pub const DEFAULT_NAME: &str = "default";

/// Maximum length of a lab name in bytes: socket paths are short.
const NAME_BYTES_MAX: usize = 32;

/// Name of a lab: letters, digits and dashes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LabName(String);

impl LabName {
    /// Validates a name.
    pub fn parse(name: &str) -> Result<LabName> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(allowed) {
            bail!(
                "invalid lab name {name:?}: use 1 to {NAME_BYTES_MAX} lower-case letters, digits and dashes"
            );
        }
        Ok(LabName(name.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Name of the lab's cgroup, below the root of the hierarchy.
    pub fn cgroup(&self) -> String {
        format!("beeline-lab-{}", self.0)
    }
}

impl std::fmt::Display for LabName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The files of one lab.
#[derive(Clone, Debug)]
pub struct LabPaths {
    root: PathBuf,
}

impl LabPaths {
    /// The files of the lab of this name.
    pub fn new(name: &LabName) -> LabPaths {
        LabPaths { root: Path::new(ROOT).join(name.as_str()) }
    }

    /// The lab's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The record: [`crate::record::LabRecord`].
    pub fn record(&self) -> PathBuf {
        self.root.join("lab.json")
    }

    /// The daemon's socket.
    pub fn socket(&self) -> PathBuf {
        self.root.join("daemon.sock")
    }

    /// The daemon's log.
    pub fn daemon_log(&self) -> PathBuf {
        self.root.join("daemon.log")
    }

    /// The kubeconfig, which works on this host and inside the lab.
    pub fn kubeconfig(&self) -> PathBuf {
        self.root.join("kubeconfig")
    }

    /// Files, data and logs of an external control plane.
    pub fn control_plane(&self) -> PathBuf {
        self.root.join("control-plane")
    }

    /// Network namespaces of hosts that are neither nodes nor pods.
    pub fn netns(&self, name: &str) -> PathBuf {
        self.root.join("netns").join(name)
    }

    /// Mount point of cgroup2 if the host has none.
    pub fn own_cgroup_mount(&self) -> PathBuf {
        self.root.join("cgroup")
    }

    /// The files of one node.
    pub fn node(&self, node: &str) -> NodePaths {
        NodePaths { root: self.root.join("nodes").join(node) }
    }

    /// The directory of all pods.
    pub fn pods(&self) -> PathBuf {
        self.root.join("pods")
    }

    /// The files of one pod.
    pub fn pod(&self, namespace: &str, name: &str) -> PodPaths {
        PodPaths { root: self.pods().join(namespace).join(name) }
    }
}

/// The files of one node.
#[derive(Clone, Debug)]
pub struct NodePaths {
    root: PathBuf,
}

impl NodePaths {
    /// The node's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Its network namespace.
    pub fn netns(&self) -> PathBuf {
        self.root.join("netns")
    }

    /// Its bpffs.
    pub fn bpffs(&self) -> PathBuf {
        self.root.join("bpf")
    }

    /// The agent's socket.
    pub fn socket(&self) -> PathBuf {
        self.root.join("agent.sock")
    }

    /// The agent's state directory.
    pub fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    /// The agent's configuration.
    pub fn values(&self) -> PathBuf {
        self.root.join("values.yaml")
    }

    /// The agent's log.
    pub fn agent_log(&self) -> PathBuf {
        self.root.join("agent.log")
    }

    /// Root of the `hostPath` volumes of its pods.
    pub fn disk(&self) -> PathBuf {
        self.root.join("disk")
    }

    /// The CNI network configuration.
    pub fn cni_config(&self) -> PathBuf {
        self.root.join("cni.json")
    }
}

/// The files of one pod.
#[derive(Clone, Debug)]
pub struct PodPaths {
    root: PathBuf,
}

impl PodPaths {
    /// The pod's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Its network namespace.
    pub fn netns(&self) -> PathBuf {
        self.root.join("netns")
    }

    /// Its record: [`crate::record::PodRecord`].
    pub fn record(&self) -> PathBuf {
        self.root.join("pod.json")
    }

    /// Its `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf`.
    pub fn etc(&self) -> PathBuf {
        self.root.join("etc")
    }

    /// Its volumes.
    pub fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }

    /// The files of one container.
    pub fn container(&self, container: &str) -> ContainerPaths {
        ContainerPaths { root: self.root.join("containers").join(container) }
    }
}

/// The files of one container.
#[derive(Clone, Debug)]
pub struct ContainerPaths {
    root: PathBuf,
}

impl ContainerPaths {
    /// The files in this container directory.
    pub fn at(root: &Path) -> ContainerPaths {
        ContainerPaths { root: root.to_owned() }
    }

    /// The container's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Log of its n-th instance.
    pub fn log(&self, run: i32) -> PathBuf {
        self.root.join(format!("{run}.log"))
    }

    /// Its process, if it is running: [`crate::process::ProcessId`].
    pub fn process(&self) -> PathBuf {
        self.root.join("process.json")
    }

    /// Termination message.
    pub fn termination_log(&self) -> PathBuf {
        self.root.join("termination-log")
    }

    /// An empty directory to mount its root on.
    pub fn staging(&self) -> PathBuf {
        self.root.join("root")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_names_with_path_components_are_refused() {
        for bad in ["", ".", "..", "a/b", "A", "a b", "a_b", &"a".repeat(33)] {
            assert!(LabName::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(LabName::parse("my-lab2").unwrap().cgroup(), "beeline-lab-my-lab2");
    }

    #[test]
    fn unit_socket_paths_fit_into_a_socket_address() {
        let paths = LabPaths::new(&LabName::parse(&"a".repeat(NAME_BYTES_MAX)).unwrap());
        assert!(paths.node("node-250").socket().as_os_str().len() < 108);
    }
}
