//! Calls the CNI plugin as a container runtime does.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use beeline_lab_net::record::PodRecord;
use beeline_lab_net::spawn;
use serde::Deserialize;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Timeout of a plugin call.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Parameters that identify a pod's sandbox to the plugin.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_NETNS`.
    pub netns: PathBuf,
    /// Namespace of the pod.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

impl Sandbox {
    /// The sandbox of a recorded pod.
    pub fn of(record: &PodRecord) -> Sandbox {
        Sandbox {
            container_id: record.container_id.clone(),
            netns: record.netns.clone(),
            namespace: record.namespace.clone(),
            name: record.name.clone(),
            uid: record.uid.clone(),
        }
    }
}

/// The CNI plugin of a node.
#[derive(Clone, Debug)]
pub struct Plugin {
    /// The program.
    pub program: PathBuf,
    /// The agent's socket.
    pub socket: PathBuf,
    /// The node's network namespace.
    pub netns: PathBuf,
    /// The cgroup of processes that the runtime starts on the node.
    pub cgroup: PathBuf,
}

#[derive(Debug, Deserialize)]
struct AddResult {
    #[serde(default)]
    ips: Vec<AddressResult>,
}

#[derive(Debug, Deserialize)]
struct AddressResult {
    address: String,
}

#[derive(Debug, Deserialize)]
struct ErrorResult {
    code: u32,
    msg: String,
    #[serde(default)]
    details: String,
}

impl Plugin {
    /// The network configuration passed to the plugin.
    pub fn config(&self) -> serde_json::Value {
        json!({"cniVersion": "1.1.0", "name": "beeline", "type": "beeline-cni", "socket": self.socket})
    }

    /// ADD; returns the pod's IP addresses.
    pub async fn add(&self, sandbox: &Sandbox) -> Result<Vec<String>> {
        let output = self.call("ADD", sandbox).await?;
        let result: AddResult = serde_json::from_slice(&output).with_context(|| {
            format!("ADD returned no valid CNI result: {}", String::from_utf8_lossy(&output))
        })?;
        let without_prefix = |ip: AddressResult| ip.address.split('/').next().unwrap_or_default().to_owned();
        let addresses: Vec<String> = result.ips.into_iter().map(without_prefix).collect();
        if addresses.is_empty() {
            bail!("ADD returned no IP address");
        }
        Ok(addresses)
    }

    /// DEL.
    pub async fn delete(&self, sandbox: &Sandbox) -> Result<()> {
        self.call("DEL", sandbox).await.map(|_| ())
    }

    async fn call(&self, verb: &str, sandbox: &Sandbox) -> Result<Vec<u8>> {
        let mut command = self.command(verb, sandbox);
        spawn::enter_namespaces(&mut command, &self.netns, &self.cgroup, None)?;
        let mut child =
            command.spawn().with_context(|| format!("cannot run the plugin {}", self.program.display()))?;
        let mut input = child.stdin.take().context("cannot open the plugin's standard input")?;
        let config = self.config().to_string();
        let run = async {
            // A plugin that fails early does not read its input; its output
            // has the reason.
            let _ = input.write_all(config.as_bytes()).await;
            drop(input);
            child.wait_with_output().await
        };
        let output = tokio::time::timeout(TIMEOUT, run)
            .await
            .with_context(|| format!("{verb} timed out after {} s", TIMEOUT.as_secs()))?
            .context("cannot wait for the plugin")?;
        if !output.status.success() {
            bail!("{}", explain_failure(verb, &output.stdout, &output.stderr, output.status));
        }
        Ok(output.stdout)
    }

    fn command(&self, verb: &str, sandbox: &Sandbox) -> Command {
        let arguments = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
            sandbox.namespace, sandbox.name, sandbox.container_id, sandbox.uid
        );
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", &sandbox.container_id)
            .env("CNI_NETNS", &sandbox.netns)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", self.program.parent().unwrap_or(Path::new("/")))
            .env("CNI_ARGS", arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }
}

fn explain_failure(verb: &str, stdout: &[u8], stderr: &[u8], status: std::process::ExitStatus) -> String {
    match serde_json::from_slice::<ErrorResult>(stdout) {
        Ok(error) if error.details.is_empty() => {
            format!("{verb} failed (code {}): {}", error.code, error.msg)
        }
        Ok(error) => format!("{verb} failed (code {}): {}: {}", error.code, error.msg, error.details),
        Err(_) => format!("{verb} failed ({status}): {}", String::from_utf8_lossy(stderr).trim()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn unit_a_cni_failure_carries_the_plugins_message() {
        let status = std::process::ExitStatus::from_raw(256);
        let out = br#"{"cniVersion":"1.1.0","code":11,"msg":"no agent","details":"start it"}"#;
        assert_eq!(explain_failure("ADD", out, b"", status), "ADD failed (code 11): no agent: start it");
        assert!(explain_failure("ADD", b"", b"boom\n", status).ends_with("boom"));
    }
}
