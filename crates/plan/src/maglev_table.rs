//! The Maglev table of one service id, in segments as they are written to the
//! map. Needed for consistent hashing and for unequal weights. A change of the
//! backends rebuilds the whole table.

use std::sync::Arc;

use beeline_abi::service::{MAGLEV_SEGMENT_SIZE, MaglevSegment, ServiceValue, SlotKey};
use beeline_model::Reason;
use beeline_sync::{Contents, Delta};

use crate::backend::Backend;
use crate::maglev_permutation::{self, WeightedBackend};
use crate::problems::ProblemDetail;

/// Configuration of Maglev tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MaglevConfig {
    /// `loadBalancer.algorithm=maglev`: external frontends use Maglev hashing
    /// unless their Service says otherwise.
    pub external_default: bool,
    /// Minimum number of entries; 0: derived from the backends.
    pub size_min: u32,
    /// Hash seed. Must be the same on every node.
    pub seed: String,
}

/// The current table of a service.
#[derive(Debug, Default)]
pub(crate) struct MaglevTable {
    generation: u32,
    /// Backend ids by index, including an adopted table.
    table: Box<[u32]>,
    /// Ids and weights that the table was built from. None: the table was
    /// adopted.
    built_from: Option<Vec<(u32, u16)>>,
}

impl MaglevTable {
    /// The table that an earlier agent wrote for the service.
    pub(crate) fn adopted(id: u32, value: &ServiceValue, actual: &Contents) -> MaglevTable {
        let of = |slot| SlotKey { service: id, generation: value.maglev_generation, slot };
        let segments = (value.maglev_size as usize).div_ceil(MAGLEV_SEGMENT_SIZE) as u32;
        let segments = actual.maglev.range(of(0)..of(segments));
        let mut table: Vec<u32> = segments.flat_map(|(_, segment)| segment.backends).collect();
        table.truncate(value.maglev_size as usize);
        MaglevTable { generation: value.maglev_generation, table: table.into(), built_from: None }
    }

    /// Generation and number of entries, as in `ServiceValue`.
    pub(crate) fn generation_and_size(&self) -> (u32, u32) {
        (self.generation, self.table.len() as u32)
    }

    /// Rebuilds the table for these backends. Without backends the table is
    /// empty.
    pub(crate) fn update(
        &mut self,
        service: u32,
        backends: &[(Arc<Backend>, u16)],
        config: &MaglevConfig,
        delta: &mut Delta,
    ) {
        let mut sorted: Vec<(WeightedBackend, u32)> =
            backends.iter().map(|(backend, weight)| (backend.weighted(*weight), backend.id)).collect();
        sorted.sort();
        let built_from: Vec<(u32, u16)> =
            sorted.iter().map(|(weighted, id)| (*id, weighted.weight)).collect();
        if self.built_from.as_ref() == Some(&built_from) {
            return;
        }
        let table = table(&sorted, config);
        self.built_from = Some(built_from);
        if table == self.table {
            self.write(service, delta); // only what has been adopted
            return;
        }
        self.remove(service, delta);
        self.generation = self.generation.wrapping_add(1);
        self.table = table;
        self.write(service, delta);
    }

    /// Removes the table when its service is removed.
    pub(crate) fn remove(&self, service: u32, delta: &mut Delta) {
        delta.maglev.extend(self.segments(service).map(|(key, _)| (key, None)));
    }

    fn write(&self, service: u32, delta: &mut Delta) {
        delta.maglev.extend(self.segments(service).map(|(key, value)| (key, Some(value))));
    }

    fn segments(&self, service: u32) -> impl Iterator<Item = (SlotKey, MaglevSegment)> {
        (0..).zip(self.table.chunks(MAGLEV_SEGMENT_SIZE)).map(move |(slot, backends)| {
            let mut value = MaglevSegment::default();
            value.backends[..backends.len()].copy_from_slice(backends);
            (SlotKey { service, generation: self.generation, slot }, value)
        })
    }
}

/// Backend ids by index.
fn table(sorted: &[(WeightedBackend, u32)], config: &MaglevConfig) -> Box<[u32]> {
    if sorted.is_empty() {
        return Box::default();
    }
    let backend_weights: Vec<WeightedBackend> = sorted.iter().map(|(weighted, _)| *weighted).collect();
    let size = maglev_permutation::table_size(&backend_weights, config.size_min);
    let indices = maglev_permutation::build(&backend_weights, size, &config.seed);
    indices.into_iter().map(|index| sorted[index as usize].1).collect()
}

/// The problem of a port whose backends do not fit the largest table.
pub(crate) fn problem(port: u16, backends: &[(Arc<Backend>, u16)]) -> Option<ProblemDetail> {
    let backend_weights: Vec<WeightedBackend> =
        backends.iter().map(|(backend, weight)| backend.weighted(*weight)).collect();
    // Without the number of endpoints: it changes often, and each value would
    // be another problem.
    maglev_permutation::exceeds_largest_table(&backend_weights).then(|| {
        let message = format!(
            "port {port} has too many endpoints, or weights too far apart, for the largest Maglev table: \
             connections are distributed less exactly; use fewer endpoints or weights closer together"
        );
        (Reason::TooManyEndpoints, message)
    })
}
