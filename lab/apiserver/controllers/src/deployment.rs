//! Deployments: one ReplicaSet per pod template; a rolling update moves replicas from the old sets to
//! the new one.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use beeline_apiserver_admission::{Api, DeleteOptions, Subresource, WriteOptions};
use beeline_apiserver_objects::{
    ApiError, ObjectKey,
    object::{self, i64_at, str_at},
};
use serde_json::{Value, json};

use super::controller::Controller;
use super::events::Recorder;
use super::pods;

const HASH: &str = "pod-template-hash";
const REVISION: &str = "deployment.kubernetes.io/revision";

const RECORDER: Recorder = Recorder("deployment-controller");

pub(super) struct DeploymentController;

impl Controller for DeploymentController {
    fn name(&self) -> &'static str {
        "deployment"
    }

    fn watches(&self) -> &'static [&'static str] {
        &["deployments", "replicasets"]
    }

    fn keys_for_event(&self, _: &Api, kind: &str, object: &Value) -> Vec<ObjectKey> {
        if kind == "deployments" {
            vec![ObjectKey::of(object)]
        } else {
            pods::controller_key(object, "Deployment")
        }
    }

    fn reconcile(&mut self, api: &Api, key: &ObjectKey) -> Result<(), ApiError> {
        let Ok(deployment) = api.get("deployments", &key.namespace, &key.name) else { return Ok(()) };
        if object::is_deleting(&deployment) {
            return Ok(());
        }
        let sets = pods::controlled_objects(api, &*api.kind("replicasets")?, &deployment);
        let hash = template_hash(&deployment["spec"]["template"]);
        let (new, old): (Vec<_>, Vec<_>) =
            sets.into_iter().partition(|set| object::label(set, HASH) == Some(hash.as_str()));
        let Some(new) = new.into_iter().next() else {
            return create_set(api, &deployment, &hash, &old);
        };
        set_newest_revision(api, &deployment, &new, &old)?;
        if !object::bool_at(&deployment, "/spec/paused") {
            rolling_update(api, &deployment, &new, &old)?;
            clean_up_history(api, &deployment, &old)?;
        }
        pods::write_status(api, "deployments", &deployment, status(&deployment, &new, &old))
    }
}

/// Hash of the template, in characters that are valid in names.
fn template_hash(template: &Value) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut hasher = DefaultHasher::new();
    template.to_string().hash(&mut hasher);
    let mut rest = hasher.finish();
    let mut hash = String::new();
    for _ in 0..9 {
        let (next, letter) = (rest / 27, rest % 27);
        hash.push(char::from(LETTERS[usize::try_from(letter).unwrap_or(0)]));
        rest = next;
    }
    hash
}

fn create_set(api: &Api, deployment: &Value, hash: &str, old: &[Arc<Value>]) -> Result<(), ApiError> {
    let mut template = deployment["spec"]["template"].clone();
    object::metadata(&mut template);
    object::child_mut(&mut template["metadata"], "labels").insert(HASH.to_owned(), json!(hash));
    let mut selector = deployment["spec"]["selector"].clone();
    object::child_mut(&mut selector, "matchLabels").insert(HASH.to_owned(), json!(hash));
    let revision = 1 + old.iter().map(|set| revision(set)).max().unwrap_or(0);
    // The first ReplicaSet starts with all replicas, a later one with none.
    let replicas = if total_replicas(old) == 0 { desired_replicas(deployment) } else { 0 };
    let set = json!({
        "metadata": {
            "name": format!("{}-{hash}", object::name(deployment)),
            "namespace": object::namespace(deployment),
            "labels": template["metadata"]["labels"],
            "annotations": {REVISION: revision.to_string()},
            "ownerReferences": [object::controller_reference(deployment, "apps/v1", "Deployment")],
        },
        "spec": {"replicas": replicas, "selector": selector, "template": template},
    });
    match api.create("replicasets", set.clone()) {
        Err(error) if error.reason == "AlreadyExists" => adopt(api, &set, error)?,
        other => record_scaled(api, deployment, &*other?, 0, replicas),
    }
    if object::annotation(deployment, REVISION) != Some(&revision.to_string()) {
        write_revision(api, deployment, revision)?;
    }
    Ok(())
}

/// Adopts an existing ReplicaSet of that name without a controller, such as one left by an orphaning
/// deletion.
fn adopt(api: &Api, desired: &Value, taken: ApiError) -> Result<(), ApiError> {
    let (namespace, name) = (object::namespace(desired), object::name(desired));
    let there = api.get("replicasets", namespace, name)?;
    if object::controller_of(&there).is_some() {
        return Err(taken);
    }
    let patch = json!({"metadata": {"ownerReferences": desired["metadata"]["ownerReferences"]}});
    api.patch("replicasets", namespace, name, &beeline_apiserver_objects::PatchKind::Merge, &patch)
        .map(|_| ())
}

/// A rollback makes the old template the newest revision.
fn set_newest_revision(
    api: &Api,
    deployment: &Value,
    new: &Value,
    old: &[Arc<Value>],
) -> Result<(), ApiError> {
    let newest = old.iter().map(|set| revision(set)).max().unwrap_or(0);
    let number = if revision(new) > newest { revision(new) } else { newest + 1 };
    if number != revision(new) {
        let patch = json!({"metadata": {"annotations": {REVISION: number.to_string()}}});
        let (namespace, name) = (object::namespace(new), object::name(new));
        api.patch("replicasets", namespace, name, &beeline_apiserver_objects::PatchKind::Merge, &patch)?;
    }
    if object::annotation(deployment, REVISION) != Some(&number.to_string()) {
        write_revision(api, deployment, number)?;
    }
    Ok(())
}

fn write_revision(api: &Api, deployment: &Value, revision: i64) -> Result<(), ApiError> {
    let patch = json!({"metadata": {"annotations": {REVISION: revision.to_string()}}});
    let (namespace, name) = (object::namespace(deployment), object::name(deployment));
    api.patch("deployments", namespace, name, &beeline_apiserver_objects::PatchKind::Merge, &patch)
        .map(|_| ())
}

fn revision(set: &Value) -> i64 {
    object::annotation(set, REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn desired_replicas(deployment: &Value) -> i64 {
    i64_at(deployment, "/spec/replicas").unwrap_or(1)
}

fn total_replicas(sets: &[Arc<Value>]) -> i64 {
    sets.iter().map(|set| i64_at(set, "/spec/replicas").unwrap_or(0)).sum()
}

fn sum(sets: &[Arc<Value>], pointer: &str) -> i64 {
    sets.iter().map(|set| i64_at(set, pointer).unwrap_or(0)).sum()
}

/// Moves replicas from the old sets to the new one within `maxSurge` and `maxUnavailable`.
fn rolling_update(api: &Api, deployment: &Value, new: &Value, old: &[Arc<Value>]) -> Result<(), ApiError> {
    let (desired, have_new) = (desired_replicas(deployment), i64_at(new, "/spec/replicas").unwrap_or(0));
    if old.iter().all(|set| i64_at(set, "/spec/replicas") == Some(0)) {
        let ended =
            sum(old, "/status/replicas") == 0 || str_at(deployment, "/spec/strategy/type") != "Recreate";
        return if ended { scale(api, deployment, new, desired) } else { Ok(()) };
    }
    if str_at(deployment, "/spec/strategy/type") == "Recreate" {
        scale(api, deployment, new, 0)?;
        return old.iter().try_for_each(|set| scale(api, deployment, set, 0));
    }
    let limits = &deployment["spec"]["strategy"]["rollingUpdate"];
    let surge = resolve_int_or_percent(&limits["maxSurge"], desired, true);
    let mut unavailable = resolve_int_or_percent(&limits["maxUnavailable"], desired, false);
    if surge == 0 && unavailable == 0 {
        unavailable = 1;
    }
    let scale_up_max = (desired + surge - have_new - total_replicas(old)).max(0);
    let next_new = if have_new > desired { desired } else { (have_new + scale_up_max).min(desired) };
    scale(api, deployment, new, next_new)?;
    let new_unavailable = (next_new - i64_at(new, "/status/availableReplicas").unwrap_or(0)).max(0);
    // Uses desired replicas because the statuses lag behind.
    let scale_down_max = next_new + total_replicas(old) - (desired - unavailable) - new_unavailable;
    scale_down_old(api, deployment, old, scale_down_max)
}

/// Scales the old sets down by up to this many replicas, unavailable ones first.
fn scale_down_old(
    api: &Api,
    deployment: &Value,
    old: &[Arc<Value>],
    mut scale_down_max: i64,
) -> Result<(), ApiError> {
    let mut targets: Vec<i64> = old.iter().map(|set| i64_at(set, "/spec/replicas").unwrap_or(0)).collect();
    for only_unavailable in [true, false] {
        for (set, target) in old.iter().zip(&mut targets) {
            let serving = i64_at(set, "/status/availableReplicas").unwrap_or(0).min(*target);
            let reduction =
                scale_down_max.clamp(0, if only_unavailable { *target - serving } else { *target });
            *target -= reduction;
            scale_down_max -= reduction;
        }
    }
    old.iter().zip(targets).try_for_each(|(set, target)| scale(api, deployment, set, target))
}

/// Resolves `maxSurge` or `maxUnavailable`: an absolute number or a percentage of the replicas.
fn resolve_int_or_percent(value: &Value, replicas: i64, round_up: bool) -> i64 {
    let percent =
        value.as_str().and_then(|text| text.strip_suffix('%')).and_then(|text| text.parse::<i64>().ok());
    match percent {
        Some(percent) => (replicas * percent.max(0) + if round_up { 99 } else { 0 }) / 100,
        None => value.as_i64().unwrap_or(0).max(0),
    }
}

fn scale(api: &Api, deployment: &Value, set: &Value, replicas: i64) -> Result<(), ApiError> {
    let before = i64_at(set, "/spec/replicas").unwrap_or(1);
    if before == replicas {
        return Ok(());
    }
    let mut next = set.clone();
    object::child_mut(&mut next, "spec").insert("replicas".to_owned(), json!(replicas));
    api.update_of(&api.kind("replicasets")?, Subresource::None, next, &WriteOptions::default())?;
    record_scaled(api, deployment, set, before, replicas);
    Ok(())
}

fn record_scaled(api: &Api, deployment: &Value, set: &Value, before: i64, now: i64) {
    if before != now {
        let direction = if now > before { "up" } else { "down" };
        let message = format!("Scaled {direction} replica set {} from {before} to {now}", object::name(set));
        RECORDER.normal(api, "deployments", deployment, "ScalingReplicaSet", &message);
    }
}

/// Deletes old empty ReplicaSets beyond `revisionHistoryLimit`.
fn clean_up_history(api: &Api, deployment: &Value, old: &[Arc<Value>]) -> Result<(), ApiError> {
    let limit = usize::try_from(i64_at(deployment, "/spec/revisionHistoryLimit").unwrap_or(10)).unwrap_or(0);
    let is_empty = |set: &&Arc<Value>| {
        sum(std::slice::from_ref(*set), "/spec/replicas") == 0
            && sum(std::slice::from_ref(*set), "/status/replicas") == 0
    };
    let mut ended: Vec<&Arc<Value>> = old.iter().filter(is_empty).collect();
    ended.sort_by_key(|set| revision(set));
    let surplus = ended.len().saturating_sub(limit);
    for set in &ended[..surplus] {
        api.delete_of(&api.kind("replicasets")?, &ObjectKey::of(set), &DeleteOptions::default())?;
    }
    Ok(())
}

fn status(deployment: &Value, new: &Arc<Value>, old: &[Arc<Value>]) -> Value {
    let all: Vec<Arc<Value>> = old.iter().chain(std::iter::once(new)).cloned().collect();
    let (ready, available) = (sum(&all, "/status/readyReplicas"), sum(&all, "/status/availableReplicas"));
    let (replicas, updated) = (sum(&all, "/status/replicas"), i64_at(new, "/status/replicas").unwrap_or(0));
    let desired = desired_replicas(deployment);
    let unavailable = resolve_int_or_percent(
        &deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"],
        desired,
        false,
    );
    let enough = available >= desired - unavailable;
    let complete = updated == desired && replicas == desired && available == desired;
    let set_name = object::name(new);
    let (reason, message) = if complete {
        ("NewReplicaSetAvailable", format!("ReplicaSet \"{set_name}\" has successfully progressed."))
    } else {
        ("ReplicaSetUpdated", format!("ReplicaSet \"{set_name}\" is progressing."))
    };
    let (enough_reason, enough_message) = if enough {
        ("MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    let mut status = json!({
        "observedGeneration": deployment["metadata"]["generation"],
        "conditions": [
            pods::new_condition(deployment, "Available", enough, enough_reason, enough_message),
            pods::new_condition(deployment, "Progressing", true, reason, &message),
        ],
    });
    let counts = [
        ("replicas", replicas),
        ("updatedReplicas", updated),
        ("readyReplicas", ready),
        ("availableReplicas", available),
        ("unavailableReplicas", (desired.max(replicas) - available).max(0)),
    ];
    for (field, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
        status[field] = json!(count);
    }
    status
}
