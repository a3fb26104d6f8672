//! Allocates the ids that tables and connections use for objects.

use std::collections::HashSet;

/// Ids just above the greatest adopted one may have belonged to objects that
/// were removed shortly before the agent restarted, and connections may still
/// use them. They are skipped.
const GAP_AFTER_ADOPTION: u32 = 65_536;

/// Allocates increasing ids from `first`; an id is reused only after a
/// wraparound.
#[derive(Debug)]
pub(crate) struct Ids {
    first: u32,
    next: u32,
    used: HashSet<u32>,
    adopted: HashSet<u32>,
}

impl Ids {
    pub(crate) fn new(first: u32) -> Ids {
        Ids { first, next: first, used: HashSet::new(), adopted: HashSet::new() }
    }

    /// Reserves ids that are in the tables for the objects that they belong to.
    pub(crate) fn adopt(&mut self, ids: impl Iterator<Item = u32>) {
        self.adopted.extend(ids.filter(|id| *id >= self.first));
        self.used.extend(&self.adopted);
        if let Some(greatest) = self.adopted.iter().max() {
            self.next = self.next.max(greatest.checked_add(GAP_AFTER_ADOPTION).unwrap_or(self.first));
        }
    }

    /// Takes a reserved id. False if it is not reserved (any more).
    pub(crate) fn take_adopted(&mut self, id: u32) -> bool {
        self.adopted.remove(&id)
    }

    /// Frees the reserved ids that were not taken: their objects no longer
    /// exist.
    pub(crate) fn finish_adoption(&mut self) {
        for id in std::mem::take(&mut self.adopted) {
            self.used.remove(&id);
        }
    }

    pub(crate) fn allocate(&mut self) -> u32 {
        loop {
            let id = self.next;
            self.next = id.checked_add(1).unwrap_or(self.first);
            if self.used.insert(id) {
                return id;
            }
        }
    }

    pub(crate) fn free(&mut self, id: u32) {
        self.used.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_freed_ids_are_not_reused_immediately() {
        let mut ids = Ids::new(1);
        let first = ids.allocate();
        ids.free(first);
        assert_ne!(ids.allocate(), first);
    }

    #[test]
    fn unit_an_adopted_id_is_taken_once() {
        let mut ids = Ids::new(16);
        ids.adopt([3, 20, 21].into_iter());
        assert!(!ids.take_adopted(3), "below the first number");
        assert!(ids.take_adopted(20));
        assert!(!ids.take_adopted(20));
        assert_eq!(ids.allocate(), 21 + GAP_AFTER_ADOPTION);
        ids.next = 20;
        assert_eq!(ids.allocate(), 22, "21 is not claimed yet, but in the tables");
        ids.finish_adoption();
        ids.next = u32::MAX;
        assert_eq!(ids.allocate(), u32::MAX);
        assert_eq!(ids.allocate(), 16, "numbers start again");
    }
}
