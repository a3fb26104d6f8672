//! A node and a pod as network namespaces of the test, a fake agent, and the
//! real plugin binary.

use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use beeline_api::{Allocation, ApiError, Attachment, Call, ErrorKind, Request, Response};
use beeline_kernel::netlink::{Netlink, Route};
use beeline_kernel::netns::NetNs;
use serde_json::{Value, json};

/// A network namespace bound to a file, removed on drop.
pub struct Namespace {
    pub netns: NetNs,
    pub path: PathBuf,
}

impl Namespace {
    pub fn new(path: PathBuf) -> Namespace {
        let netns = NetNs::create_bound(&path).unwrap();
        Namespace { netns, path }
    }

    pub fn netlink(&self) -> Netlink {
        Netlink::open_in(&self.netns).unwrap()
    }

    /// The links, addresses and routes of the namespace.
    pub fn dump(&self) -> String {
        let mut netlink = self.netlink();
        let links: Vec<_> = netlink.links().unwrap();
        let addresses: Vec<_> = netlink.addresses().unwrap();
        let routes: Vec<String> = netlink.routes().unwrap().iter().map(ToString::to_string).collect();
        format!("{}:\n{links:#?}\n{addresses:#?}\n{routes:#?}", self.path.display())
    }

    /// The same after duplicate address detection for the link-local address
    /// has ended and the kernel has added its routes.
    pub fn settled(&self) -> String {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let (addresses, routes) = (self.netlink().addresses().unwrap(), self.netlink().routes().unwrap());
            let ready = addresses.iter().filter(|address| address.local_scope).all(|address| {
                let own = |route: &Route| route.destination.addr() == address.net.addr();
                !address.unusable && (address.net.addr().is_ipv4() || routes.iter().any(own))
            });
            if ready {
                return self.dump();
            }
            assert!(Instant::now() < deadline, "addresses remain unusable: {}", self.dump());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Names of the links except the loopback device.
    pub fn links(&self) -> Vec<String> {
        let links = self.netlink().links().unwrap();
        links.into_iter().filter(|link| !link.loopback).map(|link| link.name).collect()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = NetNs::remove_bound(&self.path);
    }
}

/// How the fake agent responds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AgentBehaviour {
    #[default]
    Serving,
    Exhausted,
    FailingCommit,
    ReportingMismatch,
}

#[derive(Debug, Default)]
struct AgentState {
    behaviour: AgentBehaviour,
    calls: Vec<String>,
    allocated: Vec<Attachment>,
    pods: Vec<String>,
    valid: Vec<Attachment>,
}

/// A fake agent that allocates 10.1.0.N and fd00::N, and sets the host side up
/// at Commit.
#[derive(Clone, Default)]
pub struct FakeAgent {
    state: Arc<Mutex<AgentState>>,
}

impl FakeAgent {
    fn serve(&self, listener: UnixListener, node: NetNs) {
        let (agent, node) = (self.clone(), Arc::new(node));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (agent, node) = (agent.clone(), node.clone());
                thread::spawn(move || {
                    let mut line = String::new();
                    let read = BufReader::new(&stream).read_line(&mut line);
                    let Ok(request) = read.map(|_| serde_json::from_str::<Request>(&line)) else { return };
                    let response = match request {
                        Ok(request) => agent.respond(request.call, &node),
                        Err(error) => refusal(ErrorKind::Invalid, &error.to_string()),
                    };
                    let _ = (&stream)
                        .write_all(format!("{}\n", serde_json::to_string(&response).unwrap()).as_bytes());
                });
            }
        });
    }

    pub fn set_behaviour(&self, behaviour: AgentBehaviour) {
        self.state.lock().unwrap().behaviour = behaviour;
    }

    pub fn calls(&self) -> Vec<String> {
        self.state.lock().unwrap().calls.clone()
    }

    /// The pods for which addresses were allocated: namespace, name and UID.
    pub fn pods(&self) -> Vec<String> {
        self.state.lock().unwrap().pods.clone()
    }

    /// The valid attachments of the last GC.
    pub fn valid(&self) -> Vec<Attachment> {
        self.state.lock().unwrap().valid.clone()
    }

    /// The number of attachments with allocated addresses.
    pub fn allocated(&self) -> usize {
        self.state.lock().unwrap().allocated.len()
    }

    fn respond(&self, call: Call, node: &NetNs) -> Response {
        let mut state = self.state.lock().unwrap();
        let name = serde_json::to_value(&call).unwrap()["call"].as_str().unwrap().to_owned();
        state.calls.push(name);
        match call {
            Call::Allocate { .. } if state.behaviour == AgentBehaviour::Exhausted => {
                refusal(ErrorKind::Exhausted, "no address for c: pool 10.1.0.0/24 is exhausted")
            }
            Call::Collect { valid } => {
                state.valid = valid;
                Response::Done
            }
            Call::Allocate { attachment, pod_namespace, pod_name, pod_uid, .. } => {
                state.pods.push(format!("{pod_namespace}/{pod_name} {pod_uid}"));
                state.allocated.push(attachment.clone());
                Response::Allocated(allocation(&attachment, state.allocated.len() as u8))
            }
            Call::Commit { .. } if state.behaviour == AgentBehaviour::FailingCommit => {
                refusal(ErrorKind::Internal, "the programs cannot be attached")
            }
            Call::Commit { host_ifindex, .. } => {
                Netlink::open_in(node).unwrap().set_up(host_ifindex, true).unwrap();
                Response::Done
            }
            Call::Release { attachment } => {
                state.allocated.retain(|known| *known != attachment);
                Response::Done
            }
            Call::Check { .. } if state.behaviour == AgentBehaviour::ReportingMismatch => {
                refusal(ErrorKind::Mismatch, "the programs are not attached")
            }
            _ => Response::Done,
        }
    }
}

fn allocation(attachment: &Attachment, number: u8) -> Allocation {
    let ip = |text: String| text.parse::<IpAddr>().unwrap();
    Allocation {
        addresses: vec![ip(format!("10.1.0.{number}")), ip(format!("fd00::{number}"))],
        gateways: vec![ip("169.254.42.1".into()), ip("fe80::bee1:1".into())],
        host_interface: attachment.host_interface(),
        host_mac: beeline_abi::GATEWAY_MAC.to_string(),
        mtu: 1400,
    }
}

fn refusal(kind: ErrorKind, message: &str) -> Response {
    Response::Error(ApiError { kind, message: message.to_owned() })
}

/// The exit status and the output of the plugin.
#[derive(Debug)]
pub struct PluginOutput {
    pub success: bool,
    pub output: Value,
}

impl PluginOutput {
    #[track_caller]
    pub fn result(self) -> Value {
        assert!(self.success, "{:#}", self.output);
        self.output
    }

    /// Code and message of the failure.
    #[track_caller]
    pub fn failure(self) -> (u64, String) {
        assert!(!self.success, "the call succeeded: {:#}", self.output);
        assert!(self.output["cniVersion"].is_string(), "{:#}", self.output);
        (self.output["code"].as_u64().unwrap(), self.output["msg"].as_str().unwrap().to_owned())
    }
}

/// A node, a pod, and a fake agent.
pub struct Fixture {
    pub agent: FakeAgent,
    pub node: Namespace,
    pub pod: Namespace,
    pub directory: tempfile::TempDir,
}

impl Fixture {
    /// A fixture with an agent that serves all calls.
    pub fn new() -> Fixture {
        let fixture = Fixture::without_agent();
        fixture.start_agent();
        fixture
    }

    /// Starts the fake agent on its socket.
    pub fn start_agent(&self) {
        let listener = UnixListener::bind(self.socket()).unwrap();
        self.agent.serve(listener, NetNs::open(&self.node.path).unwrap());
    }

    /// A fixture without an agent.
    pub fn without_agent() -> Fixture {
        let directory = tempfile::Builder::new()
            .prefix(&format!("beeline-cni-{}-", std::process::id()))
            .tempdir()
            .unwrap();
        let namespace = |name: &str| Namespace::new(directory.path().join(name));
        Fixture { agent: FakeAgent::default(), node: namespace("node"), pod: namespace("pod"), directory }
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("agent.sock")
    }

    pub fn config(&self, version: &str) -> Value {
        json!({ "cniVersion": version, "name": "beeline", "type": "beeline-cni", "socket": self.socket() })
    }

    /// Runs the plugin in the network namespace of the node, as a runtime does.
    pub fn call(&self, command: &str, container: &str, netns: &Path, input: &str) -> PluginOutput {
        let arguments = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=u";
        self.call_with(command, container, netns, arguments, input)
    }

    /// The same with these `CNI_ARGS`. Like libcni, sets every variable; those
    /// that a command does not use are empty.
    pub fn call_with(
        &self,
        command: &str,
        container: &str,
        netns: &Path,
        arguments: &str,
        input: &str,
    ) -> PluginOutput {
        let run = || {
            let mut child = Command::new(env!("CARGO_BIN_EXE_beeline-cni"))
                .env_clear()
                .env("CNI_COMMAND", command)
                .env("CNI_CONTAINERID", container)
                .env("CNI_NETNS", netns)
                .env("CNI_IFNAME", if container.is_empty() { "" } else { "eth0" })
                .env("CNI_PATH", "/opt/cni/bin")
                .env("CNI_ARGS", arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            // A plugin that fails early does not read its input.
            let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
            child.wait_with_output().unwrap()
        };
        let output = self.node.netns.enter(run).unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let value = if text.trim().is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() };
        PluginOutput { success: output.status.success(), output: value }
    }

    pub fn add(&self, version: &str) -> PluginOutput {
        self.call("ADD", "c1", &self.pod.path, &self.config(version).to_string())
    }

    pub fn delete(&self) -> PluginOutput {
        self.call("DEL", "c1", &self.pod.path, &self.config("1.1.0").to_string())
    }

    pub fn check(&self, previous: &Value) -> PluginOutput {
        let mut config = self.config("1.1.0");
        config["prevResult"] = previous.clone();
        self.call("CHECK", "c1", &self.pod.path, &config.to_string())
    }

    /// Fails if links, addresses or locks remain.
    #[track_caller]
    pub fn assert_clean(&self) {
        let clean = self.node.links().is_empty() && self.pod.links().is_empty();
        assert!(clean, "links remain:\n{}\n{}", self.node.dump(), self.pod.dump());
        assert_eq!(
            self.agent.allocated(),
            0,
            "addresses are still allocated; calls: {:?}",
            self.agent.calls()
        );
        let locks = std::fs::read_dir(self.directory.path().join("locks")).map_or(0, Iterator::count);
        assert_eq!(locks, 0, "lock files remain");
    }
}
