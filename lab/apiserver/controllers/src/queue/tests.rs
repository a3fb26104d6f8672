use beeline_apiserver_admission::{DeleteOptions, ListOptions, Propagation};
use beeline_apiserver_objects::{PatchKind, object};
use serde_json::{Value, json};

use super::*;
use crate::{bootstrap, pods as pod};

/// An API with the bootstrap objects, and its controllers, which run only in `settle`.
fn cluster() -> (Api, Controllers) {
    let config = ClusterConfig::default();
    let api = Api::new(100_000, &config.service_cidrs);
    bootstrap(&api, &config).unwrap();
    let controllers = Controllers::new(&api, &config, "the CA's certificate");
    (api, controllers)
}

impl Controllers {
    /// Runs until the queue is empty; panics if it does not become empty.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            if !self.step() {
                if self.failed.is_empty() {
                    return;
                }
                let failed = std::mem::take(&mut self.failed);
                self.queue.extend(failed);
            }
        }
        panic!("the controllers do not settle; still queued: {:?}", self.queue);
    }

    /// Runs until only failing keys are left.
    fn settle_best_effort(&mut self) {
        for _ in 0..10_000 {
            if !self.step() {
                return;
            }
        }
        panic!("the controllers do not settle; still queued: {:?}", self.queue);
    }
}

#[test]
fn unit_kubernetes_has_the_first_address_of_each_range() {
    let (api, _) = cluster();
    let service = api.get("services", "default", "kubernetes").unwrap();
    assert_eq!(service["spec"]["clusterIP"], "10.96.0.1");
    assert_eq!(service["spec"]["clusterIPs"], json!(["10.96.0.1", "fd00:10:96::1"]));
}

fn add_node(api: &Api, name: &str) {
    let status = json!({"conditions": [{"type": "Ready", "status": "True"}]});
    api.create("nodes", json!({"metadata": {"name": name}, "status": status})).unwrap();
}

fn add_deployment(api: &Api, replicas: i64) {
    let template = json!({
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "web", "image": "beeline/echo", "ports": [{"name": "http", "containerPort": 8080}]}]},
    });
    let spec =
        json!({"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template});
    api.create("deployments", json!({"metadata": {"name": "web"}, "spec": spec})).unwrap();
}

fn pods(api: &Api) -> Vec<Value> {
    api.list("pods", None, &ListOptions::default())
        .unwrap()
        .items
        .iter()
        .map(|pod| Value::clone(pod))
        .collect()
}

/// Simulates the kubelets: bound pods become running and ready, terminating pods are removed.
fn kubelet(api: &Api) {
    for (index, pod) in pods(api).into_iter().enumerate() {
        let name = object::name(&pod).to_owned();
        if object::is_deleting(&pod) {
            let now = DeleteOptions { grace_seconds: Some(0), ..DeleteOptions::default() };
            api.delete("pods", "default", &name, &now).unwrap();
        } else if object::str_at(&pod, "/status/phase") == "Pending" && pod["spec"]["nodeName"].is_string() {
            let index = index + usize::try_from(object::resource_version(&pod) % 200).unwrap();
            let status = json!({
                "phase": "Running", "podIP": format!("10.244.1.{index}"),
                "podIPs": [{"ip": format!("10.244.1.{index}")}, {"ip": format!("fd00:10:244:1::{index}")}],
                "conditions": [{"type": "Ready", "status": "True"}],
            });
            api.patch_status("pods", "default", &name, &PatchKind::Merge, &json!({"status": status}))
                .unwrap();
        }
    }
}

fn run(api: &Api, controllers: &mut Controllers) {
    for _ in 0..40 {
        controllers.settle_best_effort();
        kubelet(api);
    }
    controllers.settle();
}

fn slices(api: &Api, service: &str) -> Vec<Value> {
    let options =
        ListOptions { labels: format!("kubernetes.io/service-name={service}"), ..ListOptions::default() };
    api.list("endpointslices", Some("default"), &options)
        .unwrap()
        .items
        .iter()
        .map(|one| Value::clone(one))
        .collect()
}

/// Reason, message and count of the events about an object, sorted.
fn events(api: &Api, kind: &str, name: &str) -> Vec<(String, String, i64)> {
    let events = api.list("events", None, &ListOptions::default()).unwrap().items;
    let about = events
        .iter()
        .filter(|event| event["involvedObject"]["kind"] == kind && event["involvedObject"]["name"] == name);
    let text = |event: &Value, field: &str| event[field].as_str().unwrap().to_owned();
    let mut recorded: Vec<_> = about
        .map(|event| (text(event, "reason"), text(event, "message"), event["count"].as_i64().unwrap()))
        .collect();
    recorded.sort();
    recorded
}

#[test]
fn unit_controllers_record_events() {
    let (api, mut controllers) = cluster();
    add_deployment(&api, 2);
    controllers.settle();
    let waiting = pods(&api);
    let recorded = events(&api, "Pod", object::name(&waiting[0]));
    assert!(
        matches!(&recorded[..], [(reason, message, _)] if reason == "FailedScheduling" && message.starts_with("0/0 nodes")),
        "{recorded:?}"
    );

    add_node(&api, "node-1");
    controllers.settle();
    let pod = object::name(&waiting[0]).to_owned();
    let recorded = events(&api, "Pod", &pod);
    let assigned = format!("Successfully assigned default/{pod} to node-1");
    assert!(recorded.contains(&("Scheduled".into(), assigned, 1)), "{recorded:?}");

    let set =
        object::name(&api.list("replicasets", None, &ListOptions::default()).unwrap().items[0]).to_owned();
    assert!(events(&api, "ReplicaSet", &set).contains(&(
        "SuccessfulCreate".into(),
        format!("Created pod: {pod}"),
        1
    )));
    for replicas in [0, 2, 0, 2] {
        let patch = json!({"spec": {"replicas": replicas}});
        api.patch("deployments", "default", "web", &PatchKind::Merge, &patch).unwrap();
        controllers.settle_best_effort();
        kubelet(&api);
        controllers.settle();
    }
    let scaled = |way: &str, from: i64, to: i64, count: i64| {
        ("ScalingReplicaSet".to_owned(), format!("Scaled {way} replica set {set} from {from} to {to}"), count)
    };
    assert_eq!(events(&api, "Deployment", "web"), [scaled("down", 2, 0, 2), scaled("up", 0, 2, 3)]);
    assert!(events(&api, "ReplicaSet", &set).contains(&(
        "SuccessfulDelete".into(),
        format!("Deleted pod: {pod}"),
        1
    )));
}

#[test]
fn unit_nodes_get_the_pod_cidrs_of_their_number() {
    let (api, mut controllers) = cluster();
    for name in ["node-2", "other", "node-1"] {
        add_node(&api, name);
    }
    let own =
        json!({"metadata": {"name": "own"}, "spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24"]}});
    api.create("nodes", own).unwrap();
    controllers.settle();
    let ranges = |name: &str| api.get("nodes", "", name).unwrap()["spec"]["podCIDRs"].clone();
    assert_eq!(ranges("node-1"), json!(["10.244.1.0/24", "fd00:10:244:1::/64"]));
    assert_eq!(ranges("node-2"), json!(["10.244.2.0/24", "fd00:10:244:2::/64"]));
    assert_eq!(ranges("other"), json!(["10.244.3.0/24", "fd00:10:244:3::/64"]));
    assert_eq!(ranges("own"), json!(["10.1.0.0/24"]));
}

#[test]
fn unit_a_deployment_gets_spread_pods_and_a_status() {
    let (api, mut controllers) = cluster();
    (1..=3).for_each(|index| add_node(&api, &format!("node-{index}")));
    add_deployment(&api, 6);
    run(&api, &mut controllers);
    for node in ["node-1", "node-2", "node-3"] {
        let on = pods(&api).iter().filter(|pod| pod["spec"]["nodeName"] == node).count();
        assert_eq!(on, 2, "{node}");
    }
    let status = api.get("deployments", "default", "web").unwrap()["status"].clone();
    assert_eq!(status["readyReplicas"], 6);
    assert_eq!(status["conditions"][0]["status"], "True", "{status:#}");
}

#[test]
fn unit_a_new_template_rolls_without_going_below_the_minimum() {
    let (api, mut controllers) = cluster();
    add_node(&api, "node-1");
    add_deployment(&api, 4);
    run(&api, &mut controllers);
    let patch =
        json!({"spec": {"template": {"spec": {"containers": [{"name": "web", "image": "beeline/echo:2"}]}}}});
    api.patch("deployments", "default", "web", &PatchKind::Strategic, &patch).unwrap();
    let mut fewest = usize::MAX;
    for _ in 0..40 {
        controllers.settle_best_effort();
        let ready = pods(&api).iter().filter(|pod| pod::is_active(pod) && pod::is_ready(pod)).count();
        fewest = fewest.min(ready);
        kubelet(&api);
    }
    assert_eq!(fewest, 3);
    let images: Vec<Value> =
        pods(&api).iter().map(|pod| pod["spec"]["containers"][0]["image"].clone()).collect();
    assert_eq!(images, vec![json!("beeline/echo:2"); 4]);
    let sets = api.list("replicasets", None, &ListOptions::default()).unwrap().items;
    assert_eq!(sets.len(), 2, "the old set stays for a rollback");
}

#[test]
fn unit_a_rollback_is_the_newest_revision() {
    let (api, mut controllers) = cluster();
    add_node(&api, "node-1");
    add_deployment(&api, 1);
    let image = |image: &str| json!({"spec": {"template": {"spec": {"containers": [{"name": "web", "image": image}]}}}});
    for desired in ["beeline/echo", "beeline/echo:2", "beeline/echo"] {
        api.patch("deployments", "default", "web", &PatchKind::Strategic, &image(desired)).unwrap();
        run(&api, &mut controllers);
    }
    let revision = "deployment.kubernetes.io/revision";
    let sets = api.list("replicasets", None, &ListOptions::default()).unwrap().items;
    let mut revisions: Vec<&str> = sets.iter().filter_map(|set| object::annotation(set, revision)).collect();
    revisions.sort_unstable();
    assert_eq!(revisions, ["2", "3"]);
    let deployment = api.get("deployments", "default", "web").unwrap();
    assert_eq!(object::annotation(&deployment, revision), Some("3"));
}

#[test]
fn unit_scaling_down_deletes_pods_gracefully() {
    let (api, mut controllers) = cluster();
    add_node(&api, "node-1");
    add_deployment(&api, 3);
    run(&api, &mut controllers);
    api.patch("deployments", "default", "web", &PatchKind::Merge, &json!({"spec": {"replicas": 1}})).unwrap();
    controllers.settle_best_effort();
    let terminating = pods(&api).iter().filter(|pod| object::is_deleting(pod)).count();
    assert_eq!(terminating, 2);
    run(&api, &mut controllers);
    assert_eq!(pods(&api).len(), 1);
}

#[test]
fn unit_deleting_a_deployment_deletes_what_it_owns() {
    let (api, mut controllers) = cluster();
    add_node(&api, "node-1");
    add_deployment(&api, 2);
    run(&api, &mut controllers);
    api.delete("deployments", "default", "web", &DeleteOptions::default()).unwrap();
    run(&api, &mut controllers);
    assert!(pods(&api).is_empty());
    assert!(api.list("replicasets", None, &ListOptions::default()).unwrap().items.is_empty());
}

#[test]
fn unit_foreground_deletion_waits_and_orphan_keeps_dependents() {
    let (api, mut controllers) = cluster();
    add_node(&api, "node-1");
    add_deployment(&api, 2);
    run(&api, &mut controllers);
    let foreground = DeleteOptions { propagation: Propagation::Foreground, ..DeleteOptions::default() };
    api.delete("deployments", "default", "web", &foreground).unwrap();
    controllers.settle_best_effort();
    assert!(api.get("deployments", "default", "web").is_ok(), "its pods are still terminating");
    run(&api, &mut controllers);
    assert!(api.get("deployments", "default", "web").is_err());
    assert!(pods(&api).is_empty());

    add_deployment(&api, 2);
    run(&api, &mut controllers);
    let orphan = DeleteOptions { propagation: Propagation::Orphan, ..DeleteOptions::default() };
    api.delete("deployments", "default", "web", &orphan).unwrap();
    run(&api, &mut controllers);
    assert!(api.get("deployments", "default", "web").is_err());
    assert_eq!(pods(&api).len(), 2);
}

#[test]
fn unit_a_daemon_set_runs_once_on_every_fitting_node() {
    let (api, mut controllers) = cluster();
    (1..=3).for_each(|index| add_node(&api, &format!("node-{index}")));
    let labels = json!({"metadata": {"labels": {"disk": "ssd"}}});
    api.patch("nodes", "", "node-2", &PatchKind::Merge, &labels).unwrap();
    let spec = |selector: Value| {
        json!({
            "selector": {"matchLabels": {"app": "ds"}},
            "template": {
                "metadata": {"labels": {"app": "ds"}},
                "spec": {"nodeSelector": selector, "containers": [{"name": "a", "image": "b"}]},
            },
        })
    };
    api.create("daemonsets", json!({"metadata": {"name": "all"}, "spec": spec(json!(null))})).unwrap();
    run(&api, &mut controllers);
    assert_eq!(pods(&api).len(), 3);
    add_node(&api, "node-4");
    run(&api, &mut controllers);
    assert_eq!(pods(&api).len(), 4);
    assert_eq!(api.get("daemonsets", "default", "all").unwrap()["status"]["numberReady"], 4);
    let patch = json!({"spec": {"template": {"spec": {"nodeSelector": {"disk": "ssd"}}}}});
    api.patch("daemonsets", "default", "all", &PatchKind::Merge, &patch).unwrap();
    run(&api, &mut controllers);
    assert_eq!(pods(&api).len(), 1);
}

#[test]
fn unit_the_scheduler_honours_selectors_cordons_and_anti_affinity() {
    let (api, mut controllers) = cluster();
    (1..=3).for_each(|index| add_node(&api, &format!("node-{index}")));
    api.patch("nodes", "", "node-1", &PatchKind::Merge, &json!({"spec": {"unschedulable": true}})).unwrap();
    let pod = |name: &str, spec: Value| {
        let mut pod = json!({"metadata": {"name": name, "labels": {"app": "x"}}, "spec": spec});
        pod["spec"]["containers"] = json!([{"name": "a", "image": "b"}]);
        api.create("pods", pod).unwrap();
    };
    let apart = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        [{"labelSelector": {"matchLabels": {"app": "x"}}, "topologyKey": "kubernetes.io/hostname"}]}});
    pod("a", json!({"affinity": apart}));
    pod("b", json!({"affinity": apart}));
    pod("c", json!({"affinity": apart}));
    controllers.settle();
    let node = |name: &str| api.get("pods", "default", name).unwrap()["spec"]["nodeName"].clone();
    assert_eq!((node("a"), node("b"), node("c")), (json!("node-2"), json!("node-3"), json!(null)));
    let status = api.get("pods", "default", "c").unwrap()["status"].clone();
    assert_eq!(status["conditions"][0]["reason"], "Unschedulable");
    api.patch("nodes", "", "node-1", &PatchKind::Merge, &json!({"spec": {"unschedulable": null}})).unwrap();
    controllers.settle();
    assert_eq!(node("c"), json!("node-1"));
}

#[test]
fn unit_slices_follow_pods_with_conditions_in_both_families() {
    let (api, mut controllers) = cluster();
    add_node(&api, "node-1");
    let service = json!({
        "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ipFamilyPolicy": "PreferDualStack", "ports": [{"port": 80, "targetPort": "http"}]},
    });
    api.create("services", service).unwrap();
    controllers.settle();
    assert_eq!(slices(&api, "web").len(), 2, "an empty slice per family");
    add_deployment(&api, 2);
    run(&api, &mut controllers);
    let found = slices(&api, "web");
    assert_eq!(found.len(), 2, "{found:#?}");
    for slice in &found {
        assert_eq!(slice["ports"], json!([{"name": "", "port": 8080, "protocol": "TCP"}]));
        assert_eq!(object::array_at(slice, "/endpoints").len(), 2);
        let conditions = &slice["endpoints"][0]["conditions"];
        assert_eq!(*conditions, json!({"ready": true, "serving": true, "terminating": false}));
        assert_eq!(slice["endpoints"][0]["nodeName"], "node-1");
    }
    let victim = object::str_at(&found[0], "/endpoints/0/targetRef/name").to_owned();
    api.delete("pods", "default", &victim, &DeleteOptions::default()).unwrap();
    controllers.settle_best_effort();
    let terminating = slices(&api, "web")
        .iter()
        .flat_map(|slice| object::array_at(slice, "/endpoints").to_vec())
        .find(|one| one["targetRef"]["name"] == victim.as_str());
    assert_eq!(
        terminating.unwrap()["conditions"],
        json!({"ready": false, "serving": true, "terminating": true})
    );
    api.delete("services", "default", "web", &DeleteOptions::default()).unwrap();
    run(&api, &mut controllers);
    assert!(slices(&api, "web").is_empty());
}

#[test]
fn unit_ready_endpoints_get_topology_hints() {
    let (api, mut controllers) = cluster();
    add_node(&api, "node-1");
    let zone = json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "a"}}});
    api.patch("nodes", "", "node-1", &PatchKind::Merge, &zone).unwrap();
    add_deployment(&api, 2);
    let spec = json!({"selector": {"app": "web"}, "ports": [{"port": 80}]});
    api.create("services", json!({"metadata": {"name": "web"}, "spec": spec})).unwrap();
    run(&api, &mut controllers);
    let hints = || -> Vec<Value> {
        let found = slices(&api, "web");
        let endpoints = found.iter().flat_map(|slice| object::array_at(slice, "/endpoints").to_vec());
        endpoints.map(|one| json!([one["conditions"]["ready"], one["hints"]])).collect()
    };
    assert_eq!(hints(), [json!([true, null]), json!([true, null])], "none asked for");
    let (zones, nodes) = (json!([{"name": "a"}]), json!([{"name": "node-1"}]));
    for (distribution, hint) in [
        (json!("PreferClose"), json!({"forZones": zones})),
        (json!("PreferSameZone"), json!({"forZones": zones})),
        (json!("PreferSameNode"), json!({"forZones": zones, "forNodes": nodes})),
        (Value::Null, Value::Null),
    ] {
        let patch = json!({"spec": {"trafficDistribution": distribution}});
        api.patch("services", "default", "web", &PatchKind::Merge, &patch).unwrap();
        controllers.settle();
        assert_eq!(hints(), [json!([true, hint]), json!([true, hint])], "{distribution}");
    }
    let patch = json!({"spec": {"trafficDistribution": "PreferSameNode"}});
    api.patch("services", "default", "web", &PatchKind::Merge, &patch).unwrap();
    let victim = object::name(&pods(&api)[0]).to_owned();
    api.delete("pods", "default", &victim, &DeleteOptions::default()).unwrap();
    controllers.settle_best_effort();
    let found = hints();
    assert!(found.contains(&json!([false, null])), "one that ends has none: {found:?}");
    assert!(found.contains(&json!([true, {"forZones": zones, "forNodes": nodes}])), "{found:?}");
}

#[test]
fn unit_endpoints_mirror_the_slices() {
    let (api, mut controllers) = cluster();
    add_node(&api, "node-1");
    add_deployment(&api, 2);
    let spec =
        json!({"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]});
    api.create("services", json!({"metadata": {"name": "web"}, "spec": spec})).unwrap();
    run(&api, &mut controllers);
    let found = api.get("endpoints", "default", "web").unwrap();
    let subset = &found["subsets"][0];
    assert_eq!(subset["ports"], json!([{"name": "http", "port": 8080, "protocol": "TCP"}]), "{found}");
    let addresses = object::array_at(subset, "/addresses");
    assert_eq!(addresses.len(), 2, "{found}");
    assert_eq!(addresses[0]["targetRef"]["kind"], "Pod");
    let revision = object::resource_version(&found);
    controllers.settle();
    let again = api.get("endpoints", "default", "web").unwrap();
    assert_eq!(object::resource_version(&again), revision, "an unchanged object is not written");
    api.delete("services", "default", "web", &DeleteOptions::default()).unwrap();
    controllers.settle();
    assert!(api.get("endpoints", "default", "web").unwrap_err().is_not_found());
}

#[test]
fn unit_slices_have_at_most_100_endpoints_and_change_one_at_a_time() {
    let (api, mut controllers) = cluster();
    add_node(&api, "node-1");
    let service =
        json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
    api.create("services", service).unwrap();
    for index in 0..250 {
        let spec = json!({"nodeName": "node-1", "containers": [{"name": "a", "image": "b"}]});
        let name = format!("p{index}");
        api.create("pods", json!({"metadata": {"name": name, "labels": {"app": "web"}}, "spec": spec}))
            .unwrap();
        let ip = format!("10.244.{}.{}", index / 200, index % 200 + 1);
        let status = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}});
        api.patch_status("pods", "default", &name, &PatchKind::Merge, &status).unwrap();
    }
    controllers.settle();
    let before = slices(&api, "web");
    let mut sizes: Vec<usize> =
        before.iter().map(|slice| object::array_at(slice, "/endpoints").len()).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [50, 100, 100]);
    let now = DeleteOptions { grace_seconds: Some(0), ..DeleteOptions::default() };
    api.delete("pods", "default", "p7", &now).unwrap();
    controllers.settle();
    let changed = slices(&api, "web").iter().zip(&before).filter(|(after, before)| after != before).count();
    assert_eq!(changed, 1);
}

#[test]
fn unit_deleting_a_namespace_deletes_its_contents() {
    let (api, mut controllers) = cluster();
    add_node(&api, "node-1");
    api.create("namespaces", json!({"metadata": {"name": "shop"}})).unwrap();
    controllers.settle();
    assert!(api.get("serviceaccounts", "shop", "default").is_ok());
    api.create("configmaps", json!({"metadata": {"name": "a", "namespace": "shop"}})).unwrap();
    api.delete("namespaces", "", "shop", &DeleteOptions::default()).unwrap();
    let late = api.create("configmaps", json!({"metadata": {"name": "b", "namespace": "shop"}})).unwrap_err();
    assert_eq!(late.code, 403);
    controllers.settle();
    assert!(api.get("namespaces", "", "shop").is_err());
    assert!(api.get("configmaps", "shop", "a").is_err());
}

#[test]
fn unit_deleting_a_definition_deletes_its_objects_and_custom_objects_are_collected() {
    let (api, mut controllers) = cluster();
    let definition = json!({
        "metadata": {"name": "hives.bees.example"},
        "spec": {
            "group": "bees.example", "scope": "Namespaced", "names": {"plural": "hives", "kind": "Hive"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}],
        },
    });
    api.create("crd", definition.clone()).unwrap();
    controllers.settle();
    let owner = api.create("hives", json!({"metadata": {"name": "owner"}})).unwrap();
    let reference = object::controller_reference(&owner, "bees.example/v1", "Hive");
    api.create("hives", json!({"metadata": {"name": "owned", "ownerReferences": [reference]}})).unwrap();
    api.create("configmaps", json!({"metadata": {"name": "owned", "ownerReferences": [reference]}})).unwrap();
    controllers.settle();
    api.delete("hives", "default", "owner", &DeleteOptions::default()).unwrap();
    controllers.settle();
    assert!(api.get("hives", "default", "owned").unwrap_err().is_not_found());
    assert!(api.get("configmaps", "default", "owned").unwrap_err().is_not_found());

    let held = json!({"metadata": {"name": "held", "finalizers": ["bees.example/hold"]}});
    api.create("hives", held).unwrap();
    api.create("hives", json!({"metadata": {"name": "free"}})).unwrap();
    let mut watch = api.watch("hives", None, &WatchOptions::default()).unwrap();
    api.delete("crd", "", "hives.bees.example", &DeleteOptions::default()).unwrap();
    controllers.settle_best_effort();
    assert!(api.get("hives", "default", "free").unwrap_err().is_not_found());
    let refused = api.create("hives", json!({"metadata": {"name": "late"}})).unwrap_err();
    assert_eq!((refused.code, refused.reason), (405, "MethodNotAllowed"));
    let release = json!({"metadata": {"finalizers": null}});
    api.patch("hives", "default", "held", &PatchKind::Merge, &release).unwrap();
    controllers.settle();
    assert!(api.get("crd", "", "hives.bees.example").unwrap_err().is_not_found());
    assert_eq!(api.kind("hives").unwrap_err().code, 404);
    let mut seen = Vec::new();
    let end = loop {
        match watch.try_next() {
            Ok(Some(event)) => seen.push(format!("{} {}", event.kind.as_str(), object::name(&event.object))),
            Ok(None) => panic!("the watch should end; seen {seen:?}"),
            Err(error) => break error,
        }
    };
    assert_eq!(
        seen,
        ["ADDED free", "ADDED held", "DELETED free", "MODIFIED held", "MODIFIED held", "DELETED held"]
    );
    assert_eq!(end.code, 410);
    api.create("crd", definition).unwrap();
    assert!(api.watch("hives", None, &WatchOptions::default()).unwrap().try_next().unwrap().is_none());
}

#[test]
fn unit_pods_of_a_deleted_node_are_removed() {
    let (api, mut controllers) = cluster();
    (1..=2).for_each(|index| add_node(&api, &format!("node-{index}")));
    add_deployment(&api, 2);
    run(&api, &mut controllers);
    api.delete("nodes", "", "node-1", &DeleteOptions::default()).unwrap();
    run(&api, &mut controllers);
    let nodes: Vec<Value> = pods(&api).iter().map(|pod| pod["spec"]["nodeName"].clone()).collect();
    assert_eq!(nodes, vec![json!("node-2"); 2]);
}

#[test]
fn unit_thousands_of_services_cost_their_own_changes_only() {
    let (api, mut controllers) = cluster();
    add_node(&api, "node-1");
    for index in 0..100 {
        let spec = json!({"nodeName": "node-1", "containers": [{"name": "a", "image": "b"}]});
        let labels = json!({"app": format!("a{index}")});
        api.create(
            "pods",
            json!({"metadata": {"name": format!("p{index}"), "labels": labels}, "spec": spec}),
        )
        .unwrap();
    }
    controllers.settle();
    let started = std::time::Instant::now();
    for index in 0..5000 {
        let spec = json!({"selector": {"app": format!("a{}", index % 100)}, "ports": [{"port": 80}]});
        api.create("services", json!({"metadata": {"name": format!("s{index}")}, "spec": spec})).unwrap();
    }
    let created = started.elapsed();
    controllers.settle();
    let settled = started.elapsed();
    let status = json!({"status": {"phase": "Running", "podIP": "10.244.1.9", "conditions": [{"type": "Ready", "status": "True"}]}});
    api.patch_status("pods", "default", "p7", &PatchKind::Merge, &status).unwrap();
    controllers.settle();
    println!("created {created:?}, settled {settled:?}, one pod {:?}", started.elapsed() - settled);
    assert_eq!(object::array_at(&slices(&api, "s107")[0], "/endpoints").len(), 1);
    assert!(started.elapsed() < std::time::Duration::from_secs(30), "{:?}", started.elapsed());
}

#[test]
fn unit_every_namespace_gets_a_default_account_and_the_root_ca() {
    let (api, mut controllers) = cluster();
    api.create("namespaces", json!({"metadata": {"name": "shop"}})).unwrap();
    controllers.settle();
    assert!(api.get("serviceaccounts", "shop", "default").is_ok());
    let authority = |namespace: &str| {
        api.get("configmaps", namespace, "kube-root-ca.crt").unwrap()["data"]["ca.crt"].clone()
    };
    assert_eq!(authority("shop"), "the CA's certificate");
    let wrong = json!({"data": {"ca.crt": "another", "more": "x"}});
    api.patch("configmaps", "shop", "kube-root-ca.crt", &PatchKind::Merge, &wrong).unwrap();
    api.delete("configmaps", "default", "kube-root-ca.crt", &DeleteOptions::default()).unwrap();
    controllers.settle();
    assert_eq!(
        (authority("shop"), authority("default")),
        (json!("the CA's certificate"), json!("the CA's certificate"))
    );
    assert!(api.get("configmaps", "shop", "kube-root-ca.crt").unwrap()["data"].get("more").is_none());
}

#[test]
fn unit_load_balancers_get_addresses_of_the_pool_and_release_them() {
    let (api, mut controllers) = cluster();
    let create = |name: &str, more: Value| {
        let mut spec = json!({"type": "LoadBalancer", "ports": [{"port": 80}]});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        api.create("services", json!({"metadata": {"name": name}, "spec": spec})).unwrap();
    };
    create("one", json!({}));
    create("two", json!({"ipFamilyPolicy": "PreferDualStack"}));
    create("three", json!({"loadBalancerIP": "172.30.0.230"}));
    create("others", json!({"loadBalancerClass": "example.com/lb"}));
    controllers.settle();
    let addresses = |name: &str| {
        let service = api.get("services", "default", name).unwrap();
        let ingress = object::array_at(&service, "/status/loadBalancer/ingress").iter();
        ingress.map(|one| object::str_at(one, "/ip").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(addresses("three"), ["172.30.0.230"]);
    assert_eq!(addresses("others"), Vec::<String>::new());
    let (one, two) = (addresses("one"), addresses("two"));
    assert!(
        one[0].starts_with("172.30.0.2") && two.len() == 2 && two[1].starts_with("fd00:172:30::fe"),
        "{one:?} {two:?}"
    );
    assert_ne!(one[0], two[0]);
    api.patch("services", "default", "one", &PatchKind::Merge, &json!({"spec": {"type": "ClusterIP"}}))
        .unwrap();
    controllers.settle();
    assert_eq!(addresses("one"), Vec::<String>::new());
    for index in 0..12 {
        create(&format!("more{index}"), json!({}));
    }
    controllers.settle();
    create("last", json!({}));
    controllers.settle_best_effort();
    assert_eq!(addresses("last"), Vec::<String>::new(), "14 addresses are all that there are");
    api.delete("services", "default", "more3", &DeleteOptions::default()).unwrap();
    controllers.settle();
    assert_eq!(addresses("last").len(), 1);
}
