//! The pods and the Service of the demo, from the lab's status.

use anyhow::{Context, Result};
use serde_json::Value;

use super::list;

/// A client, a server on its node, one on another node, and their Service.
pub struct Objects {
    pub client: Pod,
    pub same_node: Pod,
    pub other_node: Pod,
    /// Cluster IPs of the Service `hello`.
    pub service: Vec<String>,
}

#[derive(Clone)]
pub struct Pod {
    pub name: String,
    pub node: String,
    pub addresses: Vec<String>,
}

impl Objects {
    /// Finds them in the output of `beeline lab status -o json`.
    pub fn find(status: &Value) -> Result<Self> {
        let pods: Vec<Pod> = ours(&status["pods"]).filter_map(Pod::read).collect();
        let of = |app: &str| pods.iter().filter(|pod| pod.name.starts_with(app)).cloned().collect::<Vec<_>>();
        let (clients, servers) = (of("caller-"), of("hello-"));
        let same_node = |client: &Pod| servers.iter().find(|server| server.node == client.node).cloned();
        let other_node = |client: &Pod| servers.iter().find(|server| server.node != client.node).cloned();
        let found =
            clients.iter().find_map(|client| Some((client.clone(), same_node(client)?, other_node(client)?)));
        let (client, same_node, other_node) = found.context(
            "no pod of `caller` has a pod of `hello` on its own node and one on another: see ./beeline lab status",
        )?;
        let service = ours(&status["services"]).find(|service| service["name"] == "hello");
        let service = service.context("the lab has no Service `hello`")?;
        Ok(Self { client, same_node, other_node, service: texts(&service["clusterIPs"]) })
    }
}

impl Pod {
    fn read(value: &Value) -> Option<Self> {
        let text = |name: &str| value[name].as_str().map(str::to_owned);
        Some(Self { name: text("name")?, node: text("node")?, addresses: texts(&value["ips"]) })
    }
}

/// Objects in the namespace of the example.
fn ours(value: &Value) -> impl Iterator<Item = &Value> {
    list(value).filter(|object| object["namespace"] == "default")
}

fn texts(value: &Value) -> Vec<String> {
    list(value).filter_map(Value::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, node: &str) -> Value {
        json!({ "namespace": "default", "name": name, "node": node, "ips": ["10.244.1.5"] })
    }

    #[test]
    fn unit_the_client_has_one_server_on_its_node_and_one_on_another() {
        let service = json!({ "namespace": "default", "name": "hello", "clusterIPs": ["10.96.0.7"] });
        let other = json!({ "namespace": "other", "name": "hello-z", "node": "node-1", "ips": [] });
        let status = json!({
            "pods": [other, pod("caller-a", "node-3"), pod("caller-b", "node-1"), pod("hello-a", "node-1"),
                pod("hello-b", "node-2")],
            "services": [service],
        });
        let objects = Objects::find(&status).expect("every object exists");
        let names = [objects.client.name, objects.same_node.name, objects.other_node.name];
        assert_eq!(names, ["caller-b", "hello-a", "hello-b"]);
        assert_eq!(objects.service, ["10.96.0.7"]);
    }

    #[test]
    fn unit_a_missing_object_is_named() {
        let error = Objects::find(&json!({ "pods": [pod("caller-a", "node-1")] })).err();
        assert!(error.is_some_and(|error| error.to_string().contains("`hello`")));
    }
}
