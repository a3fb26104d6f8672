//! Downward API: fields and resources of a pod. Pure.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;

/// A pod and its node.
#[derive(Clone, Debug, Default)]
pub struct PodFacts {
    /// The Pod object.
    pub pod: Pod,
    /// Its node.
    pub node: String,
    /// `status.hostIPs`.
    pub host_ips: Vec<String>,
    /// `status.podIPs`.
    pub pod_ips: Vec<String>,
    /// Capacity of a node, the default for containers without limits.
    pub capacity: NodeCapacity,
}

/// Capacity of a node.
#[derive(Clone, Copy, Debug, Default)]
pub struct NodeCapacity {
    /// Number of CPUs.
    pub cpus: u64,
    /// Memory in bytes.
    pub memory_bytes: u64,
}

impl NodeCapacity {
    /// The capacity of this host.
    pub fn of_this_host() -> NodeCapacity {
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let kilobytes = total.and_then(|text| text.trim().trim_end_matches(" kB").parse::<u64>().ok());
        let cpus = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
        NodeCapacity { cpus, memory_bytes: kilobytes.unwrap_or(0) * 1024 }
    }
}

impl PodFacts {
    /// The value of a `fieldRef` of an environment variable.
    pub fn variable(&self, path: &str) -> Result<String> {
        let spec = self.pod.spec.as_ref();
        Ok(match path {
            "spec.nodeName" => self.node.clone(),
            "spec.serviceAccountName" => {
                spec.and_then(|spec| spec.service_account_name.clone()).unwrap_or_else(|| "default".into())
            }
            "status.hostIP" => self.host_ips.first().cloned().unwrap_or_default(),
            "status.hostIPs" => self.host_ips.join(","),
            "status.podIP" => self.pod_ips.first().cloned().unwrap_or_default(),
            "status.podIPs" => self.pod_ips.join(","),
            "metadata.labels" | "metadata.annotations" => {
                bail!("fieldRef {path} is a map: a variable needs one key, {path}['KEY']")
            }
            _ => return self.metadata(path),
        })
    }

    /// The value of a `fieldRef` of a volume file.
    pub fn file(&self, path: &str) -> Result<String> {
        match path {
            "metadata.labels" => Ok(lines(self.pod.labels())),
            "metadata.annotations" => Ok(lines(self.pod.annotations())),
            _ => self.metadata(path),
        }
    }

    fn metadata(&self, path: &str) -> Result<String> {
        let keyed = |field: &str| path.strip_prefix(field)?.strip_prefix("['")?.strip_suffix("']");
        if let Some(key) = keyed("metadata.labels") {
            return Ok(self.pod.labels().get(key).cloned().unwrap_or_default());
        }
        if let Some(key) = keyed("metadata.annotations") {
            return Ok(self.pod.annotations().get(key).cloned().unwrap_or_default());
        }
        Ok(match path {
            "metadata.name" => self.pod.name_any(),
            "metadata.namespace" => self.pod.namespace().unwrap_or_default(),
            "metadata.uid" => self.pod.uid().unwrap_or_default(),
            _ => bail!(
                "unknown fieldRef {path:?}: supported are metadata.name, .namespace, .uid, .labels['KEY'], \
                 .annotations['KEY'], and for variables spec.nodeName, spec.serviceAccountName, status.hostIP(s), \
                 status.podIP(s)"
            ),
        })
    }

    /// The value of a `resourceFieldRef`; `own` is the container that
    /// references it.
    pub fn resource(&self, field: &ResourceFieldSelector, own: Option<&Container>) -> Result<String> {
        let spec = self.pod.spec.as_ref();
        let named = |name: &str| {
            let mut all = spec
                .into_iter()
                .flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
            all.find(|container| container.name == name)
        };
        let container = match field.container_name.as_deref() {
            Some(name) => Some(named(name).with_context(|| format!("the pod has no container {name:?}"))?),
            None => own,
        };
        let (list, resource) = field.resource.split_once('.').unwrap_or_default();
        let resources = container.and_then(|container| container.resources.as_ref());
        let set = match list {
            "limits" => resources.and_then(|all| all.limits.as_ref()),
            "requests" => resources.and_then(|all| all.requests.as_ref()),
            _ => bail!("resource {:?} is not limits.NAME or requests.NAME", field.resource),
        };
        let set = set.and_then(|list| list.get(resource)).map(quantity).transpose()?;
        let value = set.unwrap_or(match (list, resource) {
            ("limits", "cpu") => self.capacity.cpus as f64,
            ("limits", "memory" | "ephemeral-storage") => self.capacity.memory_bytes as f64,
            _ => 0.0,
        });
        let divisor = field.divisor.as_ref().map(quantity).transpose()?.filter(|divisor| *divisor > 0.0);
        // Tolerance for floating point: 0.1 + 0.2 must not be rounded up.
        Ok(((value / divisor.unwrap_or(1.0) - 1e-9).ceil().max(0.0) as u64).to_string())
    }
}

/// A map in the format of downwardAPI volume files.
fn lines(map: &BTreeMap<String, String>) -> String {
    map.iter().map(|(key, value)| format!("{key}={value:?}\n")).collect::<String>().trim_end().to_owned()
}

/// The numeric value of a quantity.
fn quantity(quantity: &Quantity) -> Result<f64> {
    let text = quantity.0.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let (digits, suffix) = match text.parse::<f64>() {
        // 1e3 has an exponent, 1E has the suffix exa.
        Ok(number) => return Ok(number),
        Err(_) => (digits, &text[digits.len()..]),
    };
    let factor = match suffix {
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024f64,
        "Mi" => 1024f64.powi(2),
        "Gi" => 1024f64.powi(3),
        "Ti" => 1024f64.powi(4),
        "Pi" => 1024f64.powi(5),
        "Ei" => 1024f64.powi(6),
        _ => bail!("{text:?} is not a valid quantity"),
    };
    Ok(digits.parse::<f64>().with_context(|| format!("{text:?} is not a valid quantity"))? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn facts() -> PodFacts {
        let pod = json!({
            "metadata": {
                "name": "p", "namespace": "n", "uid": "u",
                "labels": {"app": "web", "b": "x\"y"}, "annotations": {"a.io/b": "long"},
            },
            "spec": {"containers": [
                {"name": "c", "resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}, "requests": {"cpu": "250m"}}},
                {"name": "bare"},
            ]},
        });
        PodFacts {
            pod: serde_json::from_value(pod).unwrap(),
            node: "node-1".into(),
            host_ips: vec!["172.30.0.11".into(), "fd00::b".into()],
            pod_ips: vec!["10.244.1.2".into(), "fd00::2".into()],
            capacity: NodeCapacity { cpus: 4, memory_bytes: 1 << 30 },
        }
    }

    #[test]
    fn unit_variables_know_every_field_that_kubernetes_allows() {
        for (path, expected) in [
            ("metadata.name", "p"),
            ("metadata.namespace", "n"),
            ("metadata.uid", "u"),
            ("metadata.labels['app']", "web"),
            ("metadata.labels['absent']", ""),
            ("metadata.annotations['a.io/b']", "long"),
            ("spec.nodeName", "node-1"),
            ("spec.serviceAccountName", "default"),
            ("status.hostIP", "172.30.0.11"),
            ("status.hostIPs", "172.30.0.11,fd00::b"),
            ("status.podIP", "10.244.1.2"),
            ("status.podIPs", "10.244.1.2,fd00::2"),
        ] {
            assert_eq!(facts().variable(path).unwrap(), expected, "{path}");
        }
        assert!(facts().variable("metadata.labels").is_err() && facts().variable("spec.x").is_err());
    }

    #[test]
    fn unit_files_hold_whole_maps() {
        assert_eq!(facts().file("metadata.labels").unwrap(), "app=\"web\"\nb=\"x\\\"y\"");
        assert!(facts().file("status.podIP").is_err(), "a volume is made before there is an address");
    }

    #[test]
    fn unit_resources_are_divided_and_rounded_up() {
        let pod = facts();
        let own = &pod.pod.spec.as_ref().unwrap().containers;
        let value = |container: usize, resource: &str, divisor: Option<&str>| {
            let field = ResourceFieldSelector {
                resource: resource.into(),
                divisor: divisor.map(|text| Quantity(text.into())),
                container_name: None,
            };
            pod.resource(&field, Some(&own[container])).unwrap()
        };
        assert_eq!(value(0, "limits.cpu", None), "2");
        assert_eq!(value(0, "limits.cpu", Some("1m")), "1500");
        assert_eq!(value(0, "limits.memory", Some("1Mi")), "64");
        assert_eq!(value(0, "requests.cpu", Some("1m")), "250");
        assert_eq!(value(1, "limits.cpu", Some("0")), "4", "no limit: what the node has");
        assert_eq!(value(1, "limits.memory", Some("1Gi")), "1");
        assert_eq!(value(1, "requests.memory", None), "0");
    }
}
