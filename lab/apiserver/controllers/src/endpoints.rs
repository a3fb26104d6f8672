//! The Endpoints API, deprecated in favour of EndpointSlices: a copy of the slices of the primary
//! family for clients that still read it.

use std::collections::BTreeMap;
use std::sync::Arc;

use beeline_apiserver_admission::{Api, DeleteOptions, ListOptions, Subresource, WriteOptions};
use beeline_apiserver_objects::{
    ApiError, ObjectKey,
    object::{self, array_at, str_at, strs_at},
};
use serde_json::{Value, json};

use super::bootstrap::ensure;
use super::controller::Controller;
use super::endpoint_slice::{SERVICE_NAME, has_selector, slices_of};

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";

/// As in Kubernetes, more addresses are omitted and the object is annotated as truncated.
const ADDRESSES_MAX: usize = 1000;

pub(super) struct EndpointsController;

impl Controller for EndpointsController {
    fn name(&self) -> &'static str {
        "endpoints"
    }

    fn watches(&self) -> &'static [&'static str] {
        &["services", "endpointslices"]
    }

    fn keys_for_event(&self, _: &Api, kind: &str, object: &Value) -> Vec<ObjectKey> {
        match (kind, object::label(object, SERVICE_NAME)) {
            ("services", _) => vec![ObjectKey::of(object)],
            (_, Some(service)) => vec![ObjectKey::new(object::namespace(object), service)],
            _ => Vec::new(),
        }
    }

    fn reconcile(&mut self, api: &Api, key: &ObjectKey) -> Result<(), ApiError> {
        let there = api.get("endpoints", &key.namespace, &key.name).ok();
        let is_ours = |one: &Arc<Value>| object::label(one, MANAGED_BY) == Some(MANAGER);
        let Ok(service) = api.get("services", &key.namespace, &key.name) else {
            return match there.filter(is_ours) {
                Some(_) => ignore_not_found(api.delete(
                    "endpoints",
                    &key.namespace,
                    &key.name,
                    &DeleteOptions::default(),
                )),
                None => Ok(()),
            };
        };
        let slices = match (key.namespace.as_str(), key.name.as_str()) {
            ("default", "kubernetes") => slices_by_label(api, key)?,
            _ if has_selector(&service) => slices_of(api, &service)?,
            _ => return Ok(()),
        };
        let desired = endpoints(&service, &slices);
        match there {
            None => ensure(api, "endpoints", desired),
            Some(there) if is_equal(&there, &desired) => Ok(()),
            Some(there) => {
                let mut next = Value::clone(&there);
                next["subsets"] = desired["subsets"].clone();
                next["metadata"]["labels"] = desired["metadata"]["labels"].clone();
                next["metadata"]["annotations"] = desired["metadata"]["annotations"].clone();
                let kind = api.kind("endpoints")?;
                api.update_of(&kind, Subresource::None, next, &WriteOptions::default()).map(|_| ())
            }
        }
    }
}

fn ignore_not_found(deleted: Result<Arc<Value>, ApiError>) -> Result<(), ApiError> {
    match deleted {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

fn is_equal(there: &Value, desired: &Value) -> bool {
    there["subsets"] == desired["subsets"] && there["metadata"]["labels"] == desired["metadata"]["labels"]
}

fn slices_by_label(api: &Api, key: &ObjectKey) -> Result<Vec<Arc<Value>>, ApiError> {
    let labels = format!("{SERVICE_NAME}={}", key.name);
    let options = ListOptions { labels, ..ListOptions::default() };
    Ok(api.list("endpointslices", Some(&key.namespace), &options)?.items)
}

fn endpoints(service: &Value, slices: &[Arc<Value>]) -> Value {
    let family = strs_at(service, "/spec/ipFamilies").first().copied().unwrap_or("IPv4").to_owned();
    // Addresses with the same ports form one subset: ready and not ready ones.
    let mut by_ports: BTreeMap<String, (Value, [BTreeMap<String, Value>; 2])> = BTreeMap::new();
    let mut count = 0;
    for slice in slices.iter().filter(|slice| str_at(slice, "/addressType") == family) {
        let entry = by_ports.entry(slice["ports"].to_string());
        let (_, places) = entry.or_insert_with(|| (ports(slice), Default::default()));
        for endpoint in array_at(slice, "/endpoints")
            .iter()
            .filter(|one| !object::bool_at(one, "/conditions/terminating"))
        {
            let ready = endpoint["conditions"]["ready"] != json!(false);
            for address in strs_at(endpoint, "/addresses") {
                if count >= ADDRESSES_MAX {
                    break;
                }
                count += 1;
                places[usize::from(!ready)].insert(address.to_owned(), endpoint_address(address, endpoint));
            }
        }
    }
    let full = count >= ADDRESSES_MAX;
    let subsets: Vec<Value> = by_ports.into_values().filter_map(subset).collect();
    let mut labels = service["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    labels.insert(MANAGED_BY.to_owned(), json!(MANAGER));
    let mut metadata =
        json!({"name": object::name(service), "namespace": object::namespace(service), "labels": labels});
    if full {
        metadata["annotations"] = json!({OVER_CAPACITY: "truncated"});
    }
    // An empty list is omitted, as in the stored object.
    let mut endpoints = json!({"metadata": metadata});
    if !subsets.is_empty() {
        endpoints["subsets"] = json!(subsets);
    }
    endpoints
}

fn subset((ports, [ready, others]): (Value, [BTreeMap<String, Value>; 2])) -> Option<Value> {
    if ready.is_empty() && others.is_empty() {
        return None;
    }
    let mut subset = json!({});
    for (field, places) in [("addresses", ready), ("notReadyAddresses", others)] {
        if !places.is_empty() {
            subset[field] = places.into_values().collect();
        }
    }
    if ports.as_array().is_some_and(|ports| !ports.is_empty()) {
        subset["ports"] = ports;
    }
    Some(subset)
}

fn endpoint_address(address: &str, endpoint: &Value) -> Value {
    let mut place = json!({"ip": address});
    for field in ["hostname", "nodeName", "targetRef"] {
        if let Some(value) = endpoint.get(field).filter(|value| !value.is_null()) {
            place[field] = value.clone();
        }
    }
    place
}

fn ports(slice: &Value) -> Value {
    let port = |port: &Value| {
        let fields = port.as_object().into_iter().flatten();
        fields
            .filter(|(_, value)| *value != "" && !value.is_null())
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect::<Value>()
    };
    array_at(slice, "/ports").iter().map(port).collect()
}
