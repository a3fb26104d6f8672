//! Selects the node or nodes that a command works on.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use beeline_api::{Client, DEFAULT_SOCKET};
use clap::Args;

/// Directory that contains the labs.
const LABS: &str = "/run/beeline-lab";
/// Default lab name.
const DEFAULT_LAB: &str = "default";
/// Default pin path of an agent outside a lab.
const HOST_BPFFS: &str = "/sys/fs/bpf/beeline";

/// Command line options that select the nodes.
#[derive(Clone, Debug, Default, Args)]
pub struct TargetArguments {
    /// Lab name; default: the lab of $KUBECONFIG, else this machine's agent, else the lab `default`
    #[arg(long, global = true, value_name = "LAB")]
    pub name: Option<String>,
    /// Node name; default: all nodes
    #[arg(long, global = true)]
    pub node: Option<String>,
    /// bpffs directory with the pinned eBPF maps (instead of a lab)
    #[arg(long, global = true, value_name = "DIR")]
    pub bpffs: Option<PathBuf>,
    /// Path of the agent's socket (instead of a lab)
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

/// A node that this program can read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Node name in the output.
    pub label: String,
    /// bpffs directory of its pinned maps.
    pub bpffs: PathBuf,
    /// Its agent's socket.
    pub socket: PathBuf,
    /// Its network namespace; none: this program's own.
    pub netns: Option<PathBuf>,
}

impl Target {
    /// A client for the node's agent.
    pub fn client(&self) -> Client {
        Client::new(&self.socket)
    }
}

impl TargetArguments {
    /// The selected nodes; at least one.
    pub fn targets(&self) -> Result<Vec<Target>> {
        self.targets_below(Path::new(LABS), std::env::var_os("KUBECONFIG").map(PathBuf::from))
    }

    fn targets_below(&self, labs: &Path, kubeconfig: Option<PathBuf>) -> Result<Vec<Target>> {
        if self.bpffs.is_some() || self.socket.is_some() {
            return Ok(vec![self.host()]);
        }
        if let Some(name) = &self.name {
            return self.of_lab(labs, name);
        }
        if let Some(name) = kubeconfig.and_then(|path| lab_of_kubeconfig(labs, &path)) {
            return self.of_lab(labs, &name);
        }
        let host = self.host();
        if self.node.is_none() && host.socket.exists() {
            return Ok(vec![host]);
        }
        self.of_lab(labs, DEFAULT_LAB)
    }

    fn host(&self) -> Target {
        Target {
            label: self.node.clone().unwrap_or_else(|| "host".into()),
            bpffs: self.bpffs.clone().unwrap_or_else(|| HOST_BPFFS.into()),
            socket: self.socket.clone().unwrap_or_else(|| DEFAULT_SOCKET.into()),
            netns: None,
        }
    }

    fn of_lab(&self, labs: &Path, name: &str) -> Result<Vec<Target>> {
        if name.contains('/') || name.starts_with('.') {
            bail!("`{name}` is not a valid lab name");
        }
        let nodes = labs.join(name).join("nodes");
        let known = node_names(&nodes).with_context(|| {
            format!("no agent is running on this machine and there is no lab `{name}`; start the lab with `beeline lab up --name {name}`, or select a running lab ({})", running(labs))
        })?;
        let wanted = match &self.node {
            Some(node) if !known.contains(node) => {
                bail!("lab `{name}` has no node `{node}`; its nodes are {}", known.join(", "))
            }
            Some(node) => vec![node.clone()],
            None => known,
        };
        let target = |node: String| {
            let dir = nodes.join(&node);
            let netns = Some(dir.join("netns"));
            Target { bpffs: dir.join("bpf"), socket: dir.join("agent.sock"), netns, label: node }
        };
        Ok(wanted.into_iter().map(target).collect())
    }
}

/// Node names in natural order: `node-2` before `node-10`.
fn node_names(nodes: &Path) -> Result<Vec<String>> {
    let mut names: Vec<String> = fs::read_dir(nodes)?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    if names.is_empty() {
        bail!("directory {} is empty", nodes.display());
    }
    names.sort_by_key(|name| (name.len(), name.clone()));
    Ok(names)
}

fn lab_of_kubeconfig(labs: &Path, kubeconfig: &Path) -> Option<String> {
    let relative = kubeconfig.strip_prefix(labs).ok()?;
    let name = relative.components().next()?.as_os_str().to_str()?;
    (relative == Path::new(name).join("kubeconfig")).then(|| name.to_owned())
}

fn running(labs: &Path) -> String {
    let mut names: Vec<String> = fs::read_dir(labs)
        .map(|entries| entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default();
    names.sort();
    if names.is_empty() { "none is running".into() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(name: Option<&str>, node: Option<&str>) -> TargetArguments {
        TargetArguments { name: name.map(Into::into), node: node.map(Into::into), ..Default::default() }
    }

    #[test]
    fn unit_lab_nodes_are_selected_by_name_kubeconfig_and_node() {
        let labs = tempfile::tempdir().unwrap();
        let labs = labs.path();
        for node in ["node-1", "node-2", "node-10"] {
            fs::create_dir_all(labs.join("blue/nodes").join(node)).unwrap();
        }
        let labels = |a: TargetArguments, kubeconfig: Option<PathBuf>| -> Vec<String> {
            a.targets_below(labs, kubeconfig).unwrap().into_iter().map(|target| target.label).collect()
        };
        assert_eq!(labels(arguments(Some("blue"), None), None), ["node-1", "node-2", "node-10"]);
        assert_eq!(labels(arguments(Some("blue"), Some("node-2")), None), ["node-2"]);
        assert_eq!(labels(arguments(None, Some("node-1")), Some(labs.join("blue/kubeconfig"))), ["node-1"]);
        let target = &arguments(Some("blue"), Some("node-1")).targets_below(labs, None).unwrap()[0];
        assert_eq!(target.socket, labs.join("blue/nodes/node-1/agent.sock"));

        let error = |a: TargetArguments| format!("{:#}", a.targets_below(labs, None).unwrap_err());
        assert!(
            error(arguments(Some("blue"), Some("node-9"))).contains("its nodes are node-1, node-2, node-10")
        );
        assert!(error(arguments(Some("red"), None)).contains("beeline lab up --name red"));
        assert!(error(arguments(Some("../x"), None)).contains("not a valid lab name"));
    }

    #[test]
    fn unit_a_socket_or_bpffs_path_selects_the_host() {
        let a = TargetArguments { socket: Some("/tmp/a.sock".into()), ..Default::default() };
        let targets = a.targets_below(Path::new("/nonexistent"), None).unwrap();
        assert_eq!(
            (targets[0].socket.as_path(), targets[0].bpffs.as_path()),
            (Path::new("/tmp/a.sock"), Path::new(HOST_BPFFS))
        );
    }
}
