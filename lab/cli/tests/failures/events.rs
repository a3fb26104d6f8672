//! Invalid objects of every kind, and the events about them: one per problem,
//! whatever the number of nodes.

use std::time::{Duration, Instant};

use beeline_lab::harness::TestLab;
use serde_json::{Value, json};

use super::{Api, TIMEOUT, TestLabExt, pod};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
const PODS: &str = "/api/v1/namespaces/default/pods";
/// Configuration of the lab's agents.
pub const SETTINGS: [&str; 4] =
    ["--set", "externalIPs.enabled=true", "--set", "externalIPs.allowedCIDRs=198.51.100.0/24"];
/// Several intervals of an agent's problem reports.
const LOOKS: Duration = Duration::from_secs(3);

/// Object, reason and part of the message of each expected event.
const EXPECTED: [(&str, &str, &str); 9] = [
    (
        "Service second",
        "FrontendCollision",
        "externalIP 198.51.100.7 port 80/TCP conflicts with Service default/first",
    ),
    ("Service beyond", "ExternalIPRefused", "externalIP 203.0.113.1 is not served"),
    ("Service ranges", "SourceRangeInvalid", "invalid value `10.0.0.0/99`"),
    ("Service doubled", "PortInvalid", "port 81/TCP is listed twice"),
    ("Service zero", "PortInvalid", "0 is not a valid port"),
    ("EndpointSlice torn", "AddressUnusable", "invalid value `10.244.1.300`"),
    ("EndpointSlice shop-broken", "AddressUnusable", "invalid value `not an address`"),
    ("EndpointSlice stray", "ServiceMissing", "its Service default/nobody does not exist"),
    ("Pod late", "FrontendCollision", "hostPort 7777/TCP at 127.0.0.1 conflicts with Pod default/early"),
];

fn service(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

fn slice(name: &str, service: &str, address: &str) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
        "endpoints": [{"addresses": [address]}], "ports": [{"port": 8080}],
    })
}

/// Creates the invalid objects.
pub fn create_invalid_objects(lab: &TestLab, api: &Api) -> Instant {
    let at = |ip: &str| json!({"externalIPs": [ip], "ports": [{"port": 80}]});
    api.create(SLICES, &slice("stray", "nobody", "10.244.1.200"));
    api.create(SLICES, &slice("torn", "first", "10.244.1.300"));
    api.create(SERVICES, &service("first", at("198.51.100.7")));
    let begin = Instant::now();
    api.create(SERVICES, &service("second", at("198.51.100.7")));
    lab.wait_until("the collision is reported", TIMEOUT, || {
        !events_of(&beeline_events(api), "Service second").is_empty()
    });
    println!("the collision was reported after {:?}", begin.elapsed());
    api.create(SERVICES, &service("beyond", at("203.0.113.1")));
    let ports = json!([{"name": "a", "port": 81}, {"name": "b", "port": 81}]);
    api.create(SERVICES, &service("doubled", json!({"ports": ports})));
    api.create(
        SERVICES,
        &service("zero", json!({"ports": [{"name": "a", "port": 0}, {"name": "b", "port": 82}]})),
    );
    let ranges = json!({
        "type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.0/99"], "ports": [{"port": 83}],
    });
    api.create(SERVICES, &service("ranges", ranges));
    for name in ["early", "late"] {
        let mut pod = pod(name, "node-1");
        pod["spec"]["containers"][0]["ports"][0]["hostPort"] = json!(7777);
        api.create(PODS, &pod);
        lab.wait_for_pod_ready(name);
    }
    begin
}

/// Events of Beeline.
fn beeline_events(api: &Api) -> Vec<Value> {
    let mut events = api.list("/api/v1/namespaces/default/events");
    events.retain(|event| event["source"]["component"] == "beeline");
    events
}

fn events_of<'a>(events: &'a [Value], object: &str) -> Vec<&'a Value> {
    let is_it = |event: &&Value| {
        let involved = &event["involvedObject"];
        object.split_once(' ') == Some((text(&involved["kind"]), text(&involved["name"])))
    };
    events.iter().filter(is_it).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The events of this object with this reason and these words.
fn found<'a>(events: &'a [Value], (object, reason, words): (&str, &str, &str)) -> Vec<&'a Value> {
    let mut found = events_of(events, object);
    found.retain(|event| event["reason"] == reason && text(&event["message"]).contains(words));
    found
}

/// Number of events known to a node's agent, including those of other agents.
fn known_to(lab: &TestLab, node: &str) -> u64 {
    let page = lab.node(node).run(["curl", "-s", "http://127.0.0.1:9879/metrics"]).succeeds().stdout;
    let line = page.lines().find(|line| line.starts_with("beeline_object_events_total{outcome=\"told\"}"));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
}

/// Every problem is reported once for all nodes, on its object; resolved
/// problems are no longer reported.
pub fn check(lab: &TestLab, api: &Api) {
    lab.wait_until("every problem is reported", TIMEOUT, || {
        let events = beeline_events(api);
        EXPECTED.iter().all(|expected| !found(&events, *expected).is_empty())
    });
    let local = |event: &&Value| !event["source"]["host"].is_null();
    lab.wait_until("both nodes have reported their events", TIMEOUT, || {
        let events = beeline_events(api);
        let of_all = events.len() - events.iter().filter(local).count();
        known_to(lab, "node-1") as usize == events.len() && known_to(lab, "node-2") as usize == of_all
    });
    let events = beeline_events(api);
    for expected in EXPECTED {
        let output = found(&events, expected);
        assert_eq!(output.len(), 1, "{expected:?} is reported once\n{events:#?}");
        let event = output[0];
        let is_pod = event["involvedObject"]["kind"] == "Pod";
        let host = if is_pod { json!("node-1") } else { Value::Null };
        assert_eq!((&event["source"]["host"], &event["type"]), (&host, &json!("Warning")), "{event:#}");
    }
    let mut names: Vec<&str> = events.iter().map(|event| text(&event["involvedObject"]["name"])).collect();
    names.dedup();
    let bad = |name: &&str| EXPECTED.iter().any(|(object, ..)| object.ends_with(&format!(" {name}")));
    assert!(names.iter().all(bad), "no events about other objects: {names:?}");

    // Both objects are repaired.
    api.patch(&format!("{SERVICES}/second"), &json!({"spec": {"externalIPs": ["198.51.100.8"]}}));
    api.create(SERVICES, &service("nobody", json!({"ports": [{"port": 80}]})));
    lab.wait_until("the status lists no problem of these objects", TIMEOUT, || {
        let status = lab.beeline(&["status"]);
        !status.contains("Service default/second") && !status.contains("EndpointSlice default/stray")
    });
    let before = beeline_events(api);
    std::thread::sleep(LOOKS);
    assert_eq!(beeline_events(api), before, "no new events");
    for name in ["first", "second", "beyond", "doubled", "zero", "ranges", "nobody"] {
        api.delete(&format!("{SERVICES}/{name}"));
    }
    for path in [format!("{SLICES}/stray"), format!("{SLICES}/torn")] {
        api.delete(&path);
    }
    for name in ["early", "late"] {
        api.delete(&format!("{PODS}/{name}"));
    }
}
