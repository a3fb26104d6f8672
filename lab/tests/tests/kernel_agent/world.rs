//! A node with the real agent, an external host connected to it, and an API
//! server, all private to the test.

use std::fs::File;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use beeline_api::{Call, Client, ClientError, ObjectVersion, Response, Status};
use beeline_apiserver::{ApiServer, Config, PatchKind, ServeHandle};
use beeline_kernel::bpffs;
use beeline_kernel::datapath::{EMBEDDED, PinnedDatapath};
use beeline_kernel::netlink::{Netlink, Route, Veth, VethEnd};
use beeline_kernel::netns::NetNs;
use beeline_lab::harness::program;
use serde_json::{Value, json};

pub const NODE: &str = "node-1";
pub const TIMEOUT: Duration = Duration::from_secs(20);
/// Addresses of the node and of the external host, which is also node-2.
pub const NODE_IPS: [&str; 2] = ["172.30.0.11", "fd00:172:30::11"];
pub const OUTSIDE_IPS: [&str; 2] = ["172.30.0.12", "fd00:172:30::12"];

/// True if this binary was built without the eBPF programs; prints a message.
pub fn no_programs() -> bool {
    if EMBEDDED.is_empty() {
        eprintln!("skipped: this binary holds no eBPF programs (run `make build` first)");
    }
    EMBEDDED.is_empty()
}

/// A network namespace bound to a file, removed when dropped.
pub struct Namespace {
    pub netns: NetNs,
    pub path: PathBuf,
}

impl Namespace {
    pub fn new(path: PathBuf) -> Namespace {
        let netns = NetNs::create_bound(&path).unwrap();
        let namespace = Namespace { netns, path };
        namespace.netlink().set_up(1, true).unwrap();
        namespace
    }

    pub fn netlink(&self) -> Netlink {
        Netlink::open_in(&self.netns).unwrap()
    }

    pub fn sysctl(&self, name: &str) -> String {
        self.netns.enter(|| beeline_kernel::sysctl::get(name)).unwrap().unwrap()
    }

    pub fn set_sysctl(&self, name: &str, value: &str) {
        self.netns.enter(|| beeline_kernel::sysctl::set(name, value)).unwrap().unwrap();
    }

    pub fn udp(&self, ip: IpAddr) -> UdpSocket {
        let socket = self.netns.enter(|| UdpSocket::bind((ip, 0))).unwrap().unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        socket
    }

    /// Echoes every datagram until dropped.
    pub fn echo(&self, ip: IpAddr) -> Echo {
        let socket = self.udp(ip);
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let (address, ends) = (socket.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
        let seen = ends.clone();
        let thread = thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !seen.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(&buffer[..length], from);
                }
            }
        });
        Echo { address, ends, thread: Some(thread) }
    }

    /// Sends one datagram and waits for the echo.
    pub fn reaches(&self, from: IpAddr, to: SocketAddr) -> bool {
        let socket = self.udp(from);
        let mut buffer = [0; 16];
        (0..4).any(|_| socket.send_to(b"hello", to).is_ok() && socket.recv_from(&mut buffer).is_ok())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = NetNs::remove_bound(&self.path);
    }
}

pub struct Echo {
    pub address: SocketAddr,
    ends: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(thread::JoinHandle::join);
    }
}

/// A pod: a network namespace connected by the plugin.
pub struct Pod {
    pub namespace: Namespace,
    pub container: String,
    pub ips: Vec<IpAddr>,
    pub host_interface: String,
}

impl Pod {
    pub fn ipv4(&self) -> IpAddr {
        self.ips[0]
    }

    pub fn ipv6(&self) -> IpAddr {
        self.ips[1]
    }
}

/// Everything that a test needs. Fields are dropped in this order.
pub struct World {
    agent: Option<Child>,
    pub outside: Namespace,
    pub node: Namespace,
    mount: Mount,
    /// The cgroup of the node's sockets; removed after the agent, whose hooks
    /// are attached to it.
    cgroup: Cgroup,
    front: Option<ServeHandle>,
    api: ApiServer,
    runtime: tokio::runtime::Runtime,
    pub directory: tempfile::TempDir,
    pub values: String,
    pub node_name: String,
}

/// A mount, unmounted when dropped.
struct Mount(PathBuf);

struct Cgroup(PathBuf);

impl Cgroup {
    fn new() -> Cgroup {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let name = format!("beeline-agent-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = beeline_kernel::cgroup::find_mount().unwrap().join(name);
        beeline_kernel::cgroup::create(&path).unwrap();
        Cgroup(path)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = beeline_kernel::cgroup::remove(&self.0);
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = bpffs::unmount(&self.0);
    }
}

impl World {
    /// The node and its cluster, without an agent.
    pub fn new() -> World {
        let directory = tempfile::Builder::new()
            .prefix(&format!("beeline-agent-{}-", std::process::id()))
            .tempdir()
            .unwrap();
        let node = Namespace::new(directory.path().join("node"));
        let outside = Namespace::new(directory.path().join("outside"));
        join(&node, &outside);
        let mount = directory.path().join("bpf");
        bpffs::mount(&mount).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let api = runtime.block_on(async { ApiServer::start(Config::default()) }).unwrap();
        let mut world = World {
            agent: None,
            cgroup: Cgroup::new(),
            outside,
            node,
            mount: Mount(mount),
            front: None,
            api,
            runtime,
            directory,
            values: String::new(),
            node_name: NODE.to_owned(),
        };
        world.create_node(NODE, &NODE_IPS, &["10.244.1.0/24", "fd00:10:244:1::/64"]);
        world.create_node("node-2", &OUTSIDE_IPS, &["10.244.2.0/24", "fd00:10:244:2::/64"]);
        world.start_api();
        world
    }

    /// The same, with a ready agent.
    pub fn with_agent() -> World {
        let mut world = World::new();
        world.start_agent();
        world.until_ready();
        world
    }

    pub fn api(&self) -> &beeline_apiserver::Api {
        self.api.api()
    }

    pub fn create_node(&self, name: &str, ips: &[&str], cidrs: &[&str]) {
        let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name },
            "spec": { "podCIDR": cidrs[0], "podCIDRs": cidrs } });
        self.api().create("nodes", node).unwrap();
        let addresses: Vec<Value> =
            ips.iter().map(|ip| json!({ "type": "InternalIP", "address": ip })).collect();
        let status = json!({ "status": { "addresses": addresses } });
        self.api().patch_status("nodes", "", name, &PatchKind::Merge, &status).unwrap();
    }

    /// Serves the API on the node's loopback, always on the same port.
    pub fn start_api(&mut self) {
        let path = self.path("api-port");
        let port = std::fs::read_to_string(&path).map_or(0, |text| text.parse().unwrap());
        let listener = self.node.netns.enter(|| TcpListener::bind(("127.0.0.1", port))).unwrap().unwrap();
        let address = listener.local_addr().unwrap();
        std::fs::write(&path, address.port().to_string()).unwrap();
        std::fs::write(self.path("kubeconfig"), self.api.kubeconfig(&format!("https://{address}"))).unwrap();
        let _entered = self.runtime.enter();
        self.front = Some(self.api.serve(listener).unwrap());
    }

    pub fn stop_api(&mut self) {
        self.front.take().unwrap().stop();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn state(&self, name: &str) -> PathBuf {
        self.path("state").join(name)
    }

    pub fn start_agent(&mut self) {
        std::fs::write(self.path("values.yaml"), &self.values).unwrap();
        let log = File::options().create(true).append(true).open(self.path("agent.log")).unwrap();
        let option = |name: &str| self.path(name).display().to_string();
        let mut command = Command::new(program("beeline-agent"));
        command
            .args(["--node-name", &self.node_name, "--http", "127.0.0.1:9879"])
            .args(["--kubeconfig", &option("kubeconfig"), "--values", &option("values.yaml")])
            .args(["--bpffs", &option("bpf/beeline"), "--socket", &option("run/agent.sock")])
            .args(["--state-dir", &option("state")])
            .arg("--cgroup")
            .arg(&self.cgroup.0)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        // The child inherits the network namespace of the thread.
        self.agent = Some(self.node.netns.enter(|| command.spawn()).unwrap().unwrap());
    }

    /// Sends SIGKILL.
    pub fn kill_agent(&mut self) {
        let mut agent = self.agent.take().unwrap();
        agent.kill().unwrap();
        agent.wait().unwrap();
    }

    pub fn agent_pid(&self) -> u32 {
        self.agent.as_ref().unwrap().id()
    }

    pub fn client(&self) -> Client {
        Client::new(self.path("run/agent.sock")).with_timeout(TIMEOUT)
    }

    pub fn call(&self, call: Call) -> Result<Response, ClientError> {
        self.client().call(call)
    }

    pub fn until_ready(&self) {
        self.eventually("the agent is ready", || self.call(Call::Ready).is_ok());
    }

    pub fn status(&self) -> Status {
        match self.call(Call::Status) {
            Ok(Response::Status(status)) => *status,
            other => panic!("{other:?}\n{}", self.log()),
        }
    }

    /// Waits until the agent has programmed the current version of this object.
    #[track_caller]
    pub fn wait_for_sync(&self, kind: &str, object: &Value) {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let objects = vec![ObjectVersion {
            kind: kind.to_owned(),
            namespace: text("namespace"),
            name: text("name"),
            resource_version: text("resourceVersion"),
        }];
        let synced = self.call(Call::WaitForSync { timeout_ms: 10_000, objects });
        assert!(matches!(synced, Ok(Response::Done)), "{synced:?}\n{}", self.log());
    }

    /// A page of the agent's HTTP server: status and body.
    pub fn page(&self, path: &str) -> (u16, String) {
        use std::io::{Read, Write};
        let mut stream = self.node.netns.enter(|| TcpStream::connect("127.0.0.1:9879")).unwrap().unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("agent.log")).unwrap_or_default()
    }

    /// Waits for the condition; prints the agent's log on timeout.
    #[track_caller]
    pub fn eventually(&self, what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + TIMEOUT;
        while !holds() {
            assert!(Instant::now() < deadline, "never: {what}\n{}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Calls the plugin in the node's network namespace.
    pub fn plugin(&self, command: &str, container: &str, netns: &Path) -> (bool, Value) {
        let config = json!({ "cniVersion": "1.1.0", "name": "beeline", "type": "beeline-cni",
            "socket": self.path("run/agent.sock") });
        self.plugin_with(command, container, netns, &config)
    }

    pub fn plugin_with(&self, command: &str, container: &str, netns: &Path, config: &Value) -> (bool, Value) {
        let variable = |name: &str| {
            Some(match name {
                "CNI_COMMAND" => command.to_owned(),
                "CNI_CONTAINERID" => container.to_owned(),
                "CNI_NETNS" => netns.display().to_string(),
                "CNI_IFNAME" => "eth0".to_owned(),
                "CNI_ARGS" => format!("K8S_POD_NAMESPACE=shop;K8S_POD_NAME={container};K8S_POD_UID=u"),
                _ => return None,
            })
        };
        let run = || beeline_cni::run(variable, config.to_string().as_bytes());
        let outcome = self.node.netns.enter(run).unwrap();
        (outcome.success, serde_json::from_str(&outcome.output).unwrap_or_default())
    }

    /// Creates a network namespace and connects it.
    #[track_caller]
    pub fn add(&self, container: &str) -> Pod {
        let namespace = Namespace::new(self.path(container));
        let (success, result) = self.plugin("ADD", container, &namespace.path);
        assert!(success, "{result:#}\n{}", self.log());
        let ip =
            |entry: &Value| entry["address"].as_str().unwrap().split('/').next().unwrap().parse().unwrap();
        let ips = result["ips"].as_array().unwrap().iter().map(ip).collect();
        let host_interface = result["interfaces"][0]["name"].as_str().unwrap().to_owned();
        Pod { namespace, container: container.to_owned(), ips, host_interface }
    }

    #[track_caller]
    pub fn delete(&self, pod: &Pod) {
        let (success, result) = self.plugin("DEL", &pod.container, &pod.namespace.path);
        assert!(success, "{result:#}\n{}", self.log());
    }

    pub fn pinned(&self) -> PinnedDatapath {
        PinnedDatapath::open(&self.path("bpf/beeline")).unwrap()
    }

    /// The routes of the agent.
    pub fn own_routes(&self) -> Vec<Route> {
        let mut routes = self.node.netlink().routes().unwrap();
        routes.retain(|route| route.protocol == beeline_kernel::netlink::protocol::BEELINE);
        routes
    }

    /// The route to this destination in the node's main table.
    pub fn route(&self, destination: &str) -> Option<Route> {
        let destination = destination.parse().unwrap();
        let routes = self.node.netlink().routes().unwrap();
        routes
            .into_iter()
            .find(|r| r.destination == destination && r.table == beeline_kernel::netlink::table::MAIN)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if self.agent.is_some() {
            self.kill_agent();
        }
        let _ = &self.mount;
    }
}

/// Connects eth0 of both namespaces.
fn join(node: &Namespace, outside: &Namespace) {
    let end = VethEnd { name: "eth0", mac: None };
    let veth = Veth { local: end, peer: end, mtu: 1500, peer_netns: Some(&outside.netns) };
    node.netlink().create_veth(&veth).unwrap();
    for (namespace, ips) in [(node, NODE_IPS), (outside, OUTSIDE_IPS)] {
        let mut netlink = namespace.netlink();
        let index = netlink.index("eth0").unwrap();
        // On a real node, duplicate address detection has finished before pods
        // are added.
        namespace.set_sysctl("net.ipv6.conf.eth0.accept_dad", "0");
        netlink.set_up(index, true).unwrap();
        for (ip, bits) in ips.into_iter().zip([24, 64]) {
            netlink.add_address(index, format!("{ip}/{bits}").parse().unwrap()).unwrap();
        }
    }
    let mut netlink = outside.netlink();
    let index = netlink.index("eth0").unwrap();
    for (prefix, hop) in ["10.244.1.0/24", "fd00:10:244:1::/64"].into_iter().zip(NODE_IPS) {
        let route = Route::new(prefix.parse().unwrap(), index).via(hop.parse().unwrap());
        netlink.add_route(&route).unwrap();
    }
}
