//! Helpers of the failure tests: objects created through the API, probes
//! between pods, agent status.

#![allow(dead_code, reason = "not every test crate uses all of it")]

pub mod events;
pub mod malformed;

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use beeline_api::{Call, Client, Response, Status};
use beeline_kernel::netns::NetNs;
use beeline_lab::harness::TestLab;
use beeline_lab::protocol::{self, AgentAction, PodStatus};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};

/// The echo port of the pods of [`pod`].
pub const PORT: u16 = 8080;

/// Timeout for expected changes.
pub const TIMEOUT: Duration = Duration::from_secs(20);

/// An echo pod on a node, labelled with its name.
pub fn pod(name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "echo", "image": "beeline/echo", "ports": [{"containerPort": PORT}]}],
        },
    })
}

/// A dual-stack Service on port 80 that selects the pods with this name.
pub fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name},
        "spec": {
            "ipFamilyPolicy": "RequireDualStack",
            "selector": {"app": name},
            "ports": [{"port": 80, "targetPort": PORT}],
        },
    })
}

/// Direct access to the lab's API server, without the waiting of `apply`.
pub struct Api {
    runtime: tokio::runtime::Runtime,
    client: kube::Client,
}

impl Api {
    pub fn open(lab: &TestLab) -> Api {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let client = runtime.block_on(async {
            let file = Kubeconfig::read_from(lab.paths().kubeconfig()).unwrap();
            let config =
                kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.unwrap();
            kube::Client::try_from(config).unwrap()
        });
        Api { runtime, client }
    }

    /// Creates an object without validation.
    pub fn create(&self, path: &str, object: &Value) -> Value {
        let request = http::Request::post(path)
            .header("content-type", "application/json")
            .header("Beeline-Lab-Skip-Validation", "true")
            .body(serde_json::to_vec(object).unwrap())
            .unwrap();
        self.send(request)
    }

    pub fn create_pod(&self, name: &str, node: &str) {
        self.create("/api/v1/namespaces/default/pods", &pod(name, node));
    }

    pub fn delete(&self, path: &str) {
        self.send(http::Request::delete(path).body(Vec::new()).unwrap());
    }

    /// Applies a merge patch.
    pub fn patch(&self, path: &str, patch: &Value) {
        let request = http::Request::patch(path).header("content-type", "application/merge-patch+json");
        self.send(request.body(serde_json::to_vec(patch).unwrap()).unwrap());
    }

    /// The objects of a list.
    pub fn list(&self, path: &str) -> Vec<Value> {
        let list = self.send(http::Request::get(path).body(Vec::new()).unwrap());
        list["items"].as_array().cloned().unwrap_or_default()
    }

    fn send(&self, request: http::Request<Vec<u8>>) -> Value {
        let shown = format!("{} {}", request.method(), request.uri());
        let answer = self.runtime.block_on(self.client.request(request));
        answer.unwrap_or_else(|error| panic!("{shown}: {error}"))
    }
}

/// Extensions of [`TestLab`].
pub trait TestLabExt {
    fn agent(&self, node: &str, action: AgentAction);
    fn agent_client(&self, node: &str) -> Client;
    fn agent_status(&self, node: &str) -> Status;
    fn pod_status(&self, name: &str) -> Option<PodStatus>;
    fn wait_for_pod_ready(&self, name: &str) -> [IpAddr; 2];
    fn wait_for_pod_reason(&self, name: &str, words: &[&str]);
    fn wait_for_pod_deleted(&self, name: &str);
    fn beeline(&self, words: &[&str]) -> String;
}

impl TestLabExt for TestLab {
    fn agent(&self, node: &str, action: AgentAction) {
        let call = protocol::Call::Agent { node: node.to_owned(), action };
        protocol::ask(self.name(), &call, |_| {}).unwrap_or_else(|error| panic!("{node}: {error:#}"));
    }

    fn agent_client(&self, node: &str) -> Client {
        Client::new(self.paths().node(node).socket())
    }

    fn agent_status(&self, node: &str) -> Status {
        match self.agent_client(node).call(Call::Status) {
            Ok(Response::Status(status)) => *status,
            other => panic!("{node}: {other:?}"),
        }
    }

    fn pod_status(&self, name: &str) -> Option<PodStatus> {
        self.pods(name).into_iter().find(|pod| pod.name == name)
    }

    fn wait_for_pod_ready(&self, name: &str) -> [IpAddr; 2] {
        let ready = || self.pod_status(name).filter(|pod| pod.ready);
        self.wait_until(&format!("pod {name} is ready"), TIMEOUT, || ready().is_some());
        let ips: Vec<IpAddr> = ready().unwrap().ips.iter().map(|ip| ip.parse().unwrap()).collect();
        ips.try_into().expect("one address of each family")
    }

    /// Waits until the pod is not ready for a reason with these words.
    fn wait_for_pod_reason(&self, name: &str, words: &[&str]) {
        self.wait_until(&format!("pod {name} reports {words:?}"), TIMEOUT, || {
            let status = self.pod_status(name);
            status.is_some_and(|pod| !pod.ready && words.iter().all(|words| pod.reason.contains(words)))
        });
    }

    fn wait_for_pod_deleted(&self, name: &str) {
        self.wait_until(&format!("pod {name} is gone"), TIMEOUT, || self.pod_status(name).is_none());
    }

    /// The output of `beeline`, whatever its exit status.
    fn beeline(&self, words: &[&str]) -> String {
        let outcome = self.cli(words);
        outcome.stdout + &outcome.stderr
    }
}

/// Addresses of a Service on port 80.
pub fn service_addresses(lab: &TestLab, name: &str) -> Vec<SocketAddr> {
    let ips = lab.service(name).cluster_ips;
    ips.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), 80)).collect()
}

/// Connects to an echo and exchanges a few bytes.
pub fn connect(from: &NetNs, to: SocketAddr) -> std::io::Result<()> {
    let work = || {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"there and back")?;
        stream.shutdown(Shutdown::Write)?;
        let mut back = Vec::new();
        stream.read_to_end(&mut back)?;
        if back == b"there and back" {
            Ok(())
        } else {
            Err(std::io::Error::other("the response differs from the request"))
        }
    };
    from.enter(work).unwrap()
}

/// The same; fails the test on errors.
#[track_caller]
pub fn reach(from: &NetNs, to: SocketAddr) {
    connect(from, to).unwrap_or_else(|error| panic!("{to}: {error}"));
}
