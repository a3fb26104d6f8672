//! The record of a lab in its directory. The verbs that enter namespaces, and
//! `down`, read it and do not need the daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::address::Pair;
use crate::cgroup;
use crate::link::Link;
use crate::paths::LabPaths;
use crate::process::ProcessId;

/// Configuration of a lab, from the arguments of `up`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabSpec {
    /// Number of nodes.
    pub nodes: u32,
    /// Uplinks of each node; 0 (records of older versions) means one.
    #[serde(default)]
    pub uplinks: u32,
    /// Nodes that start on the network behind the router.
    #[serde(default)]
    pub behind_router: BTreeSet<String>,
    /// Chart values of `--set` as YAML, one per line.
    pub values: String,
    /// `--image NAME=PROGRAM`.
    pub images: BTreeMap<String, PathBuf>,
    /// Directory of the control plane programs; none for the embedded API
    /// server.
    #[serde(default)]
    pub assets: Option<PathBuf>,
}

impl LabSpec {
    /// Describes how `other` differs; empty if it does not.
    pub fn differences(&self, other: &LabSpec) -> Vec<String> {
        let mut differences = Vec::new();
        if self.nodes != other.nodes {
            differences.push(format!("it has {} nodes, {} requested", self.nodes, other.nodes));
        }
        if self.uplinks.max(1) != other.uplinks.max(1) {
            let (own, others) = (self.uplinks.max(1), other.uplinks.max(1));
            differences.push(format!("its nodes have {own} uplinks each, {others} requested"));
        }
        if self.behind_router != other.behind_router {
            differences.push(format!(
                "its nodes behind the router are {:?}, {:?} requested",
                self.behind_router, other.behind_router
            ));
        }
        if self.values != other.values {
            let line = |values: &str| values.trim_end().replace('\n', ", ");
            differences.push(format!(
                "its values are [{}], [{}] requested",
                line(&self.values),
                line(&other.values)
            ));
        }
        if self.images != other.images {
            differences.push(format!("its images are {:?}, {:?} requested", self.images, other.images));
        }
        if self.assets != other.assets {
            let named = |assets: &Option<PathBuf>| match assets {
                Some(path) => format!("the programs of {}", path.display()),
                None => "the embedded API".to_owned(),
            };
            differences.push(format!("it runs {}, {} requested", named(&self.assets), named(&other.assets)));
        }
        differences
    }
}

/// A lab.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LabRecord {
    /// Its name.
    pub name: String,
    /// Its configuration.
    pub shape: LabSpec,
    /// Process of the daemon.
    pub daemon: ProcessId,
    /// Port of the API server on 127.0.0.1 in every namespace of the lab.
    pub api_port: u16,
    /// The lab's cgroup.
    pub cgroup: PathBuf,
    /// Nodes by name.
    pub nodes: BTreeMap<String, HostRecord>,
    /// Their links, by uplink.
    pub links: BTreeMap<String, Vec<Link>>,
    /// `client`, `router`, `control-plane` and `switch`.
    pub others: BTreeMap<String, HostRecord>,
}

/// A host in which commands can run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRecord {
    /// Its network namespace.
    pub netns: PathBuf,
    /// Its cgroup.
    pub cgroup: PathBuf,
    /// Its addresses on the underlay.
    pub addresses: Vec<IpAddr>,
}

/// A pod.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PodRecord {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
    /// The node it runs on.
    pub node: String,
    /// Its network namespace (the node's, for hostNetwork).
    pub netns: PathBuf,
    /// Its cgroup.
    pub cgroup: PathBuf,
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// Its containers, the default container first.
    #[serde(default)]
    pub containers: Vec<String>,
}

impl HostRecord {
    /// Creates the host's cgroup and returns its record.
    pub fn create(netns: PathBuf, cgroup: PathBuf, address: Option<Pair>) -> Result<HostRecord> {
        cgroup::create(&cgroup)?;
        let addresses = address.map(|pair| pair.addresses().to_vec()).unwrap_or_default();
        Ok(HostRecord { netns, cgroup, addresses })
    }
}

impl LabRecord {
    /// Number of uplinks of each node.
    pub fn uplinks(&self) -> u32 {
        self.shape.uplinks.max(1)
    }

    /// Reads the record of a lab; none if it does not exist.
    pub fn read(paths: &LabPaths) -> Result<Option<LabRecord>> {
        read_json(&paths.record())
    }

    /// Writes the record.
    pub fn write(&self, paths: &LabPaths) -> Result<()> {
        write_json(&paths.record(), self)
    }
}

/// The records of all pods.
pub fn pod_records(paths: &LabPaths) -> Vec<PodRecord> {
    let directories =
        |path: &Path| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut records: Vec<PodRecord> = directories(&paths.pods())
        .flat_map(|namespace| directories(&namespace).collect::<Vec<_>>())
        .filter_map(|pod| read_json(&pod.join("pod.json")).ok().flatten())
        .collect();
    records.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    records
}

/// Reads a JSON file; none if it does not exist.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let value = serde_json::from_slice(&text).with_context(|| format!("{} is invalid", path.display()))?;
    Ok(Some(value))
}

/// Writes a JSON file atomically.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let text = serde_json::to_vec_pretty(value).context("cannot encode a record")?;
    write_whole(path, &text, 0o644)
}

/// Writes a file atomically, with this mode.
pub fn write_whole(path: &Path, text: &[u8], mode: u32) -> Result<()> {
    let temporary = path.with_extension("new");
    let _ = fs::remove_file(&temporary);
    let write = || -> std::io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(text)?;
        fs::rename(&temporary, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_equal_specs_have_no_differences() {
        let shape = LabSpec { nodes: 3, ..LabSpec::default() };
        assert!(shape.differences(&shape.clone()).is_empty());
        let other = LabSpec { nodes: 2, values: "MTU: 1450\n".into(), ..LabSpec::default() };
        assert_eq!(shape.differences(&other).len(), 2);
    }

    #[test]
    fn unit_a_missing_record_is_none_and_a_damaged_one_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lab.json");
        assert!(read_json::<LabSpec>(&path).unwrap().is_none());
        write_json(&path, &LabSpec::default()).unwrap();
        assert_eq!(read_json::<LabSpec>(&path).unwrap(), Some(LabSpec::default()));
        fs::write(&path, "{").unwrap();
        let error = read_json::<LabSpec>(&path).unwrap_err();
        assert!(error.to_string().contains("is invalid"), "{error}");
    }
}
