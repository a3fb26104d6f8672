//! A cluster of two nodes and three pods, with a Service for each pod, one for
//! all pods and one without endpoints; echo servers on the nodes and the
//! client as well.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use beeline_kernel::netns::NetNs;
use beeline_lab::harness::{Background, ExecTarget, TestLab, program};
use beeline_lab_net::address::{CLIENT, Pair};

/// Port of the echo servers.
pub const TCP_PORT: u16 = 8080;
pub const UDP_PORT: u16 = 7000;
/// Ports of the Services; they differ, so that ports are translated.
pub const SERVICE_TCP_PORT: u16 = 80;
pub const SERVICE_UDP_PORT: u16 = 53;
/// NodePorts of the first Service, TCP and UDP; the other Services use the
/// following ones.
pub const FIRST_NODE_PORT: u16 = 30_080;
/// A port that no Service has.
pub const NO_SERVICE_PORT: u16 = 81;

/// The client address seen by a pod that is its own backend (hairpin).
const HAIRPIN: Pair =
    Pair { ipv4: Ipv4Addr::new(169, 254, 42, 1), ipv6: Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0xbee1, 1) };

const PODS: [(&str, &str); 3] = [("alpha", "node-1"), ("beta", "node-1"), ("gamma", "node-2")];
const NODES: [&str; 2] = ["node-1", "node-2"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

impl Family {
    pub fn of(self, addresses: Pair) -> IpAddr {
        match self {
            Family::V4 => addresses.ipv4.into(),
            Family::V6 => addresses.ipv6.into(),
        }
    }

    /// Length of the IP header in bytes.
    pub fn header_bytes(self) -> usize {
        match self {
            Family::V4 => 20,
            Family::V6 => 40,
        }
    }
}

/// A host or a pod.
pub struct Endpoint {
    pub name: &'static str,
    pub addresses: Pair,
    pub netns: NetNs,
}

impl Endpoint {
    /// Runs a shell command line in the network namespace only.
    pub fn shell(&self, line: &str) -> String {
        shell(&self.netns, line)
    }
}

/// Destination of a probe.
#[derive(Clone, Debug)]
pub struct Target {
    pub name: String,
    pub addresses: Pair,
    pub tcp_port: u16,
    pub udp_port: u16,
    pub answers: Answers,
}

/// Expected result.
#[derive(Clone, Debug)]
pub enum Answers {
    /// A response of an echo in one of these pods (empty: not in a pod), which
    /// sees this client.
    Echo { pods: Vec<&'static str>, client: Client },
    /// Connection refused, at once.
    Refusal,
}

/// Client address that the backend sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// The sender's address.
    Sender,
    /// The hairpin address: a pod that is its own backend.
    Hairpin,
    /// Either one: the backend is chosen at random and may be the sender.
    SenderOrHairpin,
    /// The address of the node: responses must return through it.
    Node(Pair),
}

impl Client {
    pub fn allows(self, family: Family, sender: &Endpoint, seen: IpAddr) -> bool {
        let (is_sender, is_hairpin) = (seen == family.of(sender.addresses), seen == family.of(HAIRPIN));
        match self {
            Client::Sender => is_sender,
            Client::Hairpin => is_hairpin,
            Client::SenderOrHairpin => is_sender || is_hairpin,
            Client::Node(addresses) => seen == family.of(addresses),
        }
    }
}

impl Target {
    fn endpoint(endpoint: &Endpoint) -> Target {
        let is_pod = PODS.iter().any(|(pod, _)| *pod == endpoint.name);
        Target {
            name: endpoint.name.to_owned(),
            addresses: endpoint.addresses,
            tcp_port: TCP_PORT,
            udp_port: UDP_PORT,
            answers: Answers::Echo {
                pods: if is_pod { vec![endpoint.name] } else { vec![""] },
                client: Client::Sender,
            },
        }
    }

    pub fn is_service(&self) -> bool {
        self.name.starts_with("service")
    }
}

/// Exists until [`Cluster::down`], or until it is dropped by a failing test,
/// which then prints the lab's state.
pub struct Cluster {
    endpoints: Vec<Endpoint>,
    echoes: Vec<Background>,
    pub switch: NetNs,
    pub lab: TestLab,
}

impl Cluster {
    pub fn up(suffix: &str) -> Cluster {
        let lab = TestLab::up_with(suffix, &["--nodes", "2"]);
        lab.apply(&manifests());
        let mut endpoints: Vec<Endpoint> = PODS.iter().map(|(name, _)| pod_spot(&lab, name)).collect();
        endpoints.extend(NODES.iter().zip(1..).map(|(name, number)| Endpoint {
            name,
            addresses: beeline_lab_net::address::node(number),
            netns: lab.node(name).netns(),
        }));
        endpoints.push(Endpoint { name: "client", addresses: CLIENT, netns: lab.client().netns() });
        let hosts = NODES.iter().map(|name| lab.node(name)).chain([lab.client()]);
        let echoes = hosts.map(|host| start_echo(&host)).collect();
        let switch = NetNs::open(lab.paths().netns("switch")).unwrap();
        let cluster = Cluster { endpoints, echoes, switch, lab };
        NODES.iter().chain(&["client"]).for_each(|host| cluster.wait_for_echo(host));
        cluster
    }

    pub fn down(self) {
        let Cluster { endpoints, echoes, switch, lab } = self;
        drop((endpoints, echoes, switch));
        lab.down();
    }

    pub fn endpoint(&self, name: &str) -> &Endpoint {
        self.endpoints
            .iter()
            .find(|endpoint| endpoint.name == name)
            .unwrap_or_else(|| panic!("there is no {name}"))
    }

    /// The echo server of a pod, a node or the client.
    pub fn target(&self, name: &str) -> Target {
        Target::endpoint(self.endpoint(name))
    }

    /// The Service for one pod, with the result that `sender` should get.
    pub fn service(&self, pod: &'static str, sender: &str) -> Target {
        let client = if pod == sender { Client::Hairpin } else { Client::Sender };
        let answers = Answers::Echo { pods: vec![pod], client };
        self.service_target(&format!("to-{pod}"), answers)
    }

    /// The Service for all pods.
    pub fn service_of_all(&self) -> Target {
        let pods = PODS.iter().map(|(pod, _)| *pod).collect();
        self.service_target("to-all", Answers::Echo { pods, client: Client::SenderOrHairpin })
    }

    /// The nodePort of a pod's Service at a node, for external clients.
    pub fn node_port(&self, pod: &'static str, node: &str) -> Target {
        let at = PODS.iter().position(|(name, _)| *name == pod).unwrap();
        let addresses = self.endpoint(node).addresses;
        let client = if PODS[at].1 == node { Client::Sender } else { Client::Node(addresses) };
        Target {
            name: format!("service to-{pod} at {node}"),
            addresses,
            tcp_port: FIRST_NODE_PORT + 2 * at as u16,
            udp_port: FIRST_NODE_PORT + 2 * at as u16 + 1,
            answers: Answers::Echo { pods: vec![pod], client },
        }
    }

    /// The Service without endpoints.
    pub fn service_of_nobody(&self) -> Target {
        self.service_target("to-nobody", Answers::Refusal)
    }

    /// A port that a pod's Service does not have.
    pub fn service_without_port(&self, pod: &str) -> Target {
        let found = self.service_target(&format!("to-{pod}"), Answers::Refusal);
        Target {
            name: format!("{} port {NO_SERVICE_PORT}", found.name),
            tcp_port: NO_SERVICE_PORT,
            udp_port: NO_SERVICE_PORT,
            ..found
        }
    }

    fn service_target(&self, name: &str, answers: Answers) -> Target {
        Target {
            name: format!("service {name}"),
            addresses: pair(&self.lab.service(name).cluster_ips),
            tcp_port: SERVICE_TCP_PORT,
            udp_port: SERVICE_UDP_PORT,
            answers,
        }
    }

    fn wait_for_echo(&self, host: &str) {
        let endpoint = self.endpoint(host);
        let listens = || {
            let tried = endpoint.netns.enter(|| {
                FAMILIES.iter().all(|family| {
                    let address = SocketAddr::new(family.of(endpoint.addresses), TCP_PORT);
                    TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
                })
            });
            tried.unwrap()
        };
        self.lab.wait_until(&format!("the echo listens on {host}"), Duration::from_secs(10), listens);
    }
}

/// Runs a shell command line in a namespace; fails the test on errors.
pub fn shell(netns: &NetNs, line: &str) -> String {
    let run = || Command::new("sh").args(["-c", line]).output().unwrap();
    let output = netns.enter(run).unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{}: {line}: {}{}",
        netns.name(),
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

fn start_echo(host: &ExecTarget<'_>) -> Background {
    let echo = program("beeline-lab").display().to_string();
    let [tcp, udp] = [format!("{TCP_PORT}/TCP"), format!("{UDP_PORT}/UDP")];
    host.start([&echo, "echo", "--port", &tcp, "--port", &udp])
}

fn pod_spot(lab: &TestLab, name: &'static str) -> Endpoint {
    let found = lab.pods(name).remove(0);
    Endpoint { name, addresses: pair(&found.ips), netns: lab.pod(name).netns() }
}

fn pair(addresses: &[String]) -> Pair {
    let parsed: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
    let ipv4 = parsed.iter().find_map(|ip| if let IpAddr::V4(ip) = ip { Some(*ip) } else { None });
    let ipv6 = parsed.iter().find_map(|ip| if let IpAddr::V6(ip) = ip { Some(*ip) } else { None });
    Pair { ipv4: ipv4.expect("an IPv4 address"), ipv6: ipv6.expect("an IPv6 address") }
}

fn manifests() -> String {
    let mut documents: Vec<String> = PODS.iter().map(|(name, node)| pod_manifest(name, node)).collect();
    documents.extend(PODS.iter().enumerate().map(|(at, (name, _))| {
        let first = FIRST_NODE_PORT + 2 * at as u16;
        service_manifest(&format!("to-{name}"), &format!("name: {name}"), Some([first, first + 1]))
    }));
    documents.push(service_manifest("to-all", "app: echo", None));
    documents.push(service_manifest("to-nobody", "app: nobody", None));
    documents.join("---\n")
}

fn pod_manifest(name: &str, node: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: echo, name: {name}}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 1
  containers:
    - name: echo
      image: beeline/echo
      ports: [{{containerPort: {TCP_PORT}}}, {{containerPort: {UDP_PORT}, protocol: UDP}}]
"
    )
}

fn service_manifest(name: &str, selector: &str, node_ports: Option<[u16; 2]>) -> String {
    let kind = if node_ports.is_some() { "NodePort" } else { "ClusterIP" };
    let [tcp, udp] = match node_ports {
        Some(numbers) => numbers.map(|number| format!(", nodePort: {number}")),
        None => Default::default(),
    };
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  type: {kind}
  ipFamilyPolicy: RequireDualStack
  selector: {{{selector}}}
  ports:
    - {{name: tcp, port: {SERVICE_TCP_PORT}, targetPort: {TCP_PORT}{tcp}}}
    - {{name: udp, port: {SERVICE_UDP_PORT}, targetPort: {UDP_PORT}, protocol: UDP{udp}}}
"
    )
}
