//! An agent that is killed while datagrams pass its node.

use std::io::Write;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::flow::socket_address;
use super::objects::Objects;
use super::{Lab, text};
use crate::{paths, process};

/// Datagrams of the first attempt: some seconds' worth.
const DATAGRAMS: u64 = 100_000;
/// Attempts until the traffic outlasts the kill; each sends four times as much.
const ATTEMPTS: u32 = 3;
/// How long the traffic flows before the agent is killed.
const BEFORE_KILL: Duration = Duration::from_millis(500);
/// How long the lab's supervisor may take to start the agent again.
const RESTART_TIMEOUT: Duration = Duration::from_secs(20);

/// Kills the agent of the client's node while the client sends to the Service.
pub fn show_kill(lab: &Lab, objects: &Objects, port: u16, out: &mut dyn Write) -> Result<()> {
    let to = objects.service.first().context("the Service has no address")?;
    let (pod, node) = (&objects.client.name, &objects.client.node);
    let to = socket_address(to, port);
    writeln!(out, "   {pod} on {node} sends datagrams to {to} and waits for each answer; meanwhile:")?;
    let command = format!("./beeline lab agent {node} kill");
    writeln!(out, "   $ {command}      # SIGKILL")?;
    let (killed, measured) = (0..ATTEMPTS)
        .find_map(|attempt| kill_under_traffic(lab, objects, &to, DATAGRAMS << (2 * attempt)).transpose())
        .context("the traffic ended before the agent was killed")??;
    writeln!(out, "   {killed}")?;
    let number = |name: &str| measured[name].as_u64().with_context(|| format!("no {name} in {measured}"));
    let (datagrams, lost) = (number("exchanges")?, number("lost")?);
    writeln!(
        out,
        "   {datagrams} datagrams were sent and answered, {lost} were lost: the datapath needs no agent."
    )?;
    ensure!(lost == 0, "{lost} of {datagrams} datagrams were lost");
    wait_for_agents(lab)?;
    writeln!(
        out,
        "   The lab started the agent again, as a DaemonSet would; `beeline status` reports every agent healthy."
    )?;
    Ok(())
}

/// The message of the lab and the measurement; none if the traffic ended
/// before the agent was killed.
fn kill_under_traffic(
    lab: &Lab,
    objects: &Objects,
    to: &str,
    datagrams: u64,
) -> Result<Option<(String, Value)>> {
    let mut traffic = start_traffic(lab, &objects.client.name, to, datagrams)?;
    thread::sleep(BEFORE_KILL);
    let killed = lab.run(&["agent", &objects.client.node, "kill"]).output();
    let outlasted = traffic.try_wait().context("cannot wait for the traffic")?.is_none();
    let measured = traffic.wait_with_output().context("cannot wait for the traffic")?;
    let killed = killed.context("cannot start beeline")?;
    if !killed.status.success() {
        bail!("the agent was not killed: {}", String::from_utf8_lossy(&killed.stderr).trim());
    }
    if !measured.status.success() {
        bail!("the traffic failed: {}", String::from_utf8_lossy(&measured.stderr).trim());
    }
    let measured: Value = serde_json::from_slice(&measured.stdout).context("the measurement is not JSON")?;
    let message = String::from_utf8_lossy(&killed.stdout).trim().to_owned();
    Ok(outlasted.then_some((message, measured)))
}

fn start_traffic(lab: &Lab, pod: &str, to: &str, datagrams: u64) -> Result<Child> {
    let mut command = lab.run(&["exec", pod, "--"]);
    command.arg(paths::binary("beeline-lab")).args(["round-trip", "--to", to]);
    command.args(["--count", &datagrams.to_string()]).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().with_context(|| format!("cannot start {}", process::name(&command)))
}

/// Waits until `beeline status` reports every agent healthy.
fn wait_for_agents(lab: &Lab) -> Result<()> {
    let started = Instant::now();
    loop {
        let output = lab.beeline(&["status", "-o", "json"]).output().context("cannot start beeline")?;
        if output.status.success() {
            return Ok(());
        }
        if started.elapsed() > RESTART_TIMEOUT {
            let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            let unhealthy = super::list(&status).filter(|node| node["healthy"] != true);
            let nodes: Vec<&str> = unhealthy.map(|node| text(&node["node"])).collect();
            bail!("after {RESTART_TIMEOUT:?} the agent of {} is not healthy", nodes.join(", "));
        }
        thread::sleep(Duration::from_millis(100));
    }
}
