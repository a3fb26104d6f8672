//! Time to start and remove a lab, and its memory: three nodes, and ten nodes
//! with 200 pods.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::lab::{run, sibling_program};
use crate::stats::Summary;

const SMALL_ROUNDS: usize = 10;
const LARGE_ROUNDS: usize = 3;
const LARGE_NODES: usize = 10;
const LARGE_PODS: usize = 200;

/// Prints times and memory.
pub fn measure(values: &[String]) -> Result<()> {
    let (mut ups, mut downs) = (Vec::new(), Vec::new());
    for _ in 0..SMALL_ROUNDS {
        let lab = SizedLab::up(3, values, None)?;
        ups.push(lab.up_s);
        downs.push(lab.down()?);
    }
    println!("lab, seconds ({SMALL_ROUNDS} rounds)");
    println!("  three nodes up and Ready      {}", Summary::of(&ups));
    println!("  three nodes down              {}", Summary::of(&downs));
    measure_large(values)
}

fn measure_large(values: &[String]) -> Result<()> {
    let pods = deployment();
    let (mut ups, mut downs, mut machine_mib, mut processes_mib) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..LARGE_ROUNDS {
        let before = available_mib()?;
        let lab = SizedLab::up(LARGE_NODES, values, Some(&pods))?;
        ups.push(lab.up_s);
        processes_mib.push(lab.pss_mib()?);
        machine_mib.push(before - available_mib()?);
        downs.push(lab.down()?);
    }
    println!("lab, {LARGE_NODES} nodes and {LARGE_PODS} pods ({LARGE_ROUNDS} rounds)");
    println!("  up, and every pod Ready, s    {}", Summary::of(&ups));
    println!("  down, s                       {}", Summary::of(&downs));
    println!("  memory of the machine, MiB    {}", Summary::of(&machine_mib));
    println!("  of which processes (PSS), MiB {}", Summary::of(&processes_mib));
    Ok(())
}

/// A lab, removed when dropped.
struct SizedLab {
    name: String,
    up_s: f64,
    is_down: bool,
}

impl SizedLab {
    fn up(nodes: usize, values: &[String], manifests: Option<&Value>) -> Result<SizedLab> {
        let name = format!("size-{}", std::process::id());
        let mut lab = SizedLab { name, up_s: 0.0, is_down: false };
        let mut command = lab.verb("up");
        command.args(["--nodes", &nodes.to_string()]).args(values.iter().flat_map(|value| ["--set", value]));
        if manifests.is_some() {
            command.args(["-f", "-"]);
        }
        let begin = Instant::now();
        run_with_input(&mut command, &manifests.map(Value::to_string).unwrap_or_default())?;
        lab.up_s = begin.elapsed().as_secs_f64();
        Ok(lab)
    }

    fn verb(&self, verb: &str) -> Command {
        let mut command = Command::new(sibling_program("beeline-lab"));
        command.args([verb, "--name", &self.name]);
        command
    }

    /// Removes the lab; returns seconds.
    fn down(mut self) -> Result<f64> {
        self.is_down = true;
        let begin = Instant::now();
        run(&mut self.verb("down"))?;
        Ok(begin.elapsed().as_secs_f64())
    }

    /// Proportional set size (PSS) of all processes of the lab.
    fn pss_mib(&self) -> Result<f64> {
        let record = fs::read(Path::new("/run/beeline-lab").join(&self.name).join("lab.json"))?;
        let record: Value = serde_json::from_slice(&record).context("cannot parse the lab's record")?;
        let cgroup = PathBuf::from(record["cgroup"].as_str().context("the lab's record names no cgroup")?);
        let sizes = processes(&cgroup).into_iter().filter_map(|pid| pss_kib(&pid));
        Ok(sizes.sum::<f64>() / 1024.0)
    }
}

impl Drop for SizedLab {
    fn drop(&mut self) {
        if !self.is_down {
            let _ = self.verb("down").status();
        }
    }
}

fn run_with_input(command: &mut Command, input: &str) -> Result<()> {
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
    let mut pipe = child.stdin.take().context("the lab has no standard input")?;
    pipe.write_all(input.as_bytes())?;
    drop(pipe);
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Process ids in a cgroup and its descendants.
fn processes(cgroup: &Path) -> Vec<String> {
    let own = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    let mut found: Vec<String> = own.lines().map(str::to_owned).collect();
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(processes(&entry.path()));
        }
    }
    found
}

fn pss_kib(pid: &str) -> Option<f64> {
    field(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?, "Pss:")
}

fn available_mib() -> Result<f64> {
    let text = fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    Ok(field(&text, "MemAvailable:").context("/proc/meminfo has no MemAvailable")? / 1024.0)
}

/// The number after a name at the start of a line.
fn field(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "many", "namespace": "default"},
        "spec": {
            "replicas": LARGE_PODS, "selector": {"matchLabels": {"app": "many"}},
            "template": {
                "metadata": {"labels": {"app": "many"}},
                "spec": {"containers": [{
                    "name": "echo", "image": "beeline/echo", "ports": [{"containerPort": 8080}]
                }]}
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_a_field_is_the_number_after_its_name() {
        let text = "MemTotal:  8 kB\nMemAvailable:    4096 kB\nPss:   12 kB\n";
        assert_eq!((field(text, "MemAvailable:"), field(text, "Pss:")), (Some(4096.0), Some(12.0)));
        assert_eq!(field(text, "Pss_Anon:"), None);
    }
}
