//! Behaviour that the Kubernetes e2e tests of Services require.
//! docs/conformance.md lists the test function for each of them.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

mod conformance;

use conformance::fixture::Fixture;
use conformance::{backend_selection, external, invalid, termination, updates};

#[test]
fn lab_conformance_of_services_inside() {
    let fixture = Fixture::up("inside", &["--nodes", "3"]);
    updates::run(&fixture);
    invalid::connections_survive_invalid_segments(&fixture);
    backend_selection::run(&fixture);
    termination::run(&fixture);
    fixture.lab.down();
}

#[test]
fn lab_conformance_of_services_outside() {
    let fixture = Fixture::up(
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
    external::run(&fixture);
    fixture.lab.down();
}

/// Names in docs/conformance.md, `lab/cli/tests/x.rs::f`, must be those of
/// existing functions.
#[test]
fn unit_every_test_of_the_conformance_page_exists() {
    let top = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = std::fs::read_to_string(top.join("docs/conformance.md")).unwrap();
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
                std::fs::read_to_string(top.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
            assert!(text.contains(&format!("fn {function}(")), "{file} has no {function}");
            named += 1;
        }
    }
    assert!(named > 80, "only {named} tests are named");
}
