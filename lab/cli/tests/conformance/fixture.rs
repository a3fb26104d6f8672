//! The lab of the conformance tests, and helpers.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use beeline_lab::harness::{ExecTarget, Outcome, TestLab};
use serde_json::{Value, json};

/// Timeout for a change to take effect.
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// Number of requests that show a random choice: the probability that one of
/// two endpoints is never chosen is 2^-23.
pub const MANY: usize = 24;
/// Exit codes of curl for a refused connection and for a timeout.
const REFUSED: Option<i32> = Some(7);
const NO_ANSWER: Option<i32> = Some(28);

/// Result of a request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Answer {
    /// A response of this pod.
    Pod(String),
    /// Connection refused.
    Refused,
    /// No response.
    Silence,
}

/// Sends one request over TCP.
pub fn ask(from: &ExecTarget<'_>, address: &str, port: u16) -> Answer {
    answered(&fetch(from, address, port))
}

/// The pod that responded, and the client address that it saw.
pub fn who(from: &ExecTarget<'_>, address: &str, port: u16) -> (String, IpAddr) {
    let outcome = fetch(from, address, port);
    let answer: Value = serde_json::from_str(&outcome.stdout)
        .unwrap_or_else(|error| panic!("{address} port {port} does not answer: {error}\n{outcome}"));
    let client: IpAddr = answer["client"].as_str().unwrap().parse().unwrap();
    (answer["pod"].as_str().unwrap().to_owned(), client.to_canonical())
}

/// All pods that respond to a number of requests.
pub fn responders(from: &ExecTarget<'_>, address: &str, port: u16) -> BTreeSet<String> {
    let url = url(address, port);
    let line = format!(
        "for i in $(seq {MANY}); do curl -gs --max-time 3 {url} || echo '{{\"pod\":\"nobody\"}}'; done"
    );
    let outcome = from.shell(&line);
    let answers = serde_json::Deserializer::from_str(&outcome.stdout).into_iter::<Value>();
    let pods = answers.map(|answer| answer.unwrap()["pod"].as_str().unwrap().to_owned());
    let pods: Vec<String> = pods.collect();
    assert_eq!(pods.len(), MANY, "{outcome}");
    pods.into_iter().collect()
}

fn url(address: &str, port: u16) -> String {
    let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
    format!("'http://{host}:{port}/'")
}

fn fetch(from: &ExecTarget<'_>, address: &str, port: u16) -> Outcome {
    from.shell(&format!("curl -gs --max-time 1 {}", url(address, port)))
}

fn answered(outcome: &Outcome) -> Answer {
    match outcome.code {
        Some(0) => {
            let answer: Value = serde_json::from_str(&outcome.stdout).unwrap();
            Answer::Pod(answer["pod"].as_str().unwrap().to_owned())
        }
        REFUSED => Answer::Refused,
        NO_ANSWER => Answer::Silence,
        _ => panic!("neither an answer nor a refusal\n{outcome}"),
    }
}

/// A response of this pod.
pub fn pod(name: &str) -> Answer {
    Answer::Pod(name.to_owned())
}

/// A set of names.
pub fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// The lab and its API server.
pub struct Fixture {
    pub lab: TestLab,
    server: String,
    token: String,
}

impl Fixture {
    pub fn up(suffix: &str, arguments: &[&str]) -> Fixture {
        let lab = TestLab::up_with(suffix, arguments);
        let text = std::fs::read_to_string(lab.paths().kubeconfig()).unwrap();
        let after = |key: &str| {
            let found = text.lines().find_map(|line| line.trim().strip_prefix(key)).unwrap();
            found.trim().trim_matches('"').to_owned()
        };
        Fixture { server: after("server:"), token: after("token:"), lab }
    }

    pub fn apply(&self, manifests: &str) {
        self.lab.apply(manifests);
    }

    /// Sends a request to the API server; returns the response.
    pub fn api(&self, method: &str, path: &str, body: &Value) -> Value {
        let url = format!("{}{path}", self.server);
        let token = format!("Authorization: Bearer {}", self.token);
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let kind = format!("Content-Type: {kind}");
        let mut words = vec!["curl", "-sSk", "--max-time", "10", "-X", method, "-H", &token, "-H", &kind];
        if !body.is_null() {
            words.extend(["--data-binary", "@-"]);
        }
        words.push(&url);
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let outcome = self.lab.client().run_with_stdin(words, &body).succeeds();
        serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}\n{outcome}"))
    }

    /// Patches an object; returns it.
    pub fn patch(&self, path: &str, change: Value) -> Value {
        let answer = self.api("PATCH", path, &change);
        assert_ne!(answer["kind"], "Status", "{path} {change}: {answer}");
        answer
    }

    /// Patches the spec of a Service.
    pub fn patch_service(&self, name: &str, spec: Value) -> Value {
        self.patch(&service_path(name), json!({"spec": spec}))
    }

    pub fn get(&self, path: &str) -> Value {
        self.api("GET", path, &Value::Null)
    }

    pub fn delete(&self, path: &str) {
        let answer = self.api("DELETE", path, &Value::Null);
        assert_ne!(answer["status"], "Failure", "{path}: {answer}");
    }

    pub fn service(&self, name: &str) -> Value {
        self.get(&service_path(name))
    }

    /// The ClusterIP of a Service.
    pub fn cluster_ip(&self, name: &str) -> String {
        let service = self.service(name);
        service["spec"]["clusterIP"].as_str().unwrap_or_else(|| panic!("{service}")).to_owned()
    }

    /// Waits until a condition holds.
    pub fn eventually(&self, what: &str, holds: impl FnMut() -> bool) {
        self.lab.wait_until(what, TIMEOUT, holds);
    }

    /// Waits until exactly these pods respond.
    pub fn eventually_answers(&self, from: &ExecTarget<'_>, address: &str, port: u16, names: &[&str]) {
        let mut seen = BTreeSet::new();
        let deadline = std::time::Instant::now() + TIMEOUT;
        while std::time::Instant::now() < deadline {
            seen = responders(from, address, port);
            if seen == set(names) {
                return;
            }
        }
        panic!("{address} port {port}: {seen:?} answer instead of {names:?}");
    }

    /// Waits for this result.
    pub fn eventually_answer(&self, from: &ExecTarget<'_>, address: &str, port: u16, expected: &Answer) {
        let mut last = None;
        let deadline = std::time::Instant::now() + TIMEOUT;
        while std::time::Instant::now() < deadline {
            last = Some(ask(from, address, port));
            if last.as_ref() == Some(expected) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("{address} port {port}: {last:?} instead of {expected:?}");
    }

    /// Deletes a pod and waits until it is gone.
    pub fn delete_pod(&self, name: &str) {
        self.delete(&format!("/api/v1/namespaces/default/pods/{name}"));
        self.eventually(&format!("{name} is gone"), || {
            self.lab.pods(name).iter().all(|pod| pod.name != name)
        });
    }
}

fn service_path(name: &str) -> String {
    format!("/api/v1/namespaces/default/services/{name}")
}

/// A UDP client with a fixed port whose packets bypass the socket hooks: they
/// are translated packet by packet and keep their conntrack entry.
pub struct Datagrams {
    socket: UdpSocket,
}

impl Datagrams {
    /// Opens the socket in the network namespace of a target.
    pub fn from(target: &ExecTarget<'_>, family: usize) -> Datagrams {
        let any = ["0.0.0.0:0", "[::]:0"][family];
        let socket = target.netns().enter(|| UdpSocket::bind(any)).unwrap().unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        Datagrams { socket }
    }

    /// Whether the echo is received.
    pub fn answered(&self, address: &str, port: u16) -> bool {
        let to = SocketAddr::new(address.parse().unwrap(), port);
        let mut buffer = [0; 16];
        // An error belongs to an earlier datagram (port unreachable).
        self.socket.send_to(b"question", to).is_ok()
            && self.socket.recv_from(&mut buffer).is_ok_and(|(length, _)| &buffer[..length] == b"question")
    }
}

/// Whether a datagram sent by bash is echoed. On nodes and in host-network
/// pods the socket hooks apply.
pub fn datagram_answered(from: &ExecTarget<'_>, address: &str, port: u16) -> bool {
    // `read` would read one byte and lose the rest of the datagram.
    let line = format!(
        "exec 3<>/dev/udp/{address}/{port}; echo question >&3; \
         timeout 1 dd bs=64 count=1 <&3 2>/dev/null | grep -q question"
    );
    from.run(["bash", "-c", &line]).is_success()
}
