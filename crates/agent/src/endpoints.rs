//! The node's attachments and their addresses. No I/O: the caller writes
//! [`Endpoints::to_state`] to disk before it responds.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use anyhow::Context;
use beeline_abi::Mac;
use beeline_abi::endpoint::EndpointValue;
use beeline_api::{ApiError, Attachment, EndpointStatus, ErrorKind};
use beeline_ipam::{AllocateError, COOLDOWN_MS_DEFAULT, Ipam, Moment, Owner};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// One attachment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Container and interface.
    pub attachment: Attachment,
    /// Namespace, name and uid of the pod; empty if the runtime did not send
    /// them.
    pub pod: PodReference,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Node-local id, never reused.
    pub id: u32,
    /// MTU of the interface and its routes, in bytes.
    pub mtu: u32,
    /// Set by Commit.
    pub link: Option<Link>,
}

/// The pod that an attachment belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "as Kubernetes names them")]
pub struct PodReference {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// Path of the network namespace.
    pub netns: String,
}

/// The interface of a committed attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Interface index of the host side of the veth.
    pub host_ifindex: u32,
    /// MAC of the pod's side.
    pub pod_mac: [u8; 6],
    /// Cookie of the pod's network namespace.
    pub netns_cookie: u64,
}

impl Endpoint {
    /// Name of the host side of the veth.
    pub fn host_interface(&self) -> String {
        match self.attachment.interface.is_empty() {
            true => self.attachment.container_id.clone(),
            false => self.attachment.host_interface(),
        }
    }

    /// The entry of the endpoint table. `None` before Commit.
    pub fn value(&self) -> Option<EndpointValue> {
        let link = self.link?;
        Some(EndpointValue {
            ifindex: link.host_ifindex,
            netns_cookie: link.netns_cookie,
            pod_mac: Mac(link.pod_mac),
            mtu: u16::try_from(self.mtu).unwrap_or(u16::MAX),
            id: self.id,
            ..EndpointValue::default()
        })
    }

    /// The representation in the API.
    pub fn status(&self) -> EndpointStatus {
        EndpointStatus {
            attachment: self.attachment.clone(),
            pod_namespace: self.pod.namespace.clone(),
            pod_name: self.pod.name.clone(),
            addresses: self.addresses.clone(),
            host_interface: self.host_interface(),
            ifindex: self.link.map_or(0, |link| link.host_ifindex),
        }
    }
}

/// The state as written to disk.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    addresses: serde_json::Value,
    endpoints: Vec<Endpoint>,
    next_id: u32,
}

/// All attachments of the node.
#[derive(Clone, Debug)]
pub struct Endpoints {
    ipam: Ipam,
    by_attachment: BTreeMap<Attachment, Endpoint>,
    /// Committed attachments by the interface index of the host side of their
    /// veth. Looked up for every netlink notification.
    by_device: HashMap<u32, Attachment>,
    next_id: u32,
}

impl Endpoints {
    /// Loads the state from disk; empty if there is none.
    pub fn load(state: Option<State>) -> anyhow::Result<Endpoints> {
        let Some(state) = state else {
            let ipam = Ipam::new(COOLDOWN_MS_DEFAULT);
            let (by_attachment, by_device) = (BTreeMap::new(), HashMap::new());
            return Ok(Endpoints { ipam, by_attachment, by_device, next_id: 1 });
        };
        let ipam = Ipam::from_json(&state.addresses.to_string(), COOLDOWN_MS_DEFAULT)
            .context("cannot decode the pod addresses of this node")?;
        let known = |endpoint: &Endpoint| ipam.addresses(&owner(&endpoint.attachment)).is_some();
        let endpoints: Vec<Endpoint> = state.endpoints.into_iter().filter(known).collect();
        let device = |endpoint: &Endpoint| Some((endpoint.link?.host_ifindex, endpoint.attachment.clone()));
        let by_device = endpoints.iter().filter_map(device).collect();
        let by_attachment =
            endpoints.into_iter().map(|endpoint| (endpoint.attachment.clone(), endpoint)).collect();
        Ok(Endpoints { ipam, by_attachment, by_device, next_id: state.next_id })
    }

    /// The state to write to disk.
    pub fn to_state(&self) -> State {
        State {
            addresses: serde_json::from_str(&self.ipam.to_json()).expect("the address state is JSON"),
            endpoints: self.by_attachment.values().cloned().collect(),
            next_id: self.next_id,
        }
    }

    /// Sets the node's pod CIDRs; returns a message for each unusable one.
    pub fn set_pools(&mut self, cidrs: &[IpNet]) -> Vec<String> {
        self.ipam.set_pools(cidrs)
    }

    /// The pod CIDRs in use.
    pub fn pools(&self) -> Vec<IpNet> {
        self.ipam.pools().collect()
    }

    /// Allocates addresses. Idempotent per attachment.
    pub fn allocate(
        &mut self,
        attachment: &Attachment,
        pod: PodReference,
        mtu: u32,
        now: Moment,
    ) -> Result<Endpoint, ApiError> {
        if let Some(endpoint) = self.by_attachment.get(attachment) {
            return Ok(endpoint.clone());
        }
        let addresses = self.ipam.allocate(&owner(attachment), now).map_err(|error| ApiError {
            kind: match error {
                AllocateError::NoPool { .. } => ErrorKind::TryAgain,
                AllocateError::Exhausted { .. } => ErrorKind::Exhausted,
            },
            message: error.to_string(),
        })?;
        let endpoint =
            Endpoint { attachment: attachment.clone(), pod, addresses, id: self.next_id, mtu, link: None };
        self.next_id += 1;
        self.by_attachment.insert(attachment.clone(), endpoint.clone());
        Ok(endpoint)
    }

    /// Records the interface of an allocated attachment.
    pub fn commit(&mut self, attachment: &Attachment, link: Link) -> Result<Endpoint, ApiError> {
        let key = self.key(attachment)?;
        let endpoint = self.by_attachment.get_mut(&key).ok_or_else(|| unknown(attachment))?;
        let before = endpoint.link.replace(link);
        let endpoint = endpoint.clone();
        self.forget_device(before, &key);
        self.by_device.insert(link.host_ifindex, key);
        Ok(endpoint)
    }

    /// Records that the interface of the attachment was removed.
    pub fn unlink(&mut self, attachment: &Attachment) {
        if let Some(endpoint) = self.by_attachment.get_mut(attachment) {
            let before = endpoint.link.take();
            self.forget_device(before, attachment);
        }
    }

    /// The committed attachment with this host interface index.
    pub fn on_device(&self, ifindex: u32) -> Option<&Endpoint> {
        self.by_attachment.get(self.by_device.get(&ifindex)?)
    }

    /// The index may already belong to the device of another attachment.
    fn forget_device(&mut self, link: Option<Link>, of: &Attachment) {
        if let Some(link) = link
            && self.by_device.get(&link.host_ifindex) == Some(of)
        {
            self.by_device.remove(&link.host_ifindex);
        }
    }

    /// Recovers attachments from the endpoint table if the state on disk is
    /// unusable. A recovered attachment is identified by the name of its host
    /// device (in `container_id`, with an empty `interface`) until CNI DEL.
    pub fn recover(&mut self, entries: &[(IpAddr, EndpointValue)], device: impl Fn(u32) -> Option<String>) {
        let mut by_device: BTreeMap<String, Vec<&(IpAddr, EndpointValue)>> = BTreeMap::new();
        for entry in entries {
            if let Some(name) = device(entry.1.ifindex) {
                by_device.entry(name).or_default().push(entry);
            }
        }
        for (name, entries) in by_device {
            let attachment = Attachment { container_id: name, interface: String::new() };
            let addresses: Vec<IpAddr> = entries.iter().map(|(ip, _)| *ip).collect();
            if self.ipam.adopt(&owner(&attachment), &addresses) {
                let endpoint = recovered(attachment.clone(), addresses, &entries[0].1);
                self.next_id = self.next_id.max(endpoint.id + 1);
                self.by_device.insert(entries[0].1.ifindex, attachment.clone());
                self.by_attachment.insert(attachment, endpoint);
            }
        }
    }

    /// Removes the attachment and releases its addresses.
    pub fn release(&mut self, attachment: &Attachment, now: Moment) -> Option<Endpoint> {
        let key = self.key(attachment).ok()?;
        self.ipam.release(&owner(&key), now);
        let released = self.by_attachment.remove(&key);
        self.forget_device(released.as_ref().and_then(|endpoint| endpoint.link), &key);
        released
    }

    /// One attachment.
    pub fn get(&self, attachment: &Attachment) -> Result<&Endpoint, ApiError> {
        self.by_attachment.get(&self.key(attachment)?).ok_or_else(|| unknown(attachment))
    }

    /// The key of the attachment: the attachment itself, or the device name if
    /// it was recovered.
    fn key(&self, attachment: &Attachment) -> Result<Attachment, ApiError> {
        let by_device = Attachment { container_id: attachment.host_interface(), interface: String::new() };
        let known = [attachment, &by_device].into_iter().find(|key| self.by_attachment.contains_key(key));
        known.cloned().ok_or_else(|| unknown(attachment))
    }

    /// Every attachment.
    pub fn iter(&self) -> impl Iterator<Item = &Endpoint> {
        self.by_attachment.values()
    }

    /// All attachments that are not in `valid`.
    pub fn except(&self, valid: &[Attachment]) -> Vec<Attachment> {
        let valid: BTreeSet<Attachment> = valid
            .iter()
            .map(|attachment| self.key(attachment).unwrap_or_else(|_| attachment.clone()))
            .collect();
        self.by_attachment.keys().filter(|attachment| !valid.contains(attachment)).cloned().collect()
    }
}

fn owner(attachment: &Attachment) -> Owner {
    Owner::new(&attachment.container_id, &attachment.interface)
}

fn recovered(attachment: Attachment, addresses: Vec<IpAddr>, value: &EndpointValue) -> Endpoint {
    Endpoint {
        attachment,
        pod: PodReference::default(),
        addresses,
        id: value.id,
        mtu: value.mtu.into(),
        link: Some(Link {
            host_ifindex: value.ifindex,
            pod_mac: value.pod_mac.0,
            netns_cookie: value.netns_cookie,
        }),
    }
}

fn unknown(attachment: &Attachment) -> ApiError {
    let message = format!(
        "interface {} of container {} is unknown to the agent; it was never added, or was deleted",
        attachment.interface, attachment.container_id
    );
    ApiError { kind: ErrorKind::Unknown, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment(id: u32) -> Attachment {
        Attachment { container_id: format!("c{id}"), interface: "eth0".into() }
    }

    fn with_pools() -> Endpoints {
        let mut endpoints = Endpoints::load(None).unwrap();
        let pools = ["10.244.1.0/29".parse().unwrap(), "fd00:10:244:1::/64".parse().unwrap()];
        assert!(endpoints.set_pools(&pools).is_empty());
        endpoints
    }

    fn allocate(endpoints: &mut Endpoints, id: u32) -> Result<Endpoint, ApiError> {
        endpoints.allocate(&attachment(id), PodReference::default(), 1500, Moment(0))
    }

    const LINK: Link = Link { host_ifindex: 7, pod_mac: [2, 0, 0, 0, 0, 1], netns_cookie: 9 };

    #[test]
    fn unit_an_attachment_survives_a_restart() {
        let mut endpoints = with_pools();
        let first = allocate(&mut endpoints, 1).unwrap();
        assert_eq!(first.addresses.len(), 2);
        assert_eq!(first.value(), None);
        assert_eq!(endpoints.commit(&attachment(1), LINK).unwrap().value().unwrap().ifindex, 7);
        let text = serde_json::to_string(&endpoints.to_state()).unwrap();
        let mut again = Endpoints::load(serde_json::from_str(&text).unwrap()).unwrap();
        assert_eq!(again.get(&attachment(1)).unwrap().link, Some(LINK));
        assert_eq!(allocate(&mut again, 1).unwrap().addresses, first.addresses);
        assert_ne!(allocate(&mut again, 2).unwrap().id, first.id);
        assert!(again.release(&attachment(1), Moment(0)).is_some());
        assert!(again.release(&attachment(1), Moment(0)).is_none());
    }

    #[test]
    fn unit_a_device_maps_to_its_pod_while_it_belongs_to_it() {
        let mut endpoints = with_pools();
        for id in 1..3 {
            allocate(&mut endpoints, id).unwrap();
        }
        let on = |endpoints: &Endpoints, index| {
            endpoints.on_device(index).map(|endpoint| endpoint.attachment.container_id.clone())
        };
        assert_eq!(on(&endpoints, 7), None, "nothing is committed");
        endpoints.commit(&attachment(1), LINK).unwrap();
        let text = serde_json::to_string(&endpoints.to_state()).unwrap();
        let again = Endpoints::load(serde_json::from_str(&text).unwrap()).unwrap();
        assert_eq!(on(&again, 7), Some("c1".into()), "a restart knows it");
        // The first attachment moves to another device, the second gets its
        // index.
        endpoints.commit(&attachment(1), Link { host_ifindex: 8, ..LINK }).unwrap();
        endpoints.commit(&attachment(2), LINK).unwrap();
        assert_eq!((on(&endpoints, 8), on(&endpoints, 7)), (Some("c1".into()), Some("c2".into())));
        endpoints.unlink(&attachment(2));
        endpoints.release(&attachment(1), Moment(0));
        assert_eq!((on(&endpoints, 8), on(&endpoints, 7)), (None, None));
    }

    #[test]
    fn unit_no_pool_is_try_again_and_a_full_one_is_exhausted() {
        let mut none = Endpoints::load(None).unwrap();
        assert_eq!(allocate(&mut none, 1).unwrap_err().kind, ErrorKind::TryAgain);
        let mut full = with_pools();
        let refusal = (1..20).find_map(|id| allocate(&mut full, id).err()).unwrap();
        assert_eq!(refusal.kind, ErrorKind::Exhausted);
        assert!(refusal.message.contains("10.244.1.0/29"), "{refusal}");
    }

    #[test]
    fn unit_a_lost_state_is_recovered_from_the_endpoint_table_until_del() {
        let mut lost = with_pools();
        let endpoint = allocate(&mut lost, 1).unwrap();
        let value = lost.commit(&attachment(1), LINK).unwrap().value().unwrap();
        let entries: Vec<_> = endpoint.addresses.iter().map(|ip| (*ip, value)).collect();
        let stray = ("10.244.1.6".parse().unwrap(), EndpointValue { ifindex: 99, ..value });
        let device = |ifindex| (ifindex == LINK.host_ifindex).then(|| attachment(1).host_interface());

        let mut endpoints = with_pools();
        endpoints.recover(&[entries, vec![stray]].concat(), device);
        assert_eq!(endpoints.iter().count(), 1, "an entry without a device is no pod");
        let known = endpoints.get(&attachment(1)).unwrap();
        assert_eq!((known.value(), known.host_interface()), (Some(value), attachment(1).host_interface()));
        assert!(endpoints.except(&[attachment(1)]).is_empty());
        let other = allocate(&mut endpoints, 2).unwrap();
        assert!(other.id > value.id && other.addresses.iter().all(|ip| !endpoint.addresses.contains(ip)));
        let text = serde_json::to_string(&endpoints.to_state()).unwrap();
        let mut again = Endpoints::load(serde_json::from_str(&text).unwrap()).unwrap();
        assert_eq!(again.release(&attachment(1), Moment(0)).unwrap().addresses, endpoint.addresses);
        assert!(again.get(&attachment(1)).is_err());
    }

    #[test]
    fn unit_commit_of_an_unknown_attachment_is_refused_and_gc_finds_the_rest() {
        let mut endpoints = with_pools();
        assert_eq!(endpoints.commit(&attachment(1), LINK).unwrap_err().kind, ErrorKind::Unknown);
        for id in 1..4 {
            allocate(&mut endpoints, id).unwrap();
        }
        assert_eq!(endpoints.except(&[attachment(2)]), [attachment(1), attachment(3)]);
    }
}
