//! Addresses for Services of type LoadBalancer, where nobody else gives them: from a pool on the
//! cluster's own network, one per family. Services with a `loadBalancerClass` are somebody else's.

use std::collections::HashSet;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::Controller;
use crate::api::ListOptions;
use crate::object::{self, ObjectKey, items, strings, text};
use crate::service::is_load_balancer;
use crate::{Api, ApiError, PatchKind};

pub(super) struct LoadBalancerController {
    pools: Vec<IpNet>,
}

impl LoadBalancerController {
    pub fn new(pools: &[IpNet]) -> Self {
        Self { pools: pools.to_vec() }
    }

    fn address(&self, service: &Value, is_ipv6: bool, taken: &HashSet<IpAddr>) -> Result<IpAddr, ApiError> {
        let pool = self.pools.iter().find(|pool| pool.addr().is_ipv6() == is_ipv6);
        let family = if is_ipv6 { "IPv6" } else { "IPv4" };
        let none = |why: String| {
            let key = ObjectKey::of(service);
            ApiError::new(
                409,
                "Conflict",
                format!("service {key} gets no {family} address of a load balancer: {why}"),
            )
        };
        let pool = pool.ok_or_else(|| none("there is no pool of that family".to_owned()))?;
        let free = |address: &IpAddr| pool.contains(address) && !taken.contains(address);
        // The one that it has stays, and the one that its author names is given.
        let named = text(service, "/spec/loadBalancerIP").parse::<IpAddr>().ok();
        let kept =
            addresses(service).into_iter().chain(named).rev().filter(|ip| ip.is_ipv6() == is_ipv6).find(free);
        let next = || pool.hosts().find(|address| free(address));
        kept.or_else(next).ok_or_else(|| none(format!("the pool {pool} is used up")))
    }
}

impl Controller for LoadBalancerController {
    fn name(&self) -> &'static str {
        "load-balancer"
    }

    fn watches(&self) -> &'static [&'static str] {
        &["services"]
    }

    fn mark(&self, _: &Api, _: &str, service: &Value) -> Vec<ObjectKey> {
        vec![ObjectKey::of(service)]
    }

    fn reconcile(&mut self, api: &Api, key: &ObjectKey) -> Result<(), ApiError> {
        let Ok(service) = api.get("services", &key.namespace, &key.name) else { return Ok(()) };
        let has = addresses(&service);
        if object::is_deleting(&service) || (is_load_balancer(&service) && is_others(&service)) {
            return Ok(());
        }
        let mut wanted: Vec<IpAddr> = Vec::new();
        if is_load_balancer(&service) && !self.pools.is_empty() {
            let taken = taken(api, key)?;
            for family in strings(&service, "/spec/ipFamilies") {
                wanted.push(self.address(&service, family == "IPv6", &taken)?);
            }
        } else if is_load_balancer(&service) {
            return Ok(());
        }
        if has == wanted {
            return Ok(());
        }
        let ingress: Vec<Value> = wanted.iter().map(|ip| json!({"ip": ip})).collect();
        let balancer = if ingress.is_empty() { Value::Null } else { json!(ingress) };
        let patch = json!({"status": {"loadBalancer": {"ingress": balancer}}});
        api.patch_status("services", &key.namespace, &key.name, &PatchKind::Merge, &patch).map(|_| ())
    }
}

fn is_others(service: &Value) -> bool {
    !text(service, "/spec/loadBalancerClass").is_empty()
}

fn addresses(service: &Value) -> Vec<IpAddr> {
    let ingress = items(service, "/status/loadBalancer/ingress").iter();
    ingress.filter_map(|one| text(one, "/ip").parse().ok()).collect()
}

/// What other services have.
fn taken(api: &Api, own: &ObjectKey) -> Result<HashSet<IpAddr>, ApiError> {
    let services = api.list("services", None, &ListOptions::default())?.items;
    let others = services.iter().filter(|service| ObjectKey::of(service) != *own);
    Ok(others.flat_map(|service| addresses(service)).collect())
}
