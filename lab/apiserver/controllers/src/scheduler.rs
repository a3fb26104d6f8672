//! Scheduler: binds a pod to the matching node with the fewest pods of the same owner, then the
//! fewest pods.

use std::sync::Arc;

use beeline_apiserver_admission::{Api, ListOptions};
use beeline_apiserver_objects::{
    ApiError, ObjectKey, Selector,
    object::{self, str_at},
};
use serde_json::{Value, json};

use super::controller::Controller;
use super::events::Recorder;
use super::pods;

const RECORDER: Recorder = Recorder("default-scheduler");

pub(super) struct Scheduler;

impl Controller for Scheduler {
    fn name(&self) -> &'static str {
        "scheduler"
    }

    fn watches(&self) -> &'static [&'static str] {
        &["pods", "nodes"]
    }

    fn keys_for_event(&self, api: &Api, kind: &str, object: &Value) -> Vec<ObjectKey> {
        if kind == "pods" {
            return if is_unscheduled(object) { vec![ObjectKey::of(object)] } else { Vec::new() };
        }
        let waiting = api.list(
            "pods",
            None,
            &ListOptions { fields: "spec.nodeName=".to_owned(), ..Default::default() },
        );
        waiting.map(|page| page.items).unwrap_or_default().iter().map(|pod| ObjectKey::of(pod)).collect()
    }

    fn reconcile(&mut self, api: &Api, key: &ObjectKey) -> Result<(), ApiError> {
        let Ok(pod) = api.get("pods", &key.namespace, &key.name) else { return Ok(()) };
        if !is_unscheduled(&pod) {
            return Ok(());
        }
        let nodes = api.list("nodes", None, &ListOptions::default())?.items;
        let fitting: Vec<&Arc<Value>> =
            nodes.iter().filter(|node| is_schedulable(node) && matches_node(&pod["spec"], node)).collect();
        let placed = pods::list_all(api, "pods")?;
        match select_node(&pod, &fitting, &placed) {
            Some(node) => {
                let node = object::name(node);
                api.bind(key, node)?;
                let message = format!("Successfully assigned {key} to {node}");
                RECORDER.normal(api, "pods", &pod, "Scheduled", &message);
                Ok(())
            }
            None => record_unschedulable(api, &pod, nodes.len()),
        }
    }
}

fn is_unscheduled(pod: &Value) -> bool {
    str_at(pod, "/spec/nodeName").is_empty()
        && pods::is_active(pod)
        && str_at(pod, "/spec/schedulerName") == "default-scheduler"
        && object::array_at(pod, "/spec/schedulingGates").is_empty()
}

fn is_schedulable(node: &Value) -> bool {
    pods::is_ready(node) && !object::bool_at(node, "/spec/unschedulable") && !object::is_deleting(node)
}

/// Whether node selector, required node affinity and node name match.
pub(super) fn matches_node(spec: &Value, node: &Value) -> bool {
    let terms = "/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
    let terms = object::array_at(spec, terms);
    let named = str_at(spec, "/nodeName");
    (named.is_empty() || named == object::name(node))
        && Selector::from_map(&spec["nodeSelector"]).matches(node)
        && (terms.is_empty() || terms.iter().any(|term| matches_term(term, node)))
}

fn matches_term(term: &Value, node: &Value) -> bool {
    let by_name = object::array_at(term, "/matchFields").iter().all(|field| {
        let named = object::strs_at(field, "/values").contains(&object::name(node));
        if field["operator"] == "NotIn" { !named } else { named }
    });
    by_name
        && Selector::from_label_selector(&json!({"matchExpressions": term["matchExpressions"]})).matches(node)
}

fn select_node<'a>(pod: &Value, fitting: &[&'a Arc<Value>], placed: &[Arc<Value>]) -> Option<&'a Arc<Value>> {
    let owner = object::controller_of(pod).map(|owner| str_at(owner, "/uid"));
    let on = |node: &Value| {
        placed
            .iter()
            .filter(|other| pods::is_active(other) && str_at(other, "/spec/nodeName") == object::name(node))
            .collect::<Vec<_>>()
    };
    let candidates =
        fitting.iter().copied().filter(|node| !violates_anti_affinity(pod, &on(node), fitting, placed, node));
    candidates.min_by_key(|node| {
        let there = on(node);
        let matching = there
            .iter()
            .filter(|other| owner.is_some_and(|owner| object::is_controlled_by(other, owner)))
            .count();
        (matching, there.len(), object::name(node).len(), object::name(node).to_owned())
    })
}

/// Whether a required pod anti-affinity excludes this node.
fn violates_anti_affinity(
    pod: &Value,
    there: &[&Arc<Value>],
    nodes: &[&Arc<Value>],
    placed: &[Arc<Value>],
    node: &Value,
) -> bool {
    let terms = object::array_at(
        pod,
        "/spec/affinity/podAntiAffinity/requiredDuringSchedulingIgnoredDuringExecution",
    );
    terms.iter().any(|term| {
        let selector = Selector::from_label_selector(&term["labelSelector"]);
        let matching =
            |other: &Value| object::namespace(other) == object::namespace(pod) && selector.matches(other);
        match str_at(term, "/topologyKey") {
            "" | "kubernetes.io/hostname" => there.iter().any(|other| matching(other)),
            topology => {
                let zone = object::label(node, topology);
                let same = |name: &str| {
                    nodes.iter().any(|one| object::name(one) == name && object::label(one, topology) == zone)
                };
                placed.iter().any(|other| {
                    pods::is_active(other) && matching(other) && same(str_at(other, "/spec/nodeName"))
                })
            }
        }
    })
}

fn record_unschedulable(api: &Api, pod: &Value, nodes: usize) -> Result<(), ApiError> {
    let message = format!(
        "0/{nodes} nodes are available: none is Ready, schedulable and matches the pod's node selector and affinity."
    );
    RECORDER.warning(api, "pods", pod, "FailedScheduling", &message);
    let mut status = pod["status"].clone();
    let condition = pods::new_condition(pod, "PodScheduled", false, "Unschedulable", &message);
    object::set_condition(&mut status, condition);
    pods::write_status(api, "pods", pod, status)
}
