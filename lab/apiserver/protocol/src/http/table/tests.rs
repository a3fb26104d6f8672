use beeline_apiserver_schema::Kinds;
use serde_json::{Value, json};

use super::*;

/// A table as kubectl prints it, wide columns in parentheses.
fn check(kind: &str, object: Value, expected: &str) {
    let kinds = Kinds::built_in();
    let table = of_one(kinds.by_name(kind).unwrap(), &object, Include::Metadata);
    let columns = table["columnDefinitions"].as_array().unwrap().iter();
    let cells = table["rows"][0]["cells"].as_array().unwrap().iter();
    let shown: Vec<String> = columns
        .zip(cells)
        .map(|(column, cell)| {
            let text = format!("{}={}", column["name"].as_str().unwrap(), cell.to_string().trim_matches('"'));
            if column["priority"] == 1 { format!("({text})") } else { text }
        })
        .collect();
    assert_eq!(shown.join(" "), expected);
}

#[test]
fn unit_pod_status_shows_the_waiting_reason() {
    let mut pod = json!({
        "metadata": {"name": "a"}, "spec": {"containers": [{}], "nodeName": "n"},
        "status": {"phase": "Running", "podIP": "10.0.0.1", "containerStatuses": [{
            "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        }]},
    });
    let rest = "Age=<unknown> (IP=10.0.0.1) (Node=n) (Nominated Node=<none>) (Readiness Gates=<none>)";
    check("pods", pod.clone(), &format!("Name=a Ready=0/1 Status=CrashLoopBackOff Restarts=3 {rest}"));
    pod["status"]["containerStatuses"][0]["state"] = json!({"running": {}});
    pod["status"]["containerStatuses"][0]["ready"] = json!(true);
    check("pods", pod.clone(), &format!("Name=a Ready=1/1 Status=Running Restarts=3 {rest}"));
    pod["metadata"]["deletionTimestamp"] = json!("2023-11-14T22:13:20Z");
    check("pods", pod, &format!("Name=a Ready=1/1 Status=Terminating Restarts=3 {rest}"));
}

#[test]
fn unit_services_and_deployments_have_kubectls_columns() {
    check(
        "services",
        json!({"metadata": {"name": "a"}, "spec": {
            "type": "LoadBalancer", "clusterIP": "10.96.0.1", "selector": {"app": "a"},
            "ports": [{"port": 80, "nodePort": 30000, "protocol": "TCP"}],
        }}),
        "Name=a Type=LoadBalancer Cluster-IP=10.96.0.1 External-IP=<pending> Port(s)=80:30000/TCP Age=<unknown> (Selector=app=a)",
    );
    check(
        "deployments",
        json!({
            "metadata": {"name": "a"}, "status": {"readyReplicas": 1, "updatedReplicas": 2, "availableReplicas": 1},
            "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "a"}},
                     "template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}},
        }),
        "Name=a Ready=1/2 Up-to-date=2 Available=1 Age=<unknown> (Containers=c) (Images=i) (Selector=app=a)",
    );
}
