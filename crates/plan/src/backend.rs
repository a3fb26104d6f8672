//! Backends, shared between Services. A backend keeps its id as long as a slot
//! or an owner refers to it.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering as Memory};

use beeline_abi::service::{BackendValue, SlotValue, backend_state};
use beeline_abi::{Ip, Port};
use beeline_sync::{Contents, Delta};

use crate::ids::Ids;
use crate::maglev_permutation::WeightedBackend;
use crate::node::Nodes;

/// An address and port that packets are sent to. Ordered by node first, so that
/// the backends of a node are adjacent.
#[derive(Debug)]
pub(crate) struct Backend {
    pub(crate) id: u32,
    node: Option<Arc<str>>,
    ip: Ip,
    port: u16,
    proto: u8,
    /// Number of owners that send it new connections.
    active: AtomicU32,
    /// The state that was written last.
    state: AtomicU8,
}

impl Backend {
    fn probe(node: Option<Arc<str>>, ip: Ip, port: u16, proto: u8) -> Backend {
        Backend { id: 0, node, ip, port, proto, active: AtomicU32::new(0), state: AtomicU8::new(0) }
    }

    /// A backend that no owner sends new connections is terminating: its
    /// established connections continue.
    fn state(&self) -> u8 {
        match self.active.load(Memory::Relaxed) {
            0 => backend_state::TERMINATING,
            _ => backend_state::ACTIVE,
        }
    }

    /// Its slot value.
    pub(crate) fn slot(&self) -> SlotValue {
        SlotValue { backend: self.id, ip: self.ip, port: Port::new(self.port), ..SlotValue::default() }
    }

    /// Its identity in Maglev tables, which is the same on every node.
    pub(crate) fn weighted(&self, weight: u16) -> WeightedBackend {
        let mut identity = [0; 19];
        identity[..16].copy_from_slice(&self.ip.octets());
        identity[16..18].copy_from_slice(&self.port.to_be_bytes());
        identity[18] = self.proto;
        WeightedBackend { identity, weight }
    }

    fn key(&self) -> (Option<&str>, Ip, u16, u8) {
        (self.node.as_deref(), self.ip, self.port, self.proto)
    }
}

impl Ord for Backend {
    fn cmp(&self, other: &Backend) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl PartialOrd for Backend {
    fn partial_cmp(&self, other: &Backend) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Backend {
    fn eq(&self, other: &Backend) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Backend {}

#[derive(Debug)]
pub(crate) struct Backends {
    backends: BTreeSet<Arc<Backend>>,
    ids: Ids,
    adopted: HashMap<(Ip, u16, u8), Vec<(u32, u32)>>,
    /// Released since the last [`Backends::write_changes`].
    released: Vec<Arc<Backend>>,
    /// Backends whose state may have changed since the last
    /// [`Backends::write_changes`].
    changed: Vec<Arc<Backend>>,
}

impl Backends {
    pub(crate) fn new() -> Backends {
        Backends {
            backends: BTreeSet::new(),
            ids: Ids::new(1),
            adopted: HashMap::new(),
            released: Vec::new(),
            changed: Vec::new(),
        }
    }

    pub(crate) fn adopt(&mut self, actual: &Contents) {
        self.ids.adopt(actual.backend.keys().copied());
        for (id, value) in &actual.backend {
            let key = (value.ip, value.port.get(), value.proto);
            self.adopted.entry(key).or_default().push((*id, value.node));
        }
    }

    pub(crate) fn finish_adoption(&mut self) {
        self.ids.finish_adoption();
        self.adopted = HashMap::new();
    }

    /// Returns the backend. Allocates and writes it if it is new.
    pub(crate) fn get(
        &mut self,
        ip: Ip,
        port: u16,
        proto: u8,
        node: Option<Arc<str>>,
        nodes: &Nodes,
        delta: &mut Delta,
    ) -> Arc<Backend> {
        let probe = Backend::probe(node, ip, port, proto);
        if let Some(known) = self.backends.get(&probe) {
            return known.clone();
        }
        let value = value_of(&probe, nodes);
        let id = self.adopted_id(&value).unwrap_or_else(|| self.ids.allocate());
        let backend = Arc::new(Backend { id, ..probe });
        self.backends.insert(backend.clone());
        // [`Backends::write_changes`] records its state.
        self.changed.push(backend.clone());
        delta.backend.insert(id, Some(value));
        backend
    }

    /// Adds an owner that lists the backend.
    pub(crate) fn add_user(&mut self, backend: &Arc<Backend>, active: bool) {
        if active {
            backend.active.fetch_add(1, Memory::Relaxed);
            self.changed.push(backend.clone());
        }
    }

    /// Removes an owner that lists the backend.
    pub(crate) fn remove_user(&mut self, backend: Arc<Backend>, active: bool) {
        if active {
            backend.active.fetch_sub(1, Memory::Relaxed);
            self.changed.push(backend.clone());
        }
        self.released.push(backend);
    }

    /// A slot no longer refers to the backend.
    pub(crate) fn release(&mut self, backend: Arc<Backend>) {
        self.released.push(backend);
    }

    /// Writes changed states, and removes released backends that are no longer
    /// referenced.
    pub(crate) fn write_changes(&mut self, nodes: &Nodes, delta: &mut Delta) {
        for backend in std::mem::take(&mut self.changed) {
            if backend.state.swap(backend.state(), Memory::Relaxed) != backend.state() {
                delta.backend.insert(backend.id, Some(value_of(&backend, nodes)));
            }
        }
        while let Some(backend) = self.released.pop() {
            // Two references are left: this one and the set's. If the backend
            // was released twice, the second release removes it.
            if Arc::strong_count(&backend) == 2 {
                self.backends.remove(&backend);
                self.ids.free(backend.id);
                delta.backend.insert(backend.id, None);
            }
        }
        self.released.shrink_to(1024);
    }

    /// The id or zone of `node` changed: rewrites its backends.
    pub(crate) fn renumber(&self, node: &str, nodes: &Nodes, delta: &mut Delta) {
        let first = Backend::probe(Some(node.into()), Ip::UNSPECIFIED, 0, 0);
        let of_node = self.backends.range(Arc::new(first)..);
        for backend in of_node.take_while(|backend| backend.node.as_deref() == Some(node)) {
            delta.backend.insert(backend.id, Some(value_of(backend, nodes)));
        }
    }

    fn adopted_id(&mut self, value: &BackendValue) -> Option<u32> {
        let ids = self.adopted.get_mut(&(value.ip, value.port.get(), value.proto))?;
        let same_node = ids.iter().position(|(_, node)| *node == value.node).unwrap_or(0);
        let (id, _) = (!ids.is_empty()).then(|| ids.swap_remove(same_node))?;
        self.ids.take_adopted(id).then_some(id)
    }
}

fn value_of(backend: &Backend, nodes: &Nodes) -> BackendValue {
    BackendValue {
        ip: backend.ip,
        port: Port::new(backend.port),
        proto: backend.proto,
        state: backend.state(),
        node: backend.node.as_deref().map_or(0, |name| nodes.id_of(name)),
        zone: backend.node.as_deref().map_or(0, |name| nodes.zone_number(name)),
        weight: 1,
        flags: 0,
    }
}
