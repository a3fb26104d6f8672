//! Cluster DNS, queried from a pod through the Service kube-dns over both
//! address families and both protocols.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::str::FromStr;
use std::time::{Duration, Instant};

use beeline_lab::harness::TestLab;
use hickory_server::proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_server::proto::rr::{Name, RecordType};

/// Timeout of a query.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Timeout for a change to appear in responses.
const CHANGE: Duration = Duration::from_secs(10);

const SHOP: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: beeline/echo, ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: each}
spec:
  clusterIP: None
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  ports: [{name: http, port: 8080}]
---
apiVersion: v1
kind: Pod
metadata: {name: asker, labels: {app: asker}}
spec:
  hostname: own
  subdomain: named
  containers: [{name: c, image: beeline/echo, ports: [{containerPort: 8080}]}]
---
apiVersion: v1
kind: Service
metadata: {name: named}
spec:
  clusterIP: None
  selector: {app: asker}
  ports: [{name: http, port: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: alias}
spec: {type: ExternalName, externalName: web.default.svc.cluster.local}
";

/// Transport of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Udp,
    /// UDP with this EDNS payload size.
    UdpUpTo(u16),
    Tcp,
}

/// The resolver that is queried.
struct Resolver<'a> {
    lab: &'a TestLab,
    server: IpAddr,
    by: By,
}

impl Resolver<'_> {
    fn ask(&self, name: &str, kind: &str) -> (Message, usize) {
        let mut query = Message::new(4711, MessageType::Query, OpCode::Query);
        query.metadata.recursion_desired = true;
        let name = Name::from_ascii(format!("{name}.")).unwrap();
        query.add_query(Query::query(name.clone(), RecordType::from_str(kind).unwrap()));
        if let By::UdpUpTo(bytes) = self.by {
            let mut edns = Edns::new();
            edns.set_max_payload(bytes);
            query.set_edns(edns);
        }
        let (bytes, server, by) = (query.to_vec().unwrap(), SocketAddr::new(self.server, 53), self.by);
        let exchanged = self.lab.pod("asker").netns().enter(move || match by {
            By::Tcp => by_tcp(server, &bytes),
            _ => by_udp(server, &bytes),
        });
        let answer =
            exchanged.unwrap().unwrap_or_else(|error| panic!("{kind} {name} at {server} by {by:?}: {error}"));
        let message = Message::from_vec(&answer).unwrap();
        assert_eq!(message.metadata.id, 4711, "{message}");
        (message, answer.len())
    }

    /// The records as text, without owner and TTL.
    fn records(&self, name: &str, kind: &str) -> BTreeSet<String> {
        let (message, _) = self.ask(name, kind);
        assert_eq!(message.metadata.response_code, ResponseCode::NoError, "{kind} {name}: {message}");
        message.answers.iter().map(|record| format!("{} {}", record.record_type(), record.data)).collect()
    }

    #[track_caller]
    fn check<T: AsRef<str>>(&self, name: &str, kind: &str, expected: &[T]) {
        let expected: BTreeSet<String> = expected.iter().map(|text| text.as_ref().to_owned()).collect();
        assert_eq!(self.records(name, kind), expected, "{kind} {name} at {} by {:?}", self.server, self.by);
    }

    #[track_caller]
    fn check_absent(&self, name: &str) {
        let begin = Instant::now();
        let (message, _) = self.ask(name, "A");
        assert_eq!(message.metadata.response_code, ResponseCode::NXDomain, "{name}: {message}");
        assert!(begin.elapsed() < Duration::from_secs(1), "{name} took {:?}", begin.elapsed());
    }
}

fn by_udp(server: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let any: IpAddr = if server.is_ipv6() { "::".parse().unwrap() } else { "0.0.0.0".parse().unwrap() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    socket.connect(server)?;
    socket.send(query)?;
    let mut answer = vec![0; 65535];
    let length = socket.recv(&mut answer)?;
    answer.truncate(length);
    Ok(answer)
}

fn by_tcp(server: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&server, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(&(query.len() as u16).to_be_bytes())?;
    stream.write_all(query)?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

/// A headless Service with this number of unused addresses.
fn crowd(count: usize) -> String {
    let endpoints: Vec<String> =
        (0..count).map(|number| format!("{{addresses: [192.0.2.{}]}}", number + 1)).collect();
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: crowd}}\nspec: {{clusterIP: None, ports: [{{port: 80}}]}}\n\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: crowd-1, labels: {{kubernetes.io/service-name: crowd}}}}\n\
         addressType: IPv4\nports: [{{port: 80}}]\nendpoints: [{}]\n",
        endpoints.join(", ")
    )
}

#[test]
fn lab_pods_find_services_by_name() {
    let lab = TestLab::up_with("dns", &["--nodes", "2"]);
    let servers: Vec<IpAddr> = vec!["10.96.0.10".parse().unwrap(), "fd00:10:96::a".parse().unwrap()];
    let status = lab.status();
    assert_eq!((status.dns.addresses, status.dns.problem.as_str()), (servers.clone(), ""));
    lab.apply(SHOP);
    for server in servers {
        for by in [By::Udp, By::UdpUpTo(4096), By::Tcp] {
            names_are_answered(&Resolver { lab: &lab, server, by });
        }
        answers_are_cut(&lab, server);
        changes_are_told(&lab, server);
    }
    lab.down();
}

fn names_are_answered(dns: &Resolver<'_>) {
    let web = dns.lab.service("web").cluster_ips;
    let (ipv4, ipv6) = (format!("A {}", web[0]), format!("AAAA {}", web[1]));
    dns.check("web.default.svc.cluster.local", "A", &[&ipv4]);
    dns.check("web.default.svc.cluster.local", "AAAA", &[&ipv6]);
    let srv = ["SRV 0 100 80 web.default.svc.cluster.local."];
    dns.check("_http._tcp.web.default.svc.cluster.local", "SRV", &srv);
    let alias = ["CNAME web.default.svc.cluster.local.", &ipv4];
    dns.check("alias.default.svc.cluster.local", "A", &alias);
    dns.check("dns-version.cluster.local", "TXT", &["TXT 1.1.0"]);
    dns.check("10.0.96.10.in-addr.arpa", "PTR", &["PTR kube-dns.kube-system.svc.cluster.local."]);

    let mut pods = dns.lab.pods("web-");
    pods.retain(|pod| pod.ready && pod.phase != "Terminating");
    let addresses = |family: usize, word: &str| -> Vec<String> {
        pods.iter().map(|pod| format!("{word} {}", pod.ips[family])).collect()
    };
    dns.check("each.default.svc.cluster.local", "A", &addresses(0, "A"));
    dns.check("each.default.svc.cluster.local", "AAAA", &addresses(1, "AAAA"));
    let own = dns.lab.pods("asker").remove(0).ips.remove(0);
    dns.check("own.named.default.svc.cluster.local", "A", &[format!("A {own}")]);
    let by_address = own.replace('.', "-");
    dns.check(&format!("{by_address}.default.pod.cluster.local"), "A", &[format!("A {own}")]);
    let octets: Vec<&str> = own.split('.').rev().collect();
    let reverse = format!("{}.in-addr.arpa", octets.join("."));
    dns.check(&reverse, "PTR", &["PTR own.named.default.svc.cluster.local."]);

    dns.check_absent("nobody.default.svc.cluster.local");
    dns.check_absent("web.default.svc.cluster.local.default.svc.cluster.local");
    dns.check_absent("www.example.com");
}

/// Large responses are truncated over UDP and complete over TCP.
fn answers_are_cut(lab: &TestLab, server: IpAddr) {
    lab.apply(&crowd(100));
    let ask = |by| Resolver { lab, server, by }.ask("crowd.default.svc.cluster.local", "A");
    lab.wait_until("all endpoints are in the answer", CHANGE, || ask(By::Tcp).0.answers.len() == 100);
    for (by, limit) in [(By::Udp, 512), (By::UdpUpTo(1000), 1000), (By::UdpUpTo(4096), 1232)] {
        let (message, bytes) = ask(by);
        assert!(message.metadata.truncation && bytes <= limit, "{bytes} bytes by {by:?}: {message}");
    }
    lab.apply(&crowd(3));
    lab.wait_until("the Service is gone", CHANGE, || ask(By::Udp).0.answers.len() == 3);
    let first = |_| ask(By::Udp).0.answers[0].data.to_string();
    let firsts: BTreeSet<String> = (0..3).map(first).collect();
    assert_eq!(firsts.len(), 3, "every address comes first at some time: {firsts:?}");
}

/// Each additional pod adds a record.
fn changes_are_told(lab: &TestLab, server: IpAddr) {
    let dns = Resolver { lab, server, by: By::Udp };
    let kind = if server.is_ipv6() { "AAAA" } else { "A" };
    let count = || dns.records("each.default.svc.cluster.local", kind).len();
    assert_eq!(count(), 2);
    lab.apply(&SHOP.replace("replicas: 2", "replicas: 3"));
    lab.wait_until("the third pod is in the answer", CHANGE, || count() == 3);
    lab.apply(SHOP);
    lab.wait_until("the third pod is gone", CHANGE, || count() == 2);
}
