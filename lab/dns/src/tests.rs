//! DNS responses for a small set of objects, as text.

use std::str::FromStr;

use hickory_server::proto::rr::{Name, RecordType};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use crate::answer::answer;
use crate::facts::Facts;

/// Namespaces, Services and EndpointSlices of the tests.
fn shop() -> Facts {
    let mut facts = Facts::default();
    ["default", "shop", "kube-system"].iter().for_each(|name| facts.apply_namespace(name));
    facts.apply_service(&service(
        "web",
        json!({
            "clusterIP": "10.96.0.50", "clusterIPs": ["10.96.0.50", "fd00:10:96::50"],
            "ports": [{"name": "http", "port": 80}, {"name": "quic", "port": 443, "protocol": "UDP"}],
        }),
    ));
    facts.apply_slice(&slice(
        "web-1",
        "web",
        "IPv4",
        json!([{"addresses": ["10.244.1.9"], "hostname": "first"}]),
    ));
    facts.apply_service(&service("db", json!({"clusterIP": "None", "clusterIPs": ["None"]})));
    facts.apply_slice(&slice("db-1", "db", "IPv4", db_endpoints()));
    let own = json!([{"addresses": ["fd00:10:244:1::7"], "hostname": "db-0"}]);
    facts.apply_slice(&slice("db-2", "db", "IPv6", own));
    facts.apply_service(&service("old", json!({"type": "ExternalName", "externalName": "Old.example.com"})));
    let alias = json!({"type": "ExternalName", "externalName": "web.shop.svc.cluster.local"});
    facts.apply_service(&service("alias", alias));
    facts
}

fn db_endpoints() -> Value {
    json!([
        {"addresses": ["10.244.1.7"], "hostname": "db-0", "conditions": {"ready": true}},
        {"addresses": ["10.244.2.8"]},
        {"addresses": ["10.244.2.9"], "hostname": "db-2", "conditions": {"ready": false}},
    ])
}

fn service(name: &str, spec: Value) -> Service {
    let object = json!({"metadata": {"name": name, "namespace": "shop"}, "spec": spec});
    serde_json::from_value(object).unwrap()
}

fn slice(name: &str, service: &str, family: &str, endpoints: Value) -> EndpointSlice {
    let labels = json!({"kubernetes.io/service-name": service});
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "shop", "labels": labels},
        "addressType": family, "endpoints": endpoints, "ports": [{"name": "sql", "port": 5432}, {"port": 9}],
    }))
    .unwrap()
}

/// A response as lines: its code unless it is NOERROR, its records without the
/// cluster domain, `SOA` for the authority section, `+` before additional
/// records.
fn asked(facts: &Facts, name: &str, kind: &str) -> String {
    let name = Name::from_ascii(format!("{name}.")).unwrap();
    let found = answer(facts, &name, RecordType::from_str(kind).unwrap());
    let mut lines = Vec::new();
    if found.code != Default::default() {
        lines.push(format!("{:?}", found.code));
    }
    let line = |record: &hickory_server::proto::rr::Record| {
        format!("{} {} {}", record.name, record.record_type(), record.data).replace(".cluster.local.", "")
    };
    lines.extend(found.answers.iter().map(line));
    lines.extend(found.start_of_authority.iter().map(|record| format!("SOA {}", record.name)));
    lines.extend(found.additionals.iter().map(|record| format!("+ {}", line(record))));
    lines.join("\n")
}

#[track_caller]
fn check(facts: &Facts, name: &str, kind: &str, expected: &[&str]) {
    let shown = asked(facts, name, kind);
    assert_eq!(shown, expected.join("\n"), "{kind} {name}\n{facts:#?}");
}

const NO_NAME: &[&str] = &["NXDomain", "SOA cluster.local."];
const NO_RECORD: &[&str] = &["SOA cluster.local."];

#[test]
fn unit_a_service_has_its_cluster_addresses() {
    let shop = shop();
    check(&shop, "web.shop.svc.cluster.local", "A", &["web.shop.svc A 10.96.0.50"]);
    check(&shop, "web.shop.svc.cluster.local", "AAAA", &["web.shop.svc AAAA fd00:10:96::50"]);
    check(&shop, "WEB.Shop.svc.CLUSTER.local", "A", &["WEB.Shop.svc.CLUSTER.local. A 10.96.0.50"]);
    check(&shop, "web.shop.svc.cluster.local", "TXT", NO_RECORD);
    check(&shop, "web.default.svc.cluster.local", "A", NO_NAME);
    check(&shop, "first.web.shop.svc.cluster.local", "A", &["first.web.shop.svc A 10.244.1.9"]);
}

#[test]
fn unit_a_single_stack_service_has_no_data_for_the_other_family() {
    let mut shop = shop();
    shop.apply_service(&service("four", json!({"clusterIP": "10.96.0.4"})));
    check(&shop, "four.shop.svc.cluster.local", "A", &["four.shop.svc A 10.96.0.4"]);
    check(&shop, "four.shop.svc.cluster.local", "AAAA", NO_RECORD);
}

#[test]
fn unit_a_named_port_has_a_service_record() {
    let shop = shop();
    let addresses = ["+ web.shop.svc A 10.96.0.50", "+ web.shop.svc AAAA fd00:10:96::50"];
    let http = "_http._tcp.web.shop.svc SRV 0 100 80 web.shop.svc";
    check(&shop, "_http._tcp.web.shop.svc.cluster.local", "SRV", &[&[http][..], &addresses].concat());
    let quic = "_quic._udp.web.shop.svc SRV 0 100 443 web.shop.svc";
    check(&shop, "_quic._udp.web.shop.svc.cluster.local", "SRV", &[&[quic][..], &addresses].concat());
    check(&shop, "_http._udp.web.shop.svc.cluster.local", "SRV", NO_NAME);
    check(&shop, "_http._tcp.web.shop.svc.cluster.local", "A", NO_RECORD);
    check(&shop, "_tcp.web.shop.svc.cluster.local", "SRV", NO_RECORD);
    check(&shop, "_sctp.web.shop.svc.cluster.local", "SRV", NO_NAME);
}

#[test]
fn unit_a_headless_service_has_the_addresses_of_its_ready_endpoints() {
    let mut shop = shop();
    let both = ["db.shop.svc A 10.244.1.7", "db.shop.svc A 10.244.2.8"];
    check(&shop, "db.shop.svc.cluster.local", "A", &both);
    check(&shop, "db.shop.svc.cluster.local", "AAAA", &["db.shop.svc AAAA fd00:10:244:1::7"]);
    check(&shop, "db-0.db.shop.svc.cluster.local", "A", &["db-0.db.shop.svc A 10.244.1.7"]);
    check(&shop, "db-0.db.shop.svc.cluster.local", "AAAA", &["db-0.db.shop.svc AAAA fd00:10:244:1::7"]);
    check(&shop, "10-244-2-8.db.shop.svc.cluster.local", "A", &["10-244-2-8.db.shop.svc A 10.244.2.8"]);
    check(&shop, "db-2.db.shop.svc.cluster.local", "A", NO_NAME);
    check(
        &shop,
        "_sql._tcp.db.shop.svc.cluster.local",
        "SRV",
        &[
            "_sql._tcp.db.shop.svc SRV 0 100 5432 10-244-2-8.db.shop.svc",
            "_sql._tcp.db.shop.svc SRV 0 100 5432 db-0.db.shop.svc",
            "+ 10-244-2-8.db.shop.svc A 10.244.2.8",
            "+ db-0.db.shop.svc A 10.244.1.7",
            "+ db-0.db.shop.svc AAAA fd00:10:244:1::7",
        ],
    );
    let anyhow = json!({"clusterIP": "None", "publishNotReadyAddresses": true});
    shop.apply_service(&service("db", anyhow));
    check(&shop, "db-2.db.shop.svc.cluster.local", "A", &["db-2.db.shop.svc A 10.244.2.9"]);
}

#[test]
fn unit_a_headless_service_without_ready_endpoints_is_nxdomain() {
    let mut shop = shop();
    shop.delete_slice(&("shop".into(), "db-1".into()));
    check(&shop, "db.shop.svc.cluster.local", "A", NO_RECORD);
    shop.delete_slice(&("shop".into(), "db-2".into()));
    check(&shop, "db.shop.svc.cluster.local", "A", NO_NAME);
    check(&shop, "7.1.244.10.in-addr.arpa", "PTR", &["NXDomain", "SOA in-addr.arpa."]);
}

#[test]
fn unit_addresses_have_ptr_records() {
    let shop = shop();
    check(&shop, "50.0.96.10.in-addr.arpa", "PTR", &["50.0.96.10.in-addr.arpa. PTR web.shop.svc"]);
    check(&shop, "7.1.244.10.in-addr.arpa", "PTR", &["7.1.244.10.in-addr.arpa. PTR db-0.db.shop.svc"]);
    check(&shop, "8.2.244.10.in-addr.arpa", "PTR", &["8.2.244.10.in-addr.arpa. PTR 10-244-2-8.db.shop.svc"]);
    // Endpoints of a Service with a cluster IP have no PTR records.
    check(&shop, "9.1.244.10.in-addr.arpa", "PTR", &["NXDomain", "SOA in-addr.arpa."]);
    check(&shop, "244.10.in-addr.arpa", "PTR", &["NXDomain", "SOA in-addr.arpa."]);
    let web = "0.5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.1.0.0.0.0.d.f.ip6.arpa";
    check(&shop, web, "PTR", &[&format!("{web}. PTR web.shop.svc")]);
}

#[test]
fn unit_cname_targets_in_the_cluster_are_resolved() {
    let shop = shop();
    check(&shop, "old.shop.svc.cluster.local", "A", &["old.shop.svc CNAME Old.example.com."]);
    check(&shop, "old.shop.svc.cluster.local", "CNAME", &["old.shop.svc CNAME Old.example.com."]);
    let followed = ["alias.shop.svc CNAME web.shop.svc", "web.shop.svc A 10.96.0.50"];
    check(&shop, "alias.shop.svc.cluster.local", "A", &followed);
    check(&shop, "nobody.example.com", "A", &["NXDomain"]);
}

#[test]
fn unit_cname_loops_terminate() {
    let mut facts = shop();
    for (name, target) in [("ping", "pong"), ("pong", "ping")] {
        let target = format!("{target}.shop.svc.cluster.local");
        facts.apply_service(&service(name, json!({"type": "ExternalName", "externalName": target})));
    }
    let shown = asked(&facts, "ping.shop.svc.cluster.local", "A");
    assert_eq!(shown.lines().filter(|line| line.contains("CNAME")).count(), 8, "{shown}");
}

#[test]
fn unit_a_pod_has_the_name_of_its_address() {
    let shop = shop();
    check(&shop, "10-244-1-7.shop.pod.cluster.local", "A", &["10-244-1-7.shop.pod A 10.244.1.7"]);
    check(&shop, "10-244-1-7.shop.pod.cluster.local", "AAAA", NO_RECORD);
    let ipv6 = "fd00-10-244-1--7.shop.pod";
    check(&shop, &format!("{ipv6}.cluster.local"), "AAAA", &[&format!("{ipv6} AAAA fd00:10:244:1::7")]);
    check(&shop, "10-244-1-7.nowhere.pod.cluster.local", "A", NO_NAME);
    check(&shop, "10-244-1.shop.pod.cluster.local", "A", NO_NAME);
}

#[test]
fn unit_empty_non_terminals_have_no_data() {
    let shop = shop();
    for name in ["svc.cluster.local", "pod.cluster.local", "shop.svc.cluster.local", "shop.pod.cluster.local"]
    {
        check(&shop, name, "A", NO_RECORD);
    }
    check(&shop, "nowhere.svc.cluster.local", "A", NO_NAME);
    check(&shop, "other.cluster.local", "A", NO_NAME);
    check(&shop, "a.b.c.d.svc.cluster.local", "A", NO_NAME);
    check(&shop, "cluster.local", "NS", &["cluster.local. NS kube-dns.kube-system.svc"]);
    check(&shop, "dns-version.cluster.local", "TXT", &["dns-version TXT 1.1.0"]);
    check(&shop, "dns-version.cluster.local", "A", NO_RECORD);
}

#[test]
fn unit_any_order_of_changes_ends_in_the_same_answers() {
    let mut facts = Facts::default();
    let db = slice("db-1", "db", "IPv4", db_endpoints());
    facts.apply_slice(&db);
    check(&facts, "db.shop.svc.cluster.local", "A", NO_NAME);
    facts.apply_namespace("shop");
    facts.apply_service(&service("db", json!({"clusterIP": "None"})));
    facts.apply_slice(&db);
    let both = ["db.shop.svc A 10.244.1.7", "db.shop.svc A 10.244.2.8"];
    check(&facts, "db.shop.svc.cluster.local", "A", &both);
    // The slice moves to another Service.
    facts.apply_service(&service("web", json!({"clusterIP": "None"})));
    facts.apply_slice(&slice("db-1", "web", "IPv4", db_endpoints()));
    check(&facts, "db.shop.svc.cluster.local", "A", NO_NAME);
    check(
        &facts,
        "web.shop.svc.cluster.local",
        "A",
        &both.map(|line| line.replace("db.", "web.")).each_ref().map(String::as_str),
    );
    // The address moves to another Service before its owner is deleted.
    facts.apply_service(&service("one", json!({"clusterIP": "10.96.0.1"})));
    facts.apply_service(&service("two", json!({"clusterIP": "10.96.0.1"})));
    facts.delete_service(&("shop".into(), "one".into()));
    check(&facts, "1.0.96.10.in-addr.arpa", "PTR", &["1.0.96.10.in-addr.arpa. PTR two.shop.svc"]);
}
