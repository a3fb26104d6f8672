//! Deployments, ReplicaSets and DaemonSets.

use beeline_apiserver_objects::{Cause, Selector, object::i64_at};
use serde_json::{Value, json};

use super::metadata::{check_annotations, check_labels};
use super::pod;

pub(super) fn check(workload: &Value, before: Option<&Value>, causes: &mut Vec<Cause>) {
    let spec = &workload["spec"];
    if let Some(replicas) = i64_at(spec, "/replicas").filter(|replicas| *replicas < 0) {
        causes.push(Cause::invalid("spec.replicas", &json!(replicas), "must be greater than or equal to 0"));
    }
    let selector = Selector::from_label_selector(&spec["selector"]);
    if selector.is_empty() {
        let why = "empty selector is invalid: it would select every pod";
        causes.push(Cause::invalid("spec.selector", &spec["selector"], why));
    } else if !selector.matches(&spec["template"]) {
        let labels = &spec["template"]["metadata"]["labels"];
        causes.push(Cause::invalid(
            "spec.template.metadata.labels",
            labels,
            "`selector` does not match template `labels`",
        ));
    }
    let metadata = &spec["template"]["metadata"];
    check_labels("spec.template.metadata.labels", &metadata["labels"], causes);
    check_annotations("spec.template.metadata.annotations", &metadata["annotations"], causes);
    if before.is_some_and(|before| before["spec"]["selector"] != spec["selector"]) {
        causes.push(Cause::invalid("spec.selector", &spec["selector"], "field is immutable"));
    }
    pod::check_spec("spec.template.spec", &spec["template"]["spec"], causes);
    let policy = &spec["template"]["spec"]["restartPolicy"];
    if policy != "Always" && !policy.is_null() {
        causes.push(Cause::unsupported("spec.template.spec.restartPolicy", policy, &["Always"]));
    }
}
