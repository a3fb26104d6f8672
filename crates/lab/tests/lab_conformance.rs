//! What Kubernetes' own tests of Services ask for, told as days of a cluster:
//! docs/conformance.md names the story behind each of them.

#![allow(clippy::unwrap_used, reason = "a failing test ends here")]

mod conformance;

use conformance::world::World;
use conformance::{change, choice, endings, invalid, outside};

#[test]
fn lab_conformance_of_services_inside() {
    let world = World::up("inside", &["--nodes", "3"]);
    change::story(&world);
    invalid::connections_survive_segments_out_of_place(&world);
    choice::story(&world);
    endings::story(&world);
    world.lab.down();
}

#[test]
fn lab_conformance_of_services_outside() {
    let world = World::up(
        "outside",
        &[
            "--nodes",
            "3",
            "--set",
            "externalIPs.enabled=true",
            "--set",
            "externalIPs.allowedCIDRs=203.0.113.0/24",
        ],
    );
    outside::story(&world);
    world.lab.down();
}

/// A name on the page, `lab/tests/x.rs::f`, is that of a function of ours.
#[test]
fn unit_every_test_that_the_page_names_is_there() {
    let crates = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let page = std::fs::read_to_string(crates.parent().unwrap().join("docs/conformance.md")).unwrap();
    let rows: Vec<Vec<&str>> = page
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| Kubernetes"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    assert!(rows.len() > 100, "only {} rows", rows.len());
    let mut named = 0;
    for row in &rows {
        let [test, ours, result] = row[..] else { panic!("not three cells: {row:?}") };
        assert!(
            ["holds", "in part: ", "not tested: ", "not Beeline's: "]
                .iter()
                .any(|word| result.starts_with(word)),
            "{row:?}"
        );
        assert!(ours.contains("::") || !result.starts_with("holds"), "{test}: what shows it?");
        for name in ours.split('`').filter(|name| name.contains("::")) {
            let (file, function) = name.split_once("::").unwrap();
            let text =
                std::fs::read_to_string(crates.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
            assert!(text.contains(&format!("fn {function}(")), "{file} has no {function}");
            named += 1;
        }
    }
    assert!(named > 80, "only {named} tests are named");
}
