//! The lab of the benchmarks: two nodes, a client and a server on the first, a
//! server on the second, and a Service for the latter.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use beeline_kernel::datapath::PinnedDatapath;
use serde_json::{Value, json};

/// Port of the servers and of the Service.
pub const PORT: u16 = 9000;
/// The nodes.
pub const NODES: [&str; 2] = ["node-1", "node-2"];

/// A lab, removed when dropped.
pub struct BenchLab {
    name: String,
    servers: Vec<Child>,
    status: Value,
    is_down: bool,
}

impl BenchLab {
    /// Starts a lab with these values.
    pub fn up(values: &[String]) -> Result<BenchLab> {
        BenchLab::with_nodes(2, values)
    }

    /// Starts a lab with this many nodes, and a client pod on each from the third on.
    pub fn with_nodes(nodes: usize, values: &[String]) -> Result<BenchLab> {
        let name = format!("bench-{}", std::process::id());
        let mut lab = BenchLab { name, servers: Vec::new(), status: Value::Null, is_down: false };
        let mut up = lab.verb("up");
        up.args(["--nodes", &nodes.to_string()]).args(values.iter().flat_map(|value| ["--set", value]));
        run(&mut up)?;
        lab.apply(&manifests(nodes))?;
        lab.status = serde_json::from_str(&run(lab.verb("status").args(["-o", "json"]))?)?;
        for pod in ["near", "server"] {
            lab.start_server(pod, PORT)?;
        }
        Ok(lab)
    }

    /// Removes the lab.
    pub fn down(mut self) -> Result<()> {
        self.is_down = true;
        self.stop_servers();
        run(&mut self.verb("down")).map(drop)
    }

    fn stop_servers(&mut self) {
        for server in &mut self.servers {
            let _ = server.kill();
            let _ = server.wait();
        }
    }

    /// `beeline-lab VERB --name NAME`.
    pub fn verb(&self, verb: &str) -> Command {
        let mut command = Command::new(sibling_program("beeline-lab"));
        command.args([verb, "--name", &self.name]);
        command
    }

    fn apply(&self, manifests: &Value) -> Result<()> {
        let mut command = self.verb("apply");
        command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = command.spawn().context("cannot start beeline-lab")?;
        let mut input = child.stdin.take().context("the lab has no standard input")?;
        input.write_all(manifests.to_string().as_bytes())?;
        drop(input);
        let status = child.wait()?;
        if status.success() { Ok(()) } else { bail!("cannot create the pods of the benchmark: {status}") }
    }

    /// A command that runs this program in a role inside a pod.
    pub fn in_pod(&self, pod: &str, role: &[&str]) -> Result<Command> {
        let own = std::env::current_exe().context("cannot determine the path of this program")?;
        let mut command = self.verb("exec");
        command.args([pod, "--"]).arg(own).args(role);
        Ok(command)
    }

    /// Starts a server in a pod on a port.
    pub fn start_server(&mut self, pod: &str, port: u16) -> Result<()> {
        let mut command = self.in_pod(pod, &["serve", &port.to_string()])?;
        let mut child = command.stdout(Stdio::piped()).spawn().context("cannot start the server")?;
        let mut line = String::new();
        let output = child.stdout.take().context("the server has no output")?;
        BufReader::new(output).read_line(&mut line)?;
        self.servers.push(child);
        if line.trim() == "ready" { Ok(()) } else { bail!("the server in {pod} is not ready: {line}") }
    }

    /// Address of a pod in one family.
    pub fn pod(&self, name: &str, v6: bool) -> Result<SocketAddr> {
        self.address("pods", name, "ips", v6)
    }

    /// Address of the Service in one family.
    pub fn service(&self, v6: bool) -> Result<SocketAddr> {
        self.address("services", "server", "clusterIPs", v6)
    }

    fn address(&self, list: &str, name: &str, field: &str, v6: bool) -> Result<SocketAddr> {
        let objects = self.status[list].as_array().into_iter().flatten();
        let object = objects.into_iter().find(|object| object["name"] == name);
        let object = object.with_context(|| format!("`{name}` is not in the lab's {list}"))?;
        let addresses = object[field].as_array().into_iter().flatten().filter_map(Value::as_str);
        let mut addresses = addresses.filter_map(|text| text.parse::<IpAddr>().ok());
        let found = addresses.find(|ip| ip.is_ipv6() == v6);
        Ok(SocketAddr::new(
            found.with_context(|| format!("`{name}` has no address of the requested family"))?,
            PORT,
        ))
    }

    /// A file or folder of a node.
    pub fn node_path(&self, node: &str, file: &str) -> PathBuf {
        Path::new("/run/beeline-lab").join(&self.name).join("nodes").join(node).join(file)
    }

    /// The pinned tables and programs of a node.
    pub fn pinned(&self, node: &str) -> Result<PinnedDatapath> {
        Ok(PinnedDatapath::open(&self.node_path(node, "bpf"))?)
    }

    /// The kubeconfig of its API.
    pub fn kubeconfig(&self) -> PathBuf {
        Path::new("/run/beeline-lab").join(&self.name).join("kubeconfig")
    }

    /// Memory of each agent and of each node's maps.
    pub fn print_memory(&self) -> Result<()> {
        println!("memory");
        NODES.iter().try_for_each(|node| self.print_memory_of(node))
    }

    /// Current and peak memory of a node's agent, and memory of its maps.
    pub fn print_memory_of(&self, node: &str) -> Result<()> {
        let nodes = self.status["nodes"].as_array().into_iter().flatten();
        let found = nodes.into_iter().find(|one| one["name"] == node);
        let pid = found.and_then(|node| node["agentPid"].as_u64()).context("the agent is not running")?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or("unknown").trim().to_owned()
        };
        let tables: u64 = self.pinned(node)?.memory_bytes()?.iter().map(|(_, bytes)| bytes).sum();
        let (now, peak) = (field("VmRSS:"), field("VmHWM:"));
        println!("  {node}: agent {now} resident ({peak} peak), eBPF maps {} KiB", tables / 1024);
        Ok(())
    }
}

impl Drop for BenchLab {
    fn drop(&mut self) {
        if !self.is_down {
            self.stop_servers();
            let _ = self.verb("down").status();
        }
    }
}

/// A program in the directory of this one.
pub fn sibling_program(name: &str) -> PathBuf {
    std::env::current_exe().map_or_else(|_| name.into(), |own| own.with_file_name(name))
}

/// Runs a command and returns its standard output.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn manifests(nodes: usize) -> Value {
    let pod = |name: &str, node: &str| {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
            "spec": {"nodeName": node, "containers": [{
                "name": "echo", "image": "beeline/echo", "ports": [{"containerPort": 8080}]
            }]}
        })
    };
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "server", "namespace": "default"},
        "spec": {
            "ipFamilyPolicy": "PreferDualStack", "selector": {"app": "server"},
            "ports": [{"port": PORT, "targetPort": PORT, "protocol": "TCP"}]
        }
    });
    let mut items = vec![pod("client", NODES[0]), pod("near", NODES[0]), pod("server", NODES[1]), service];
    items.extend((3..=nodes).map(|number| pod(&format!("client-{number}"), &format!("node-{number}"))));
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}
