//! The network configuration on standard input.

use std::path::PathBuf;

use beeline_api::{Attachment, DEFAULT_SOCKET};
use serde_json::{Map, Value};

use crate::error::{CniError, Code};
use crate::version::Version;

/// Fields that runtimes and administrators may set. Some have no effect.
const KNOWN_FIELDS: &[&str] = &[
    "cniVersion",
    "cniVersions",
    "name",
    "type",
    "disableCheck",
    "disableGC",
    "loadOnlyInlinedPlugins",
    "args",
    "ipMasq",
    "ipam",
    "dns",
    "capabilities",
    "runtimeConfig",
    "prevResult",
    "socket",
];

/// A valid network configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkConfig {
    /// `cniVersion`.
    pub version: Version,
    /// `name` of the network.
    pub name: String,
    /// `socket`: path of the socket of the agent.
    pub socket: PathBuf,
    /// `dns`, copied to the result.
    pub dns: Option<Value>,
    /// `prevResult`: the result of the previous plugin in the chain, or of ADD
    /// for CHECK.
    pub previous: Option<Value>,
    /// `cni.dev/valid-attachments` (GC); none if the field is missing.
    pub valid_attachments: Option<Vec<Attachment>>,
}

impl NetworkConfig {
    /// Parses and checks a configuration.
    pub fn parse(input: &[u8]) -> Result<NetworkConfig, CniError> {
        let object = decode(input)?;
        let config = interpret(&object)?;
        refuse_unsupported(&object)?;
        Ok(config)
    }

    /// Parses a configuration for DEL and GC, which must not fail because of
    /// an unsupported field that only ADD uses.
    pub fn parse_leniently(input: &[u8]) -> Result<NetworkConfig, CniError> {
        interpret(&decode(input)?)
    }
}

fn decode(input: &[u8]) -> Result<Map<String, Value>, CniError> {
    let failed = |what: String| {
        CniError::new(Code::Decode, format!("the network configuration on standard input {what}"))
            .with_details(
                "check the files in the runtime's CNI configuration directory, usually /etc/cni/net.d",
            )
    };
    if input.iter().all(u8::is_ascii_whitespace) {
        return Err(failed("is empty".to_owned()));
    }
    match serde_json::from_slice(input) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(failed("is JSON but not an object".to_owned())),
        Err(error) => Err(failed(format!("is not JSON: {error}"))),
    }
}

fn interpret(object: &Map<String, Value>) -> Result<NetworkConfig, CniError> {
    let version = Version::parse(string_field(object, "cniVersion")?.unwrap_or("0.1.0"))?;
    let name = string_field(object, "name")?.unwrap_or_default();
    if !is_network_name(name) {
        return Err(invalid(format!("\"name\" is missing or invalid: {name:?}")));
    }
    let socket = PathBuf::from(string_field(object, "socket")?.unwrap_or(DEFAULT_SOCKET));
    if !socket.is_absolute() {
        return Err(invalid(format!("\"socket\" is not an absolute path: {:?}", socket.display())));
    }
    Ok(NetworkConfig {
        version,
        name: name.to_owned(),
        socket,
        dns: object.get("dns").cloned(),
        previous: object.get("prevResult").filter(|value| !value.is_null()).cloned(),
        valid_attachments: valid_attachments(object)?,
    })
}

fn string_field<'a>(object: &'a Map<String, Value>, field: &str) -> Result<Option<&'a str>, CniError> {
    match object.get(field) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(invalid(format!("\"{field}\" is not a string: {other}"))),
    }
}

fn is_network_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

/// The list of valid attachments for GC. Go encodes an empty list as `null`.
/// libcni also writes the list as `cni.dev/attachments`, the name in an early
/// draft of the specification.
fn valid_attachments(object: &Map<String, Value>) -> Result<Option<Vec<Attachment>>, CniError> {
    const FIELD: &str = "cni.dev/valid-attachments";
    let Some(list) = object.get(FIELD).or_else(|| object.get("cni.dev/attachments")) else { return Ok(None) };
    if list.is_null() {
        return Ok(Some(Vec::new()));
    }
    let attachment = |entry: &Value| {
        let text = |field: &str| entry.get(field).and_then(Value::as_str).map(str::to_owned);
        Some(Attachment { container_id: text("containerID")?, interface: text("ifname")? })
    };
    list.as_array()
        .and_then(|entries| entries.iter().map(attachment).collect::<Option<_>>())
        .map(Some)
        .ok_or_else(|| {
            invalid(format!("\"{FIELD}\" is not a list of objects with containerID and ifname: {list}"))
        })
}

fn refuse_unsupported(object: &Map<String, Value>) -> Result<(), CniError> {
    for (field, value) in object {
        if let Some(reason) = unsupported_reason(field, value) {
            let message = format!("field {field:?} of the network configuration is not supported: {value}");
            return Err(CniError::new(Code::UnsupportedField, message).with_details(reason));
        }
    }
    Ok(())
}

fn unsupported_reason(field: &str, value: &Value) -> Option<&'static str> {
    match field {
        "ipam" if value.as_object().is_none_or(|ipam| !ipam.is_empty()) => {
            Some("the Beeline agent allocates addresses from the node's podCIDRs; remove the field")
        }
        "ipMasq" if *value == Value::Bool(true) => {
            Some("masquerading is set by the Helm value bpf.masquerade; remove the field")
        }
        "runtimeConfig" | "capabilities" if requests_port_mappings(value) => {
            Some("the agent serves hostPorts without the plugin; remove the capability portMappings")
        }
        _ if KNOWN_FIELDS.contains(&field) || field.starts_with("cni.dev/") => None,
        _ => Some(
            "the only field specific to Beeline is \"socket\"; all other options are Helm values; remove the field",
        ),
    }
}

fn requests_port_mappings(value: &Value) -> bool {
    match value.get("portMappings") {
        Some(Value::Bool(declared)) => *declared,
        Some(Value::Array(ports)) => !ports.is_empty(),
        _ => false,
    }
}

fn invalid(what: String) -> CniError {
    CniError::new(Code::InvalidConfig, format!("the network configuration is invalid: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn code(input: &str) -> Code {
        NetworkConfig::parse(input.as_bytes()).unwrap_err().code
    }

    #[test]
    fn unit_a_plain_configuration_has_the_default_socket() {
        let config = NetworkConfig::parse(br#"{"cniVersion":"1.0.0","name":"beeline","type":"beeline-cni"}"#);
        let config = config.unwrap();
        assert_eq!(config.version, Version::V1_0_0);
        assert_eq!(config.socket, PathBuf::from(DEFAULT_SOCKET));
        assert_eq!(config.previous, None);
    }

    #[test]
    fn unit_each_kind_of_bad_input_has_its_code() {
        for (input, expected) in [
            ("", Code::Decode),
            (" \n", Code::Decode),
            ("{", Code::Decode),
            ("not json", Code::Decode),
            ("[]", Code::Decode),
            (r#"{"name":"b"}"#, Code::IncompatibleVersion),
            (r#"{"cniVersion":"0.2.0","name":"b"}"#, Code::IncompatibleVersion),
            (r#"{"cniVersion":"7.0.0","name":"b"}"#, Code::IncompatibleVersion),
            (r#"{"cniVersion":1,"name":"b"}"#, Code::InvalidConfig),
            (r#"{"cniVersion":"1.1.0"}"#, Code::InvalidConfig),
            (r#"{"cniVersion":"1.1.0","name":"a/b"}"#, Code::InvalidConfig),
            (r#"{"cniVersion":"1.1.0","name":"b","socket":"x.sock"}"#, Code::InvalidConfig),
            (r#"{"cniVersion":"1.1.0","name":"b","socket":7}"#, Code::InvalidConfig),
            (r#"{"cniVersion":"1.1.0","name":"b","cni.dev/valid-attachments":[{}]}"#, Code::InvalidConfig),
            (r#"{"cniVersion":"1.1.0","name":"b","ipam":{"type":"host-local"}}"#, Code::UnsupportedField),
            (r#"{"cniVersion":"1.1.0","name":"b","ipMasq":true}"#, Code::UnsupportedField),
            (r#"{"cniVersion":"1.1.0","name":"b","bridge":"br0"}"#, Code::UnsupportedField),
            (
                r#"{"cniVersion":"1.1.0","name":"b","runtimeConfig":{"portMappings":[{}]}}"#,
                Code::UnsupportedField,
            ),
        ] {
            assert_eq!(code(input), expected, "{input}");
        }
    }

    #[test]
    fn unit_an_unsupported_field_is_named_with_its_value() {
        let error = NetworkConfig::parse(br#"{"cniVersion":"1.1.0","name":"b","bridge":"br0"}"#).unwrap_err();
        assert!(error.message.contains("bridge") && error.message.contains("br0"), "{error}");
    }

    #[test]
    fn unit_del_and_gc_ignore_fields_of_add() {
        let input = json!({
            "cniVersion": "1.1.0", "name": "b", "ipMasq": true, "future": 1,
            "cni.dev/valid-attachments": [{ "containerID": "c", "ifname": "eth0" }],
        });
        let config = NetworkConfig::parse_leniently(input.to_string().as_bytes()).unwrap();
        let expected = Attachment { container_id: "c".into(), interface: "eth0".into() };
        assert_eq!(config.valid_attachments, Some(vec![expected]));
    }

    #[test]
    fn unit_no_list_is_not_an_empty_list() {
        let list = |fields: &str| {
            let input = format!(r#"{{"cniVersion":"1.1.0","name":"b"{fields}}}"#);
            NetworkConfig::parse_leniently(input.as_bytes()).unwrap().valid_attachments
        };
        assert_eq!(list(""), None);
        assert_eq!(list(r#","cni.dev/valid-attachments":null"#), Some(Vec::new()));
        assert_eq!(list(r#","cni.dev/valid-attachments":[]"#), Some(Vec::new()));
        let draft = list(r#","cni.dev/attachments":[{"containerID":"c","ifname":"eth0"}]"#);
        assert_eq!(draft.map(|list| list.len()), Some(1));
    }
}
