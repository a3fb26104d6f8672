//! Writes the difference between the desired and the actual tables, in an order
//! that is safe for packets:
//!
//! 1. Additions, targets before the entries that refer to them: node, address,
//!    endpoint, namespace; backend, slots by backend id, slot, Maglev segment,
//!    service (which publishes the slots and the Maglev table), source range,
//!    frontend, service address. An entry waits while its target is not
//!    written.
//!
//! 2. Removals, in reverse order. An entry that is still referenced waits: the
//!    old slots of a service stay until its new slots are published.
//!
//! The cost of an update is proportional to its changes. While changes have
//! failed, each flush also costs as much as there is outstanding, which the
//! table sizes bound.

use std::collections::{BTreeMap, HashMap, HashSet};

use beeline_abi::Ip;
use beeline_abi::address::{AddressKey, AddressValue};
use beeline_abi::endpoint::{EndpointValue, NamespaceValue};
use beeline_abi::maps;
use beeline_abi::node::NodeValue;
use beeline_abi::service::{
    BackendValue, FrontendKey, FrontendValue, MaglevSegment, SLOT_BY_BACKEND, ServiceAddressValue,
    ServiceValue, SlotKey, SlotValue, SourceRangeKey, SourceRangeValue, address_flags,
};

use crate::table::{Cause, TableState};
use crate::{Contents, Delta, Report, SyncProblem, TableCount, Tables};

/// What happens to entries that are not desired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prune {
    /// They stay: the source has not been listed in full yet.
    Keep,
    /// They are deleted.
    Delete,
}

/// Maximum number of passes of a flush. A pass is repeated if it made room or
/// wrote an entry that others waited for. What remains is left for the next
/// flush.
const PASSES_MAX: u32 = 4;

/// Reconciles desired and actual contents of all tables. See the module
/// documentation.
#[derive(Debug)]
pub struct Reconciler {
    address: TableState<AddressKey, AddressValue>,
    endpoint: TableState<Ip, EndpointValue>,
    namespace: TableState<u64, NamespaceValue>,
    node: TableState<u32, NodeValue>,
    service_address: TableState<Ip, ServiceAddressValue>,
    frontend: TableState<FrontendKey, FrontendValue>,
    service: TableState<u32, ServiceValue>,
    slot: TableState<SlotKey, SlotValue>,
    maglev: TableState<SlotKey, MaglevSegment>,
    backend: TableState<u32, BackendValue>,
    source_range: TableState<SourceRangeKey, SourceRangeValue>,
    /// Index of the table that is being compared.
    compared: usize,
}

impl Default for Reconciler {
    fn default() -> Reconciler {
        Reconciler::new()
    }
}

/// Runs the same expression on every table.
macro_rules! each_table {
    ($self:ident, $table:ident => $call:expr) => {{
        let $table = &mut $self.address;
        $call;
        let $table = &mut $self.endpoint;
        $call;
        let $table = &mut $self.namespace;
        $call;
        let $table = &mut $self.node;
        $call;
        let $table = &mut $self.service_address;
        $call;
        let $table = &mut $self.frontend;
        $call;
        let $table = &mut $self.service;
        $call;
        let $table = &mut $self.slot;
        $call;
        let $table = &mut $self.maglev;
        $call;
        let $table = &mut $self.backend;
        $call;
        let $table = &mut $self.source_range;
        $call;
    }};
}

/// Collects the results of the same method of every table.
macro_rules! collect_from_tables {
    ($self:ident, $call:ident) => {
        [
            $self.address.$call(),
            $self.endpoint.$call(),
            $self.namespace.$call(),
            $self.node.$call(),
            $self.service_address.$call(),
            $self.frontend.$call(),
            $self.service.$call(),
            $self.slot.$call(),
            $self.maglev.$call(),
            $self.backend.$call(),
            $self.source_range.$call(),
        ]
    };
}

impl Reconciler {
    /// Nothing is desired, and all tables are assumed to be empty until
    /// [`Reconciler::resync`] reads them.
    pub fn new() -> Reconciler {
        Reconciler {
            address: TableState::new(&maps::ADDRESS),
            endpoint: TableState::new(&maps::ENDPOINT),
            namespace: TableState::new(&maps::NAMESPACE),
            node: TableState::new(&maps::NODE),
            service_address: TableState::new(&maps::SERVICE_ADDRESS),
            frontend: TableState::new(&maps::FRONTEND),
            service: TableState::new(&maps::SERVICE),
            slot: TableState::new(&maps::SLOT),
            maglev: TableState::new(&maps::SHARE),
            backend: TableState::new(&maps::BACKEND),
            source_range: TableState::new(&maps::SOURCE_RANGE),
            compared: 0,
        }
    }

    /// Changes the desired state. Nothing is written before the next flush.
    pub fn submit(&mut self, delta: Delta) {
        self.address.submit(delta.address);
        self.endpoint.submit(delta.endpoint);
        self.namespace.submit(delta.namespace);
        self.node.submit(delta.node);
        self.service_address.submit(delta.service_address);
        self.frontend.submit(delta.frontend);
        self.service.submit(delta.service);
        self.slot.submit(delta.slot);
        self.maglev.submit(delta.maglev);
        self.backend.submit(delta.backend);
        self.source_range.submit(delta.source_range);
    }

    /// [`Reconciler::submit`] and [`Reconciler::flush`].
    pub fn apply(&mut self, delta: Delta, tables: &mut dyn Tables) -> Report {
        self.submit(delta);
        self.flush(tables)
    }

    /// Writes pending changes. Failed changes stay outstanding and are reported
    /// by [`Reconciler::problems`].
    pub fn flush(&mut self, tables: &mut dyn Tables) -> Report {
        let mut report = Report::default();
        for _ in 0..PASSES_MAX {
            let mut pass = Report::default();
            self.add(tables, &mut pass);
            self.remove(tables, &mut pass);
            report.add(pass);
            if !self.requeue_failed(&pass) {
                break;
            }
        }
        report.outstanding = collect_from_tables!(self, outstanding).iter().sum();
        report
    }

    /// Makes failed changes pending again for the next flush. Call it
    /// periodically while there are problems.
    pub fn retry(&mut self) {
        each_table!(self, table => table.retry(|_| true));
    }

    /// Deletes all entries that are not desired at the next flush. Call it once
    /// the source has been listed in full and all local endpoints are set.
    pub fn prune(&mut self) {
        each_table!(self, table => table.prune());
    }

    /// Reads all tables, compares them with the desired state, and writes the
    /// difference.
    pub fn resync(&mut self, tables: &mut dyn Tables, prune: Prune) -> Report {
        let drift = self.address.reread(tables.address())
            + self.endpoint.reread(tables.endpoint())
            + self.namespace.reread(tables.namespace())
            + self.node.reread(tables.node())
            + self.service_address.reread(tables.service_address())
            + self.frontend.reread(tables.frontend())
            + self.service.reread(tables.service())
            + self.slot.reread(tables.slot())
            + self.maglev.reread(tables.maglev())
            + self.backend.reread(tables.backend())
            + self.source_range.reread(tables.source_range());
        if prune == Prune::Delete {
            self.prune();
        }
        Report { drift, ..self.flush(tables) }
    }

    /// Compares up to `entries` entries with the desired state and writes the
    /// difference. True: the comparison is complete, and the next call starts a
    /// new one. Call [`Reconciler::resync`] first. Unlike it, the time of a
    /// call is bounded by `entries`, except for LPM tries, which are read as a
    /// whole.
    pub fn compare(&mut self, tables: &mut dyn Tables, entries: usize, prune: Prune) -> (Report, bool) {
        let (mut budget, mut drift) = (entries, 0);
        let mut finished = false;
        while budget > 0 && !finished {
            match self.compare_one(tables, &mut budget) {
                None => finished = true,
                Some((more, is_comparing)) => {
                    drift += more;
                    self.compared += usize::from(!is_comparing);
                }
            }
        }
        if finished {
            self.compared = 0;
        }
        if prune == Prune::Delete {
            self.prune();
        }
        let flushed = if self.outstanding() > 0 { self.flush(tables) } else { Report::default() };
        (Report { drift, ..flushed }, finished)
    }

    /// Compares the current table: its drift, and whether there is more of it.
    /// None: all tables have been compared.
    fn compare_one(&mut self, tables: &mut dyn Tables, budget: &mut usize) -> Option<(u64, bool)> {
        macro_rules! compare {
            ($table:ident) => {{
                let drift = self.$table.compare(tables.$table(), budget);
                Some((drift, self.$table.is_comparing()))
            }};
        }
        match self.compared {
            0 => compare!(address),
            1 => compare!(endpoint),
            2 => compare!(namespace),
            3 => compare!(node),
            4 => compare!(service_address),
            5 => compare!(frontend),
            6 => compare!(service),
            7 => compare!(slot),
            8 => compare!(maglev),
            9 => compare!(backend),
            10 => compare!(source_range),
            _ => None,
        }
    }

    /// The actual contents as far as known. After the first resync these are
    /// the tables of an earlier agent, which the planner adopts.
    pub fn actual(&self) -> Contents {
        Contents {
            address: sorted(self.address.written()),
            endpoint: sorted(self.endpoint.written()),
            namespace: sorted(self.namespace.written()),
            node: sorted(self.node.written()),
            service_address: sorted(self.service_address.written()),
            frontend: sorted(self.frontend.written()),
            service: sorted(self.service.written()),
            slot: sorted(self.slot.written()),
            maglev: sorted(self.maglev.written()),
            backend: sorted(self.backend.written()),
            source_range: sorted(self.source_range.written()),
        }
    }

    /// The desired contents of the tables.
    pub fn desired(&self) -> Contents {
        Contents {
            address: self.address.desired(),
            endpoint: self.endpoint.desired(),
            namespace: self.namespace.desired(),
            node: self.node.desired(),
            service_address: self.service_address.desired(),
            frontend: self.frontend.desired(),
            service: self.service.desired(),
            slot: self.slot.desired(),
            maglev: self.maglev.desired(),
            backend: self.backend.desired(),
            source_range: self.source_range.desired(),
        }
    }

    /// The backends in the table, by id.
    pub fn backends(&self) -> &HashMap<u32, BackendValue> {
        self.backend.written()
    }

    /// True if the endpoint of this address is in the table.
    pub fn endpoint_is_written(&self, ip: Ip) -> bool {
        self.endpoint.is_written(&ip)
    }

    /// Written, pending and failed entries of every table.
    pub fn counts(&self) -> Vec<TableCount> {
        collect_from_tables!(self, count).into()
    }

    /// Pending and failed changes in all tables.
    pub fn outstanding(&self) -> u64 {
        collect_from_tables!(self, outstanding).iter().sum()
    }

    /// Problems of the tables: one per table and cause.
    pub fn problems(&self) -> Vec<SyncProblem> {
        collect_from_tables!(self, problems).concat()
    }

    fn add(&mut self, tables: &mut dyn Tables, report: &mut Report) {
        let Reconciler { address, endpoint, namespace, node, backend, slot, maglev, .. } = self;
        node.write(tables.node(), report, |_, _| None);
        address.write(tables.address(), report, |_, value| {
            (value.node != 0 && !node.is_written(&value.node)).then_some(maps::NODE.name)
        });
        endpoint.write(tables.endpoint(), report, |_, _| None);
        namespace.write(tables.namespace(), report, |_, _| None);
        backend.write(tables.backend(), report, |_, _| None);
        let backend_is_missing =
            |value: &SlotValue| (!backend.is_written(&value.backend)).then_some(maps::BACKEND.name);
        slot.write_some(tables.slot(), report, is_by_backend, |_, value| backend_is_missing(value));
        let unwritten_by_backend: HashSet<SlotKey> =
            slot.unwritten().filter(|key| is_by_backend(key)).copied().collect();
        slot.write(tables.slot(), report, |key, value| {
            let is_unwritten = unwritten_by_backend.contains(&slot_by_backend(key.service, value.backend));
            is_unwritten.then_some(maps::SLOT.name).or_else(|| backend_is_missing(value))
        });
        maglev.write(tables.maglev(), report, |_, value| {
            let mut backends = value.backends.iter().filter(|id| **id != 0);
            backends.any(|id| !backend.is_written(id)).then_some(maps::BACKEND.name)
        });
        self.add_services(tables, report);
    }

    fn add_services(&mut self, tables: &mut dyn Tables, report: &mut Report) {
        let Reconciler { service_address, frontend, service, slot, maglev, source_range, .. } = self;
        service.write(tables.service(), report, |id, value| {
            let of = |slot| SlotKey { service: *id, generation: value.generation, slot };
            let no_slots_by_backend = || {
                value.has_slots_by_backend()
                    && slot.is_unwritten(slot_by_backend(*id, 0)..=slot_by_backend(*id, u32::MAX))
            };
            let segment = |slot| SlotKey { service: *id, generation: value.maglev_generation, slot };
            let no_slots = slot.is_unwritten(of(0)..of(value.slots)) || no_slots_by_backend();
            let no_maglev = value.maglev_size != 0 && maglev.is_unwritten(segment(0)..=segment(u32::MAX));
            no_slots.then_some(maps::SLOT.name).or(no_maglev.then_some(maps::SHARE.name))
        });
        source_range.write(tables.source_range(), report, |_, _| None);
        frontend.write(tables.frontend(), report, |_, value| {
            let set = value.source_ranges;
            let set_is_incomplete = set != 0 && source_range.unwritten().any(|key| key.set == set);
            let no_service = !service.is_written(&value.service);
            no_service.then_some(maps::SERVICE.name).or(set_is_incomplete.then_some(maps::SOURCE_RANGE.name))
        });
        // An exclusive address without frontends refuses all connections. It is
        // published as soon as one of its frontends is written: ports of
        // missing frontends are refused until then, but the others work.
        let without_frontend = classes_without_frontend(frontend);
        service_address.write(tables.service_address(), report, |_, value| {
            let refuses =
                value.flags & address_flags::EXCLUSIVE != 0 && without_frontend.contains(&value.class);
            refuses.then_some(maps::FRONTEND.name)
        });
    }

    fn remove(&mut self, tables: &mut dyn Tables, report: &mut Report) {
        let Reconciler { service_address, frontend, service, source_range, .. } = self;
        service_address.delete(tables.service_address(), report, |_| None);
        frontend.delete(tables.frontend(), report, |_| None);
        let used_services: HashSet<u32> = frontend.failed_values().map(|value| value.service).collect();
        let sets: HashSet<u32> = frontend.failed_values().map(|value| value.source_ranges).collect();
        source_range.delete(tables.source_range(), report, |key| {
            sets.contains(&key.set).then_some(maps::FRONTEND.name)
        });
        service
            .delete(tables.service(), report, |id| used_services.contains(id).then_some(maps::FRONTEND.name));
        self.remove_slots(tables, report);
        let Reconciler { address, endpoint, namespace, node, .. } = self;
        namespace.delete(tables.namespace(), report, |_| None);
        endpoint.delete(tables.endpoint(), report, |_| None);
        address.delete(tables.address(), report, |_| None);
        let used_nodes: HashSet<u32> = address.failed_values().map(|value| value.node).collect();
        node.delete(tables.node(), report, |id| used_nodes.contains(id).then_some(maps::ADDRESS.name));
    }

    fn remove_slots(&mut self, tables: &mut dyn Tables, report: &mut Report) {
        let Reconciler { service, slot, maglev, backend, .. } = self;
        let failed_services: HashSet<u32> = service.failed_keys().copied().collect();
        let failed_slots: HashSet<u32> = slot.failed_keys().map(|key| key.service).collect();
        slot.delete(tables.slot(), report, |key| {
            let current = service.written().get(&key.service);
            let is_used = |value: &ServiceValue| match is_by_backend(key) {
                // Removals of its service or slots are outstanding.
                true => {
                    value.has_slots_by_backend()
                        && (failed_services.contains(&key.service) || failed_slots.contains(&key.service))
                }
                false => value.generation == key.generation && key.slot < value.slots,
            };
            current.is_some_and(is_used).then_some(maps::SERVICE.name)
        });
        maglev.delete(tables.maglev(), report, |key| {
            let current = service.written().get(&key.service);
            let is_used =
                |value: &ServiceValue| value.maglev_size != 0 && value.maglev_generation == key.generation;
            current.is_some_and(is_used).then_some(maps::SERVICE.name)
        });
        let used: HashSet<u32> = slot.failed_values().map(|value| value.backend).collect();
        let in_maglev: HashSet<u32> = maglev.failed_values().flat_map(|value| value.backends).collect();
        backend.delete(tables.backend(), report, |id| {
            let by_slot = used.contains(id).then_some(maps::SLOT.name);
            by_slot.or(in_maglev.contains(id).then_some(maps::SHARE.name))
        });
    }

    /// Makes failed changes that may succeed after this pass pending again.
    /// False if there are none.
    fn requeue_failed(&mut self, pass: &Report) -> bool {
        let freed = pass.deleted > 0;
        let moved = freed || pass.written > 0;
        let is_retryable = |cause: &Cause| match cause {
            Cause::Full => freed,
            Cause::Waiting(_) => moved,
            Cause::Refused(_) => false,
        };
        let mut any = false;
        each_table!(self, table => if table.has_failed(is_retryable) {
            any = true;
            table.retry(is_retryable);
        });
        any
    }
}

/// The slot of a service that is looked up by backend id.
fn slot_by_backend(service: u32, backend: u32) -> SlotKey {
    SlotKey { service, generation: SLOT_BY_BACKEND, slot: backend }
}

fn is_by_backend(key: &SlotKey) -> bool {
    key.generation == SLOT_BY_BACKEND
}

/// Address classes of which no frontend could be written.
fn classes_without_frontend(frontend: &TableState<FrontendKey, FrontendValue>) -> HashSet<u32> {
    let mut without_frontend: HashSet<u32> = frontend.unwritten().map(|key| key.class).collect();
    if !without_frontend.is_empty() {
        for key in frontend.written().keys() {
            without_frontend.remove(&key.class);
        }
    }
    without_frontend
}

fn sorted<K: Ord + Copy, V: Copy>(map: &HashMap<K, V>) -> BTreeMap<K, V> {
    map.iter().map(|(key, value)| (*key, *value)).collect()
}
