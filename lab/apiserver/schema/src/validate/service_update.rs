//! Immutable fields of Services.

use beeline_apiserver_objects::{
    Cause,
    object::{i64_at, str_at, strs_at},
    service::{has_cluster_ip, has_health_check_port, is_load_balancer},
};
use serde_json::{Value, json};

const IMMUTABLE: &str = "may not change once set";

pub(super) fn check(service: &Value, before: &Value, causes: &mut Vec<Cause>) {
    if has_cluster_ip(service) && has_cluster_ip(before) {
        check_list("clusterIPs", "cluster IP", service, before, causes);
        check_list("ipFamilies", "ipFamily", service, before, causes);
    }
    if is_load_balancer(service) && is_load_balancer(before) {
        let (now, had) = (&service["spec"]["loadBalancerClass"], &before["spec"]["loadBalancerClass"]);
        if now != had {
            causes.push(Cause::invalid("spec.loadBalancerClass", now, IMMUTABLE));
        }
    }
    if has_health_check_port(service) && has_health_check_port(before) {
        let port = |service: &Value| i64_at(service, "/spec/healthCheckNodePort").filter(|port| *port != 0);
        if let (Some(now), Some(had)) = (port(service), port(before))
            && now != had
        {
            causes.push(Cause::invalid("spec.healthCheckNodePort", &json!(now), "field is immutable"));
        }
    }
}

/// The first cluster IP or family is immutable; the second can be removed only with `SingleStack`.
fn check_list(field: &str, name: &str, service: &Value, before: &Value, causes: &mut Vec<Cause>) {
    let (now, had) =
        (strs_at(service, &format!("/spec/{field}")), strs_at(before, &format!("/spec/{field}")));
    // Omitted values were filled in from the stored object.
    let policy = str_at(service, "/spec/ipFamilyPolicy");
    for (index, (now, had)) in now.iter().zip(&had).enumerate() {
        if now != had && (index == 0 || policy != "SingleStack") {
            causes.push(Cause::invalid(format!("spec.{field}[{index}]"), &json!(now), IMMUTABLE));
        }
    }
    let released = now.len() == 1 && had.len() == 2;
    if released && !matches!(policy, "SingleStack" | "") {
        let why = format!("must be set to 'SingleStack' when releasing the secondary {name}");
        causes.push(Cause::invalid("spec.ipFamilyPolicy", &json!(policy), why));
    }
}
