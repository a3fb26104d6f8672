//! The service account of a pod: it must exist, and the pod finds its token where programs look for
//! it. As Kubernetes' admission plugin ServiceAccount does it.

use serde_json::{Map, Value, json};

use crate::object::{self, items, text};

/// Where programs look for the token, the authority and the namespace.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// The life of a pod's token in seconds; the odd number tells such tokens from those of people.
const TOKEN_SECONDS: i64 = 3607;
/// Readable by everybody in the pod.
const MODE: i64 = 0o644;
/// A pod that a kubelet shows without being told to run it.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// The account that a new pod runs as; none for pods that have no account.
pub(crate) fn name_of(pod: &Value) -> Option<&str> {
    if object::annotation(pod, MIRROR).is_some() {
        return None;
    }
    Some(match text(pod, "/spec/serviceAccountName") {
        "" => "default",
        name => name,
    })
}

/// Makes a new pod one of this account.
pub(crate) fn give(pod: &mut Value, account: &Value) {
    let mount = wants_token(pod, account);
    let spec = object::child(pod, "spec");
    let name = object::name(account);
    spec.insert("serviceAccountName".to_owned(), name.into());
    spec.insert("serviceAccount".to_owned(), name.into());
    let secrets = items(account, "/imagePullSecrets");
    if !secrets.is_empty() && spec.get("imagePullSecrets").is_none_or(is_empty) {
        spec.insert("imagePullSecrets".to_owned(), secrets.into());
    }
    if mount {
        mount_token(spec);
    }
}

/// The pod's word counts before its account's.
fn wants_token(pod: &Value, account: &Value) -> bool {
    let said = |object: &Value, pointer: &str| object.pointer(pointer).and_then(Value::as_bool);
    said(pod, "/spec/automountServiceAccountToken")
        .or_else(|| said(account, "/automountServiceAccountToken"))
        .unwrap_or(true)
}

fn is_empty(list: &Value) -> bool {
    list.as_array().is_none_or(Vec::is_empty)
}

/// Mounts the token in every container that has nothing of its own there.
fn mount_token(spec: &mut Map<String, Value>) {
    let names: Vec<&str> = spec
        .get("volumes")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|volume| text(volume, "/name"))
        .collect();
    let given = names.iter().find(|name| name.starts_with(VOLUME_PREFIX)).map(|name| (*name).to_owned());
    let volume = given.clone().unwrap_or_else(|| free_name(&names));
    let mount = json!({"name": volume, "mountPath": MOUNT_PATH, "readOnly": true});
    let mut mounted = false;
    for list in ["initContainers", "containers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if items(container, "/volumeMounts").iter().any(|one| one["mountPath"] == MOUNT_PATH) {
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
    json!({"name": name, "projected": {"defaultMode": MODE, "sources": [
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

    /// The mounts of the token by container, and whether there is a volume for it.
    fn given(mut pod: Value, account: Value) -> (Vec<String>, bool) {
        give(&mut pod, &account);
        let all =
            ["initContainers", "containers"].iter().flat_map(|list| items(&pod, &format!("/spec/{list}")));
        let mounts = |container: &Value| -> Vec<String> {
            let here = |one: &&Value| one["mountPath"] == MOUNT_PATH;
            let mounts = items(container, "/volumeMounts").iter().filter(here);
            mounts.map(|one| format!("{}:{}", text(container, "/name"), text(one, "/name"))).collect()
        };
        let volumes = items(&pod, "/spec/volumes");
        let volume = volumes.iter().find(|volume| text(volume, "/name").starts_with(VOLUME_PREFIX));
        let name = volume.map_or("none", |volume| text(volume, "/name")).to_owned();
        let mounts = all.flat_map(mounts).map(|mount| mount.replace(&name, "TOKEN")).collect();
        (
            mounts,
            volume.is_some_and(|volume| volume["projected"]["sources"][0]["serviceAccountToken"].is_object()),
        )
    }

    #[test]
    fn unit_every_container_finds_its_token() {
        let account = json!({"metadata": {"name": "default"}});
        let two = json!({"initContainers": [{"name": "first"}], "containers": [{"name": "web"}]});
        assert_eq!(given(pod(two), account.clone()), (vec!["first:TOKEN".into(), "web:TOKEN".into()], true));
        let own = json!({"name": "web", "volumeMounts": [{"name": "mine", "mountPath": MOUNT_PATH}]});
        let mine = pod(json!({"containers": [own], "volumes": [{"name": "mine", "emptyDir": {}}]}));
        assert_eq!(given(mine, account.clone()), (vec!["web:mine".into()], false));
        let known = json!({"containers": [{"name": "web"}], "volumes": [{"name": "kube-api-access-own", "emptyDir": {}}]});
        assert_eq!(given(pod(known), account), (vec!["web:TOKEN".into()], false));
    }

    #[test]
    fn unit_pod_and_account_say_whether_there_is_a_token() {
        for (of_pod, of_account, expected) in [
            (json!(null), json!(null), true),
            (json!(null), json!(false), false),
            (json!(true), json!(false), true),
            (json!(false), json!(true), false),
        ] {
            let spec = json!({"containers": [{"name": "web"}], "automountServiceAccountToken": of_pod});
            let account = json!({"metadata": {"name": "a"}, "automountServiceAccountToken": of_account});
            let (mounts, volume) = given(pod(spec), account);
            assert_eq!((mounts.len(), volume), (usize::from(expected), expected), "{of_pod} {of_account}");
        }
    }

    #[test]
    fn unit_an_account_lends_its_pull_secrets() {
        let account = json!({"metadata": {"name": "a"}, "imagePullSecrets": [{"name": "registry"}]});
        let mut without = pod(json!({"containers": []}));
        give(&mut without, &account);
        assert_eq!(without["spec"]["imagePullSecrets"], json!([{"name": "registry"}]));
        assert_eq!(without["spec"]["serviceAccountName"], "a");
        let mut with = pod(json!({"containers": [], "imagePullSecrets": [{"name": "own"}]}));
        give(&mut with, &account);
        assert_eq!(with["spec"]["imagePullSecrets"], json!([{"name": "own"}]));
    }

    #[test]
    fn unit_mirrors_have_no_account() {
        let mirror = json!({"metadata": {"annotations": {MIRROR: "x"}}});
        assert_eq!(name_of(&mirror), None);
        assert_eq!(name_of(&pod(json!({"serviceAccountName": "robot"}))), Some("robot"));
        assert_eq!(name_of(&pod(json!({}))), Some("default"));
    }
}
