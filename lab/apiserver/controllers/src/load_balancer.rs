//! Load balancer addresses of Services from a pool on the cluster's network, one per family. Services
//! with a `loadBalancerClass` are left to other controllers.

use std::collections::HashSet;
use std::net::IpAddr;

use beeline_apiserver_admission::{Api, ListOptions};
use beeline_apiserver_objects::{
    ApiError, ObjectKey, PatchKind,
    object::{self, array_at, str_at, strs_at},
    service::is_load_balancer,
};
use ipnet::IpNet;
use serde_json::{Value, json};

use super::controller::Controller;

pub(super) struct LoadBalancerController {
    pools: Vec<IpNet>,
}

impl LoadBalancerController {
    pub fn new(pools: &[IpNet]) -> Self {
        Self { pools: pools.to_vec() }
    }

    fn allocate(&self, service: &Value, is_ipv6: bool, used: &HashSet<IpAddr>) -> Result<IpAddr, ApiError> {
        let pool = self.pools.iter().find(|pool| pool.addr().is_ipv6() == is_ipv6);
        let family = if is_ipv6 { "IPv6" } else { "IPv4" };
        let none = |why: String| {
            let key = ObjectKey::of(service);
            ApiError::new(
                409,
                "Conflict",
                format!("no {family} load balancer address for service {key}: {why}"),
            )
        };
        let pool = pool.ok_or_else(|| none("no pool is configured for this family".to_owned()))?;
        let free = |address: &IpAddr| pool.contains(address) && !used.contains(address);
        // Prefer the current address, then `spec.loadBalancerIP`.
        let named = str_at(service, "/spec/loadBalancerIP").parse::<IpAddr>().ok();
        let kept =
            addresses(service).into_iter().chain(named).rev().filter(|ip| ip.is_ipv6() == is_ipv6).find(free);
        let next = || pool.hosts().find(|address| free(address));
        kept.or_else(next).ok_or_else(|| none(format!("the pool {pool} is exhausted")))
    }
}

impl Controller for LoadBalancerController {
    fn name(&self) -> &'static str {
        "load-balancer"
    }

    fn watches(&self) -> &'static [&'static str] {
        &["services"]
    }

    fn keys_for_event(&self, _: &Api, _: &str, service: &Value) -> Vec<ObjectKey> {
        vec![ObjectKey::of(service)]
    }

    fn reconcile(&mut self, api: &Api, key: &ObjectKey) -> Result<(), ApiError> {
        let Ok(service) = api.get("services", &key.namespace, &key.name) else { return Ok(()) };
        let has = addresses(&service);
        if object::is_deleting(&service) || (is_load_balancer(&service) && has_other_class(&service)) {
            return Ok(());
        }
        let mut desired: Vec<IpAddr> = Vec::new();
        if is_load_balancer(&service) && !self.pools.is_empty() {
            let used = used(api, key)?;
            for family in strs_at(&service, "/spec/ipFamilies") {
                desired.push(self.allocate(&service, family == "IPv6", &used)?);
            }
        } else if is_load_balancer(&service) {
            return Ok(());
        }
        if has == desired {
            return Ok(());
        }
        let ingress: Vec<Value> = desired.iter().map(|ip| json!({"ip": ip})).collect();
        let balancer = if ingress.is_empty() { Value::Null } else { json!(ingress) };
        let patch = json!({"status": {"loadBalancer": {"ingress": balancer}}});
        api.patch_status("services", &key.namespace, &key.name, &PatchKind::Merge, &patch).map(|_| ())
    }
}

fn has_other_class(service: &Value) -> bool {
    !str_at(service, "/spec/loadBalancerClass").is_empty()
}

fn addresses(service: &Value) -> Vec<IpAddr> {
    let ingress = array_at(service, "/status/loadBalancer/ingress").iter();
    ingress.filter_map(|one| str_at(one, "/ip").parse().ok()).collect()
}

/// Addresses of other services.
fn used(api: &Api, own: &ObjectKey) -> Result<HashSet<IpAddr>, ApiError> {
    let services = api.list("services", None, &ListOptions::default())?.items;
    let others = services.iter().filter(|service| ObjectKey::of(service) != *own);
    Ok(others.flat_map(|service| addresses(service)).collect())
}
