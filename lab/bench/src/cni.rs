//! Run time of the CNI plugin process, called as a container runtime does.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use beeline_kernel::netns::NetNs;
use serde_json::json;

use crate::lab::{BenchLab, NODES, sibling_program};
use crate::stats::Summary;

const CALLS: usize = 60;

/// Prints the times of ADD and DEL.
pub fn measure(lab: &BenchLab) -> Result<()> {
    let node = NetNs::open(lab.node_path(NODES[0], "netns"))?;
    let (mut adds, mut deletes) = (Vec::new(), Vec::new());
    for number in 0..CALLS {
        let path = lab.node_path(NODES[0], &format!("bench-{number}"));
        NetNs::create_bound(&path)?;
        let calls = call(lab, &node, "ADD", &path, number)
            .and_then(|add| Ok((add, call(lab, &node, "DEL", &path, number)?)));
        NetNs::remove_bound(&path)?;
        let (add, delete) = calls?;
        adds.push(add);
        deletes.push(delete);
    }
    println!("CNI, milliseconds per plugin call ({CALLS} calls, two addresses each)");
    println!("  ADD  {}", Summary::of(&adds));
    println!("  DEL  {}", Summary::of(&deletes));
    Ok(())
}

/// One call; returns milliseconds.
fn call(lab: &BenchLab, node: &NetNs, verb: &str, netns: &Path, number: usize) -> Result<f64> {
    let config = json!({
        "cniVersion": "1.1.0", "name": "beeline", "type": "beeline-cni",
        "socket": lab.node_path(NODES[0], "agent.sock"),
    });
    let mut command = Command::new(sibling_program("beeline-cni"));
    command
        .env_clear()
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", format!("bench-{number}"))
        .env("CNI_NETNS", netns)
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", "/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let begin = Instant::now();
    let output = node.enter(|| -> Result<_> {
        let mut child = command.spawn().context("cannot start beeline-cni")?;
        let mut input = child.stdin.take().context("the plugin has no standard input")?;
        input.write_all(config.to_string().as_bytes())?;
        drop(input);
        Ok(child.wait_with_output()?)
    })??;
    let time = begin.elapsed();
    if !output.status.success() {
        bail!("{verb} failed: {}", String::from_utf8_lossy(&output.stdout).trim());
    }
    Ok(time.as_secs_f64() * 1e3)
}
