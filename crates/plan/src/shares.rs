//! The shares of one service id: who stands at which place, and what of that
//! is written. Needed where backends are chosen by consistent hashing, or
//! have different weights; a change makes all of them anew.

use std::sync::Arc;

use beeline_abi::service::{MAGLEV_SEGMENT_SIZE, MaglevSegment, ServiceValue, SlotKey};
use beeline_model::Reason;
use beeline_sync::{Contents, Delta};

use crate::backend::Backend;
use crate::maglev::{self, Entry};
use crate::problems::Complaint;

/// How the shares are to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShareConfig {
    /// `loadBalancer.algorithm=maglev`: consistent hashing for services that
    /// are served to the outside, unless they say otherwise.
    pub maglev: bool,
    /// The smallest table; 0: by the backends alone.
    pub size_min: u32,
    /// Makes other tables; the same on every node.
    pub seed: String,
}

/// The current shares.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    generation: u32,
    /// Backend ids by place; what an earlier agent left counts.
    table: Box<[u32]>,
    /// Ids and weights that the table was made of; none: an earlier agent's.
    made_of: Option<Vec<(u32, u16)>>,
}

impl Shares {
    /// What an earlier agent left of a service.
    pub(crate) fn adopted(id: u32, value: &ServiceValue, actual: &Contents) -> Shares {
        let of = |slot| SlotKey { service: id, generation: value.maglev_generation, slot };
        let chunks = (value.maglev_size as usize).div_ceil(MAGLEV_SEGMENT_SIZE) as u32;
        let chunks = actual.share.range(of(0)..of(chunks));
        let mut table: Vec<u32> = chunks.flat_map(|(_, chunk)| chunk.backends).collect();
        table.truncate(value.maglev_size as usize);
        Shares { generation: value.maglev_generation, table: table.into(), made_of: None }
    }

    /// Generation and number, as the service's value names them.
    pub(crate) fn published(&self) -> (u32, u32) {
        (self.generation, self.table.len() as u32)
    }

    /// Makes the shares those of these backends; none: no shares.
    pub(crate) fn update(
        &mut self,
        service: u32,
        backends: &[(Arc<Backend>, u16)],
        config: &ShareConfig,
        delta: &mut Delta,
    ) {
        let mut sorted: Vec<(Entry, u32)> =
            backends.iter().map(|(backend, weight)| (backend.entry(*weight), backend.id)).collect();
        sorted.sort();
        let made_of: Vec<(u32, u16)> = sorted.iter().map(|(entry, id)| (*id, entry.weight)).collect();
        if self.made_of.as_ref() == Some(&made_of) {
            return;
        }
        let table = table(&sorted, config);
        self.made_of = Some(made_of);
        if table == self.table {
            self.write(service, delta); // only what has been adopted
            return;
        }
        self.remove(service, delta);
        self.generation = self.generation.wrapping_add(1);
        self.table = table;
        self.write(service, delta);
    }

    /// The service is gone.
    pub(crate) fn remove(&self, service: u32, delta: &mut Delta) {
        delta.share.extend(self.chunks(service).map(|(key, _)| (key, None)));
    }

    fn write(&self, service: u32, delta: &mut Delta) {
        delta.share.extend(self.chunks(service).map(|(key, value)| (key, Some(value))));
    }

    fn chunks(&self, service: u32) -> impl Iterator<Item = (SlotKey, MaglevSegment)> {
        (0..).zip(self.table.chunks(MAGLEV_SEGMENT_SIZE)).map(move |(slot, places)| {
            let mut value = MaglevSegment::default();
            value.backends[..places.len()].copy_from_slice(places);
            (SlotKey { service, generation: self.generation, slot }, value)
        })
    }
}

/// Backend ids by place.
fn table(sorted: &[(Entry, u32)], config: &ShareConfig) -> Box<[u32]> {
    if sorted.is_empty() {
        return Box::default();
    }
    let entries: Vec<Entry> = sorted.iter().map(|(entry, _)| *entry).collect();
    let size = maglev::size(&entries, config.size_min);
    let places = maglev::fill(&entries, size, &config.seed);
    places.into_iter().map(|number| sorted[number as usize].1).collect()
}

/// What is wrong with shares of these backends.
pub(crate) fn problem(port: u16, backends: &[(Arc<Backend>, u16)]) -> Option<Complaint> {
    let entries: Vec<Entry> = backends.iter().map(|(backend, weight)| backend.entry(*weight)).collect();
    // Without their number: it changes often, and would make it another problem each time.
    maglev::is_coarse(&entries).then(|| {
        let message = format!(
            "port {port} has too many endpoints (or with weights too far apart) for a hundred places each in the \
             largest table: their shares are less exact; use fewer endpoints or weights closer together"
        );
        (Reason::TooManyEndpoints, message)
    })
}
