//! The result of ADD in the formats of the supported CNI versions, and
//! `prevResult`.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use crate::error::{CniError, Code};
use crate::version::Version;

/// The interface that ADD created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedInterface {
    /// Name of the host side.
    pub host_interface: String,
    /// MAC of the host side.
    pub host_mac: String,
    /// Name of the pod's interface.
    pub pod_interface: String,
    /// MAC of the pod's interface.
    pub pod_mac: String,
    /// `CNI_NETNS`.
    pub sandbox: String,
    /// Addresses with the gateway of their family.
    pub addresses: Vec<(IpAddr, IpAddr)>,
    /// MTU of the interface and the routes, bytes.
    pub mtu: u32,
}

/// The result of ADD, appended to `previous` if the plugin is part of a chain.
pub fn result(
    version: Version,
    created: &CreatedInterface,
    dns: Option<&Value>,
    previous: Option<&Value>,
) -> Result<Value, CniError> {
    let mut object = match previous {
        None => Map::new(),
        Some(Value::Object(object)) => object.clone(),
        Some(other) => return Err(bad_previous(format!("it is not an object: {other}"))),
    };
    refuse_same_interface(&object, created)?;
    let offset = list(&mut object, "interfaces")?.len();
    list(&mut object, "interfaces")?.extend(interfaces(version, created));
    list(&mut object, "ips")?
        .extend(created.addresses.iter().map(|pair| address(version, *pair, offset + 1)));
    list(&mut object, "routes")?
        .extend(created.addresses.iter().map(|(_, gateway)| route(version, *gateway, created.mtu)));
    object.insert("cniVersion".to_owned(), json!(version.name()));
    if let Some(dns) = dns {
        object.insert("dns".to_owned(), dns.clone());
    }
    Ok(Value::Object(object))
}

/// The addresses that a result lists for the interface of this name in a sandbox.
pub fn addresses_of(result: &Value, interface: &str) -> Result<Vec<IpAddr>, CniError> {
    let entries = |field: &str| result.get(field).and_then(Value::as_array).cloned().unwrap_or_default();
    let in_sandbox = |entry: &Value| {
        entry["name"] == interface && entry["sandbox"].as_str().is_some_and(|sandbox| !sandbox.is_empty())
    };
    let index = entries("interfaces").iter().position(in_sandbox);
    let index =
        index.ok_or_else(|| bad_previous(format!("it lists no interface {interface:?} with a sandbox")))?;
    let parse = |entry: &Value| {
        let text = entry["address"].as_str().unwrap_or_default();
        let plain = text.split_once('/').map_or(text, |(address, _)| address);
        plain.parse().map_err(|_| bad_previous(format!("it contains an invalid IP address: {text:?}")))
    };
    entries("ips")
        .iter()
        .filter(|entry| entry["interface"].as_u64() == Some(index as u64))
        .map(parse)
        .collect()
}

fn interfaces(version: Version, created: &CreatedInterface) -> [Value; 2] {
    let mut host = json!({ "name": created.host_interface, "mac": created.host_mac });
    let mut pod =
        json!({ "name": created.pod_interface, "mac": created.pod_mac, "sandbox": created.sandbox });
    if version >= Version::V1_1_0 {
        host["mtu"] = json!(created.mtu);
        pod["mtu"] = json!(created.mtu);
    }
    [host, pod]
}

fn address(version: Version, (ip, gateway): (IpAddr, IpAddr), interface: usize) -> Value {
    let (bits, family) = if ip.is_ipv4() { (32, "4") } else { (128, "6") };
    let mut entry = json!({ "address": format!("{ip}/{bits}"), "gateway": gateway, "interface": interface });
    if version < Version::V1_0_0 {
        entry["version"] = json!(family);
    }
    entry
}

fn route(version: Version, gateway: IpAddr, mtu: u32) -> Value {
    let everything = if gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
    let mut entry = json!({ "dst": everything, "gw": gateway });
    if version >= Version::V1_1_0 {
        entry["mtu"] = json!(mtu);
    }
    entry
}

fn list<'a>(object: &'a mut Map<String, Value>, field: &str) -> Result<&'a mut Vec<Value>, CniError> {
    let entry = object.entry(field).or_insert_with(|| json!([]));
    if entry.is_null() {
        *entry = json!([]);
    }
    entry.as_array_mut().ok_or_else(|| bad_previous(format!("\"{field}\" is not a list")))
}

fn refuse_same_interface(previous: &Map<String, Value>, created: &CreatedInterface) -> Result<(), CniError> {
    let entries = previous.get("interfaces").and_then(Value::as_array);
    let same =
        |entry: &Value| entry["name"] == *created.pod_interface && entry["sandbox"] == *created.sandbox;
    if entries.is_some_and(|entries| entries.iter().any(same)) {
        return Err(bad_previous(format!(
            "an earlier plugin of the chain has already created {}; beeline-cni creates the interface itself and must be first in the list",
            created.pod_interface
        )));
    }
    Ok(())
}

fn bad_previous(what: String) -> CniError {
    CniError::new(Code::InvalidConfig, format!("prevResult is invalid: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn created() -> CreatedInterface {
        CreatedInterface {
            host_interface: "bee001122334455".into(),
            host_mac: "02:be:e1:00:00:01".into(),
            pod_interface: "eth0".into(),
            pod_mac: "0a:00:00:00:00:01".into(),
            sandbox: "/run/netns/x".into(),
            addresses: vec![
                ("10.244.1.5".parse().unwrap(), "169.254.42.1".parse().unwrap()),
                ("fd00:10:244:1::5".parse().unwrap(), "fe80::bee1:1".parse().unwrap()),
            ],
            mtu: 1500,
        }
    }

    #[test]
    fn unit_the_newest_format_has_mtu_and_no_family() {
        let expected = json!({
            "cniVersion": "1.1.0",
            "interfaces": [
                { "name": "bee001122334455", "mac": "02:be:e1:00:00:01", "mtu": 1500 },
                { "name": "eth0", "mac": "0a:00:00:00:00:01", "sandbox": "/run/netns/x", "mtu": 1500 },
            ],
            "ips": [
                { "address": "10.244.1.5/32", "gateway": "169.254.42.1", "interface": 1 },
                { "address": "fd00:10:244:1::5/128", "gateway": "fe80::bee1:1", "interface": 1 },
            ],
            "routes": [
                { "dst": "0.0.0.0/0", "gw": "169.254.42.1", "mtu": 1500 },
                { "dst": "::/0", "gw": "fe80::bee1:1", "mtu": 1500 },
            ],
            "dns": { "nameservers": ["10.96.0.10"] },
        });
        let dns = json!({ "nameservers": ["10.96.0.10"] });
        assert_eq!(result(Version::V1_1_0, &created(), Some(&dns), None).unwrap(), expected);
    }

    #[test]
    fn unit_older_formats_have_only_their_fields() {
        for (version, family, mtu) in [
            (Version::V0_3_1, true, false),
            (Version::V0_4_0, true, false),
            (Version::V1_0_0, false, false),
            (Version::V1_1_0, false, true),
        ] {
            let result = result(version, &created(), None, None).unwrap();
            assert_eq!(result["cniVersion"], version.name());
            assert_eq!(result["ips"][1].get("version").is_some(), family, "{version:?}");
            assert_eq!(result["interfaces"][0].get("mtu").is_some(), mtu, "{version:?}");
            assert_eq!(result["routes"][0].get("mtu").is_some(), mtu, "{version:?}");
            assert_eq!(result.get("dns"), None);
        }
    }

    #[test]
    fn unit_in_a_chain_the_earlier_result_is_kept_and_indexes_continue() {
        let previous = json!({
            "cniVersion": "1.1.0",
            "interfaces": [{ "name": "lo", "sandbox": "/run/netns/x" }],
            "ips": [{ "address": "127.0.0.1/8", "interface": 0 }],
            "routes": null,
        });
        let merged = result(Version::V1_1_0, &created(), None, Some(&previous)).unwrap();
        assert_eq!(merged["interfaces"].as_array().unwrap().len(), 3);
        assert_eq!(merged["ips"][0], previous["ips"][0]);
        assert_eq!(merged["ips"][1]["interface"], 2);
        let addresses = addresses_of(&merged, "eth0").unwrap();
        assert_eq!(addresses, created().addresses.iter().map(|(ip, _)| *ip).collect::<Vec<_>>());
    }

    #[test]
    fn unit_a_chain_that_already_made_the_interface_is_refused() {
        let first = result(Version::V1_1_0, &created(), None, None).unwrap();
        let error = result(Version::V1_1_0, &created(), None, Some(&first)).unwrap_err();
        assert_eq!(error.code, Code::InvalidConfig);
        assert_eq!(
            result(Version::V1_1_0, &created(), None, Some(&json!(7))).unwrap_err().code,
            Code::InvalidConfig
        );
    }
}
