//! Full tables and failed writes: existing entries stay in effect, and missing
//! ones are reported.

use crate::world::*;

#[test]
fn unit_a_full_slot_table_keeps_the_old_backends() {
    let mut world = World::listed();
    world.apply(service("web", "10.96.0.10", "x:80"));
    world.apply(service("other", "10.96.0.11", "x:80"));
    world.apply(slice("web-1", "web", "x:1", "10.0.0.1 10.0.0.2"));
    world.tables.slot.capacity = 3;
    let report = world.apply(slice("web-1", "web", "x:1", "10.0.0.3 10.0.0.4"));
    assert!(report.outstanding > 0);
    assert_eq!(
        world.text("frontend 10.96.0.10"),
        "frontend 10.96.0.10 80/TCP -> 10.0.0.1:1@- 10.0.0.2:1@-",
        "not a mix of both"
    );
    let problems = world.table_problems();
    assert!(
        problems[0].starts_with("table SERVICE: 1 entries are not programmed: waiting for table SLOT"),
        "{problems:?}"
    );
    assert!(
        problems
            .iter()
            .any(|problem| problem
                .starts_with("table SLOT: 1 entries are not programmed: the table is full (3")),
        "{problems:?}"
    );
    // Other Services are programmed as far as there is room.
    world.apply(service("third", "10.96.0.12", "x:80"));
    assert_eq!(world.text("frontend 10.96.0.12"), "frontend 10.96.0.12 80/TCP -> refused");
    // Once there is room, waiting changes are written.
    world.tables.slot.capacity = 4;
    world.reconciler.retry();
    assert_eq!(world.flush().outstanding, 0);
    world.check("frontend 10.96.0.10", "frontend 10.96.0.10 80/TCP -> 10.0.0.3:1@- 10.0.0.4:1@-");
    assert!(world.table_problems().is_empty());
}

#[test]
fn unit_room_made_by_a_delete_is_used_in_the_same_flush() {
    let mut world = World::listed();
    world.tables.backend.capacity = 1;
    world.apply(service("a", "10.96.0.10", "x:80"));
    world.apply(service("b", "10.96.0.11", "x:80"));
    world.apply(slice("a-1", "a", "x:1", "10.0.0.1"));
    assert!(world.apply(slice("b-1", "b", "x:1", "10.0.0.2")).outstanding > 0);
    assert_eq!(world.text("frontend 10.96.0.11"), "frontend 10.96.0.11 80/TCP -> refused");
    let report = world.delete(beeline_model::Kind::EndpointSlice, "a-1");
    assert_eq!(report.outstanding, 0);
    world.check(
        "frontend",
        "frontend 10.96.0.10 80/TCP -> refused\nfrontend 10.96.0.11 80/TCP -> 10.0.0.2:1@-",
    );
}

#[test]
fn unit_a_service_that_is_not_programmed_has_no_address() {
    let mut world = World::listed();
    world.tables.service.capacity = 0;
    world.apply(service("a", "10.96.0.10", "x:80"));
    assert!(world.tables.contents().is_empty() || world.text("service address").is_empty());
    assert_eq!(world.text("frontend"), "");
    let counts = world.reconciler.counts();
    let services = counts.iter().find(|count| count.name == "SERVICE").unwrap();
    assert_eq!((services.entries, services.desired, services.pending, services.failed), (0, 1, 0, 1));
    let frontends = counts.iter().find(|count| count.name == "FRONTEND").unwrap();
    assert_eq!((frontends.desired, frontends.pending, frontends.failed), (1, 1, 0), "it waits");

    // There is room for one of two ports: the address is published for it.
    world.tables.service.capacity = 1;
    world.apply(service("a", "10.96.0.10", "x:80 y:81"));
    world.reconciler.retry();
    world.flush();
    assert_eq!(world.text("service address"), "service address 10.96.0.10 exclusive");
    assert_eq!(world.tables.contents().frontend.len(), 1);
    world.tables.service.capacity = 2;
    world.reconciler.retry();
    assert_eq!(world.flush().outstanding, 0);
    assert_eq!(world.tables.contents().frontend.len(), 2);
}

#[test]
fn unit_an_unreadable_table_is_reported() {
    let mut world = World::listed();
    world.apply(service("a", "10.96.0.10", "x:80"));
    world.tables.slot.fail_reads = true;
    let report = world.reconciler.resync(&mut world.tables, beeline_sync::Prune::Delete);
    assert_eq!((report.written, report.deleted, report.drift), (0, 0, 0));
    assert_eq!(
        world.table_problems(),
        [
            "table SLOT: read failed: refused by the test; the table is not compared with the desired state until it can be read"
        ]
    );
    world.tables.slot.fail_reads = false;
    world.reconciler.resync(&mut world.tables, beeline_sync::Prune::Delete);
    assert!(world.table_problems().is_empty());
}

#[test]
fn unit_endpoint_is_written_reports_failed_writes() {
    let mut world = World::listed();
    world.tables.endpoint.refused.insert(ip("10.244.1.5").into());
    world.planner.set_endpoint(ip("10.244.1.5"), pod(3));
    world.planner.set_endpoint(ip("10.244.1.6"), pod(4));
    world.sync();
    assert!(!world.reconciler.endpoint_is_written(ip("10.244.1.5").into()));
    assert!(world.reconciler.endpoint_is_written(ip("10.244.1.6").into()));
    assert_eq!(
        world.table_problems()[0],
        "table ENDPOINT: 1 entries are not programmed: table ENDPOINT: update failed: refused by the test; the \
         agent retries"
    );
}
