//! Addresses of frontends, and the class of each.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use beeline_abi::Ip;
use beeline_abi::service::{
    CLASS_FIRST_EXACT, CLASS_NODE, CLASS_NODE_IPV6, ServiceAddressValue, address_flags,
};
use beeline_sync::{Contents, Delta};

use crate::ids::Ids;

#[derive(Debug, Default)]
struct AddressState {
    /// Class of this address alone; 0 = none.
    class: u32,
    /// Number of Services with a frontend at it.
    services: u32,
    /// Number of pods with a hostPort at it.
    pods: u32,
    /// An address of a node.
    is_node: bool,
    /// NodePorts are served there.
    has_node_ports: bool,
}

impl AddressState {
    fn is_used(&self) -> bool {
        self.services + self.pods > 0
    }

    fn value(&self, ip: Ip) -> Option<ServiceAddressValue> {
        let node = if ip.is_v4() { CLASS_NODE } else { CLASS_NODE_IPV6 };
        match (self.is_used(), self.is_node) {
            (false, _) => self.has_node_ports.then_some(ServiceAddressValue { class: node, flags: 0 }),
            (true, true) => {
                let flags = if self.has_node_ports { address_flags::ALSO_NODE } else { 0 };
                Some(ServiceAddressValue { class: self.class, flags })
            }
            (true, false) => {
                let flags = if self.services > 0 { address_flags::EXCLUSIVE } else { 0 };
                Some(ServiceAddressValue { class: self.class, flags })
            }
        }
    }
}

#[derive(Debug)]
pub(crate) struct ServiceAddresses {
    addresses: BTreeMap<Ip, AddressState>,
    classes: Ids,
    adopted: HashMap<Ip, u32>,
    dirty: BTreeSet<Ip>,
}

impl ServiceAddresses {
    pub(crate) fn new() -> ServiceAddresses {
        ServiceAddresses {
            addresses: BTreeMap::new(),
            classes: Ids::new(CLASS_FIRST_EXACT),
            adopted: HashMap::new(),
            dirty: BTreeSet::new(),
        }
    }

    pub(crate) fn adopt(&mut self, actual: &Contents) {
        let classes = actual.service_address.values().map(|value| value.class);
        self.classes.adopt(classes.chain(actual.frontend.keys().map(|key| key.class)));
        self.adopted = actual.service_address.iter().map(|(ip, value)| (*ip, value.class)).collect();
    }

    pub(crate) fn finish_adoption(&mut self) {
        self.classes.finish_adoption();
        self.adopted = HashMap::new();
    }

    /// The address became, or is no longer, a node address.
    pub(crate) fn set_node(&mut self, ip: Ip, is_node: bool, has_node_ports: bool) {
        let address = self.addresses.entry(ip).or_default();
        (address.is_node, address.has_node_ports) = (is_node, has_node_ports);
        self.dirty.insert(ip);
    }

    /// Adds a user of the address. Returns its class.
    pub(crate) fn acquire(&mut self, ip: Ip, is_service: bool) -> u32 {
        self.dirty.insert(ip);
        let address = self.addresses.entry(ip).or_default();
        *(if is_service { &mut address.services } else { &mut address.pods }) += 1;
        if address.class == 0 {
            address.class = match self.adopted.get(&ip) {
                Some(class) if self.classes.take_adopted(*class) => *class,
                _ => self.classes.allocate(),
            };
        }
        address.class
    }

    /// Removes a user of the address.
    pub(crate) fn release(&mut self, ip: Ip, is_service: bool) {
        self.dirty.insert(ip);
        if let Some(address) = self.addresses.get_mut(&ip) {
            *(if is_service { &mut address.services } else { &mut address.pods }) -= 1;
        }
    }

    /// Writes changed addresses. An address that moves from one owner to
    /// another within one drain keeps its class.
    pub(crate) fn write_changes(&mut self, delta: &mut Delta) {
        for ip in std::mem::take(&mut self.dirty) {
            let Some(address) = self.addresses.get_mut(&ip) else { continue };
            if !address.is_used() && address.class != 0 {
                self.classes.free(std::mem::take(&mut address.class));
            }
            delta.service_address.insert(ip, address.value(ip));
            if !address.is_used() && !address.is_node {
                self.addresses.remove(&ip);
            }
        }
    }
}
