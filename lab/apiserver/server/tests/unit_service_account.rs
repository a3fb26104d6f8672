//! Service accounts of pods: selection of the account and mounting of its token.

#![expect(clippy::unwrap_used, reason = "a test panics if it cannot continue")]

use beeline_apiserver::{ApiServer, Config};
use serde_json::{Value, json};

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

fn pod(name: &str, spec: Value) -> Value {
    let mut all = json!({"containers": [{"name": "web", "image": "echo"}]});
    for (field, value) in spec.as_object().unwrap() {
        all[field] = value.clone();
    }
    json!({"metadata": {"name": name, "namespace": "shop"}, "spec": all})
}

/// Mount paths of the token in the pod's containers.
fn mounted(pod: &Value) -> Vec<&str> {
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let mounts = containers.flat_map(|one| one["volumeMounts"].as_array().into_iter().flatten());
    mounts.map(|mount| mount["mountPath"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn unit_pods_run_as_an_account_that_exists() {
    let server = ApiServer::start(Config::default()).unwrap();
    let api = server.api();
    api.create("namespaces", json!({"metadata": {"name": "shop"}})).unwrap();
    // Works at once, without waiting for the namespace's account.
    let made = api.create("pods", pod("first", json!({}))).unwrap();
    assert_eq!(made["spec"]["serviceAccountName"], "default", "{made:#}");
    assert_eq!(made["spec"]["serviceAccount"], "default");
    assert_eq!(mounted(&made), [MOUNT_PATH]);
    let volume = &made["spec"]["volumes"][0];
    assert!(volume["name"].as_str().unwrap().starts_with("kube-api-access-"), "{volume:#}");
    assert_eq!(volume["name"], made["spec"]["containers"][0]["volumeMounts"][0]["name"]);
    let sources = volume["projected"]["sources"].as_array().unwrap();
    let kinds: Vec<&String> = sources.iter().flat_map(|source| source.as_object().unwrap().keys()).collect();
    assert_eq!(kinds, ["serviceAccountToken", "configMap", "downwardAPI"]);
    assert!(api.get("serviceaccounts", "shop", "default").is_ok());

    let refused = api.create("pods", pod("second", json!({"serviceAccountName": "robot"}))).unwrap_err();
    assert_eq!((refused.code, refused.reason), (403, "Forbidden"));
    let why = "pods \"second\" is forbidden: error looking up service account shop/robot: serviceaccount \"robot\" not found";
    assert_eq!(refused.message, why);
    let robot =
        json!({"metadata": {"name": "robot", "namespace": "shop"}, "automountServiceAccountToken": false});
    api.create("serviceaccounts", robot).unwrap();
    // Via the deprecated field, too.
    let second = api.create("pods", pod("second", json!({"serviceAccount": "robot"}))).unwrap();
    assert_eq!(second["spec"]["serviceAccountName"], "robot");
    assert!(mounted(&second).is_empty(), "the account's pods get no token: {second:#}");
    let own = json!({"serviceAccountName": "robot", "automountServiceAccountToken": true});
    assert_eq!(mounted(&api.create("pods", pod("third", own)).unwrap()), [MOUNT_PATH]);

    let label = json!({"metadata": {"labels": {"app": "web"}}});
    let merge = beeline_apiserver::PatchKind::Merge;
    api.patch("pods", "shop", "first", &merge, &label).expect("what the server added is no change");
    let other = json!({"spec": {"serviceAccountName": "robot"}});
    assert_eq!(api.patch("pods", "shop", "first", &merge, &other).unwrap_err().code, 422);
}
