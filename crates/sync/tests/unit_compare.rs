//! Tables are changed by others while the agent keeps writing: an incremental
//! comparison finds every difference, counts it once, and does not count the
//! agent's own writes.

use beeline_abi::service::{BackendValue, ServiceValue, SlotKey, SlotValue};
use beeline_sync::memory::MemoryTables;
use beeline_sync::{Contents, Delta, Prune, Reconciler};
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

const SERVICES: u32 = 40;

fn service(id: u32, generation: u32) -> (u32, ServiceValue) {
    (id, ServiceValue { generation, slots: 1, ..ServiceValue::default() })
}

/// A service with one backend; another generation has another backend.
fn put(delta: &mut Delta, id: u32, generation: u32) {
    let backend = id * 1000 + generation;
    let value = BackendValue { state: 1, ..BackendValue::default() };
    delta.backend.insert(backend, Some(value));
    let slot = |generation| SlotKey { service: id, generation, slot: 0 };
    delta.slot.insert(slot(generation), Some(SlotValue::of(backend, &value)));
    delta.service.insert(id, Some(service(id, generation).1));
    if generation > 1 {
        delta.slot.insert(slot(generation - 1), None);
        delta.backend.insert(backend - 1, None);
    }
}

struct World {
    tables: MemoryTables,
    reconciler: Reconciler,
    generations: Vec<u32>,
}

impl World {
    fn new() -> World {
        let mut world = World {
            tables: MemoryTables::new(),
            reconciler: Reconciler::new(),
            generations: vec![0; SERVICES as usize],
        };
        world.reconciler.resync(&mut world.tables, Prune::Delete);
        (0..SERVICES).for_each(|id| world.change(id));
        world
    }

    fn change(&mut self, id: u32) {
        let generation = &mut self.generations[id as usize];
        *generation += 1;
        let mut delta = Delta::default();
        put(&mut delta, id, *generation);
        self.reconciler.apply(delta, &mut self.tables);
    }

    /// One complete comparison, `entries` at a time; `between` runs between the
    /// steps. Returns the drift.
    fn compare(&mut self, entries: usize, mut between: impl FnMut(&mut World)) -> u64 {
        let mut drift = 0;
        for _ in 0..10_000 {
            let (report, finished) = self.reconciler.compare(&mut self.tables, entries, Prune::Delete);
            drift += report.drift;
            if finished {
                return drift;
            }
            between(self);
        }
        panic!("a comparison does not finish");
    }

    fn contents(&self) -> Contents {
        self.tables.contents()
    }
}

#[test]
fn unit_a_comparison_finds_what_was_changed_removed_and_added() {
    for entries in [1, 7, 100_000] {
        let mut world = World::new();
        let good = world.contents();
        assert_eq!(world.compare(entries, |_| ()), 0, "nothing is wrong");
        world.tables.service.entries.insert(3, service(3, 77).1);
        world.tables.service.entries.remove(&4);
        world.tables.service.entries.insert(90, service(90, 1).1);
        world.tables.slot.entries.clear();
        assert_eq!(world.compare(entries, |_| ()), 3 + u64::from(SERVICES), "{entries} at a time");
        assert_eq!(world.contents(), good);
        assert_eq!(world.compare(entries, |_| ()), 0, "drift is reported once");
    }
}

#[test]
fn unit_updates_during_a_comparison_are_not_drift() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    for _ in 0..50 {
        let mut world = World::new();
        let drift = world.compare(rng.random_range(1..20), |world| {
            for _ in 0..rng.random_range(0..4) {
                world.change(rng.random_range(0..SERVICES));
            }
        });
        assert_eq!(drift, 0);
        let (is, should) = (world.contents(), world.reconciler.desired());
        assert_eq!(is, should);
        assert_eq!(is.dangling(), Vec::<String>::new());
    }
}

/// With drift and updates at once, the tables end in the desired state.
#[test]
fn unit_drift_and_updates_together_end_in_the_desired_tables() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    for _ in 0..50 {
        let mut world = World::new();
        world.compare(rng.random_range(1..20), |world| {
            let id = rng.random_range(0..SERVICES);
            match rng.random_range(0..4) {
                0 => world.change(id),
                1 => drop(world.tables.service.entries.remove(&id)),
                2 => drop(world.tables.service.entries.insert(id, service(id, rng.next_u32()).1)),
                _ => drop(world.tables.backend.entries.insert(id, BackendValue::default())),
            }
        });
        world.compare(7, |_| ());
        assert_eq!(world.contents(), world.reconciler.desired());
        let desired = world.contents();
        for (id, generation) in (0..SERVICES).zip(&world.generations) {
            assert_eq!(desired.service.get(&id).map(|value| value.generation), Some(*generation), "{id}");
        }
    }
}

#[test]
fn unit_an_unreadable_table_is_reported_and_not_changed() {
    let mut world = World::new();
    let good = world.contents();
    world.tables.slot.fail_reads = true;
    assert_eq!(world.compare(5, |_| ()), 0);
    let reported: Vec<String> =
        world.reconciler.problems().into_iter().map(|problem| problem.message).collect();
    assert!(reported.iter().any(|message| message.contains("not compared")), "{reported:?}");
    world.tables.slot.fail_reads = false;
    assert_eq!(world.compare(5, |_| ()), 0);
    assert_eq!((world.contents(), world.reconciler.problems().len()), (good, 0));
}
