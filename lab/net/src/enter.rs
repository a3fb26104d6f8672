//! Runs a command in a pod, a node, the client or the router: the process of
//! the verb enters the cgroup and the namespaces and executes the command, so
//! input, signals and the exit status need no proxy.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use beeline_kernel::netns::NetNs;

use crate::cgroup;
use crate::mount_namespace::MountNamespace;
use crate::paths::{LabName, LabPaths, PodPaths, ROOT};
use crate::process::ProcessId;
use crate::programs::typed;
use crate::record::{LabRecord, PodRecord, pod_records, read_json};

/// Executes `command` in a pod; returns only on failure. The command sees the
/// file system of a container while that is running; without one it only joins
/// the network namespace and cgroup.
pub fn pod(
    name: &LabName,
    namespace: &str,
    pod: &str,
    container: Option<&str>,
    command: &[OsString],
) -> Result<()> {
    let paths = LabPaths::new(name);
    require_lab(name, &paths)?;
    let pods = pod_records(&paths);
    let record = find_pod(&pods, namespace, pod)?;
    let mount_ns = mount_namespace_of(&paths.pod(namespace, pod), record, container)?;
    exec_command(&record.netns, &record.cgroup, mount_ns.as_ref(), command)
}

/// The mount namespace of a container; none if no container was given and none
/// is running.
fn mount_namespace_of(
    paths: &PodPaths,
    pod: &PodRecord,
    container: Option<&str>,
) -> Result<Option<MountNamespace>> {
    let wanted: Vec<&str> = match container {
        Some(name) => vec![find_container(pod, name)?],
        None => pod.containers.iter().map(String::as_str).collect(),
    };
    for name in wanted {
        let process: Option<ProcessId> = read_json(&paths.container(name).process())?;
        if let Some(process) = process.filter(|process| process.alive()) {
            return MountNamespace::of_process(process).map(Some);
        }
    }
    match container {
        Some(name) => bail!("container {name} of pod {}/{} is not running", pod.namespace, pod.name),
        None => Ok(None),
    }
}

/// The container with this name; it must exist.
pub fn find_container<'a>(pod: &'a PodRecord, name: &str) -> Result<&'a str> {
    let found = pod.containers.iter().find(|container| *container == name);
    found.map(String::as_str).with_context(|| {
        let known = pod.containers.join(", ");
        format!("pod {}/{} has no container {name:?}; it has {known}", pod.namespace, pod.name)
    })
}

/// Executes `command` in a node; returns only on failure.
pub fn node(name: &LabName, node: &str, command: &[OsString]) -> Result<()> {
    let lab = require_lab(name, &LabPaths::new(name))?;
    let Some(host) = lab.nodes.get(node) else {
        let nodes: Vec<&str> = lab.nodes.keys().map(String::as_str).collect();
        bail!("lab {name} has no node {node:?}; it has {}", nodes.join(", "));
    };
    if !host.netns.exists() {
        bail!("{node} is powered off; start it with: {} {node}", typed("node-start", name));
    }
    exec_command(&host.netns, &host.cgroup, None, command)
}

/// Executes `command` on the client or the router; returns only on failure.
pub fn outside_host(name: &LabName, host: &str, command: &[OsString]) -> Result<()> {
    let lab = require_lab(name, &LabPaths::new(name))?;
    let host = lab.others.get(host).with_context(|| format!("lab {name} has no {host}"))?;
    exec_command(&host.netns, &host.cgroup, None, command)
}

/// The record of a lab; it must exist.
pub fn require_lab(name: &LabName, paths: &LabPaths) -> Result<LabRecord> {
    let record = LabRecord::read(paths)?;
    record.with_context(|| {
        format!("there is no lab named {name}; start it with: {}{}", typed("up", name), existing_labs())
    })
}

/// Lists the existing labs, as the end of a message.
pub fn existing_labs() -> String {
    let entries = std::fs::read_dir(ROOT).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    if names.is_empty() { String::new() } else { format!(" (existing labs: {})", names.join(", ")) }
}

/// The command itself cannot be executed.
#[derive(Debug)]
pub struct CannotRun {
    program: String,
    error: std::io::Error,
}

impl CannotRun {
    /// Exit status as in shells: 127 = not found, 126 = not executable.
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

/// The record of a pod; it must exist.
pub fn find_pod<'a>(pods: &'a [PodRecord], namespace: &str, name: &str) -> Result<&'a PodRecord> {
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

fn exec_command(
    netns: &Path,
    cgroup: &Path,
    mount_ns: Option<&MountNamespace>,
    command: &[OsString],
) -> Result<()> {
    let Some((program, arguments)) = command.split_first() else {
        bail!("no command given; usage: ... -- CMD");
    };
    let namespace = NetNs::open(netns)
        .with_context(|| format!("cannot open the network namespace {}", netns.display()))?;
    cgroup::enter(cgroup)?;
    namespace.enter_this_thread().with_context(|| format!("cannot enter {}", netns.display()))?;
    if let Some(mount_ns) = mount_ns {
        let here = std::env::current_dir();
        mount_ns.enter_this_thread().context("cannot enter the container")?;
        // Keeps the working directory if the container has it; otherwise `/`.
        let _ = here.and_then(std::env::set_current_dir);
    }
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
            containers: vec!["one".into(), "two".into()],
        }
    }

    #[test]
    fn unit_an_unknown_pod_error_lists_the_existing_pods() {
        let pods = [pod("default", "a"), pod("kube-system", "b")];
        assert_eq!(find_pod(&pods, "kube-system", "b").unwrap().name, "b");
        let error = find_pod(&pods, "default", "b").unwrap_err().to_string();
        assert!(error.contains("-n default a") && error.contains("-n kube-system b"), "{error}");
        assert!(find_pod(&[], "default", "b").unwrap_err().to_string().contains("no pod"));
        assert_eq!(find_container(&pods[0], "two").unwrap(), "two");
        let error = find_container(&pods[0], "three").unwrap_err().to_string();
        assert!(error.contains("it has one, two"), "{error}");
    }
}
