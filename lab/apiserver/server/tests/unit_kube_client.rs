//! The server as a Kubernetes client sees it, over TLS on loopback.

#![expect(clippy::unwrap_used, reason = "a test panics if it cannot continue")]

use std::time::{Duration, Instant};

use beeline_apiserver::{ApiServer, Config, ListOptions, ResourceVersionMatch};
use futures::{StreamExt, TryStreamExt, pin_mut};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::Status;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

struct Lab {
    server: ApiServer,
    client: Client,
    kubeconfig: String,
}

async fn lab() -> Lab {
    lab_with(Config::default(), "127.0.0.1:0").await
}

async fn lab_with(config: Config, address: &str) -> Lab {
    let server = ApiServer::start(config).unwrap();
    let handle = server.serve(std::net::TcpListener::bind(address).unwrap()).unwrap();
    let kubeconfig = server.kubeconfig(&format!("https://{}", handle.address()));
    let client = client(&kubeconfig).await;
    Lab { server, client, kubeconfig }
}

async fn client(kubeconfig: &str) -> Client {
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig).unwrap();
    let config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

fn map(name: &str, value: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}, "data": {"key": value}})).unwrap()
}

fn status(error: kube::Error) -> Status {
    match error {
        kube::Error::Api(status) => *status,
        other => panic!("not an answer of the API: {other:?}"),
    }
}

/// The next events of a watcher as short lines.
async fn lines(
    stream: &mut (impl StreamExt<Item = watcher::Result<Event<ConfigMap>>> + Unpin),
    count: usize,
) -> Vec<String> {
    let mut lines = Vec::new();
    while lines.len() < count {
        let event =
            tokio::time::timeout(Duration::from_secs(20), stream.next()).await.expect("an event").unwrap();
        lines.push(match event.unwrap() {
            Event::Init => "init".to_owned(),
            Event::InitApply(map) => format!("init {} {}", map.name_any(), map.data.unwrap()["key"]),
            Event::InitDone => "done".to_owned(),
            Event::Apply(map) => format!("apply {} {}", map.name_any(), map.data.unwrap()["key"]),
            Event::Delete(map) => format!("delete {}", map.name_any()),
        });
    }
    lines
}

async fn check_watcher(config: watcher::Config, begin: &[&str]) {
    let lab = lab().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(lab.client.clone());
    for name in ["a", "b", "c"] {
        maps.create(&PostParams::default(), &map(name, "1")).await.unwrap();
    }
    // Every namespace has this ConfigMap.
    let stream = watcher(maps.clone(), config.fields("metadata.name!=kube-root-ca.crt"));
    pin_mut!(stream);
    let mut expected = begin.to_vec();
    expected.extend(["init a 1", "init b 1", "init c 1", "done"]);
    assert_eq!(lines(&mut stream, expected.len()).await, expected);
    maps.patch("a", &PatchParams::default(), &Patch::Merge(json!({"data": {"key": "2"}}))).await.unwrap();
    maps.create(&PostParams::default(), &map("d", "1")).await.unwrap();
    maps.delete("b", &DeleteParams::default()).await.unwrap();
    assert_eq!(lines(&mut stream, 3).await, ["apply a 2", "apply d 1", "delete b"]);
}

#[tokio::test]
async fn unit_a_watcher_lists_in_pages_and_follows() {
    check_watcher(watcher::Config::default().page_size(2), &["init"]).await;
}

/// With a streaming list, the client emits no `Init` event itself.
#[tokio::test]
async fn unit_a_watcher_streams_its_list_and_follows() {
    check_watcher(watcher::Config::default().streaming_lists(), &[]).await;
}

#[tokio::test]
async fn unit_a_watch_of_a_compacted_revision_gets_410_and_the_watcher_recovers() {
    let lab = lab_with(Config { log_max: 4, ..Config::default() }, "127.0.0.1:0").await;
    let maps: Api<ConfigMap> = Api::default_namespaced(lab.client.clone());
    let old = maps.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    for index in 0..10 {
        maps.create(&PostParams::default(), &map(&format!("m{index}"), "1")).await.unwrap();
    }
    for version in [old.as_str(), "1", "99999999999999999"] {
        let mut watch = maps.watch(&WatchParams::default(), version).await.unwrap().boxed();
        match watch.try_next().await.unwrap() {
            Some(WatchEvent::Error(status)) => {
                assert_eq!((status.code, status.reason.as_str()), (410, "Expired"))
            }
            other => panic!("{other:?}"),
        }
    }
    let mut config = watcher::Config::default().fields("metadata.name=m1");
    config.timeout = Some(1);
    let stream = watcher(maps.clone(), config);
    pin_mut!(stream);
    assert_eq!(lines(&mut stream, 3).await, ["init", "init m1 1", "done"]);
    lab.server.api().compact();
    maps.patch("m1", &PatchParams::default(), &Patch::Merge(json!({"data": {"key": "2"}}))).await.unwrap();
    let after = lines(&mut stream, 1).await;
    assert!(after == ["apply m1 2"] || after == ["init"], "{after:?}");
}

#[tokio::test]
async fn unit_stale_updates_conflict_and_fresh_ones_do_not() {
    let lab = lab().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(lab.client.clone());
    let first = maps.create(&PostParams::default(), &map("a", "1")).await.unwrap();
    let mut second = first.clone();
    second.data.as_mut().unwrap().insert("key".to_owned(), "2".to_owned());
    let second = maps.replace("a", &PostParams::default(), &second).await.unwrap();
    assert_ne!(first.resource_version(), second.resource_version());
    let error = status(maps.replace("a", &PostParams::default(), &first).await.unwrap_err());
    assert_eq!((error.code, error.reason.as_str()), (409, "Conflict"));
    let same = maps.replace("a", &PostParams::default(), &second).await.unwrap();
    assert_eq!(same.resource_version(), second.resource_version(), "nothing changed, so no new revision");
    let again = status(maps.create(&PostParams::default(), &map("a", "1")).await.unwrap_err());
    assert_eq!((again.code, again.reason.as_str()), (409, "AlreadyExists"));
}

#[tokio::test]
async fn unit_wrong_tokens_and_unknown_authorities_are_refused() {
    let lab = lab().await;
    let wrong = lab.kubeconfig.replace(lab.server.token(), "wrong");
    let maps: Api<ConfigMap> = Api::default_namespaced(client(&wrong).await);
    assert_eq!(status(maps.list(&ListParams::default()).await.unwrap_err()).code, 401);

    let other = lab_with(Config::default(), "127.0.0.1:0").await;
    let authority = |text: &str| {
        text.lines().find(|line| line.contains("certificate-authority-data")).unwrap().to_owned()
    };
    let foreign = lab.kubeconfig.replace(&authority(&lab.kubeconfig), &authority(&other.kubeconfig));
    let maps: Api<ConfigMap> = Api::default_namespaced(client(&foreign).await);
    assert!(matches!(
        maps.list(&ListParams::default()).await,
        Err(kube::Error::HyperError(_) | kube::Error::Service(_))
    ));
}

#[tokio::test]
async fn unit_the_certificate_is_valid_for_ipv6_and_configured_addresses() {
    let lab = lab_with(Config::default(), "[::1]:0").await;
    assert_eq!(lab.client.apiserver_version().await.unwrap().major, "1");
    let config = Config { control_plane_addresses: vec!["127.0.0.2".parse().unwrap()], ..Config::default() };
    let lab = lab_with(config, "127.0.0.2:0").await;
    assert_eq!(lab.client.apiserver_version().await.unwrap().major, "1");
}

#[tokio::test]
async fn unit_invalid_objects_are_refused_by_field_unless_validation_is_skipped() {
    let lab = lab().await;
    let slices: Api<EndpointSlice> = Api::default_namespaced(lab.client.clone());
    let broken = json!({
        "metadata": {"name": "broken"}, "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.300"]}],
    });
    let slice: EndpointSlice = serde_json::from_value(broken.clone()).unwrap();
    let error = status(slices.create(&PostParams::default(), &slice).await.unwrap_err());
    assert_eq!((error.code, error.reason.as_str()), (422, "Invalid"));
    assert_eq!(error.details.unwrap().causes[0].field, "endpoints[0].addresses[0]");

    let request = http::Request::post("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices")
        .header("content-type", "application/json")
        .header("Beeline-Lab-Skip-Validation", "true")
        .body(serde_json::to_vec(&broken).unwrap())
        .unwrap();
    let stored: EndpointSlice = lab.client.request(request).await.unwrap();
    assert_eq!(stored.endpoints.unwrap()[0].addresses, ["10.0.0.300"]);
    assert!(slices.get("broken").await.is_ok());
}

#[tokio::test]
async fn unit_bad_requests_get_a_status() {
    let lab = lab().await;
    let send = async |method: &str, path: &str, kind: &str, body: Vec<u8>| {
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", kind)
            .body(body)
            .unwrap();
        match lab.client.request::<Value>(request).await {
            Ok(_) => 200,
            Err(error) => status(error).code,
        }
    };
    let maps = "/api/v1/namespaces/default/configmaps";
    let json = "application/json";
    assert_eq!(send("POST", maps, json, b"{".to_vec()).await, 400);
    assert_eq!(send("POST", maps, json, b"[]".to_vec()).await, 400);
    assert_eq!(send("POST", maps, json, br#"{"kind":"Pod","metadata":{"name":"a"}}"#.to_vec()).await, 400);
    assert_eq!(send("POST", maps, json, br#"{"metadata":{"name":"a"},"data":{"a":1}}"#.to_vec()).await, 400);
    assert_eq!(send("POST", maps, json, br#"{"metadata":{"name":"A"}}"#.to_vec()).await, 422);
    assert_eq!(send("POST", maps, json, br#"{}"#.to_vec()).await, 422);
    assert_eq!(send("POST", maps, "application/vnd.kubernetes.protobuf", b"k8s".to_vec()).await, 400);
    assert_eq!(send("POST", maps, json, vec![b' '; 3 * 1024 * 1024 + 1]).await, 413);
    assert_eq!(send("PUT", maps, json, b"{}".to_vec()).await, 405);
    assert_eq!(send("GET", "/api/v1/namespaces/default/nothings", json, Vec::new()).await, 404);
    assert_eq!(send("GET", &format!("{maps}/none"), json, Vec::new()).await, 404);
    assert_eq!(send("GET", &format!("{maps}?labelSelector=a%20b"), json, Vec::new()).await, 400);
    assert_eq!(
        send("POST", "/api/v1/namespaces/none/configmaps", json, br#"{"metadata":{"name":"a"}}"#.to_vec())
            .await,
        404
    );
}

#[tokio::test]
async fn unit_all_patch_types_are_accepted() {
    let lab = lab().await;
    let services: Api<Service> = Api::default_namespaced(lab.client.clone());
    let apply = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "labels": {"a": "1"}},
        "spec": {"ipFamilyPolicy": "PreferDualStack", "ports": [{"name": "x", "port": 80}]},
    });
    let manager = PatchParams::apply("test").force();
    let first = services.patch("web", &manager, &Patch::Apply(&apply)).await.unwrap();
    let addresses = first.spec.as_ref().unwrap().cluster_ips.clone().unwrap();
    assert_eq!(addresses.len(), 2);
    let again = services.patch("web", &manager, &Patch::Apply(&apply)).await.unwrap();
    assert_eq!(again.resource_version(), first.resource_version());

    let strategic = json!({"spec": {"ports": [{"port": 81, "name": "y"}]}});
    let two = services.patch("web", &PatchParams::default(), &Patch::Strategic(strategic)).await.unwrap();
    assert_eq!(two.spec.as_ref().unwrap().ports.as_ref().unwrap().len(), 2);
    assert_eq!(two.spec.unwrap().cluster_ips.unwrap(), addresses);

    let json_patch: json_patch::Patch =
        serde_json::from_value(json!([{"op": "remove", "path": "/spec/ports/1"}])).unwrap();
    let one = services.patch("web", &PatchParams::default(), &Patch::Json::<()>(json_patch)).await.unwrap();
    assert_eq!(one.spec.unwrap().ports.unwrap().len(), 1);

    let without = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"ipFamilyPolicy": "PreferDualStack", "ports": [{"name": "x", "port": 80}]},
    });
    let bare = services.patch("web", &manager, &Patch::Apply(&without)).await.unwrap();
    assert!(bare.metadata.labels.is_none_or(|labels| labels.is_empty()), "the label was this manager's");
}

#[tokio::test]
async fn unit_status_and_scale_are_subresources() {
    let lab = lab().await;
    let nodes: Api<Node> = Api::all(lab.client.clone());
    let node: Node = serde_json::from_value(json!({"metadata": {"name": "node-1"}})).unwrap();
    nodes.create(&PostParams::default(), &node).await.unwrap();
    let change = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}, "spec": {"unschedulable": true}});
    let node = nodes.patch_status("node-1", &PatchParams::default(), &Patch::Merge(&change)).await.unwrap();
    assert_eq!(node.status.unwrap().conditions.unwrap()[0].status, "True");
    assert!(
        node.spec.is_none_or(|spec| spec.unschedulable.is_none()),
        "a status patch leaves the spec alone"
    );

    let deployments: Api<Deployment> = Api::default_namespaced(lab.client.clone());
    let deployment: Deployment = serde_json::from_value(json!({
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 1, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "a", "image": "b"}]}},
        },
    }))
    .unwrap();
    deployments.create(&PostParams::default(), &deployment).await.unwrap();
    let scale = json!({"spec": {"replicas": 3}});
    deployments.patch_scale("web", &PatchParams::default(), &Patch::Merge(&scale)).await.unwrap();
    assert_eq!(deployments.get_scale("web").await.unwrap().spec.unwrap().replicas, Some(3));
    let pods: Api<Pod> = Api::default_namespaced(lab.client.clone());
    let end = Instant::now() + Duration::from_secs(10);
    while pods.list(&ListParams::default().labels("app=web")).await.unwrap().items.len() != 3 {
        assert!(Instant::now() < end, "three pods should have been made");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let bound = pods.list(&ListParams::default().fields("spec.nodeName=node-1")).await.unwrap().items.len();
    assert!(bound <= 3);
}

#[tokio::test]
async fn unit_running_pods_are_deleted_gracefully_and_finalizers_delay_deletion() {
    let lab = lab().await;
    let pods: Api<Pod> = Api::default_namespaced(lab.client.clone());
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "web"},
        "spec": {"nodeName": "node-1", "terminationGracePeriodSeconds": 7, "containers": [{"name": "a", "image": "b"}]},
    }))
    .unwrap();
    pods.create(&PostParams::default(), &pod).await.unwrap();
    let ending =
        pods.delete("web", &DeleteParams::default()).await.unwrap().left().expect("the pod, still there");
    assert_eq!(ending.metadata.deletion_grace_period_seconds, Some(7));
    assert!(ending.metadata.deletion_timestamp.is_some());
    pods.delete("web", &DeleteParams::default().grace_period(0)).await.unwrap();
    assert_eq!(status(pods.get("web").await.unwrap_err()).code, 404);

    let maps: Api<ConfigMap> = Api::default_namespaced(lab.client.clone());
    let mut held = map("held", "1");
    held.finalizers_mut().push("example.com/hold".to_owned());
    maps.create(&PostParams::default(), &held).await.unwrap();
    assert!(maps.delete("held", &DeleteParams::default()).await.unwrap().is_left());
    let release = json!({"metadata": {"finalizers": null}});
    maps.patch("held", &PatchParams::default(), &Patch::Merge(release)).await.unwrap();
    assert_eq!(status(maps.get("held").await.unwrap_err()).code, 404);

    let namespaces: Api<Namespace> = Api::all(lab.client.clone());
    assert_eq!(namespaces.list(&ListParams::default()).await.unwrap().items.len(), 4);
}

#[tokio::test]
async fn unit_discovery_shows_what_is_served() {
    let lab = lab().await;
    let groups: Vec<String> =
        lab.client.list_api_groups().await.unwrap().groups.into_iter().map(|group| group.name).collect();
    for group in ["apps", "discovery.k8s.io", "coordination.k8s.io", "events.k8s.io", "apiextensions.k8s.io"]
    {
        assert!(groups.iter().any(|one| one == group), "{group} in {groups:?}");
    }
    let core = lab.client.list_core_api_resources("v1").await.unwrap();
    assert!(core.resources.iter().any(|resource| resource.name == "pods/status"));
    let discovery = kube::Discovery::new(lab.client.clone()).run().await.unwrap();
    assert!(discovery.has_group("apps"));
}

fn hive_definition() -> Value {
    let schema = json!({"type": "object", "properties": {"spec": {
        "type": "object", "required": ["color"],
        "properties": {"color": {"type": "string"}, "size": {"type": "integer", "default": 3}},
        "x-kubernetes-validations": [{"rule": "self.size > 1"}],
    }}});
    let columns = json!([{"name": "Color", "type": "string", "jsonPath": ".spec.color"}]);
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "hives.bees.example"},
        "spec": {
            "group": "bees.example", "scope": "Namespaced", "names": {"plural": "hives", "kind": "Hive"},
            "versions": [{
                "name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema},
                "additionalPrinterColumns": columns,
            }],
        },
    })
}

/// The response to a request, with its warnings.
async fn send(lab: &Lab, method: &str, path: &str, accept: &str, body: &Value) -> (u16, Vec<String>, Value) {
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json")
        .header("accept", accept);
    let body = if body.is_null() { Vec::new() } else { serde_json::to_vec(body).unwrap() };
    let answer = lab.client.send(request.body(body.into()).unwrap()).await.unwrap();
    let warnings = answer.headers().get_all("warning").iter();
    let warnings = warnings.map(|warning| warning.to_str().unwrap().to_owned()).collect();
    let code = answer.status().as_u16();
    let bytes = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
    (code, warnings, serde_json::from_slice(&bytes).unwrap_or_default())
}

const JSON: &str = "application/json";

#[tokio::test]
async fn unit_custom_resources_are_served_like_built_in_kinds() {
    let lab = lab().await;
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let (code, warnings, _) = send(&lab, "POST", definitions, JSON, &hive_definition()).await;
    assert_eq!(code, 201);
    assert!(warnings[0].starts_with("299 - \"hives.bees.example: 1 CEL rules"), "{warnings:?}");
    let discovery = kube::Discovery::new(lab.client.clone()).run().await.unwrap();
    assert!(discovery.has_group("bees.example"));

    let hives = "/apis/bees.example/v1/namespaces/default/hives";
    let hive = json!({
        "apiVersion": "bees.example/v1", "kind": "Hive", "metadata": {"name": "a"}, "spec": {"color": "red", "bogus": 1},
    });
    let (code, _, refused) =
        send(&lab, "POST", &format!("{hives}?fieldValidation=Strict"), JSON, &hive).await;
    assert_eq!(code, 400);
    let message = "Hive in version \"v1\" cannot be handled as a Hive: strict decoding error: unknown field \"spec.bogus\"";
    assert_eq!(refused["message"], message);
    let (code, warnings, made) = send(&lab, "POST", hives, JSON, &hive).await;
    assert_eq!((code, warnings), (201, vec![r#"299 - "unknown field \"spec.bogus\"""#.to_owned()]));
    assert_eq!(made["spec"], json!({"color": "red", "size": 3}));
    let change =
        json!({"apiVersion": "bees.example/v1", "kind": "Hive", "metadata": {"name": "a"}, "spec": {}});
    let (code, _, refused) = send(&lab, "PUT", &format!("{hives}/a"), JSON, &change).await;
    assert_eq!(code, 422);
    assert_eq!(refused["details"]["causes"][0]["field"], "spec.color");
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let (_, _, table) = send(&lab, "GET", hives, table, &Value::Null).await;
    assert_eq!(table["rows"][0]["cells"], json!(["a", "red"]), "{table}");

    let (code, ..) =
        send(&lab, "DELETE", &format!("{definitions}/hives.bees.example"), JSON, &Value::Null).await;
    assert_eq!(code, 200);
    let end = Instant::now() + Duration::from_secs(10);
    while send(&lab, "GET", hives, JSON, &Value::Null).await.0 != 404 {
        assert!(Instant::now() < end, "the kind should be removed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Names in a list.
fn names(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().unwrap_or_else(|| panic!("not a list: {list}")).iter();
    items.map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn unit_pages_are_one_snapshot_and_old_snapshots_expire() {
    let lab = lab().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(lab.client.clone());
    for name in ["a", "b", "c", "d"] {
        maps.create(&PostParams::default(), &map(name, "1")).await.unwrap();
    }
    let path = "/api/v1/namespaces/default/configmaps?labelSelector=";
    let get = async |query: String| send(&lab, "GET", &format!("{path}{query}"), JSON, &Value::Null).await;
    let (_, _, first) = get("&limit=2".to_owned()).await;
    let page = |list: &Value| list["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
    let revision = first["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    maps.delete("c", &DeleteParams::default()).await.unwrap();
    maps.create(&PostParams::default(), &map("b2", "1")).await.unwrap();
    let mut shown = names(&first);
    let (_, _, second) = get(format!("&limit=2&continue={}", page(&first))).await;
    shown.extend(names(&second));
    if !page(&second).is_empty() {
        shown.extend(names(&get(format!("&limit=9&continue={}", page(&second))).await.2));
    }
    shown.retain(|name| name != "kube-root-ca.crt");
    assert_eq!(shown, ["a", "b", "c", "d"], "what was deleted and made meanwhile is of another moment");
    assert_eq!(second["metadata"]["resourceVersion"], revision.as_str());

    let (_, _, exact) = get(format!("&resourceVersion={revision}&resourceVersionMatch=Exact")).await;
    assert!(names(&exact).contains(&"c".to_owned()) && !names(&exact).contains(&"b2".to_owned()), "{exact}");
    let (_, _, newer) = get(format!("&resourceVersion={revision}&resourceVersionMatch=NotOlderThan")).await;
    assert!(names(&newer).contains(&"b2".to_owned()));
    lab.server.api().compact();
    for query in [
        format!("&limit=2&continue={}", page(&first)),
        format!("&resourceVersion={revision}&resourceVersionMatch=Exact"),
    ] {
        let (code, _, gone) = get(query).await;
        assert_eq!((code, &gone["reason"]), (410, &json!("Expired")));
    }
    // Not over HTTP, because the client would retry.
    let ahead = ListOptions {
        resource_version_match: ResourceVersionMatch::NotOlderThan(u64::MAX),
        ..ListOptions::default()
    };
    let ahead = lab.server.api().list("configmaps", None, &ahead).unwrap_err();
    assert_eq!((ahead.code, ahead.details.causes[0].reason), (504, "ResourceVersionTooLarge"));
    for (query, expected) in [
        ("&resourceVersionMatch=Exact", 422),
        ("&resourceVersion=5&resourceVersionMatch=Fuzzy", 422),
        ("&resourceVersion=x", 400),
        ("&watch=true&resourceVersionMatch=Exact&resourceVersion=5", 422),
        ("&watch=true&labelSelector=a%20b", 400),
        ("&sendInitialEvents=true", 422),
    ] {
        assert_eq!(get(query.to_owned()).await.0, expected, "{query}");
    }
}

#[tokio::test]
async fn unit_a_watch_times_out_with_a_bookmark() {
    let lab = lab().await;
    let path = "/api/v1/namespaces/default/configmaps?watch=true&timeoutSeconds=1&allowWatchBookmarks=true\
                &fieldSelector=metadata.name%3Dnone";
    let begun = Instant::now();
    let (code, _, bookmark) = send(&lab, "GET", path, JSON, &Value::Null).await;
    assert_eq!((code, &bookmark["type"]), (200, &json!("BOOKMARK")), "{bookmark}");
    assert!(begun.elapsed() < Duration::from_secs(10));
    let revision = bookmark["object"]["metadata"]["resourceVersion"].as_str().unwrap();
    assert_eq!(revision, lab.server.api().revision().to_string());
}

#[tokio::test]
async fn unit_unknown_fields_are_reported() {
    let lab = lab().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let object = json!({"metadata": {"name": "a", "colour": "red"}, "data": {"a": "b"}, "dta": {}});
    let (code, _, refused) =
        send(&lab, "POST", &format!("{maps}?fieldValidation=Strict"), JSON, &object).await;
    assert_eq!((code, &refused["reason"]), (400, &json!("BadRequest")));
    let expected_message = r#"strict decoding error: unknown field "dta", unknown field "metadata.colour""#;
    assert!(refused["message"].as_str().unwrap().contains(expected_message), "{refused}");
    let (code, warnings, _) =
        send(&lab, "POST", &format!("{maps}?fieldValidation=Ignore"), JSON, &object).await;
    assert_eq!((code, warnings.len()), (201, 0));
}

#[tokio::test]
async fn unit_aggregated_discovery_and_openapi_documents() {
    let lab = lab().await;
    let all = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let (_, _, core) = send(&lab, "GET", "/api", all, &Value::Null).await;
    assert_eq!(core["kind"], "APIGroupDiscoveryList");
    let resources = core["items"][0]["versions"][0]["resources"].as_array().unwrap();
    let pods = resources.iter().find(|one| one["resource"] == "pods").unwrap();
    assert_eq!((&pods["scope"], &pods["responseKind"]["kind"]), (&json!("Namespaced"), &json!("Pod")));
    assert!(pods["subresources"].as_array().unwrap().iter().any(|one| one["subresource"] == "status"));
    let (_, _, groups) = send(&lab, "GET", "/apis", all, &Value::Null).await;
    assert!(groups["items"].as_array().unwrap().iter().any(|one| one["metadata"]["name"] == "apps"));

    send(&lab, "POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", JSON, &hive_definition())
        .await;
    let (_, _, v2) = send(&lab, "GET", "/openapi/v2", JSON, &Value::Null).await;
    assert_eq!(v2["definitions"]["example.bees.v1.Hive"]["properties"]["spec"]["type"], "object");
    let (_, _, index) = send(&lab, "GET", "/openapi/v3", JSON, &Value::Null).await;
    let url = index["paths"]["apis/bees.example/v1"]["serverRelativeURL"].as_str().unwrap();
    let (_, _, v3) = send(&lab, "GET", url, JSON, &Value::Null).await;
    let hive = &v3["components"]["schemas"]["example.bees.v1.Hive"];
    assert_eq!(hive["x-kubernetes-group-version-kind"][0]["kind"], "Hive");
    assert!(v3["paths"]["/apis/bees.example/v1/namespaces/{namespace}/hives/{name}"]["patch"].is_object());
    let question = json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let reviews = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    assert_eq!(send(&lab, "POST", reviews, JSON, &question).await.2["status"]["allowed"], true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unit_writes_do_not_wait_for_watchers_that_do_not_read() {
    let lab = lab().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(lab.client.clone());
    let mut stuck = Vec::new();
    for _ in 0..20 {
        stuck.push(maps.watch(&WatchParams::default(), "0").await.unwrap().boxed());
    }
    maps.create(&PostParams::default(), &map("big", "1")).await.unwrap();
    let started = Instant::now();
    for index in 0..200 {
        let value = format!("{index}{}", "x".repeat(100_000));
        maps.patch("big", &PatchParams::default(), &Patch::Merge(json!({"data": {"key": value}})))
            .await
            .unwrap();
    }
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    drop(stuck);
}
