//! The Helm chart and the source are consistent: the rendered chart is applied
//! to an API server in this process, and the source runs with the permissions
//! of the chart's ClusterRole.

#![expect(clippy::unwrap_used, reason = "a test may panic, and says where")]

#[path = "../../../crates/values/tests/helm/mod.rs"]
mod helm;

use std::net::TcpListener;
use std::time::Duration;

use beeline_apiserver::{ApiServer, Config, ServeHandle};
use beeline_model::{Change, Kind, Object, ObjectName, Problem, Reason};
use beeline_source::{ProblemChanges, Source, SourceConfig, SyncedVersions};
use beeline_values::{Settings, Values};
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{Event, Pod, ServiceAccount};
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};

const NAMESPACE: &str = "kube-system";
const TIMEOUT: Duration = Duration::from_secs(20);

struct Installation {
    server: ApiServer,
    front: ServeHandle,
    client: Client,
    rendered: Vec<Value>,
}

impl Installation {
    /// `None` if Helm is not available.
    async fn begin(values: Value) -> Option<Self> {
        let rendered = helm::render(&values)?.unwrap();
        let server = ApiServer::start(Config::default()).unwrap();
        let front = server.serve(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
        let status = json!({"conditions": [{"type": "Ready", "status": "True"}]});
        let metadata = json!({"name": "node-1", "labels": {"kubernetes.io/os": "linux"}});
        server.api().create("nodes", json!({"metadata": metadata, "status": status})).unwrap();
        let client = client(&server.kubeconfig(&url(&front))).await;
        let installation = Self { server, front, client, rendered };
        for object in &installation.rendered {
            installation.install(object).await;
        }
        Some(installation)
    }

    /// Applies one object as Helm does, with strict validation: an unknown
    /// field is an error.
    async fn install(&self, object: &Value) {
        let kinds = self.server.api().kinds();
        let word = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let kind = kinds.by_type(word("/apiVersion"), word("/kind"));
        let kind = kind.unwrap_or_else(|| panic!("the API does not know {object:#}"));
        let root =
            if kind.group.is_empty() { "/api/v1".to_owned() } else { format!("/apis/{}/v1", kind.group) };
        let place = if kind.namespaced {
            format!("/namespaces/{}", word("/metadata/namespace"))
        } else {
            String::new()
        };
        let path = format!(
            "{root}{place}/{}/{}?fieldManager=helm&fieldValidation=Strict",
            kind.plural,
            word("/metadata/name")
        );
        let request = http::Request::patch(path).header("content-type", "application/apply-patch+yaml");
        let request = request.body(serde_json::to_vec(object).unwrap()).unwrap();
        let stored: Value = match self.client.request(request).await {
            Ok(stored) => stored,
            Err(error) => panic!("{error}\n{object:#}"),
        };
        let mut lost = Vec::new();
        missing(object, &stored, word("/kind"), &mut lost);
        assert!(lost.is_empty(), "the API lost {lost:?}\n{stored:#}");
    }

    fn object(&self, kind: &str, name: &str) -> Value {
        let namespace = if kind.starts_with("cluster") { "" } else { NAMESPACE };
        Value::clone(&self.server.api().get(kind, namespace, name).unwrap())
    }

    /// The pod spec of the agent.
    fn pod_spec(&self) -> Value {
        self.object("daemonsets", "beeline-agent")["spec"]["template"]["spec"].clone()
    }

    /// A kubeconfig with a token of the agent's service account.
    async fn agents_kubeconfig(&self) -> String {
        let account = self.pod_spec()["serviceAccountName"].as_str().unwrap().to_owned();
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), NAMESPACE);
        let request = TokenRequest::default();
        let answer = accounts.create_token_request(&account, &PostParams::default(), &request).await.unwrap();
        let token = answer.status.unwrap().token.unwrap();
        self.server.kubeconfig(&url(&self.front)).replace(self.server.token(), &token)
    }
}

fn url(front: &ServeHandle) -> String {
    format!("https://{}", front.address())
}

async fn client(kubeconfig: &str) -> Client {
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig).unwrap();
    let config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

/// The fields of `expected` that are not in `stored`.
fn missing(expected: &Value, stored: &Value, path: &str, lost: &mut Vec<String>) {
    match (expected, stored) {
        (Value::Object(expected), Value::Object(stored)) => {
            for (field, value) in expected.iter().filter(|(_, value)| !value.is_null()) {
                let path = format!("{path}.{field}");
                match stored.get(field) {
                    Some(stored) => missing(value, stored, &path, lost),
                    None => lost.push(path),
                }
            }
        }
        (Value::Array(expected), Value::Array(stored)) if expected.len() == stored.len() => {
            for (index, (expected, stored)) in expected.iter().zip(stored).enumerate() {
                missing(expected, stored, &format!("{path}[{index}]"), lost);
            }
        }
        (expected, stored) if expected == stored => {}
        _ => lost.push(format!("{path}: {expected} became {stored}")),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unit_chart_is_accepted_whole_and_its_parts_name_each_other() {
    let Some(installation) = Installation::begin(json!({})).await else { return };
    let spec = installation.pod_spec();
    let account = spec["serviceAccountName"].as_str().unwrap();
    installation.object("serviceaccounts", account);
    let binding = installation.object("clusterrolebindings", "beeline-agent");
    let subjects = json!([{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}]);
    assert_eq!(binding["subjects"], subjects);
    installation.object("clusterroles", binding["roleRef"]["name"].as_str().unwrap());

    // The file that the agent reads is a key of a ConfigMap mounted there.
    let container = &spec["containers"][0];
    let find = |list: &Value, field: &str, expected: &str| {
        list.as_array().unwrap().iter().find(|one| one[field] == expected).cloned().unwrap()
    };
    let command = container["command"].as_array().unwrap();
    let file = command.iter().find_map(|word| word.as_str()?.strip_prefix("--values=")).unwrap();
    let (folder, key) = file.rsplit_once('/').unwrap();
    let mount = find(&container["volumeMounts"], "mountPath", folder);
    let volume = find(&spec["volumes"], "name", mount["name"].as_str().unwrap());
    let map = installation.object("configmaps", volume["configMap"]["name"].as_str().unwrap());
    let settings = Settings::from_yaml(map["data"][key].as_str().unwrap()).unwrap();
    assert_eq!(settings.parse().values, Values::default());

    // The pods of the DaemonSet are created; the priority class and service
    // account that they name exist.
    let pods: Api<Pod> = Api::namespaced(installation.client.clone(), NAMESPACE);
    let end = tokio::time::Instant::now() + TIMEOUT;
    loop {
        let pods = pods.list(&ListParams::default()).await.unwrap().items;
        if let [pod] = pods.as_slice() {
            assert_eq!(pod.spec.as_ref().unwrap().priority, Some(2_000_001_000));
            break;
        }
        assert!(tokio::time::Instant::now() < end, "the DaemonSet made {} pods on one node", pods.len());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unit_chart_with_many_values_is_accepted_whole() {
    let values = json!({
        "imagePullSecrets": [{"name": "pull"}], "nodeSelector": {"kubernetes.io/os": "linux"},
        "podLabels": {"team": "net"}, "podAnnotations": {"note": "x"}, "extraArgs": ["--debug"],
        "extraEnv": [{"name": "A", "value": "b"}], "resources": {"limits": {"memory": "256Mi"}},
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "net", "operator": "In", "values": ["beeline"]}]}
        ]}}},
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "10%"}},
        "cni": {"install": false},
    });
    let Some(installation) = Installation::begin(values).await else { return };
    assert_eq!(installation.pod_spec()["initContainers"].as_array().unwrap().len(), 1);
}

/// An event on the Service, written with the agent's own token.
async fn a_problem_becomes_an_event(installation: &Installation, source: &Source) {
    let problem = Problem {
        kind: Kind::Service,
        name: ObjectName::new("default", "web"),
        reason: Reason::FrontendCollision,
        message: "its port is another's".to_owned(),
    };
    let recorder = source.event_recorder();
    recorder.update(ProblemChanges { added: vec![problem], resolved: Vec::new(), nodes: 1 });
    let events: Api<Event> = Api::default_namespaced(installation.client.clone());
    let end = tokio::time::Instant::now() + TIMEOUT;
    loop {
        let events = events.list(&ListParams::default()).await.unwrap().items;
        if let Some(event) = events.iter().find(|event| event.reason.as_deref() == Some("FrontendCollision"))
        {
            assert_eq!(event.involved_object.name.as_deref(), Some("web"));
            break;
        }
        let said = (recorder.problem(), recorder.counts());
        assert!(tokio::time::Instant::now() < end, "no event was written: {said:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The source runs with the agent's own token: it receives all objects,
/// publishes problems, and the ClusterRole grants no other writes.
#[tokio::test(flavor = "multi_thread")]
async fn unit_the_charts_role_is_what_the_source_needs() {
    let Some(installation) = Installation::begin(json!({})).await else { return };
    let kubeconfig = installation.agents_kubeconfig().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kubeconfig");
    std::fs::write(&path, &kubeconfig).unwrap();
    let mut config = SourceConfig::new("node-1");
    config.kubeconfig = Some(path);
    let (mut updates, source) = Source::start(config).await.unwrap();

    let api = installation.server.api().clone();
    let mut versions = SyncedVersions::default();
    let (mut listed, mut heard) = (false, false);
    let deadline = tokio::time::Instant::now() + TIMEOUT;
    while !(listed && heard) {
        let update = tokio::time::timeout_at(deadline, updates.recv()).await;
        let update = update.unwrap_or_else(|_| {
            panic!("listed {listed}, heard {heard}, {} failures", source.state().failures())
        });
        let update = update.expect("the source goes on");
        versions.record(update.version_event);
        if versions.has_synced() && !listed {
            listed = true;
            let spec = json!({"selector": {"app": "web"}, "ports": [{"port": 80}]});
            api.create("services", json!({"metadata": {"name": "web"}, "spec": spec})).unwrap();
        }
        if let Some(Change::Apply(object)) = &update.change
            && let Object::Service(_) = object.as_ref()
        {
            heard |= object.kind() == Kind::Service && object.name().to_string() == "default/web";
        }
    }
    assert_eq!(source.state().failures(), 0, "no watch was refused");
    a_problem_becomes_an_event(&installation, &source).await;

    let agent = client(&kubeconfig).await;
    let pods: Api<Pod> = Api::default_namespaced(agent);
    let refused = pods.delete("any", &DeleteParams::default()).await.unwrap_err();
    assert!(matches!(&refused, kube::Error::Api(status) if status.code == 403), "{refused}");
}
