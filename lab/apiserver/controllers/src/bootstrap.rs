//! Objects that are created at start: namespaces, priority classes, roles and the Service
//! `kubernetes`.

use std::net::IpAddr;

use beeline_apiserver_admission::Api;
use beeline_apiserver_objects::ApiError;
use ipnet::IpNet;
use serde_json::{Value, json};

use super::config::ClusterConfig;

const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];

/// Priority classes of every cluster.
const PRIORITIES: &[(&str, i64, &str)] = &[
    ("system-cluster-critical", 2_000_000_000, "For pods that a cluster needs, on whatever node."),
    ("system-node-critical", 2_000_001_000, "For pods that a node needs."),
];

/// A bootstrap object was refused.
#[derive(Debug, thiserror::Error)]
#[error("cannot create {what}: {cause}")]
pub struct BootstrapError {
    /// The object.
    pub what: String,
    /// The error.
    pub cause: ApiError,
}

/// Creates the objects that exist from the start.
pub fn bootstrap(api: &Api, config: &ClusterConfig) -> Result<(), BootstrapError> {
    let create = |kind: &str, object: Value| match api.create(kind, object) {
        Err(cause) => Err(BootstrapError { what: format!("the bootstrap {kind}"), cause }),
        Ok(_) => Ok(()),
    };
    for name in NAMESPACES {
        create(
            "namespaces",
            json!({"metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}}}),
        )?;
    }
    for (kind, object) in super::roles::bootstrap_roles() {
        create(kind, object)?;
    }
    for (name, value, about) in PRIORITIES {
        let object = json!({"metadata": {"name": name}, "value": value, "description": about});
        create("priorityclasses", object)?;
    }
    create("services", kubernetes_service(config))?;
    let Some(port) = config.control_plane_port else { return Ok(()) };
    for (family, name) in [(false, "kubernetes"), (true, "kubernetes-ipv6")] {
        let addresses: Vec<IpAddr> = config
            .control_plane_addresses
            .iter()
            .copied()
            .filter(|address| address.is_ipv6() == family)
            .collect();
        if !addresses.is_empty() {
            create("endpointslices", kubernetes_slice(name, &addresses, port))?;
        }
    }
    Ok(())
}

/// As in Kubernetes, it has the first address of each range of cluster IPs.
fn kubernetes_service(config: &ClusterConfig) -> Value {
    let addresses: Vec<IpAddr> = first_addresses(&config.service_cidrs).collect();
    json!({
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "clusterIP": addresses.first(), "clusterIPs": addresses,
            "ipFamilyPolicy": "PreferDualStack",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443}],
        },
    })
}

/// The first address of each range, after the network's own.
pub fn first_addresses(ranges: &[IpNet]) -> impl Iterator<Item = IpAddr> {
    ranges.iter().map(|range| match range.network() {
        IpAddr::V4(network) => IpAddr::V4((u32::from(network) + 1).into()),
        IpAddr::V6(network) => IpAddr::V6((u128::from(network) + 1).into()),
    })
}

fn kubernetes_slice(name: &str, addresses: &[IpAddr], port: u16) -> Value {
    let family = if addresses.iter().all(IpAddr::is_ipv6) { "IPv6" } else { "IPv4" };
    let endpoints =
        addresses.iter().map(|address| json!({"addresses": [address], "conditions": {"ready": true}}));
    json!({
        "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": family,
        "endpoints": endpoints.collect::<Vec<_>>(),
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    })
}

/// Creates the object unless it exists.
pub(super) fn ensure(api: &Api, kind: &str, object: Value) -> Result<(), ApiError> {
    match api.create(kind, object) {
        Err(error) if error.reason == "AlreadyExists" => Ok(()),
        other => other.map(|_| ()),
    }
}
