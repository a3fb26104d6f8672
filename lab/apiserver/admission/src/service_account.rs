//! The service account of a pod, as in Kubernetes' admission plugin ServiceAccount: the account must
//! exist, and its token is mounted in every container.

use beeline_apiserver_objects::object::{self, array_at, str_at};
use serde_json::{Map, Value, json};

/// Mount path of the token, the CA certificate and the namespace.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// Lifetime of a pod's token in seconds. Kubernetes uses the same odd number to recognise these
/// tokens.
const TOKEN_SECONDS: i64 = 3607;
/// File mode: readable by every user in the pod.
const FILE_MODE: i64 = 0o644;
/// Annotation of mirror pods, which represent static pods of a kubelet.
const MIRROR_POD_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// The service account of a new pod; none for mirror pods.
pub(crate) fn account_name(pod: &Value) -> Option<&str> {
    if object::annotation(pod, MIRROR_POD_ANNOTATION).is_some() {
        return None;
    }
    Some(match str_at(pod, "/spec/serviceAccountName") {
        "" => "default",
        name => name,
    })
}

/// Sets the pull secrets and the token volume of the account on a new pod.
pub(crate) fn admit(pod: &mut Value, account: &Value) {
    let mount = should_mount_token(pod, account);
    let spec = object::child_mut(pod, "spec");
    let name = object::name(account);
    spec.insert("serviceAccountName".to_owned(), name.into());
    spec.insert("serviceAccount".to_owned(), name.into());
    let secrets = array_at(account, "/imagePullSecrets");
    if !secrets.is_empty() && spec.get("imagePullSecrets").is_none_or(is_empty) {
        spec.insert("imagePullSecrets".to_owned(), secrets.into());
    }
    if mount {
        mount_token(spec);
    }
}

/// The pod's `automountServiceAccountToken` takes precedence over the account's.
fn should_mount_token(pod: &Value, account: &Value) -> bool {
    let flag = |object: &Value, pointer: &str| object.pointer(pointer).and_then(Value::as_bool);
    flag(pod, "/spec/automountServiceAccountToken")
        .or_else(|| flag(account, "/automountServiceAccountToken"))
        .unwrap_or(true)
}

fn is_empty(list: &Value) -> bool {
    list.as_array().is_none_or(Vec::is_empty)
}

/// Mounts the token in every container that has no mount at that path.
fn mount_token(spec: &mut Map<String, Value>) {
    let names: Vec<&str> = spec
        .get("volumes")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|volume| str_at(volume, "/name"))
        .collect();
    let given = names.iter().find(|name| name.starts_with(VOLUME_PREFIX)).map(|name| (*name).to_owned());
    let volume = given.clone().unwrap_or_else(|| free_name(&names));
    let mount = json!({"name": volume, "mountPath": MOUNT_PATH, "readOnly": true});
    let mut mounted = false;
    for list in ["initContainers", "containers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if array_at(container, "/volumeMounts").iter().any(|one| one["mountPath"] == MOUNT_PATH) {
                continue;
            }
            push(container, "volumeMounts", mount.clone());
            mounted = true;
        }
    }
    if mounted && given.is_none() {
        let volumes = spec.entry("volumes").or_insert(Value::Null);
        if volumes.is_null() {
            *volumes = json!([]);
        }
        volumes.as_array_mut().into_iter().for_each(|volumes| volumes.push(token_volume(&volume)));
    }
}

fn push(object: &mut Value, field: &str, value: Value) {
    if object[field].is_null() {
        object[field] = json!([]);
    }
    object[field].as_array_mut().into_iter().for_each(|list| list.push(value.clone()));
}

fn free_name(taken: &[&str]) -> String {
    loop {
        let name = format!("{VOLUME_PREFIX}{}", object::random_suffix());
        if !taken.contains(&name.as_str()) {
            return name;
        }
    }
}

fn token_volume(name: &str) -> Value {
    let namespace =
        json!({"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}});
    json!({"name": name, "projected": {"defaultMode": FILE_MODE, "sources": [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": TOKEN_SECONDS}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [namespace]}},
    ]}})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: Value) -> Value {
        json!({"metadata": {"name": "web"}, "spec": spec})
    }

    /// The token mounts by container, and whether the pod has a token volume.
    fn admitted(mut pod: Value, account: Value) -> (Vec<String>, bool) {
        admit(&mut pod, &account);
        let all =
            ["initContainers", "containers"].iter().flat_map(|list| array_at(&pod, &format!("/spec/{list}")));
        let mounts = |container: &Value| -> Vec<String> {
            let here = |one: &&Value| one["mountPath"] == MOUNT_PATH;
            let mounts = array_at(container, "/volumeMounts").iter().filter(here);
            mounts.map(|one| format!("{}:{}", str_at(container, "/name"), str_at(one, "/name"))).collect()
        };
        let volumes = array_at(&pod, "/spec/volumes");
        let volume = volumes.iter().find(|volume| str_at(volume, "/name").starts_with(VOLUME_PREFIX));
        let name = volume.map_or("none", |volume| str_at(volume, "/name")).to_owned();
        let mounts = all.flat_map(mounts).map(|mount| mount.replace(&name, "TOKEN")).collect();
        (
            mounts,
            volume.is_some_and(|volume| volume["projected"]["sources"][0]["serviceAccountToken"].is_object()),
        )
    }

    #[test]
    fn unit_every_container_mounts_the_token() {
        let account = json!({"metadata": {"name": "default"}});
        let two = json!({"initContainers": [{"name": "first"}], "containers": [{"name": "web"}]});
        assert_eq!(
            admitted(pod(two), account.clone()),
            (vec!["first:TOKEN".into(), "web:TOKEN".into()], true)
        );
        let own = json!({"name": "web", "volumeMounts": [{"name": "mine", "mountPath": MOUNT_PATH}]});
        let mine = pod(json!({"containers": [own], "volumes": [{"name": "mine", "emptyDir": {}}]}));
        assert_eq!(admitted(mine, account.clone()), (vec!["web:mine".into()], false));
        let known = json!({"containers": [{"name": "web"}], "volumes": [{"name": "kube-api-access-own", "emptyDir": {}}]});
        assert_eq!(admitted(pod(known), account), (vec!["web:TOKEN".into()], false));
    }

    #[test]
    fn unit_pod_and_account_control_automounting() {
        for (of_pod, of_account, expected) in [
            (json!(null), json!(null), true),
            (json!(null), json!(false), false),
            (json!(true), json!(false), true),
            (json!(false), json!(true), false),
        ] {
            let spec = json!({"containers": [{"name": "web"}], "automountServiceAccountToken": of_pod});
            let account = json!({"metadata": {"name": "a"}, "automountServiceAccountToken": of_account});
            let (mounts, volume) = admitted(pod(spec), account);
            assert_eq!((mounts.len(), volume), (usize::from(expected), expected), "{of_pod} {of_account}");
        }
    }

    #[test]
    fn unit_pods_get_the_pull_secrets_of_their_account() {
        let account = json!({"metadata": {"name": "a"}, "imagePullSecrets": [{"name": "registry"}]});
        let mut without = pod(json!({"containers": []}));
        admit(&mut without, &account);
        assert_eq!(without["spec"]["imagePullSecrets"], json!([{"name": "registry"}]));
        assert_eq!(without["spec"]["serviceAccountName"], "a");
        let mut with = pod(json!({"containers": [], "imagePullSecrets": [{"name": "own"}]}));
        admit(&mut with, &account);
        assert_eq!(with["spec"]["imagePullSecrets"], json!([{"name": "own"}]));
    }

    #[test]
    fn unit_mirror_pods_have_no_account() {
        let mirror = json!({"metadata": {"annotations": {MIRROR_POD_ANNOTATION: "x"}}});
        assert_eq!(account_name(&mirror), None);
        assert_eq!(account_name(&pod(json!({"serviceAccountName": "robot"}))), Some("robot"));
        assert_eq!(account_name(&pod(json!({}))), Some("default"));
    }
}
