//! The cluster state from which DNS queries are answered. An update costs time
//! proportional to the change.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint as ApiEndpoint, EndpointSlice};
use kube::ResourceExt;

/// Label of an EndpointSlice that names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Namespace and name.
pub type Key = (String, String);

/// All known objects.
#[derive(Debug, Default)]
pub struct Facts {
    namespaces: BTreeSet<String>,
    services: HashMap<Key, ServiceFacts>,
    slices: HashMap<Key, SliceFacts>,
    /// EndpointSlices by Service.
    slices_of: HashMap<Key, BTreeSet<Key>>,
    /// Services by cluster IP.
    by_cluster_ip: HashMap<IpAddr, Key>,
    /// EndpointSlices by endpoint address.
    by_endpoint_ip: HashMap<IpAddr, BTreeSet<Key>>,
}

/// A Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceFacts {
    /// Its cluster IPs; empty if it is headless.
    pub cluster_ips: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<PortFacts>,
    /// `externalName`.
    pub external_name: Option<String>,
    /// `publishNotReadyAddresses`.
    pub tells_not_ready: bool,
}

/// A port of a Service or of its endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortFacts {
    /// Its name, which may be empty.
    pub name: String,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// Its number.
    pub number: u16,
}

/// An EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SliceFacts {
    service: Key,
    endpoints: Vec<EndpointFacts>,
    ports: Vec<PortFacts>,
}

/// An endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointFacts {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its hostname, if it has one.
    pub hostname: Option<String>,
    /// Ready condition.
    pub ready: bool,
}

impl ServiceFacts {
    /// Whether it has no cluster IP.
    pub fn is_headless(&self) -> bool {
        self.cluster_ips.is_empty() && self.external_name.is_none()
    }
}

impl EndpointFacts {
    /// The name of an address: its hostname, or one derived from the address.
    pub fn name_of(&self, address: &IpAddr) -> String {
        let made = || address.to_string().replace(['.', ':'], "-");
        self.hostname.clone().unwrap_or_else(made)
    }
}

impl Facts {
    /// Adds a namespace.
    pub fn apply_namespace(&mut self, name: &str) {
        self.namespaces.insert(name.to_owned());
    }

    /// Removes a namespace.
    pub fn delete_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
    }

    /// Adds or updates a Service.
    pub fn apply_service(&mut self, object: &Service) {
        let key = key_of(object);
        self.delete_service(&key);
        let facts = service(object);
        for address in &facts.cluster_ips {
            self.by_cluster_ip.insert(*address, key.clone());
        }
        self.services.insert(key, facts);
    }

    /// Removes a Service.
    pub fn delete_service(&mut self, key: &Key) {
        for address in self.services.remove(key).into_iter().flat_map(|facts| facts.cluster_ips) {
            if self.by_cluster_ip.get(&address) == Some(key) {
                self.by_cluster_ip.remove(&address);
            }
        }
    }

    /// Adds or updates an EndpointSlice.
    pub fn apply_slice(&mut self, object: &EndpointSlice) {
        let key = key_of(object);
        self.delete_slice(&key);
        let Some(facts) = slice(object) else { return };
        for address in facts.endpoints.iter().flat_map(|endpoint| &endpoint.addresses) {
            self.by_endpoint_ip.entry(*address).or_default().insert(key.clone());
        }
        self.slices_of.entry(facts.service.clone()).or_default().insert(key.clone());
        self.slices.insert(key, facts);
    }

    /// Removes an EndpointSlice.
    pub fn delete_slice(&mut self, key: &Key) {
        let Some(facts) = self.slices.remove(key) else { return };
        forget(&mut self.slices_of, &facts.service, key);
        for address in facts.endpoints.iter().flat_map(|endpoint| &endpoint.addresses) {
            forget(&mut self.by_endpoint_ip, address, key);
        }
    }

    /// Whether this namespace exists.
    pub fn has_namespace(&self, name: &str) -> bool {
        self.namespaces.contains(name)
    }

    /// The Service with this name.
    pub fn service(&self, key: &Key) -> Option<&ServiceFacts> {
        self.services.get(key)
    }

    /// The Service with this cluster IP.
    pub fn service_at(&self, address: &IpAddr) -> Option<&Key> {
        self.by_cluster_ip.get(address)
    }

    /// The published endpoints of a Service, each with the ports of its slice.
    pub fn endpoints(&self, key: &Key) -> impl Iterator<Item = (&EndpointFacts, &[PortFacts])> {
        let not_ready_too = self.services.get(key).is_some_and(|service| service.tells_not_ready);
        let slices = self.slices_of.get(key).into_iter().flatten();
        let slices = slices.filter_map(|slice| self.slices.get(slice));
        let all = slices.flat_map(|slice| slice.endpoints.iter().map(|one| (one, slice.ports.as_slice())));
        all.filter(move |(endpoint, _)| endpoint.ready || not_ready_too)
    }

    /// The headless Services with an endpoint at this address, with its names
    /// there.
    pub fn names_at(&self, address: &IpAddr) -> BTreeSet<(String, &Key)> {
        let slices = self.by_endpoint_ip.get(address).into_iter().flatten();
        let services: BTreeSet<&Key> =
            slices.filter_map(|slice| self.slices.get(slice)).map(|slice| &slice.service).collect();
        let headless =
            services.into_iter().filter(|key| self.services.get(*key).is_some_and(ServiceFacts::is_headless));
        let names = headless.flat_map(|key| {
            let here = self.endpoints(key).filter(|(endpoint, _)| endpoint.addresses.contains(address));
            here.map(move |(endpoint, _)| (endpoint.name_of(address), key))
        });
        names.collect()
    }
}

/// Namespace and name of an object.
pub fn key_of<K: ResourceExt>(object: &K) -> Key {
    (object.namespace().unwrap_or_default(), object.name_any())
}

/// Removes a key from the set of `of`; drops the set when it is empty.
fn forget<K: std::hash::Hash + Eq>(sets: &mut HashMap<K, BTreeSet<Key>>, of: &K, key: &Key) {
    if let Some(set) = sets.get_mut(of) {
        set.remove(key);
        if set.is_empty() {
            sets.remove(of);
        }
    }
}

fn service(object: &Service) -> ServiceFacts {
    let spec = object.spec.clone().unwrap_or_default();
    let single = spec.cluster_ip.into_iter().filter(|_| spec.cluster_ips.is_none());
    let addresses = spec.cluster_ips.iter().flatten().cloned().chain(single);
    let ports = spec.ports.iter().flatten();
    let is_external = spec.type_.as_deref() == Some("ExternalName");
    ServiceFacts {
        // "None" is not an address.
        cluster_ips: addresses.filter_map(|text| text.parse().ok()).collect(),
        ports: ports.filter_map(|one| port(&one.name, &one.protocol, Some(one.port))).collect(),
        external_name: spec.external_name.filter(|_| is_external),
        tells_not_ready: spec.publish_not_ready_addresses == Some(true),
    }
}

/// None for a slice without a Service.
fn slice(object: &EndpointSlice) -> Option<SliceFacts> {
    let name = object.labels().get(SERVICE_NAME)?.clone();
    let ports = object.ports.iter().flatten();
    Some(SliceFacts {
        service: (object.namespace().unwrap_or_default(), name),
        endpoints: object.endpoints.iter().flatten().map(endpoint).collect(),
        ports: ports.filter_map(|one| port(&one.name, &one.protocol, one.port)).collect(),
    })
}

fn endpoint(object: &ApiEndpoint) -> EndpointFacts {
    EndpointFacts {
        addresses: object.addresses.iter().filter_map(|text| text.parse().ok()).collect(),
        hostname: object.hostname.clone().filter(|name| !name.is_empty()),
        // `ready` defaults to true.
        ready: object.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true),
    }
}

fn port(name: &Option<String>, protocol: &Option<String>, number: Option<i32>) -> Option<PortFacts> {
    Some(PortFacts {
        name: name.clone().unwrap_or_default(),
        protocol: protocol.as_deref().unwrap_or("TCP").to_ascii_lowercase(),
        number: number?.try_into().ok()?,
    })
}
