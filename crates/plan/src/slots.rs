//! Updates the slots of a service to its selected backends.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use beeline_abi::service::{SLOT_BY_BACKEND, SlotKey, SlotValue, slot_flags};
use beeline_sync::Delta;

use crate::backend::{Backend, Backends};

/// From this many slots on, a single added, removed or replaced backend is
/// changed in place. With fewer slots a new generation costs as little.
const IN_PLACE_MIN: usize = 8;

/// The current slots of one service id.
#[derive(Debug)]
pub(crate) struct Slots {
    pub(crate) service: u32,
    pub(crate) generation: u32,
    slots: Vec<Arc<Backend>>,
    /// Backend ids of adopted slots, in order.
    adopted: Option<Box<[u32]>>,
    /// Each backend also has a slot that is looked up by backend id.
    indexed_by_backend: bool,
    /// Backends that only have a slot by backend id, with its value.
    quiescing: Box<[SlotValue]>,
}

impl Slots {
    pub(crate) fn new(service: u32) -> Slots {
        Slots {
            service,
            generation: 1,
            slots: Vec::new(),
            adopted: None,
            indexed_by_backend: false,
            quiescing: Box::default(),
        }
    }

    pub(crate) fn adopted(service: u32, generation: u32, backends: Box<[u32]>) -> Slots {
        Slots { generation, adopted: Some(backends), ..Slots::new(service) }
    }

    pub(crate) fn len(&self) -> u32 {
        self.slots.len() as u32
    }

    /// Changes the backends to `desired` (without duplicates). A packet sees
    /// the old or the new backends, never a mix. `quiescing`: these backends,
    /// and the desired ones, also get a slot by backend id; other owners keep
    /// references to them. None: no slots by backend id.
    pub(crate) fn update(
        &mut self,
        desired: Vec<Arc<Backend>>,
        quiescing: Option<Box<[SlotValue]>>,
        backends: &mut Backends,
        delta: &mut Delta,
    ) {
        let before = self.slots_by_backend();
        self.indexed_by_backend = quiescing.is_some();
        self.quiescing = quiescing.unwrap_or_default();
        self.update_slots(desired, backends, delta);
        let after = self.slots_by_backend();
        let gone = before.keys().filter(|id| !after.contains_key(id));
        delta.slot.extend(gone.map(|id| (self.key_by_backend(*id), None)));
        let new = after.iter().filter(|(id, value)| before.get(id) != Some(value));
        delta.slot.extend(new.map(|(id, value)| (self.key_by_backend(*id), Some(*value))));
    }

    fn slots_by_backend(&self) -> BTreeMap<u32, SlotValue> {
        let quiescing =
            self.quiescing.iter().map(|quiescing| SlotValue { flags: slot_flags::QUIESCING, ..*quiescing });
        let slots_by_backend =
            self.slots.iter().filter(|_| self.indexed_by_backend).map(|backend| backend.slot());
        quiescing.chain(slots_by_backend).map(|value| (value.backend, value)).collect()
    }

    fn update_slots(&mut self, desired: Vec<Arc<Backend>>, backends: &mut Backends, delta: &mut Delta) {
        if let Some(ids) = self.adopted.take() {
            return self.start_from_adopted(&ids, desired, delta);
        }
        let desired_ids: HashSet<u32> = desired.iter().map(|backend| backend.id).collect();
        let current_ids: HashSet<u32> = self.slots.iter().map(|backend| backend.id).collect();
        let removed: Vec<usize> =
            (0..self.slots.len()).filter(|at| !desired_ids.contains(&self.slots[*at].id)).collect();
        let mut added = desired.iter().filter(|backend| !current_ids.contains(&backend.id));
        match (removed.as_slice(), added.next(), added.next()) {
            ([], None, _) => {}
            ([], Some(new), None) if self.len() as usize >= IN_PLACE_MIN => {
                self.slots.push(new.clone());
                self.write(self.slots.len() - 1, delta);
            }
            ([at], Some(new), None) if self.len() as usize >= IN_PLACE_MIN => {
                backends.release(std::mem::replace(&mut self.slots[*at], new.clone()));
                self.write(*at, delta);
            }
            ([at], None, _) if self.len() as usize >= IN_PLACE_MIN => {
                backends.release(self.slots.swap_remove(*at));
                if *at < self.slots.len() {
                    self.write(*at, delta);
                }
                delta.slot.insert(self.key(self.slots.len()), None);
            }
            _ => self.replace(desired, backends, delta),
        }
    }

    /// Removes all slots when the Service port is removed.
    pub(crate) fn remove(mut self, backends: &mut Backends, delta: &mut Delta) {
        self.unset_all(delta);
        delta.slot.extend(self.slots_by_backend().into_keys().map(|id| (self.key_by_backend(id), None)));
        self.slots.drain(..).for_each(|backend| backends.release(backend));
    }

    fn start_from_adopted(&mut self, ids: &[u32], desired: Vec<Arc<Backend>>, delta: &mut Delta) {
        let mut by_id: HashMap<u32, Arc<Backend>> =
            desired.iter().map(|backend| (backend.id, backend.clone())).collect();
        let in_order: Option<Vec<Arc<Backend>>> = ids.iter().map(|id| by_id.remove(id)).collect();
        match in_order {
            Some(slots) if by_id.is_empty() => self.slots = slots,
            _ => {
                self.slots = desired;
                self.generation = next(self.generation);
            }
        }
        self.write_all(delta);
    }

    /// Writes a new generation beside the old one. A single write of the
    /// service value publishes it; the old one is deleted afterwards.
    fn replace(&mut self, desired: Vec<Arc<Backend>>, backends: &mut Backends, delta: &mut Delta) {
        self.unset_all(delta);
        self.slots.drain(..).for_each(|backend| backends.release(backend));
        self.slots = desired;
        self.slots.shrink_to_fit();
        self.generation = next(self.generation);
        self.write_all(delta);
    }

    fn write_all(&self, delta: &mut Delta) {
        (0..self.slots.len()).for_each(|at| self.write(at, delta));
    }

    fn unset_all(&self, delta: &mut Delta) {
        delta.slot.extend((0..self.slots.len()).map(|at| (self.key(at), None)));
    }

    fn write(&self, at: usize, delta: &mut Delta) {
        delta.slot.insert(self.key(at), Some(self.slots[at].slot()));
    }

    fn key_by_backend(&self, backend: u32) -> SlotKey {
        SlotKey { service: self.service, generation: SLOT_BY_BACKEND, slot: backend }
    }

    fn key(&self, at: usize) -> SlotKey {
        SlotKey { service: self.service, generation: self.generation, slot: at as u32 }
    }
}

/// Skips the generation that is reserved for slots by backend id.
fn next(generation: u32) -> u32 {
    match generation.wrapping_add(1) {
        SLOT_BY_BACKEND => 0,
        next => next,
    }
}
