//! The supported CNI versions, and the response to VERSION.

use serde_json::{Value, json};

use crate::error::{CniError, Code};

/// A supported CNI version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are the versions")]
pub enum Version {
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

impl Version {
    /// Every supported version, oldest first.
    pub const ALL: &'static [Version] = &[Version::V0_3_1, Version::V0_4_0, Version::V1_0_0, Version::V1_1_0];

    /// The version as in the specification.
    pub const fn name(self) -> &'static str {
        match self {
            Version::V0_3_1 => "0.3.1",
            Version::V0_4_0 => "0.4.0",
            Version::V1_0_0 => "1.0.0",
            Version::V1_1_0 => "1.1.0",
        }
    }

    /// Parses a version. Fails if it is not supported.
    pub fn parse(name: &str) -> Result<Version, CniError> {
        Version::ALL.iter().copied().find(|version| version.name() == name).ok_or_else(|| {
            CniError::new(
                Code::IncompatibleVersion,
                format!("cniVersion {name:?} of the network configuration is not supported"),
            )
            .with_details(format!(
                "the supported versions are {}; set cniVersion to one of them",
                names().join(", ")
            ))
        })
    }
}

/// The response to VERSION.
pub fn response(input: &[u8]) -> Value {
    json!({ "cniVersion": response_version(input), "supportedVersions": names() })
}

/// The CNI version of a response: that of the request if it is supported,
/// otherwise the newest.
pub fn response_version(input: &[u8]) -> String {
    let requested = serde_json::from_slice::<Value>(input).ok();
    let requested = requested.as_ref().and_then(|value| value.get("cniVersion")).and_then(Value::as_str);
    requested.and_then(|name| Version::parse(name).ok()).unwrap_or(Version::V1_1_0).name().to_owned()
}

fn names() -> Vec<&'static str> {
    Version::ALL.iter().map(|version| version.name()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_version_responds_in_the_requested_version_or_the_newest() {
        for (input, expected) in [
            (r#"{"cniVersion":"0.4.0"}"#, "0.4.0"),
            (r#"{"cniVersion":"9.9.9"}"#, "1.1.0"),
            ("", "1.1.0"),
            ("[]", "1.1.0"),
        ] {
            let response = response(input.as_bytes());
            assert_eq!(response["cniVersion"], expected, "{input}");
            assert_eq!(response["supportedVersions"], json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"]));
        }
    }

    #[test]
    fn unit_an_unknown_version_is_named_with_the_known_ones() {
        let error = Version::parse("2.0.0").unwrap_err();
        assert_eq!(error.code, Code::IncompatibleVersion);
        assert!(error.message.contains("2.0.0") && error.details.contains("1.1.0"), "{error}");
    }
}
