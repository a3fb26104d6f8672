//! Maglev tables: consistent hashing and weights.

use beeline_model::{Algorithm, Kind};
use beeline_plan::{MaglevConfig, PlanConfig, ServiceConfig};

use crate::world::*;

fn with(maglev: MaglevConfig, node: &str) -> World {
    let services = ServiceConfig { maglev, ..config().services };
    let mut world = World::with(PlanConfig { services, node_name: node.into(), ..config() });
    world.list(&[]);
    for n in 1..=3 {
        world.apply(lab_node(n));
    }
    world
}

fn maglev() -> MaglevConfig {
    MaglevConfig { external_default: true, ..MaglevConfig::default() }
}

/// The Maglev table of a frontend's service as text: number of entries per
/// backend, and a checksum of their order.
fn maglev_table(world: &World, frontend: &str) -> String {
    let text = world.text(frontend);
    text.split_once(" maglev table ").map(|(_, table)| table.to_owned()).unwrap_or_default()
}

/// Number of entries of each backend, in the order of the text.
fn counts(text: &str) -> Vec<u32> {
    let (counts, _) = text.split_once(" order ").expect(text);
    counts.split(", ").map(|part| part.rsplit_once(' ').expect(part).1.parse().expect(part)).collect()
}

#[test]
fn unit_external_frontends_use_maglev_tables_by_default() {
    let mut world = with(maglev(), "node-1");
    let slots = "10.244.1.5@node-1 10.244.2.5@node-2 10.244.3.5@node-3";
    world.apply(slice("web-4", "web", "http:8080", slots));
    world.apply(slice("db-4", "db", "sql:5432", slots));
    world.apply(service("web", "10.96.0.10", "http:80+30080"));
    let mut db = service("db", "10.96.0.11", "sql:5432");
    world.apply(db.clone());
    let counted = counts(&maglev_table(&world, "frontend nodes 30080/TCP external"));
    assert!(
        counted.iter().sum::<u32>() == 509 && counted.iter().all(|n| (168..=171).contains(n)),
        "{counted:?}"
    );
    // Both have the same selection of endpoints, so they share a table.
    assert_eq!(
        maglev_table(&world, "frontend 10.96.0.10"),
        maglev_table(&world, "frontend nodes 30080/TCP external")
    );
    assert_eq!(maglev_table(&world, "frontend 10.96.0.11"), "", "internal frontends have no Maglev table");
    assert_eq!(world.tables.contents().maglev.len(), 16);

    // The Service's annotation overrides the default.
    db.algorithm = Some(Algorithm::Maglev);
    world.apply(db.clone());
    assert_eq!(counts(&maglev_table(&world, "frontend 10.96.0.11")).len(), 3);
    let mut web = service("web", "10.96.0.10", "http:80+30080");
    web.algorithm = Some(Algorithm::Random);
    world.apply(web);
    assert_eq!(maglev_table(&world, "frontend 10.96.0.10"), "");

    // No change, no writes. A table is removed with its Service.
    let report = world.apply(db);
    assert_eq!((report.written, report.deleted), (0, 0));
    world.delete(Kind::Service, "db");
    assert_eq!(world.tables.contents().maglev.len(), 0);
    assert_eq!(world.problems(), [""; 0]);
}

#[test]
fn unit_every_node_computes_the_same_table() {
    let slots = ["10.244.1.5@node-1 10.244.2.5@node-2", "10.244.3.5@node-3 10.244.3.6@node-3"];
    let tables = ["node-1", "node-2", "node-3"].map(|node| {
        let mut world = with(maglev(), node);
        let mut parts =
            vec![slice("web-1", "web", "http:8080", slots[0]), slice("web-2", "web", "http:8080", slots[1])];
        if node != "node-1" {
            // Other nodes see the slices in another order, and had other
            // backends before.
            parts.reverse();
            world.apply(slice("web-0", "web", "http:8080", "10.244.9.9@node-3"));
        }
        world.apply(service("web", "10.96.0.10", "http:80+30080"));
        for part in parts {
            world.apply(part);
        }
        world.delete(Kind::EndpointSlice, "web-0");
        let before = maglev_table(&world, "frontend nodes 30080/TCP external");
        world.restart();
        let report = world.list(&objects(&slots));
        assert_eq!((report.written, report.deleted), (0, 0), "a restart writes nothing");
        assert_eq!(maglev_table(&world, "frontend nodes 30080/TCP external"), before);
        before
    });
    assert!(tables[0].contains(" order ") && tables.iter().all(|table| *table == tables[0]), "{tables:#?}");
}

fn objects(slots: &[&str; 2]) -> Vec<beeline_model::Object> {
    let mut objects: Vec<Fact> = (1..=3).map(|n| lab_node(n).into()).collect();
    objects.push(service("web", "10.96.0.10", "http:80+30080").into());
    objects.push(slice("web-1", "web", "http:8080", slots[0]).into());
    objects.push(slice("web-2", "web", "http:8080", slots[1]).into());
    objects.into_iter().map(|fact| fact.0).collect()
}

#[test]
fn unit_slices_have_weights() {
    let mut world = with(MaglevConfig::default(), "node-1");
    world.apply(service("web", "10.96.0.10", "http:80"));
    let mut stable = slice("web-stable", "web", "http:8080", "10.244.1.5@node-1");
    let mut canary = slice("web-canary", "web", "http:8080", "10.244.2.5@node-2");
    (stable.weight, canary.weight) = (9, 1);
    world.apply(stable.clone());
    world.apply(canary.clone());
    let text = world.text("frontend");
    let (_, found) = text.split_once(" table ").expect("weights need a Maglev table");
    let counted = counts(found);
    assert!((counted[0], counted[1]) == (919, 102) || (counted[0], counted[1]) == (918, 103), "{text}");
    assert!(!text.contains("maglev"), "entries are chosen at random: {text}");

    // Weight 0: no new connections; established ones continue.
    canary.weight = 0;
    world.apply(canary.clone());
    world.check("frontend", "frontend 10.96.0.10 80/TCP -> 10.244.1.5:8080@172.30.0.11");
    world.check("unselected", "unselected 10.244.2.5:8080@172.30.0.12/TCP");
    stable.weight = 0;
    world.apply(stable);
    world.check("frontend", "frontend 10.96.0.10 80/TCP -> refused");
    assert_eq!(world.problems(), [""; 0]);
}

/// The old table is used until the new one is complete: if the map is full, the
/// old selection stays in effect.
#[test]
fn unit_a_table_is_published_only_when_it_is_complete() {
    let mut world = with(maglev(), "node-1");
    world.apply(service("web", "10.96.0.10", "http:80+30080"));
    world.apply(slice("web-4", "web", "http:8080", "10.244.1.5@node-1 10.244.2.5@node-2"));
    let before = maglev_table(&world, "frontend nodes 30080/TCP external");
    world.tables.maglev.capacity = 10; // the old one has 8 chunks, the new one wants 16 more
    world.apply(slice("web-4", "web", "http:8080", "10.244.1.5@node-1 10.244.2.5@node-2 10.244.3.5@node-3"));
    assert_eq!(maglev_table(&world, "frontend nodes 30080/TCP external"), before);
    let problems = world.table_problems();
    assert!(problems.iter().any(|problem| problem.contains("table SHARE")), "{problems:#?}");
    world.tables.maglev.capacity = 100;
    world.reconciler.retry();
    world.flush();
    assert_eq!(counts(&maglev_table(&world, "frontend nodes 30080/TCP external")).len(), 3);
    assert_eq!(world.table_problems(), [""; 0]);
}
