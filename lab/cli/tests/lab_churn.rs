//! Endpoint churn with 20,000 changes a minute: connections to endpoints that
//! stay are unaffected, and the tables are correct afterwards.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

mod failures;
mod load;

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use beeline_lab::harness::TestLab;
use failures::Api;
use load::Traffic;
use serde_json::{Value, json};

/// Default duration in seconds; `BEELINE_CHURN_SECONDS` overrides it.
const SECONDS: u64 = 15;
/// Number of concurrent writers.
const WRITERS: usize = 3;
/// Interval between two changes of a writer: 20,000 a minute in total.
const PAUSE: Duration = Duration::from_micros(60_000_000 / 20_000 * WRITERS as u64);
/// Number of Services whose endpoints change; traffic is sent to the first
/// Service of each writer.
const SERVICES: usize = 60;
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

/// A Service without a selector: the test writes its EndpointSlices.
fn service(number: usize) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("churn-{number}")},
        "spec": {"ports": [
            {"name": "tcp", "protocol": "TCP", "port": 80, "targetPort": 9000},
            {"name": "udp", "protocol": "UDP", "port": 80, "targetPort": 9000}]}})
}

fn endpoints(ips: &[&str]) -> Value {
    let ready = |ip| json!({"addresses": [ip], "conditions": {"ready": true}});
    json!(ips.iter().map(ready).collect::<Vec<_>>())
}

fn slice(number: usize, ips: &[&str]) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": format!("churn-{number}"),
            "labels": {"kubernetes.io/service-name": format!("churn-{number}")}},
        "addressType": "IPv4", "endpoints": endpoints(ips),
        "ports": [
            {"name": "tcp", "protocol": "TCP", "port": 9000},
            {"name": "udp", "protocol": "UDP", "port": 9000}]})
}

/// Changes its Services in turn until the deadline. Returns the number of
/// changes.
fn write(lab: &TestLab, first: usize, ips: &[String; 3], until: Instant) -> u64 {
    let api = Api::open(lab);
    let [near, far, farther] = [0, 1, 2].map(|at| ips[at].as_str());
    // All pods are running, whether they are listed or not.
    let sets: [&[&str]; 5] = [&[far], &[near, far], &[far, farther], &[near], &[near, far, farther]];
    let mut changes = 0;
    let mut due = Instant::now();
    while Instant::now() < until {
        let turn = changes as usize;
        let number = first + turn % (SERVICES / WRITERS) * WRITERS;
        let set = sets[(turn / (SERVICES / WRITERS) + number) % sets.len()];
        api.patch(&format!("{SLICES}/churn-{number}"), &json!({"endpoints": endpoints(set)}));
        changes += 1;
        due += PAUSE;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    changes
}

#[test]
fn lab_endpoint_churn_disturbs_no_connection() {
    let seconds = std::env::var("BEELINE_CHURN_SECONDS").ok().and_then(|text| text.parse().ok());
    let time = Duration::from_secs(seconds.unwrap_or(SECONDS));
    let lab = TestLab::up("churn");
    let mut traffic = Traffic::start(&lab);
    let ips = ["near", "far", "farther"].map(|name| {
        let pod = lab.pods(name).into_iter().find(|pod| pod.name == name).unwrap();
        pod.ips.into_iter().find(|ip| !ip.contains(':')).unwrap()
    });
    let api = Api::open(&lab);
    for number in 0..SERVICES {
        api.create("/api/v1/namespaces/default/services", &service(number));
        api.create(SLICES, &slice(number, &[ips[1].as_str()]));
    }
    for number in 0..WRITERS {
        let address: IpAddr = lab.service(&format!("churn-{number}")).cluster_ips[0].parse().unwrap();
        lab.wait_until("a Service is served", Duration::from_secs(10), || {
            let asked =
                lab.pod("caller").shell(&format!("curl -so /dev/null http://{address}/; test $? -ne 7"));
            asked.is_success()
        });
        traffic.add_service_flows(address);
    }
    let changes = AtomicU64::new(0);
    let began = Instant::now();
    std::thread::scope(|scope| {
        for first in 0..WRITERS {
            let (lab, ips, changes) = (&lab, &ips, &changes);
            scope.spawn(move || {
                changes.fetch_add(write(lab, first, ips, began + time), Ordering::Relaxed);
            });
        }
    });
    let (changes, elapsed) = (changes.into_inner(), began.elapsed());
    let report = traffic.stop();
    println!(
        "{changes} changes in {elapsed:.1?}, {} a minute\n{report}",
        changes * 60 / elapsed.as_secs().max(1)
    );
    report.check();
    assert!(changes > 50 * time.as_secs(), "{changes} changes are too few for a result");
    // The agents compare their tables with the desired state every ten
    // seconds.
    for node in ["node-1", "node-2", "node-3"] {
        let metrics = lab.node(node).shell("curl -s http://127.0.0.1:9879/metrics").succeeds();
        assert!(metrics.stdout.contains("beeline_drift_total{} 0"), "{node}\n{metrics}");
    }
    lab.down();
}
