//! Who plays: all read from the lab's status, nothing is assumed.

use anyhow::{Context, Result};
use serde_json::Value;

/// A caller, a server beside it, one elsewhere, and the Service before both.
pub struct Cast {
    pub caller: Pod,
    pub same_node: Pod,
    pub other_node: Pod,
    pub service: Vec<String>,
}

#[derive(Clone)]
pub struct Pod {
    pub name: String,
    pub node: String,
    pub addresses: Vec<String>,
}

impl Cast {
    /// Finds them in what `beeline lab status -o json` printed.
    pub fn find(status: &Value) -> Result<Self> {
        let pods: Vec<Pod> = ours(&status["pods"]).filter_map(Pod::read).collect();
        let of = |app: &str| pods.iter().filter(|pod| pod.name.starts_with(app)).cloned().collect::<Vec<_>>();
        let (callers, servers) = (of("caller-"), of("hello-"));
        let beside = |caller: &Pod| servers.iter().find(|server| server.node == caller.node).cloned();
        let elsewhere = |caller: &Pod| servers.iter().find(|server| server.node != caller.node).cloned();
        let found =
            callers.iter().find_map(|caller| Some((caller.clone(), beside(caller)?, elsewhere(caller)?)));
        let (caller, same_node, other_node) = found.context(
            "no pod of `caller` stands beside one pod of `hello` and apart from another: see ./beeline lab status",
        )?;
        let service = ours(&status["services"]).find(|service| service["name"] == "hello");
        let service = service.context("the Service `hello` is not in the lab's status")?;
        Ok(Self { caller, same_node, other_node, service: texts(&service["clusterIPs"]) })
    }
}

impl Pod {
    fn read(value: &Value) -> Option<Self> {
        let text = |name: &str| value[name].as_str().map(str::to_owned);
        Some(Self { name: text("name")?, node: text("node")?, addresses: texts(&value["ips"]) })
    }
}

/// What stands in the namespace of the example.
fn ours(value: &Value) -> impl Iterator<Item = &Value> {
    list(value).filter(|object| object["namespace"] == "default")
}

/// The elements of an array; of anything else, none.
pub fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
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
    fn unit_the_caller_has_one_server_beside_it_and_one_elsewhere() {
        let service = json!({ "namespace": "default", "name": "hello", "clusterIPs": ["10.96.0.7"] });
        let other = json!({ "namespace": "other", "name": "hello-z", "node": "node-1", "ips": [] });
        let status = json!({
            "pods": [other, pod("caller-a", "node-3"), pod("caller-b", "node-1"), pod("hello-a", "node-1"),
                pod("hello-b", "node-2")],
            "services": [service],
        });
        let cast = Cast::find(&status).expect("everybody is there");
        let names = [cast.caller.name, cast.same_node.name, cast.other_node.name];
        assert_eq!(names, ["caller-b", "hello-a", "hello-b"]);
        assert_eq!(cast.service, ["10.96.0.7"]);
    }

    #[test]
    fn unit_who_is_missing_is_named() {
        let error = Cast::find(&json!({ "pods": [pod("caller-a", "node-1")] })).err();
        assert!(error.is_some_and(|error| error.to_string().contains("`hello`")));
    }
}
