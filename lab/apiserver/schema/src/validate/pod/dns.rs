//! DNS policy and DNS configuration of pods.

use beeline_apiserver_objects::{
    Cause,
    object::{array_at, str_at, strs_at},
};
use serde_json::{Value, json};

use super::super::checks::{check_ip, check_one_of};
use crate::names::{SUBDOMAIN_RULE, is_subdomain_1123};

const SERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
/// Maximum length of all search domains with separating spaces.
const SEARCH_CHARS_MAX: usize = 2048;

pub(super) fn check(path: &str, spec: &Value, causes: &mut Vec<Cause>) {
    let known = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    check_one_of(format!("{path}.dnsPolicy"), &spec["dnsPolicy"], &known, causes);
    let field = format!("{path}.dnsConfig");
    let servers = strs_at(spec, "/dnsConfig/nameservers");
    if spec["dnsPolicy"] == "None" && spec["dnsConfig"].is_null() {
        let why = "must provide `dnsConfig` when `dnsPolicy` is None";
        causes.push(Cause::required(&*field, why));
    } else if spec["dnsPolicy"] == "None" && servers.is_empty() {
        let why = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        causes.push(Cause::required(format!("{field}.nameservers"), why));
    }
    if servers.len() > SERVERS_MAX {
        let why = format!("must not have more than {SERVERS_MAX} nameservers");
        causes.push(Cause::invalid(format!("{field}.nameservers"), &json!(servers), why));
    }
    for (index, server) in servers.iter().enumerate() {
        check_ip(format!("{field}.nameservers[{index}]"), server, causes);
    }
    check_searches(&format!("{field}.searches"), &strs_at(spec, "/dnsConfig/searches"), causes);
    for (index, option) in array_at(spec, "/dnsConfig/options").iter().enumerate() {
        if str_at(option, "/name").is_empty() {
            causes.push(Cause::required(format!("{field}.options[{index}]"), "must not be empty"));
        }
    }
}

fn check_searches(field: &str, searches: &[&str], causes: &mut Vec<Cause>) {
    if searches.len() > SEARCHES_MAX {
        let why = format!("must not have more than {SEARCHES_MAX} search paths");
        causes.push(Cause::invalid(field, &json!(searches), why));
    }
    if searches.join(" ").len() > SEARCH_CHARS_MAX {
        let why = format!(
            "must not have more than {SEARCH_CHARS_MAX} characters (including spaces) in the search list"
        );
        causes.push(Cause::invalid(field, &json!(searches), why));
    }
    for (index, search) in searches.iter().enumerate() {
        // `.` is valid, a trailing dot is not part of the name, and underscores are allowed.
        let name = search.strip_suffix('.').unwrap_or(search).replace('_', "-");
        let name = name.trim_matches('-');
        if *search != "." && !is_subdomain_1123(name) {
            causes.push(Cause::invalid(format!("{field}[{index}]"), &json!(search), SUBDOMAIN_RULE));
        }
    }
}
