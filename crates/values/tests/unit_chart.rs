//! The chart, rendered by Helm's own library (`make test` installs it below
//! .tools/helm): what users set arrives at the agent.

mod helm;

use beeline_values::{Settings, Values, chart};
use serde_json::{Value, json};

use helm::render;

fn find<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let mut found = objects.iter().filter(|object| object["kind"] == kind);
    found.next().unwrap_or_else(|| panic!("no {kind} in {objects:#?}"))
}

/// What the agent would read.
fn agents_settings(objects: &[Value]) -> Settings {
    let text = find(objects, "ConfigMap")["data"]["values.yaml"].as_str().expect("a text");
    Settings::from_yaml(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

#[test]
fn unit_chart_without_values_is_the_agent_without_values() {
    let Some(objects) = render(&json!({})) else { return };
    let objects = objects.unwrap();
    let parsed = agents_settings(&objects).parse();
    assert_eq!(parsed.values, Values::default());
    assert_eq!(parsed.notices, Vec::<String>::new());
    assert_eq!(parsed.not_implemented, Vec::<String>::new(), "every default is implemented");

    let settings = agents_settings(&objects);
    for name in chart::chart_only() {
        assert_eq!(settings.get(name), None, "{name} is for the chart alone");
    }

    let agent = &find(&objects, "DaemonSet")["spec"]["template"]["spec"];
    assert_eq!(agent["hostNetwork"], true);
    let capabilities = &agent["containers"][0]["securityContext"]["capabilities"];
    assert_eq!(*capabilities, json!({"drop": ["ALL"], "add": ["BPF", "NET_ADMIN", "PERFMON", "SYS_ADMIN"]}));
    let rules = find(&objects, "ClusterRole")["rules"].as_array().unwrap();
    // It reads, writes events, and nothing else.
    for rule in rules {
        let is_of_events = rule["resources"] == json!(["events"]) && rule["apiGroups"] == json!([""]);
        let allowed = if is_of_events { json!(["create", "patch"]) } else { json!(["get", "list", "watch"]) };
        assert_eq!(rule["verbs"], allowed, "{rule:#}");
    }
}

#[test]
fn unit_chart_lets_the_agent_into_pods_only_to_end_their_sockets() {
    for (values, enters) in [
        (json!({}), true),
        (json!({"socketLB": {"enabled": false}}), false),
        (json!({"socketLB": {"hostNamespaceOnly": true}}), false),
    ] {
        let Some(objects) = render(&values) else { return };
        let objects = objects.unwrap();
        let agent = &find(&objects, "DaemonSet")["spec"]["template"]["spec"];
        let container = &agent["containers"][0];
        let has = |list: &serde_json::Value, test: &dyn Fn(&serde_json::Value) -> bool| {
            list.as_array().unwrap().iter().any(test)
        };
        let added = &container["securityContext"]["capabilities"]["add"];
        assert_eq!(has(added, &|name| name == "SYS_ADMIN"), enters, "{values}");
        assert_eq!(has(&container["volumeMounts"], &|mount| mount["mountPath"] == "/run/netns"), enters);
        assert_eq!(has(&agent["volumes"], &|volume| volume["hostPath"]["path"] == "/run/netns"), enters);
    }
}

#[test]
fn unit_chart_hands_a_cilium_users_values_to_the_agent() {
    let values = json!({
        "kubeProxyReplacement": "strict",
        "k8sServiceHost": "172.30.0.2",
        "k8sServicePort": 6443,
        "routingMode": "native",
        "autoDirectNodeRoutes": true,
        "ipv4NativeRoutingCIDR": "10.0.0.0/8",
        "devices": ["eth0", "eth1"],
        "bpf": {"natPortRange": "50000-59999"},
        "extraConfig": {"debug.enabled": true},
        "image": {"repository": "registry.local/beeline", "tag": "v1"},
        "cni": {"exclusive": false, "binPath": "/var/lib/cni/bin"},
        "prometheus": {"port": 9990},
        "extraArgs": ["--http=127.0.0.1:1"],
    });
    let Some(objects) = render(&values) else { return };
    let objects = objects.unwrap();
    let parsed = agents_settings(&objects).parse();
    let expected = Settings::from_set(&[
        "kubeProxyReplacement=true",
        "k8sServiceHost=172.30.0.2",
        "k8sServicePort=6443",
        "ipv4NativeRoutingCIDR=10.0.0.0/8",
        "devices={eth0,eth1}",
        "bpf.natPortRange=50000-59999",
        "debug.enabled=true",
        "prometheus.port=9990",
    ])
    .unwrap()
    .parse();
    assert_eq!(parsed.values, expected.values);

    let agent = &find(&objects, "DaemonSet")["spec"]["template"]["spec"];
    let container = &agent["containers"][0];
    assert_eq!(container["image"], "registry.local/beeline:v1");
    assert_eq!(container["readinessProbe"]["httpGet"]["port"], 9990);
    assert_eq!(container["command"][2], "--http=127.0.0.1:1");
    let install = agent["initContainers"][1]["command"].as_array().unwrap();
    assert!(!install.contains(&json!("--exclusive")), "{install:?}");
    let volumes = agent["volumes"].as_array().unwrap();
    assert!(volumes.iter().any(|volume| volume["hostPath"]["path"] == "/var/lib/cni/bin"), "{volumes:?}");
}

#[test]
fn unit_chart_refuses_unknown_names_and_wrong_types() {
    for (values, expected) in [
        (json!({"rooutingMode": "native"}), "rooutingMode"),
        (json!({"bpf": {"masqurade": true}}), "masqurade"),
        (json!({"routingMode": "bridge"}), "routingMode"),
        (json!({"MTU": 70_000}), "MTU"),
        (json!({"ipv4NativeRoutingCIDR": "10.0.0.0"}), "ipv4NativeRoutingCIDR"),
    ] {
        let Some(answer) = render(&values) else { return };
        let error = answer.expect_err(&format!("{values} must be refused"));
        assert!(error.contains(expected), "{values}: {error}");
    }
}

/// Rendered twice, a configuration has one hash: else every `helm upgrade`
/// would restart every agent.
#[test]
fn unit_chart_restarts_agents_only_for_a_changed_configuration() {
    let hash = |values: Value| {
        let objects = render(&values)?.unwrap();
        let template = &find(&objects, "DaemonSet")["spec"]["template"];
        Some(template["metadata"]["annotations"]["beeline/config"].as_str().unwrap().to_owned())
    };
    let Some(hashes) =
        [json!({}), json!({}), json!({"MTU": 1400}), json!({"resources": {"limits": {"cpu": 1}}})]
            .into_iter()
            .map(hash)
            .collect::<Option<Vec<_>>>()
    else {
        return;
    };
    assert_eq!(hashes[0], hashes[1]);
    assert_ne!(hashes[0], hashes[2]);
    assert_eq!(hashes[0], hashes[3], "what is not for the agent restarts no agent");
}

#[test]
fn unit_schema_of_the_chart_knows_every_value() {
    let schema = chart::json_schema();
    for key in beeline_values::schema::KEYS {
        let mut node = &schema;
        for part in key.name.split('.') {
            node = &node["properties"][part];
        }
        assert!(node.is_object(), "{} is missing", key.name);
    }
}
