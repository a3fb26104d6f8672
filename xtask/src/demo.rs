//! `make demo`: a lab, examples/hello on it, and packets on every way that a
//! packet can take.

use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::steps::{Log, Steps};
use crate::{binaries, paths, process};

const EXAMPLE: &str = "examples/hello";

/// `cargo xtask demo`.
pub fn chore() -> Result<()> {
    let mut steps = Steps::new(4);
    binaries::step(&mut steps)?;
    let reused = steps.run("lab", lab_up)?;
    if reused {
        println!("      a lab was up already; it is used as it is");
    }
    steps.run("examples/hello", |log| process::run(&mut lab(&["apply", "-f", EXAMPLE]), log))?;
    let cast = Cast::find()?;
    show(&["status"])?;
    let failed = cast.scenes().into_iter().filter(|scene| !scene.play()).count();
    process::give_tree_back()?;
    say_what_next(&cast);
    if failed > 0 {
        bail!(
            "{failed} of the scenes above failed; start with: ./beeline why, and the agents' logs below /run/beeline-lab/default/nodes"
        );
    }
    Ok(())
}

/// `beeline lab ...` as root.
fn lab(arguments: &[&str]) -> Command {
    let mut command = process::as_root(paths::binary("beeline"));
    command.current_dir(paths::top()).arg("lab").args(arguments);
    command
}

/// Returns whether one was up already.
fn lab_up(log: &Log) -> Result<bool> {
    if status().is_ok() {
        return Ok(true);
    }
    process::run(&mut lab(&["up", "--nodes", "3"]), log)?;
    Ok(false)
}

fn status() -> Result<Value> {
    let output = lab(&["status", "-o", "json"]).output().context("beeline cannot be started")?;
    if !output.status.success() {
        bail!("no lab is up: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    serde_json::from_slice(&output.stdout).context("`beeline lab status -o json` printed no JSON")
}

/// Runs it in front of the reader.
fn show(arguments: &[&str]) -> Result<bool> {
    println!("\n$ ./beeline lab {}", arguments.join(" "));
    let status = lab(arguments).status().context("beeline cannot be started")?;
    Ok(status.success())
}

/// Who plays: all read from the lab, nothing is assumed.
struct Cast {
    caller: Pod,
    same_node: Pod,
    other_node: Pod,
    service: Vec<String>,
}

#[derive(Clone)]
struct Pod {
    name: String,
    node: String,
    addresses: Vec<String>,
}

impl Cast {
    fn find() -> Result<Self> {
        let status = status()?;
        let pods: Vec<Pod> = list(&status["pods"]).filter_map(Pod::read).collect();
        let of = |app: &str| pods.iter().filter(|pod| pod.name.starts_with(app)).cloned().collect::<Vec<_>>();
        let (callers, servers) = (of("caller-"), of("hello-"));
        let beside = |caller: &Pod| servers.iter().find(|server| server.node == caller.node).cloned();
        let elsewhere = |caller: &Pod| servers.iter().find(|server| server.node != caller.node).cloned();
        let found =
            callers.iter().find_map(|caller| Some((caller.clone(), beside(caller)?, elsewhere(caller)?)));
        let (caller, same_node, other_node) = found.context(
            "no pod of `caller` stands beside one pod of `hello` and apart from another: see ./beeline lab status",
        )?;
        let service = list(&status["services"]).find(|service| service["name"] == "hello");
        let service = service.context("the Service `hello` is not in the lab's status")?;
        Ok(Self { caller, same_node, other_node, service: texts(&service["clusterIPs"]) })
    }

    fn scenes(&self) -> Vec<Scene> {
        let mut scenes = Vec::new();
        scenes.extend(Scene::pings("pod to pod on one node", &self.caller, &self.same_node));
        scenes.extend(Scene::pings("pod to pod across nodes", &self.caller, &self.other_node));
        for address in &self.service {
            scenes.push(Scene::in_pod("pod to Service", &self.caller, get(address, 80)));
        }
        for address in &self.other_node.addresses {
            scenes.push(Scene::new(
                "a client outside the cluster to a pod",
                &["client", "--"],
                get(address, 8080),
            ));
        }
        scenes
    }
}

impl Pod {
    fn read(value: &Value) -> Option<Self> {
        let text = |name: &str| value[name].as_str().map(str::to_owned);
        Some(Self { name: text("name")?, node: text("node")?, addresses: texts(&value["ips"]) })
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn texts(value: &Value) -> Vec<String> {
    list(value).filter_map(Value::as_str).map(str::to_owned).collect()
}

/// One thing to see: a command in front of the reader.
struct Scene {
    title: String,
    arguments: Vec<String>,
}

impl Scene {
    fn new(title: &str, place: &[&str], command: Vec<String>) -> Self {
        let place = place.iter().map(|word| (*word).to_owned());
        Self { title: title.to_owned(), arguments: place.chain(command).collect() }
    }

    fn in_pod(title: &str, pod: &Pod, command: Vec<String>) -> Self {
        Self::new(title, &["exec", &pod.name, "--"], command)
    }

    fn pings(title: &str, from: &Pod, to: &Pod) -> Vec<Self> {
        to.addresses.iter().map(|address| Self::in_pod(title, from, ping(address))).collect()
    }

    fn play(&self) -> bool {
        println!("\n-- {}", self.title);
        let words: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        let passed = show(&words).unwrap_or(false);
        println!();
        if !passed {
            eprintln!("   this did not work");
        }
        passed
    }
}

fn ping(address: &str) -> Vec<String> {
    words(&format!("ping -n -c 3 -i 0.2 -W 2 {address}"))
}

fn get(address: &str, port: u16) -> Vec<String> {
    let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
    words(&format!("curl --silent --show-error --max-time 5 http://{host}:{port}/"))
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn say_what_next(cast: &Cast) {
    println!(
        "\nThe lab stays up. Try:\n\
         \x20   ./beeline lab status\n\
         \x20   ./beeline lab exec {} -- curl -s http://{}/\n\
         \x20   ./beeline lab node {} -- ip route\n\
         \x20   ./beeline lab agent {} kill      # packets go on without it\n\
         \x20   ./beeline lab down",
        cast.caller.name,
        cast.service.first().map_or("hello", String::as_str),
        cast.caller.node,
        cast.caller.node,
    );
}
