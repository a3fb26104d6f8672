//! Another process writes to the tables. The agent compares them periodically,
//! corrects differences and counts them.

use std::time::{Duration, Instant};

use beeline_abi::config::ConfigValue;
use beeline_kernel::datapath::Datapath;
use beeline_sync::{Contents, Tables};
use serde_json::json;

use crate::world::{World, no_programs};

/// Two comparisons on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(40);

/// A load balancer with a source range, an endpoint on another node, and the
/// object of the attached pod: every table has an entry.
fn fill(world: &World) {
    let service = json!({ "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "web", "namespace": "default" },
        "spec": { "type": "LoadBalancer", "loadBalancerSourceRanges": ["192.0.2.0/24"],
            "ports": [{ "port": 80, "targetPort": 8080 }] } });
    let slice = json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "name": "web-1", "namespace": "default",
            "labels": { "kubernetes.io/service-name": "web" } },
        "endpoints": [{ "addresses": ["10.244.2.9"], "nodeName": "node-2", "conditions": { "ready": true } }],
        "ports": [{ "port": 8080, "protocol": "TCP" }] });
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "web", "namespace": "shop" },
        "spec": { "nodeName": "node-1", "containers": [{ "name": "web", "image": "web" }] } });
    let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "shop" } });
    world.api().create("namespaces", namespace).unwrap();
    let pod = world.api().create("pods", pod).unwrap();
    let service = world.api().create("services", service).unwrap();
    let slice = world.api().create("endpointslices", slice).unwrap();
    world.wait_for_sync("Pod", &pod);
    world.wait_for_sync("Service", &service);
    world.wait_for_sync("EndpointSlice", &slice);
    // The address is assigned later.
    world.eventually("the load balancer's address is served", || {
        let addresses = world.pinned().contents().unwrap().service_address;
        addresses.keys().any(|ip| ip.to_string().starts_with("172.30.0.22"))
    });
}

/// Changes the first entry of every table, deletes the last one if there are
/// more, and adds an unknown one. Returns the number of wrong entries.
fn spoil(datapath: &mut Datapath) -> u64 {
    let mut spoilt = 0;
    macro_rules! spoil {
        ($($table:ident),*) => {$({
            let mut entries = datapath.$table().entries().unwrap();
            entries.sort_by_key(|(key, _)| *key);
            let (first, _) = entries[0];
            datapath.$table().update(&first, &Default::default()).unwrap();
            spoilt += 1;
            if entries.len() > 1 {
                datapath.$table().delete(&entries[entries.len() - 1].0).unwrap();
                spoilt += 1;
            }
        })*};
    }
    spoil!(
        address,
        endpoint,
        namespace,
        node,
        service_address,
        frontend,
        service,
        slot,
        backend,
        source_range
    );
    datapath.backend().update(&999_999, &Default::default()).unwrap();
    datapath.set_config(&ConfigValue { flags: !0, ..datapath.config().unwrap() }).unwrap();
    spoilt + 2
}

#[test]
fn kernel_external_writes_to_any_table_are_corrected_and_counted() {
    if no_programs() {
        return;
    }
    let mut world = World::new();
    world.values = "bpf:\n  lbSourceRangeAllTypes: true\n".to_owned();
    world.start_agent();
    world.until_ready();
    let _pod = world.add("web");
    fill(&world);
    let contents = || world.pinned().contents().unwrap();
    let before: Contents = contents();
    let path = world.path("bpf/beeline");
    let mut datapath = world.node.netns.enter(|| Datapath::open(&path)).unwrap().unwrap();
    let config = datapath.config().unwrap();
    let drift = || {
        let (_, page) = world.page("/metrics");
        let line =
            page.lines().find_map(|line| line.strip_prefix("beeline_drift_total{} ")).map(str::to_owned);
        line.unwrap_or_else(|| panic!("no drift in\n{page}")).parse::<u64>().unwrap()
    };
    assert_eq!(drift(), 0, "{}", world.log());
    let spoilt = spoil(&mut datapath);
    assert_ne!(contents(), before);
    let deadline = Instant::now() + TIMEOUT;
    while (drift() < spoilt || contents() != before) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(contents(), before, "{}", world.log());
    assert_eq!(datapath.config().unwrap(), config, "{}", world.log());
    assert_eq!(drift(), spoilt, "{}", world.log());
    assert!(world.log().contains("differed from the desired state"), "{}", world.log());
}
