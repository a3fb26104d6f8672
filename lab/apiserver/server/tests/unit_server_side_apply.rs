//! Server-side apply as a Kubernetes client sees it: managers, conflicts, force, dry run.

#![expect(clippy::unwrap_used, reason = "a test panics if it cannot continue")]

use beeline_apiserver::{ApiServer, Config};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::Status;
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

async fn lab() -> (ApiServer, Client) {
    let server = ApiServer::start(Config::default()).unwrap();
    let handle = server.serve(std::net::TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
    let kubeconfig = server.kubeconfig(&format!("https://{}", handle.address()));
    let kubeconfig = Kubeconfig::from_yaml(&kubeconfig).unwrap();
    let config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    (server, Client::try_from(config).unwrap())
}

fn status(error: kube::Error) -> Status {
    match error {
        kube::Error::Api(status) => *status,
        other => panic!("not an answer of the API: {other:?}"),
    }
}

fn deployment(replicas: i64) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "web", "image": "beeline/echo"}]}},
        },
    })
}

/// `MANAGER OPERATION SUBRESOURCE` of each entry.
fn owners(entries: &[ManagedFieldsEntry]) -> Vec<String> {
    let or_empty = |text: &Option<String>| text.clone().unwrap_or_default();
    let line = |entry: &ManagedFieldsEntry| {
        format!(
            "{} {} {}",
            or_empty(&entry.manager),
            or_empty(&entry.operation),
            or_empty(&entry.subresource)
        )
    };
    entries.iter().map(|entry| line(entry).trim_end().to_owned()).collect()
}

/// A deployment that a GitOps controller applies and an autoscaler scales.
#[tokio::test]
async fn unit_an_autoscaler_and_a_repository_share_a_deployment() {
    let (_server, client) = lab().await;
    let deployments: Api<Deployment> = Api::default_namespaced(client);
    let git = PatchParams::apply("git");
    let first = deployments.patch("web", &git, &Patch::Apply(deployment(2))).await.unwrap();
    assert_eq!(owners(first.managed_fields())[0], "git Apply");
    let fields = serde_json::to_value(&first.managed_fields()[0].fields_v1).unwrap();
    assert_eq!(fields["f:spec"]["f:replicas"], json!({}));
    let container = &fields["f:spec"]["f:template"]["f:spec"]["f:containers"]["k:{\"name\":\"web\"}"];
    assert_eq!(
        *container,
        json!({".": {}, "f:name": {}, "f:image": {}}),
        "defaults have no manager: {fields}"
    );

    let scale = PatchParams { field_manager: Some("autoscaler".to_owned()), ..PatchParams::default() };
    let five = json!({"spec": {"replicas": 5}});
    deployments.patch_scale("web", &scale, &Patch::Merge(&five)).await.unwrap();
    let scaled = deployments.get("web").await.unwrap();
    assert!(
        owners(scaled.managed_fields()).contains(&"autoscaler Update scale".to_owned()),
        "{:?}",
        scaled.managed_fields()
    );

    let refused = status(deployments.patch("web", &git, &Patch::Apply(deployment(2))).await.unwrap_err());
    assert_eq!((refused.code, refused.reason.as_str()), (409, "Conflict"));
    let sentence = "Apply failed with 1 conflict: conflict with \"autoscaler\" with subresource \"scale\" using apps/v1 at ";
    assert!(
        refused.message.starts_with(sentence) && refused.message.ends_with(": .spec.replicas"),
        "{}",
        refused.message
    );
    let cause = &refused.details.unwrap().causes[0];
    assert_eq!((cause.reason.as_str(), cause.field.as_str()), ("FieldManagerConflict", ".spec.replicas"));
    assert!(cause.message.starts_with("conflict with \"autoscaler\""), "{}", cause.message);

    let mut without = deployment(0);
    without["spec"].as_object_mut().unwrap().remove("replicas");
    let kept = deployments.patch("web", &git, &Patch::Apply(&without)).await.unwrap();
    assert_eq!(kept.spec.unwrap().replicas, Some(5));
    let force = deployments.patch("web", &git.clone().force(), &Patch::Apply(deployment(1))).await.unwrap();
    assert_eq!(force.spec.as_ref().unwrap().replicas, Some(1));
    assert!(!owners(force.managed_fields()).contains(&"autoscaler Update scale".to_owned()));
}

#[tokio::test]
async fn unit_applying_again_changes_nothing_and_a_dry_run_nothing_at_all() {
    let (_server, client) = lab().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let wanted = |data: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data});
    let git = PatchParams::apply("git");
    let first = maps.patch("a", &git, &Patch::Apply(wanted(json!({"x": "1", "y": "2"})))).await.unwrap();
    let again = maps.patch("a", &git, &Patch::Apply(wanted(json!({"x": "1", "y": "2"})))).await.unwrap();
    assert_eq!(first, again);
    let dry =
        maps.patch("a", &git.clone().dry_run(), &Patch::Apply(wanted(json!({"x": "2"})))).await.unwrap();
    assert_eq!(dry.data.unwrap().into_iter().collect::<Vec<_>>(), [("x".to_owned(), "2".to_owned())]);
    assert_eq!(maps.get("a").await.unwrap(), first);
    let none = maps
        .patch(
            "b",
            &git.dry_run(),
            &Patch::Apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b"}})),
        )
        .await;
    assert!(none.is_ok());
    assert_eq!(status(maps.get("b").await.unwrap_err()).code, 404);
}

#[tokio::test]
async fn unit_every_writer_owns_what_it_changed() {
    let (_server, client) = lab().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let by = |name: &str| PostParams { field_manager: Some(name.to_owned()), ..PostParams::default() };
    let map: ConfigMap =
        serde_json::from_value(json!({"metadata": {"name": "a"}, "data": {"x": "1"}})).unwrap();
    let mut map = maps.create(&by("creator"), &map).await.unwrap();
    map.data.as_mut().unwrap().insert("y".to_owned(), "2".to_owned());
    let map = maps.replace("a", &by("editor"), &map).await.unwrap();
    let of = |name: &str| {
        let entry = map.managed_fields().iter().find(|entry| entry.manager.as_deref() == Some(name)).unwrap();
        serde_json::to_value(&entry.fields_v1).unwrap()
    };
    assert_eq!(of("creator"), json!({"f:data": {".": {}, "f:x": {}}}));
    assert_eq!(of("editor"), json!({"f:data": {"f:y": {}}}));

    let request = http::Request::patch("/api/v1/namespaces/default/configmaps/a")
        .header("content-type", "application/merge-patch+json")
        .header("user-agent", "kubectl/v1.33.0 (linux/amd64)")
        .body(br#"{"data": {"y": "3"}}"#.to_vec())
        .unwrap();
    let map: ConfigMap = client.request(request).await.unwrap();
    assert_eq!(owners(map.managed_fields()), ["creator Update", "kubectl Update"]);
    let reset = json!([{"op": "replace", "path": "/metadata/managedFields", "value": [{}]}]);
    let patch: json_patch::Patch = serde_json::from_value(reset).unwrap();
    let map = maps.patch("a", &PatchParams::default(), &Patch::Json::<()>(patch)).await.unwrap();
    assert!(map.managed_fields().is_empty(), "{:?}", map.managed_fields());

    let nodes: Api<Node> = Api::all(client);
    let node: Node = serde_json::from_value(json!({"metadata": {"name": "node-1"}})).unwrap();
    nodes.create(&by("kubelet"), &node).await.unwrap();
    let ready = json!({
        "apiVersion": "v1", "kind": "Node",
        "status": {"conditions": [{"type": "Ready", "status": "True"}], "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]},
    });
    let node =
        nodes.patch_status("node-1", &PatchParams::apply("agent"), &Patch::Apply(ready)).await.unwrap();
    let entry = node.managed_fields().iter().find(|entry| entry.manager.as_deref() == Some("agent")).unwrap();
    assert_eq!(entry.subresource.as_deref(), Some("status"));
    let fields = serde_json::to_value(&entry.fields_v1).unwrap();
    assert!(fields["f:status"]["f:conditions"].get("k:{\"type\":\"Ready\"}").is_some(), "{fields}");
}

#[tokio::test]
async fn unit_ports_are_shared_by_number_and_protocol() {
    let (_server, client) = lab().await;
    let services: Api<Service> = Api::default_namespaced(client);
    let wanted = |ports: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "dns"}, "spec": {"ports": ports}});
    let udp = json!([{"name": "udp", "port": 53, "protocol": "UDP"}]);
    let tcp = json!([{"name": "tcp", "port": 53}]);
    services.patch("dns", &PatchParams::apply("a"), &Patch::Apply(wanted(udp.clone()))).await.unwrap();
    let both = services.patch("dns", &PatchParams::apply("b"), &Patch::Apply(wanted(tcp))).await.unwrap();
    let address = both.spec.as_ref().unwrap().cluster_ip.clone();
    assert_eq!(both.spec.unwrap().ports.unwrap().len(), 2);
    let one =
        services.patch("dns", &PatchParams::apply("b"), &Patch::Apply(wanted(json!([])))).await.unwrap();
    let spec = one.spec.unwrap();
    assert_eq!((spec.ports.unwrap().len(), spec.cluster_ip), (1, address));
}

#[tokio::test]
async fn unit_invalid_apply_requests_are_refused() {
    let (_server, client) = lab().await;
    let send = async |query: &str, content: &str, body: Value| {
        let path = format!("/apis/apps/v1/namespaces/default/deployments/web?{query}");
        let request = http::Request::patch(path).header("content-type", content);
        match client.request::<Value>(request.body(serde_json::to_vec(&body).unwrap()).unwrap()).await {
            Ok(_) => (200, String::new()),
            Err(error) => {
                let status = status(error);
                (status.code, status.message)
            }
        }
    };
    let apply = "application/apply-patch+yaml";
    let (code, message) = send("", apply, deployment(1)).await;
    assert!(code == 422 && message.contains("fieldManager: Required value"), "{message}");
    let (code, message) = send("fieldManager=a&force=true", "application/merge-patch+json", json!({})).await;
    assert!(code == 422 && message.contains("force: Forbidden"), "{message}");
    let mut owned = deployment(1);
    owned["metadata"]["managedFields"] = json!([{"manager": "a"}]);
    assert_eq!(
        send("fieldManager=a", apply, owned).await,
        (400, "metadata.managedFields must be nil".to_owned())
    );
    let mut twice = deployment(1);
    twice["spec"]["template"]["spec"]["containers"] =
        json!([{"name": "a", "image": "b"}, {"name": "a", "image": "c"}]);
    let (code, message) = send("fieldManager=a", apply, twice).await;
    assert!(code == 400 && message.contains("duplicate entries for key"), "{message}");
    assert_eq!(send(&format!("fieldManager={}", "a".repeat(129)), apply, deployment(1)).await.0, 422);
    let mut other = deployment(1);
    other["metadata"]["uid"] = json!("1");
    assert_eq!(send("fieldManager=a", apply, other).await.0, 409);
}
