//! Compares EndpointSlices with the pods. Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;

use super::rollout::Progress;
use super::status;

/// Checks every Service of a namespace that has a selector.
pub fn progress(services: &[Service], pods: &[Pod], slices: &[EndpointSlice]) -> Progress {
    for service in services {
        let Some(selector) = selector(service) else { continue };
        let shown = status::ready_endpoints(service, slices);
        for family in service.spec.iter().flat_map(|spec| spec.ip_families.iter().flatten()) {
            let shown: BTreeSet<String> = shown.get(family).into_iter().flatten().cloned().collect();
            let wanted = addresses(pods, selector, family);
            let also_others = service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses);
            let agrees = if also_others == Some(true) { shown.is_superset(&wanted) } else { shown == wanted };
            if !agrees {
                let name = service.name_any();
                return Progress::Pending(format!(
                    "the {family} EndpointSlices of services/{name} list {shown:?}, expected {wanted:?}"
                ));
            }
        }
    }
    Progress::Done
}

fn selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    let spec = service.spec.as_ref()?;
    let selector = spec.selector.as_ref().filter(|selector| !selector.is_empty())?;
    (spec.type_.as_deref() != Some("ExternalName")).then_some(selector)
}

/// Addresses of one family of the selected pods that are ready and not
/// terminating.
fn addresses(pods: &[Pod], selector: &BTreeMap<String, String>, family: &str) -> BTreeSet<String> {
    let selected = pods.iter().filter(|pod| {
        let labels = pod.labels();
        let stays = pod.metadata.deletion_timestamp.is_none();
        stays && status::is_ready(pod) && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
    });
    let of_family = |pod: &Pod| {
        let ips = pod.status.iter().flat_map(|status| status.pod_ips.iter().flatten());
        ips.clone().map(|ip| ip.ip.clone()).find(|ip| ip.contains(':') == (family == "IPv6"))
    };
    selected.filter_map(of_family).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn of<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    fn pod(name: &str, ip: &str, ready: bool) -> Pod {
        of(json!({
            "metadata": {"namespace": "default", "name": name, "labels": {"app": "web", "x": "y"}},
            "status": {
                "podIPs": [{"ip": ip}],
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
            },
        }))
    }

    fn service(not_ready_too: bool) -> Service {
        of(json!({
            "metadata": {"namespace": "default", "name": "web"},
            "spec": {
                "selector": {"app": "web"}, "ipFamilies": ["IPv4"],
                "publishNotReadyAddresses": not_ready_too,
            },
        }))
    }

    fn slice(addresses: &[&str]) -> EndpointSlice {
        let endpoints: Vec<Value> = addresses.iter().map(|ip| json!({"addresses": [ip]})).collect();
        of(json!({
            "metadata": {
                "namespace": "default", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"},
            },
            "addressType": "IPv4", "endpoints": endpoints,
        }))
    }

    #[test]
    fn unit_slices_are_synced_when_they_list_exactly_the_ready_pods() {
        let pods = [pod("a", "10.0.0.1", true), pod("b", "10.0.0.2", false), pod("c", "fd00::1", true)];
        let agree =
            |service, shown: &[&str]| super::progress(&[service], &pods, &[slice(shown)]) == Progress::Done;
        assert!(agree(service(false), &["10.0.0.1"]));
        assert!(!agree(service(false), &[]));
        assert!(!agree(service(false), &["10.0.0.1", "10.0.0.9"]), "a deleted pod is still listed");
        assert!(agree(service(true), &["10.0.0.1", "10.0.0.2"]));
    }
}
