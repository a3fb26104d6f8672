//! What of a Service may not change once it is there.

use serde_json::{Value, json};

use crate::Cause;
use crate::object::{number, strings, text};
use crate::service::{has_cluster_ip, has_health_check_port, is_load_balancer};

const ONCE: &str = "may not change once set";

pub(super) fn check(service: &Value, before: &Value, causes: &mut Vec<Cause>) {
    if has_cluster_ip(service) && has_cluster_ip(before) {
        check_list("clusterIPs", "cluster IP", service, before, causes);
        check_list("ipFamilies", "ipFamily", service, before, causes);
    }
    if is_load_balancer(service) && is_load_balancer(before) {
        let (now, had) = (&service["spec"]["loadBalancerClass"], &before["spec"]["loadBalancerClass"]);
        if now != had {
            causes.push(Cause::invalid("spec.loadBalancerClass", now, ONCE));
        }
    }
    if has_health_check_port(service) && has_health_check_port(before) {
        let port = |service: &Value| number(service, "/spec/healthCheckNodePort").filter(|port| *port != 0);
        if let (Some(now), Some(had)) = (port(service), port(before))
            && now != had
        {
            causes.push(Cause::invalid("spec.healthCheckNodePort", &json!(now), "field is immutable"));
        }
    }
}

/// The first of a service's addresses or families stays; the second goes only with `SingleStack`.
fn check_list(field: &str, word: &str, service: &Value, before: &Value, causes: &mut Vec<Cause>) {
    let (now, had) =
        (strings(service, &format!("/spec/{field}")), strings(before, &format!("/spec/{field}")));
    // What is left out is carried over.
    let policy = text(service, "/spec/ipFamilyPolicy");
    for (index, (now, had)) in now.iter().zip(&had).enumerate() {
        if now != had && (index == 0 || policy != "SingleStack") {
            causes.push(Cause::invalid(format!("spec.{field}[{index}]"), &json!(now), ONCE));
        }
    }
    let released = now.len() == 1 && had.len() == 2;
    if released && !matches!(policy, "SingleStack" | "") {
        let why = format!("must be set to 'SingleStack' when releasing the secondary {word}");
        causes.push(Cause::invalid("spec.ipFamilyPolicy", &json!(policy), why));
    }
}
