//! Running a command inside a pod, a node or the client: the verb's own
//! process enters the cgroup and the namespace and becomes the command, so
//! that input, signals and exit status need no one between.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use beeline_kernel::netns::NetNs;

use crate::cgroup;
use crate::paths::{LabName, LabPaths, ROOT};
use crate::programs::typed;
use crate::record::{LabRecord, PodRecord, pod_records};

/// Becomes `command` inside a pod. Returns only if that fails.
pub fn pod(name: &LabName, namespace: &str, pod: &str, command: &[OsString]) -> Result<()> {
    let paths = LabPaths::new(name);
    require(name, &paths)?;
    let pods = pod_records(&paths);
    let record = find_pod(&pods, namespace, pod)?;
    become_command(&record.netns, &record.cgroup, command)
}

/// Becomes `command` inside a node. Returns only if that fails.
pub fn node(name: &LabName, node: &str, command: &[OsString]) -> Result<()> {
    let lab = require(name, &LabPaths::new(name))?;
    let Some(place) = lab.nodes.get(node) else {
        let nodes: Vec<&str> = lab.nodes.keys().map(String::as_str).collect();
        bail!("lab {name} has no node {node:?}; it has {}", nodes.join(", "));
    };
    if !place.netns.exists() {
        bail!("{node} is switched off; start it with: {} {node}", typed("node-start", name));
    }
    become_command(&place.netns, &place.cgroup, command)
}

/// Becomes `command` on the client or the router. Returns only if that
/// fails.
pub fn other(name: &LabName, place: &str, command: &[OsString]) -> Result<()> {
    let lab = require(name, &LabPaths::new(name))?;
    let place = lab.others.get(place).with_context(|| format!("lab {name} has no {place}"))?;
    become_command(&place.netns, &place.cgroup, command)
}

/// The record of a lab that must exist.
pub fn require(name: &LabName, paths: &LabPaths) -> Result<LabRecord> {
    let record = LabRecord::read(paths)?;
    record.with_context(|| {
        format!("there is no lab named {name}; start one with: {}{}", typed("up", name), others())
    })
}

/// Names the labs that there are, as the end of a sentence.
pub fn others() -> String {
    let entries = std::fs::read_dir(ROOT).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    if names.is_empty() { String::new() } else { format!(" (there are: {})", names.join(", ")) }
}

/// The command itself cannot be run.
#[derive(Debug)]
pub struct CannotRun {
    program: String,
    error: std::io::Error,
}

impl CannotRun {
    /// As shells have it: 127 = not found, 126 = found and not executable.
    pub fn exit_status(&self) -> u8 {
        if self.error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 }
    }
}

impl std::fmt::Display for CannotRun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cannot run {}: {}", self.program, self.error)
    }
}

impl std::error::Error for CannotRun {}

fn find_pod<'a>(pods: &'a [PodRecord], namespace: &str, name: &str) -> Result<&'a PodRecord> {
    if let Some(found) = pods.iter().find(|pod| pod.namespace == namespace && pod.name == name) {
        return Ok(found);
    }
    let candidates: Vec<String> =
        pods.iter().map(|pod| format!("-n {} {}", pod.namespace, pod.name)).collect();
    if candidates.is_empty() {
        bail!("there is no pod {namespace}/{name}: no pod has been started yet");
    }
    bail!("there is no pod {namespace}/{name}; there are:\n  {}", candidates.join("\n  "))
}

fn become_command(netns: &Path, cgroup: &Path, command: &[OsString]) -> Result<()> {
    let Some((program, arguments)) = command.split_first() else {
        bail!("say what to run: ... -- CMD");
    };
    let namespace = NetNs::open(netns)
        .with_context(|| format!("cannot open the network namespace {}", netns.display()))?;
    cgroup::enter(cgroup)?;
    namespace.enter_this_thread().with_context(|| format!("cannot enter {}", netns.display()))?;
    let error = Command::new(program).args(arguments).exec();
    Err(CannotRun { program: program.to_string_lossy().into_owned(), error }.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(namespace: &str, name: &str) -> PodRecord {
        PodRecord {
            namespace: namespace.into(),
            name: name.into(),
            uid: "u".into(),
            node: "node-1".into(),
            netns: "/n".into(),
            cgroup: "/c".into(),
            container_id: "c".into(),
        }
    }

    #[test]
    fn unit_an_unknown_pod_is_answered_with_those_that_exist() {
        let pods = [pod("default", "a"), pod("kube-system", "b")];
        assert_eq!(find_pod(&pods, "kube-system", "b").unwrap().name, "b");
        let error = find_pod(&pods, "default", "b").unwrap_err().to_string();
        assert!(error.contains("-n default a") && error.contains("-n kube-system b"), "{error}");
        assert!(find_pod(&[], "default", "b").unwrap_err().to_string().contains("no pod"));
    }
}
