//! EndpointSlices: the endpoints of each Service, per address family. An unchanged endpoint keeps its
//! slice and position, so a change of one pod updates one slice.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use beeline_apiserver_admission::{Api, DeleteOptions, ListOptions, Subresource, WriteOptions};
use beeline_apiserver_objects::{
    ApiError, ObjectKey, Selector,
    object::{self, array_at, str_at, strs_at},
};
use serde_json::{Value, json};

use super::controller::Controller;
use super::pods;

pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";
const ZONE: &str = "topology.kubernetes.io/zone";
const ENDPOINTS_MAX: usize = 100;

pub(super) struct EndpointSliceController;

impl Controller for EndpointSliceController {
    fn name(&self) -> &'static str {
        "endpointslice"
    }

    fn watches(&self) -> &'static [&'static str] {
        &["services", "pods", "endpointslices", "nodes"]
    }

    fn keys_for_event(&self, api: &Api, kind: &str, object: &Value) -> Vec<ObjectKey> {
        match kind {
            "services" => vec![ObjectKey::of(object)],
            "endpointslices" if object::label(object, MANAGED_BY) == Some(MANAGER) => {
                let service = object::label(object, SERVICE_NAME).unwrap_or_default();
                vec![ObjectKey::new(object::namespace(object), service)]
            }
            "pods" => services_of(api, object),
            _ => Vec::new(),
        }
    }

    /// Slices of a deleted service are removed by the garbage collector.
    fn reconcile(&mut self, api: &Api, key: &ObjectKey) -> Result<(), ApiError> {
        let Ok(service) = api.get("services", &key.namespace, &key.name) else { return Ok(()) };
        let have = slices_of(api, &service)?;
        if !has_selector(&service) {
            return have.iter().try_for_each(|slice| delete(api, slice));
        }
        let desired = desired_endpoints(api, &service)?;
        for slice in have.iter().filter(|slice| !desired.contains_key(&group_of(slice))) {
            delete(api, slice)?;
        }
        for (group, endpoints) in &desired {
            let mine: Vec<Arc<Value>> =
                have.iter().filter(|slice| group_of(slice) == *group).cloned().collect();
            reconcile_group(api, &service, group, endpoints, &mine)?;
        }
        Ok(())
    }
}

/// Services whose selector matches the pod.
fn services_of(api: &Api, pod: &Value) -> Vec<ObjectKey> {
    let Ok(services) = api.kind("services") else { return Vec::new() };
    let store = api.lock();
    let in_namespace = store.list(&services, Some(object::namespace(pod)), None);
    let matching = in_namespace.filter(|(_, service)| {
        has_selector(service) && Selector::from_map(&service["spec"]["selector"]).matches(pod)
    });
    matching.map(|(key, _)| key.clone()).collect()
}

pub(super) fn has_selector(service: &Value) -> bool {
    service["spec"]["selector"].as_object().is_some_and(|selector| !selector.is_empty())
        && str_at(service, "/spec/type") != "ExternalName"
        && !object::is_deleting(service)
}

/// The slices of the service that this controller manages.
pub(super) fn slices_of(api: &Api, service: &Value) -> Result<Vec<Arc<Value>>, ApiError> {
    let kind = api.kind("endpointslices")?;
    let owned = pods::controlled_objects(api, &kind, service);
    Ok(owned.into_iter().filter(|slice| object::label(slice, MANAGED_BY) == Some(MANAGER)).collect())
}

fn delete(api: &Api, slice: &Value) -> Result<(), ApiError> {
    match api.delete_of(&api.kind("endpointslices")?, &ObjectKey::of(slice), &DeleteOptions::default()) {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

/// Grouping of slices: address family and resolved ports. Named target ports can resolve differently
/// per pod.
type Group = (String, String);

fn group_of(slice: &Value) -> Group {
    (str_at(slice, "/addressType").to_owned(), slice["ports"].to_string())
}

/// Desired endpoints by group and pod uid.
fn desired_endpoints(
    api: &Api,
    service: &Value,
) -> Result<BTreeMap<Group, BTreeMap<String, Value>>, ApiError> {
    let selector = Selector::from_map(&service["spec"]["selector"]);
    let families = strs_at(service, "/spec/ipFamilies");
    let pods = api.list("pods", Some(object::namespace(service)), &ListOptions::default())?.items;
    let mut desired: BTreeMap<Group, BTreeMap<String, Value>> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| selector.matches(pod) && should_be_in_slice(pod)) {
        let ports = json!(ports_of(service, pod)).to_string();
        for family in &families {
            let addresses = addresses(pod, family);
            if !addresses.is_empty() {
                let group = desired.entry(((*family).to_owned(), ports.clone())).or_default();
                group.insert(object::uid(pod).to_owned(), endpoint(api, service, pod, &addresses));
            }
        }
    }
    for family in &families {
        if !desired.keys().any(|(found, _)| found == family) {
            // A service without pods has one empty slice.
            desired.insert(((*family).to_owned(), "[]".to_owned()), BTreeMap::new());
        }
    }
    Ok(desired)
}

fn should_be_in_slice(pod: &Value) -> bool {
    !matches!(str_at(pod, "/status/phase"), "Succeeded" | "Failed")
        && !str_at(pod, "/spec/nodeName").is_empty()
}

fn addresses(pod: &Value, family: &str) -> Vec<String> {
    let listed = array_at(pod, "/status/podIPs").iter().map(|address| str_at(address, "/ip"));
    let single = Some(str_at(pod, "/status/podIP")).filter(|_| array_at(pod, "/status/podIPs").is_empty());
    let parsed = listed.chain(single).filter_map(|address| address.parse::<IpAddr>().ok());
    parsed
        .filter(|address| address.is_ipv6() == (family == "IPv6"))
        .take(1)
        .map(|address| address.to_string())
        .collect()
}

fn endpoint(api: &Api, service: &Value, pod: &Value, addresses: &[String]) -> Value {
    let (serving, terminating) = (pods::is_ready(pod), object::is_deleting(pod));
    let ready = (serving && !terminating) || object::bool_at(service, "/spec/publishNotReadyAddresses");
    let node = str_at(pod, "/spec/nodeName");
    let mut endpoint = json!({
        "addresses": addresses,
        "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
        "nodeName": node,
        "targetRef": {
            "kind": "Pod", "name": object::name(pod), "namespace": object::namespace(pod), "uid": object::uid(pod),
        },
    });
    let zone = api.get("nodes", "", node).ok();
    let zone = zone.as_deref().and_then(|node| object::label(node, ZONE));
    if let Some(zone) = zone {
        endpoint["zone"] = json!(zone);
    }
    if let Some(hints) = hints(service, node, zone).filter(|_| ready) {
        endpoint["hints"] = hints;
    }
    let hostname = str_at(pod, "/spec/hostname");
    if !hostname.is_empty() && str_at(pod, "/spec/subdomain") == object::name(service) {
        endpoint["hostname"] = json!(hostname);
    }
    endpoint
}

/// Topology hints of a ready endpoint by `trafficDistribution` (KEP-4444, KEP-3015): its zone, or its
/// node and zone.
fn hints(service: &Value, node: &str, zone: Option<&str>) -> Option<Value> {
    let distribution = str_at(service, "/spec/trafficDistribution");
    let zones = zone.map(|zone| json!([{"name": zone}]));
    match distribution {
        "PreferClose" | "PreferSameZone" => Some(json!({"forZones": zones?})),
        "PreferSameNode" => {
            let mut hints = json!({"forNodes": [{"name": node}]});
            if let Some(zones) = zones {
                hints["forZones"] = zones;
            }
            Some(hints)
        }
        _ => None,
    }
}

/// Ports of the service resolved for this pod. Ports with an unknown named target port are omitted.
fn ports_of(service: &Value, pod: &Value) -> Vec<Value> {
    let resolved = array_at(service, "/spec/ports").iter().filter_map(|port| {
        let number = match &port["targetPort"] {
            Value::String(name) => named_port(pod, name, str_at(port, "/protocol"))?,
            number => number.as_i64()?,
        };
        let mut resolved =
            json!({"name": str_at(port, "/name"), "port": number, "protocol": str_at(port, "/protocol")});
        if !str_at(port, "/appProtocol").is_empty() {
            resolved["appProtocol"] = port["appProtocol"].clone();
        }
        Some(resolved)
    });
    resolved.collect()
}

/// Searches the containers, then the sidecar containers (KEP-753).
fn named_port(pod: &Value, name: &str, protocol: &str) -> Option<i64> {
    let sidecars =
        array_at(pod, "/spec/initContainers").iter().filter(|one| str_at(one, "/restartPolicy") == "Always");
    let containers = array_at(pod, "/spec/containers").iter().chain(sidecars);
    let ports = containers.flat_map(|container| array_at(container, "/ports"));
    let mut matching =
        ports.filter(|port| str_at(port, "/name") == name && str_at(port, "/protocol") == protocol);
    matching.next()?["containerPort"].as_i64()
}

/// Updates the slices of one group to the desired endpoints with the fewest writes.
fn reconcile_group(
    api: &Api,
    service: &Value,
    group: &Group,
    endpoints: &BTreeMap<String, Value>,
    have: &[Arc<Value>],
) -> Result<(), ApiError> {
    let mut missing: BTreeSet<&String> = endpoints.keys().collect();
    let mut kept: Vec<Vec<Value>> = Vec::new();
    for slice in have {
        let stay = array_at(slice, "/endpoints").iter().filter_map(|endpoint| {
            let (uid, desired) = endpoints.get_key_value(str_at(endpoint, "/targetRef/uid"))?;
            missing.remove(uid).then(|| desired.clone())
        });
        kept.push(stay.collect());
    }
    let mut missing = missing.into_iter();
    for list in &mut kept {
        let free = ENDPOINTS_MAX.saturating_sub(list.len());
        list.extend(missing.by_ref().take(free).map(|uid| endpoints[uid].clone()));
    }
    let mut rest: Vec<Value> = missing.map(|uid| endpoints[uid].clone()).collect();
    if kept.is_empty() && rest.is_empty() {
        create(api, service, group, Vec::new())?;
    }
    while !rest.is_empty() {
        let next = rest.split_off(rest.len().min(ENDPOINTS_MAX));
        create(api, service, group, std::mem::replace(&mut rest, next))?;
    }
    let filled = kept.iter().filter(|list| !list.is_empty()).count();
    for (index, (slice, list)) in have.iter().zip(kept).enumerate() {
        if list.is_empty() && (filled > 0 || index > 0) {
            delete(api, slice)?;
        } else {
            update(api, service, slice, list)?;
        }
    }
    Ok(())
}

fn labels(service: &Value) -> Value {
    let mut labels = service["metadata"]["labels"].clone();
    if !labels.is_object() {
        labels = json!({});
    }
    labels[SERVICE_NAME] = json!(object::name(service));
    labels[MANAGED_BY] = json!(MANAGER);
    if str_at(service, "/spec/clusterIP") == "None" {
        labels[HEADLESS] = json!("");
    }
    labels
}

fn create(
    api: &Api,
    service: &Value,
    (family, ports): &Group,
    endpoints: Vec<Value>,
) -> Result<(), ApiError> {
    let ports: Value = serde_json::from_str(ports).unwrap_or(json!([]));
    let slice = json!({
        "metadata": {
            "generateName": format!("{}-", object::name(service)),
            "namespace": object::namespace(service),
            "labels": labels(service),
            "ownerReferences": [object::controller_reference(service, "v1", "Service")],
        },
        "addressType": family, "endpoints": endpoints, "ports": ports,
    });
    api.create("endpointslices", slice).map(|_| ())
}

fn update(api: &Api, service: &Value, slice: &Value, endpoints: Vec<Value>) -> Result<(), ApiError> {
    let labels = labels(service);
    if slice["endpoints"] == json!(endpoints) && slice["metadata"]["labels"] == labels {
        return Ok(());
    }
    let mut next = slice.clone();
    next["endpoints"] = json!(endpoints);
    next["metadata"]["labels"] = labels;
    let kind = api.kind("endpointslices")?;
    api.update_of(&kind, Subresource::None, next, &WriteOptions::default()).map(|_| ())
}
