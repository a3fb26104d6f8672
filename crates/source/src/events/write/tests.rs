use super::*;
use beeline_model::{ObjectName, Reason};

fn problem(kind: Kind, namespace: &str, name: &str) -> Problem {
    Problem {
        kind,
        name: ObjectName::new(namespace, name),
        reason: Reason::FrontendCollision,
        message: "its port is another's".to_owned(),
    }
}

fn name(problem: &Problem, uid: &str, host: Option<&str>) -> String {
    event(problem, uid, host, Timestamp::now()).metadata.name.unwrap()
}

#[test]
fn unit_every_node_gives_the_same_event_the_same_name() {
    let web = problem(Kind::Service, "shop", "web");
    assert_eq!(name(&web, "1", None), name(&web, "1", None));
    // The name must stay stable: nodes of two releases use the same one.
    assert_eq!(name(&web, "1", None), "web.e77410df8554a139");
    let said = Problem { message: "something else".to_owned(), ..web.clone() };
    let sorted = Problem { reason: Reason::PortInvalid, ..web.clone() };
    let names = [
        name(&web, "1", None),
        name(&web, "2", None),
        name(&said, "1", None),
        name(&sorted, "1", None),
        name(&web, "1", Some("node-1")),
        name(&web, "1", Some("node-2")),
    ];
    let different: std::collections::BTreeSet<_> = names.iter().collect();
    assert_eq!(different.len(), names.len(), "{names:?}");
}

#[test]
fn unit_an_event_references_its_object_and_its_reporting_node() {
    let now = Timestamp::now();
    let of_all = event(&problem(Kind::EndpointSlice, "shop", "web-x"), "7", None, now);
    let involved = &of_all.involved_object;
    assert_eq!(of_all.metadata.namespace.as_deref(), Some("shop"));
    assert_eq!(involved.api_version.as_deref(), Some("discovery.k8s.io/v1"));
    assert_eq!((involved.kind.as_deref(), involved.uid.as_deref()), (Some("EndpointSlice"), Some("7")));
    assert_eq!(of_all.source.as_ref().unwrap().host, None, "all nodes say it");
    assert_eq!(of_all.reason.as_deref(), Some("FrontendCollision"));

    // As the kubelet writes them; kubectl does not find them otherwise.
    let of_node = event(&problem(Kind::Node, "", "node-2"), "8", Some("node-1"), now);
    let involved = &of_node.involved_object;
    assert_eq!(of_node.metadata.namespace.as_deref(), Some("default"));
    assert_eq!((involved.namespace.as_deref(), involved.uid.as_deref()), (None, Some("node-2")));
    assert_eq!(of_node.source.unwrap().host.as_deref(), Some("node-1"));
}

#[test]
fn unit_event_names_and_messages_respect_kubernetes_limits() {
    let mut long = problem(Kind::EndpointSlice, "shop", &format!("{}-.{}", "a".repeat(234), "b".repeat(17)));
    long.message = "ä".repeat(1000);
    let event = event(&long, "1", None, Timestamp::now());
    let name = event.metadata.name.unwrap();
    assert!(name.len() <= 253 && name.starts_with(&format!("{}.", "a".repeat(234))), "{name}");
    let said = event.message.unwrap();
    assert!(said.len() <= 1024 && said.ends_with("ä..."), "{said}");
}

#[test]
fn unit_rejected_events_and_deleted_objects_are_distinguished() {
    let status = |code, message: &str| Status { code, message: message.to_owned(), ..Status::default() };
    assert_eq!(outcome_of_error(&status(404, "")), Outcome::ObjectDeleted);
    assert_eq!(outcome_of_error(&status(403, "no right")), Outcome::Forbidden("no right".to_owned()));
    let details = json!({"causes": [{"reason": "NamespaceTerminating"}]});
    let terminating = Status { details: serde_json::from_value(details).unwrap(), ..status(403, "") };
    assert_eq!(outcome_of_error(&terminating), Outcome::ObjectDeleted);
    assert!(matches!(outcome_of_error(&status(422, "")), Outcome::Invalid(_)));
    for code in [429, 500, 503] {
        assert!(matches!(outcome_of_error(&status(code, "")), Outcome::Failed(_)), "{code}");
    }
}
